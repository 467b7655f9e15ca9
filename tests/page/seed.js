// Rows whose truth is known, as the processor's folds would leave them: 10 s windows from six and a half hours ago to forty
// minutes ahead, so that "live" stays true while the tests run, and the coarser tiers merged from them.
import { sql } from "./parts.js";

export const GIB = 2 ** 30;
const HOURS = 6.5;
const AHEAD_S = 2400;

// What every full step of `steady` shows, whatever its length. Times are 1, 2, … 100 of a unit, so that a percentile is
// its own number; a sketch may err by 1 %.
export const STEADY = {
  requestsPerWindow: 100,
  rps: { "2xx": 8.9, "4xx": 0.6, "5xx": 0.4, other: 0.1 },
  clientGone: 0.2,
  endToEndMs: { p50: 500, p90: 900, p95: 950, p99: 990 },
  inferenceMs: { p50: 50, p90: 90, p95: 95, p99: 99 },
  queueP95Ms: 285,
  replicas: { active: 2, loading: 1, starting: 1 },
  cores: { average: 1.5, highest: 2.5, limit: 4 },
  memory: { average: 8 * GIB, highest: 10 * GIB, limit: 16 * GIB },
  gpu: { average: 0.73, highest: 0.95, sm: 0.4 },
  gpuMemory: { average: 12.5 * GIB, highest: 13 * GIB, limit: 24 * GIB },
};

const STATES = ["waiting", "loading", "active", "stopping"];

// from and until are expressions of seconds since 1970; n, what and times are expressions over `w`, a window's beginning.
function requests({ id, from = "first", until = "last", of2xx, of4xx = "0", of5xx = "0", other = "0", unclassified = "0", gone = "0", endToEnd, inference, queue }) {
  const state = (values) => `arrayReduce('quantilesDDState(0.01, 0.5, 0.9, 0.95, 0.99)', arrayMap(x -> toFloat64(x), ${values}))`;
  return `INSERT INTO requests_10s (ingested, deployment_id, window_start, kafka_partition, ledger, requests, status_2xx, status_4xx,
      status_5xx, status_other, unclassified, client_gone, end_to_end, inference, queue)
    WITH ${bounds()}, toUInt64(${of2xx}) AS a, toUInt64(${of4xx}) AS b, toUInt64(${of5xx}) AS c, toUInt64(${other}) AS d,
      toUInt64(${unclassified}) AS e
    SELECT today(), '${id}', w, 0, '', a + b + c + d + e, a, b, c, d, e, ${gone}, ${state(endToEnd)}, ${state(inference)}, ${state(queue)}
    FROM (SELECT toUInt32(${bounds("first")} + number * 10) AS w FROM numbers(${Math.ceil((HOURS * 3600 + AHEAD_S) / 10)}))
    WHERE w >= ${from} AND w < ${until} AND a + b + c + d + e > 0`;
}

function bounds(which) {
  const first = `toUInt32(intDiv(toUnixTimestamp(now()) - ${HOURS * 3600}, 10) * 10)`;
  return which === "first" ? first : `${first} AS first, first + ${HOURS * 3600} AS present, present + ${AHEAD_S} AS last`;
}

// readings: name to [average, highest]; none of it is what could not be read.
function replica({ id, replica, from = "first", until = "last", state = "active", readings = {}, gpus = 0 }) {
  const names = Object.keys(readings);
  const columns = names.flatMap((name) => [`${name}_integral`, `${name}_us`, ...(readings[name].length > 1 ? [`${name}_max`] : [])]);
  const values = names.flatMap((name) => [`(${readings[name][0]}) * 10.`, "10000000", ...(readings[name].length > 1 ? [`toFloat64(${readings[name][1]})`] : [])]);
  return `INSERT INTO replicas_10s (ingested, deployment_id, replica_id, window_start, kafka_partition, ledger, samples, ${state}_us,
      last_sample, gpus_max${columns.map((column) => `, ${column}`).join("")})
    WITH ${bounds()}
    SELECT today(), '${id}', '${replica}', w, 0, '', 2, 10000000, (toUInt64(w) * 1000000 + 9000000) * 4 + ${STATES.indexOf(state)},
      ${gpus}${values.map((value) => `, ${value}`).join("")}
    FROM (SELECT toUInt32(${bounds("first")} + number * 10) AS w FROM numbers(${Math.ceil((HOURS * 3600 + AHEAD_S) / 10)}))
    WHERE w >= ${from} AND w < ${until}`;
}

const deployment = (id, facts, from = "now() - 23400", until = "now()") =>
  `INSERT INTO deployments (deployment_id, deployment_name, model_id, model_name, environment, kind, instance_type, first_seen, last_seen)
    VALUES ('${id}', '${facts.name ?? id}', 'm', '${facts.model ?? "llama-3-8b"}', '${facts.environment ?? "prod"}', '${facts.kind ?? "production"}',
      '${facts.type ?? "g5.2xlarge"}', ${from}, ${until})`;

const CPU = { cpu_cores: [1.5, 2.5], cpu_limit: [4], cpu_ratio: [0.375, 0.625] };
const MEMORY = { memory_bytes: [8 * GIB, 10 * GIB], memory_limit: [16 * GIB], memory_ratio: [0.5, 0.625] };
const GPU = { gpu_utilization: [0.73, 0.95], gpu_sm_activity: [0.4, 0.5] };
const GPU_MEMORY = { gpu_memory_used: [12.5 * GIB, 13 * GIB], gpu_memory_total: [24 * GIB], gpu_memory_ratio: [12.5 / 24, 13 / 24] };
const ALL = { ...CPU, ...MEMORY, ...GPU, ...GPU_MEMORY };
const HUNDRED = (unit) => `arrayMap(i -> i * ${unit}, range(1, 101))`;
const TIMES = { endToEnd: HUNDRED(10_000), inference: HUNDRED(1_000), queue: HUNDRED(3_000) };

// Load in waves that outgrow the replicas: times rise with it, as they do in life.
const WAVE = "(0.55 + 0.45 * sin((w % 7200) / 7200. * 6.2832) + 0.08 * sin(w / 61.) + 0.05 * ((cityHash64(w) % 100) / 100. - 0.5))";
const QUEUED = `(1 + 14 * pow(greatest(0, ${WAVE} - 0.72), 1.4) * 6)`;
const LOGNORMAL = (scale) =>
  `arrayMap(i -> ${scale} * exp(0.45 * (i - 20) / 9. + 0.2 * ((cityHash64(w, i) % 100) / 100. - 0.5)), range(40))`;

function statements() {
  const three = (id, readings, gpus) => ["r-1", "r-2"].map((name) => replica({ id, replica: name, readings, gpus }));
  const shaped = { ...ALL, cpu_cores: [`0.4 + 1.6 * ${WAVE}`, `0.8 + 2.4 * ${WAVE}`], gpu_utilization: [`least(0.99, 0.1 + 0.9 * ${WAVE})`, `least(1., 0.2 + ${WAVE})`],
    memory_bytes: [`${9 * GIB} + ${GIB} * ${WAVE}`, `${9.6 * GIB} + ${GIB} * ${WAVE}`] };
  const { gpu_sm_activity, ...noSm } = shaped;
  return [
    deployment("steady", { name: "steady" }),
    requests({ id: "steady", of2xx: "89", of4xx: "6", of5xx: "4", other: "1", gone: "2", ...TIMES }),
    ...three("steady", ALL, 1),
    replica({ id: "steady", replica: "r-3", state: "loading", readings: ALL, gpus: 1 }),

    deployment("overloaded", { name: "chat-prod", model: "mixtral-8x7b", type: "p4d.24xlarge" }),
    requests({ id: "overloaded", of2xx: `600 * ${WAVE}`, of4xx: `14 * ${WAVE}`, of5xx: `greatest(0, 90 * (${WAVE} - 0.85))`,
      endToEnd: LOGNORMAL(`430000 * ${QUEUED}`), inference: LOGNORMAL(`290000 * (1 + 0.3 * ${WAVE})`), queue: LOGNORMAL(`140000 * ${QUEUED}`) }),
    ...["a", "b", "c"].map((name) => replica({ id: "overloaded", replica: `r-${name}`, readings: noSm, gpus: 1 })),
    ...["d", "e"].map((name, n) => replica({ id: "overloaded", replica: `r-${name}`, readings: noSm, gpus: 1, from: `present - ${9000 - 7200 * n}`, until: `present - ${4500 - 7200 * n}` })),
    replica({ id: "overloaded", replica: "r-d", state: "loading", readings: noSm, gpus: 1, from: "present - 9300", until: "present - 9000" }),
    replica({ id: "overloaded", replica: "r-d", state: "stopping", from: "present - 4500", until: "present - 4440" }),

    deployment("asleep", { name: "summarizer", environment: "staging" }, "now() - 23400", "now() - 7200"),
    requests({ id: "asleep", until: "present - 7300", of2xx: "40", ...TIMES }),
    replica({ id: "asleep", replica: "r-1", readings: ALL, gpus: 1, until: "present - 7300" }),
    replica({ id: "asleep", replica: "r-1", state: "stopping", from: "present - 7300", until: "present - 7200" }),

    deployment("idle", { name: "idle" }),
    ...three("idle", ALL, 1),

    deployment("silent", { name: "silent" }, "now() - 23400", "now() - 2400"),
    requests({ id: "silent", until: "present - 2400", of2xx: "40", ...TIMES }),
    replica({ id: "silent", replica: "r-1", readings: ALL, gpus: 1, until: "present - 2400" }),

    deployment("cpu-only", { name: "embedder", model: "bge-small", type: "c7i.2xlarge" }),
    requests({ id: "cpu-only", of2xx: "40", ...TIMES }),
    ...three("cpu-only", { ...CPU, ...MEMORY }, 0),

    deployment("mig", { name: "mig", kind: "development", environment: "dev" }),
    requests({ id: "mig", of2xx: "0", unclassified: "40", ...TIMES }),
    replica({ id: "mig", replica: "r-1", readings: { cpu_cores: [1.5, 2.5], ...MEMORY }, gpus: 1 }),

    // so few that a step of 10 s has no p90, and one of 5 min no p99
    deployment("quiet", { name: "quiet" }),
    requests({ id: "quiet", of2xx: "3", ...TIMES }),
    replica({ id: "quiet", replica: "r-1", readings: ALL, gpus: 1 }),

    deployment("young", { name: "young" }, "now() - 1200"),
    requests({ id: "young", from: "present - 1200", of2xx: "40", ...TIMES }),
    replica({ id: "young", replica: "r-1", readings: ALL, gpus: 1, from: "present - 1200" }),
  ];
}

const REQUEST_SUMS = ["requests", "status_2xx", "status_4xx", "status_5xx", "status_other", "unclassified", "client_gone"];

async function merged(clickhouse, tier, width) {
  const names = (await sql(clickhouse, `SELECT name FROM system.columns WHERE database = currentDatabase() AND table = 'replicas_10s'
    AND (name LIKE '%\\_us' OR name LIKE '%\\_integral' OR name LIKE '%\\_max' OR name IN ('samples', 'last_sample'))`)).trim().split("\n");
  const start = `intDiv(toUnixTimestamp(window_start), ${width}) * ${width}`;
  const of = (name) => `${name.endsWith("_max") || name === "last_sample" ? "max" : "sum"}(${name})`;
  await sql(clickhouse, `INSERT INTO replicas_${tier} (ingested, deployment_id, replica_id, window_start, kafka_partition, ledger, ${names.join(", ")})
    SELECT today(), deployment_id, replica_id, ${start} AS w, 0, '', ${names.map(of).join(", ")} FROM replicas_10s GROUP BY deployment_id, replica_id, w`);
  const state = (name) => `quantilesDDMergeState(0.01, 0.5, 0.9, 0.95, 0.99)(${name})`;
  await sql(clickhouse, `INSERT INTO requests_${tier} (ingested, deployment_id, window_start, kafka_partition, ledger, ${REQUEST_SUMS.join(", ")}, end_to_end, inference, queue)
    SELECT today(), deployment_id, ${start} AS w, 0, '', ${REQUEST_SUMS.map(of).join(", ")}, ${state("end_to_end")}, ${state("inference")}, ${state("queue")}
    FROM requests_10s GROUP BY deployment_id, w`);
}

export async function seed(clickhouse) {
  for (const statement of statements()) await sql(clickhouse, statement);
  await merged(clickhouse, "1m", 60);
  await merged(clickhouse, "1h", 3600);
}
