// The strip of tiles: the last complete step in figures, each as the chart below it says it.

import { lastComplete } from "./card.js";
import { bytes, cores, count, duration, NOTHING, percent, rate, span } from "./format.js";

const has = (charts, name) => charts[name].series?.gpus?.some((value) => value > 0);

export function fillStrip(list, panel) {
  const { charts } = panel;
  const at = (name, key) => {
    const answer = charts[name];
    if (answer.error) return null;
    const index = lastComplete(answer, panel);
    return index === null ? null : answer.series[key][index];
  };
  const per = span(panel.step);
  const requests = at("volume", "requests");
  const n = requests === null ? "" : `n ${count(requests)}`;
  const starting = at("replicas", "starting");
  const tiles = [
    ["Requests", count(requests), `in ${per}`],
    ["5xx", rate(at("volume", "rps_5xx")), n],
    ["End-to-end p95", ...percentile(0.95, at("end_to_end", "end_to_end_p95_ms"), at("end_to_end", "requests"))],
    ["Inference p95", ...percentile(0.95, at("inference", "inference_p95_ms"), at("inference", "requests"))],
    ["Replicas active", count(at("replicas", "active")), starting === null ? "" : `${count(starting)} starting`],
    ...(has(charts, "gpu") ? gpuTiles(at) : cpuTiles(at)),
  ];
  list.replaceChildren(...tiles.map((of) => tile(...of)));
}

// The q-quantile of n rests on the n(1 - q) slowest requests. Under ten it is thin; under one it is only the slowest.
const ENOUGH = 10;

// Value, what stands beside it, and how it looks. Muted, not half transparent, which would be too pale to read.
export function percentile(q, ms, n) {
  if (ms === null || n === null) return [NOTHING, n === null ? "" : `n ${count(n)}`];
  // 0.95 has no exact binary form: 20 requests are one of them, not 1.0000000000000009
  const rests = Number((n * (1 - q)).toFixed(6));
  if (rests < 1) return [`too few (n ${count(n)})`, "", "few"];
  if (rests < ENOUGH) return [duration(ms), `n ${count(n)}, rests on ${Math.floor(rests)}`, "thin"];
  return [duration(ms), `n ${count(n)}`];
}

function gpuTiles(at) {
  const gpus = at("gpu", "gpus");
  const total = at("gpu_memory", "memory_total_bytes_avg");
  return [
    ["GPU", percent(at("gpu", "usage_ratio_avg")), gpus === null ? "" : `${count(gpus)} ${gpus === 1 ? "GPU" : "GPUs"}`],
    ["GPU memory", bytes(at("gpu_memory", "memory_used_bytes_avg")), total === null ? "" : `of ${bytes(total)}`],
  ];
}

function cpuTiles(at) {
  const limit = at("cpu", "limit_cores_avg");
  const memory = at("memory", "memory_limit_bytes_avg");
  return [
    ["CPU", cores(at("cpu", "usage_cores_avg")), limit === null ? "" : `of ${cores(limit)}`],
    ["Memory", bytes(at("memory", "memory_bytes_avg")), memory === null ? "" : `of ${bytes(memory)}`],
  ];
}

function tile(label, value, more, look) {
  const box = document.createElement("div");
  const name = document.createElement("dt");
  name.textContent = label;
  const shown = document.createElement("dd");
  shown.className = ["value", look].filter(Boolean).join(" ");
  shown.textContent = value ?? NOTHING;
  const beside = document.createElement("dd");
  beside.className = "more";
  beside.textContent = more;
  box.append(name, shown, beside);
  return box;
}
