// The charts: what each measures, its unit, its series, and what to look out for. Series are named as the views name them.

// `q`: which quantile it is, so that it can be told on how many requests it rests.
const PERCENTILES = (of) => [
  { key: `${of}_p50_ms`, label: "p50", q: 0.5, colour: "p50", width: 1.5, dash: [] },
  { key: `${of}_p90_ms`, label: "p90", q: 0.9, colour: "p90", width: 1.5, dash: [6, 3] },
  { key: `${of}_p95_ms`, label: "p95", q: 0.95, colour: "p95", width: 2.25, dash: [] },
  { key: `${of}_p99_ms`, label: "p99", q: 0.99, colour: "p99", width: 1.5, dash: [2, 3] },
];

const USAGE = (average, highest, limit) => [
  { key: average, label: "average", colour: "average", width: 2, dash: [] },
  { key: highest, label: "highest", colour: "highest", width: 1, dash: [] },
  ...(limit ? [{ key: limit, label: "limit", colour: "limit", width: 1.5, dash: [8, 4] }] : []),
];

// A series as the URL names it: volume.2xx, end_to_end.p99.
export const seriesId = (chart, of) => `${chart.name}.${of.id ?? of.label}`;

const AVERAGED = (step) => `Average of replicas over ${step}; short spikes do not show.`;

export const CHARTS = [
  {
    name: "volume", title: "Inference volume", unit: "rate", stacked: true, of: "requests",
    definition: () => "Requests per second (req/s), by completion. Errors in model code are 5xx.",
    series: [
      { key: "rps_5xx", label: "5xx", colour: "s5xx" },
      { key: "rps_4xx", label: "4xx", colour: "s4xx" },
      { key: "rps_unclassified", label: "unclassified", colour: "unclassified", ifAny: true },
      { key: "rps_other", label: "other", colour: "other", ifAny: true },
      { key: "rps_2xx", label: "2xx", colour: "s2xx" },
      // counted in its class too, so that it is no layer of the stack
      { key: "rps_client_gone", label: "client gone (499)", id: "client_gone", colour: "gone", line: true, ifAny: true },
    ],
  },
  {
    name: "end_to_end", title: "End-to-end time", unit: "duration", of: "requests",
    definition: () => "From arrival to the last byte, in s, ms or µs: cold start, queue and inference, without the client's network.",
    series: PERCENTILES("end_to_end"),
  },
  {
    name: "replicas", title: "Replicas", unit: "count", stacked: true, of: "samples",
    definition: (step, facts) =>
      "Number of replicas. Active: ready to serve. Starting up: waiting for resources or loading the model." +
      (facts?.kind === "development" ? " Active also while loading." : ""),
    series: [
      { key: "active", label: "active", colour: "active" },
      { key: "loading", label: "starting: loading", id: "loading", colour: "loading" },
      { key: "waiting", label: "starting: waiting", id: "waiting", colour: "waiting" },
      { key: "stopping", label: "stopping", colour: "stopping", ifAny: true },
    ],
  },
  {
    name: "inference", title: "Inference time", unit: "duration", of: "requests",
    definition: () => "In the model server, in s, ms or µs: pre- and post-processing, no queue.",
    series: PERCENTILES("inference"),
  },
  {
    name: "gpu", title: "GPU usage", unit: "percent", of: "gpus", ratio: true,
    definition: (step) => `Share of time a kernel ran (%), not how full the card is. ${AVERAGED(step)}`,
    series: [
      ...USAGE("usage_ratio_avg", "usage_ratio_max"),
      { key: "sm_activity_avg", label: "SM activity", id: "sm", colour: "sm", width: 1.5, dash: [2, 3], ifAny: true },
    ],
    advice: [
      ["Over 90 %", "if inference time rises with it, requests compete for the card. If SM activity stays low, try larger batches."],
      ["GPU under 20 %, its memory under 40 %", "a less powerful card could save money."],
    ],
  },
  {
    name: "gpu_memory", title: "GPU memory", unit: "bytes", of: "gpus",
    definition: (step) => `Bytes in use on the card (GiB), of its total. ${AVERAGED(step)}`,
    series: [
      ...USAGE("memory_used_bytes_avg", "memory_used_bytes_max"),
      { key: "memory_total_bytes_avg", label: "total", colour: "limit", width: 1.5, dash: [8, 4] },
    ],
    advice: [
      ["Over 92 %", "requests can fail out of memory. Constant: reserved (as vLLM does), and the risk cannot be seen."],
      ["GPU under 20 %, its memory under 40 %", "a less powerful card could save money."],
    ],
  },
  {
    name: "cpu", title: "CPU usage", unit: "cores", of: "samples",
    definition: (step) => `Cores in use, and the limit. ${AVERAGED(step)}`,
    series: USAGE("usage_cores_avg", "usage_cores_max", "limit_cores_avg"),
    advice: [
      ["CPU over 85 %", "performance may degrade. Consider an instance type with more CPUs."],
      ["CPU under 20 %, memory under 30 %", "too many vCPUs, too much RAM. A smaller type, or one with the same GPU, if there is one, could save money."],
    ],
  },
  {
    name: "memory", title: "Memory", unit: "bytes", of: "samples",
    definition: (step) => `Working set in bytes (GiB), and the limit. ${AVERAGED(step)}`,
    series: USAGE("memory_bytes_avg", "memory_bytes_max", "memory_limit_bytes_avg"),
    advice: [
      ["Memory over 85 %, or once 95 %", "performance may degrade. Consider an instance type with more memory."],
      ["CPU under 20 %, memory under 30 %", "too many vCPUs, too much RAM. A smaller type, or one with the same GPU, if there is one, could save money."],
    ],
  },
];
