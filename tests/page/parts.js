// The real parts as child processes: the engine, and dashboards on it. Each is ended by its own handle.
import { spawn, execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const ROOT = resolve(dirname(fileURLToPath(import.meta.url)), "../..");
const TARGET = process.env.CARGO_TARGET_DIR ?? join(ROOT, "target");
const PROGRAM = process.env.MODELMETER ?? join(TARGET, "debug/modelmeter");
// The engine opens its folder before it answers; the machine may be busy.
const START_MS = 60_000;
// An orderly end takes a few seconds, a dashboard's last answer twelve. Who takes longer is killed, and the test told.
const STOP_MS = 30_000;

// Starts a role and waits for the line that says where it listens: {url, stop()}.
export async function start(role, args) {
  const child = spawn(PROGRAM, [role, ...args], { cwd: ROOT, stdio: ["ignore", "pipe", "pipe"] });
  const said = [];
  child.stderr.on("data", (text) => said.push(String(text)));
  const ended = new Promise((done) => child.once("exit", done));
  const listening = new Promise((listens, fails) => {
    const late = setTimeout(() => fails(new Error(`${role} does not listen: ${said.join("")}`)), START_MS);
    child.once("error", fails);
    child.once("exit", (code) => fails(new Error(`${role} ended with ${code}: ${said.join("")}`)));
    createInterface({ input: child.stdout }).on("line", (line) => {
      const at = line.split(`${role}: listening on `)[1];
      if (at) {
        clearTimeout(late);
        listens(at.trim());
      }
    });
  });
  const stop = () => stopped(role, child, ended);
  try {
    return { url: await listening, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

// May be asked for more than once.
async function stopped(role, child, ended) {
  // one that could not be started has no process
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  child.kill("SIGTERM");
  let late;
  const deadline = new Promise((done) => (late = setTimeout(done, STOP_MS, "late")));
  const first = await Promise.race([ended, deadline]);
  clearTimeout(late);
  if (first !== "late") return;
  child.kill("SIGKILL");
  await ended;
  throw new Error(`${role} did not end within ${STOP_MS / 1000} s`);
}

export async function startEngine() {
  const dir = mkdtempSync(join(tmpdir(), "modelmeter-page-"));
  const clean = () => rmSync(dir, { recursive: true, force: true });
  try {
    const engine = await start("clickhouse", ["--port", "0", "--dir", dir]);
    return { url: engine.url, stop: () => engine.stop().finally(clean) };
  } catch (error) {
    clean();
    throw error;
  }
}

export function migrate(clickhouse, database) {
  execFileSync(PROGRAM, ["migrate", "up", "--clickhouse", clickhouse, "--database", database], { cwd: ROOT, stdio: "pipe" });
}

export function startDashboard(clickhouse, database = "default") {
  return start("dashboard", ["--clickhouse", clickhouse, "--database", database, "--listen", "127.0.0.1:0"]);
}

export async function sql(clickhouse, statement, database = "default") {
  const response = await fetch(`${clickhouse}/?database=${database}`, { method: "POST", body: statement });
  const text = await response.text();
  if (!response.ok || text.includes("DB::Exception")) throw new Error(`${text}\n${statement.slice(0, 1000)}`);
  return text;
}

export async function rows(clickhouse, query, database) {
  const text = await sql(clickhouse, `${query} FORMAT JSONEachRow SETTINGS output_format_json_quote_64bit_integers = 0`, database);
  return text.split("\n").filter(Boolean).map((line) => JSON.parse(line));
}
