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

// Starts a role and waits for the line that says where it listens: {url, stop()}.
export async function start(role, args) {
  const child = spawn(PROGRAM, [role, ...args], { cwd: ROOT, stdio: ["ignore", "pipe", "pipe"] });
  const said = [];
  child.stderr.on("data", (text) => said.push(String(text)));
  const ended = new Promise((done) => child.once("exit", done));
  const url = await new Promise((listens, fails) => {
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
  return {
    url,
    async stop(signal = "SIGTERM") {
      child.kill(signal);
      await ended;
    },
  };
}

export async function startEngine() {
  const dir = mkdtempSync(join(tmpdir(), "modelmeter-page-"));
  const engine = await start("clickhouse", ["--port", "0", "--dir", dir]);
  return {
    url: engine.url,
    async stop() {
      await engine.stop();
      rmSync(dir, { recursive: true, force: true });
    },
  };
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
