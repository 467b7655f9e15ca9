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
    ["End-to-end p95", duration(at("end_to_end", "end_to_end_p95_ms")), n],
    ["Inference p95", duration(at("inference", "inference_p95_ms")), n],
    ["Replicas active", count(at("replicas", "active")), starting === null ? "" : `${count(starting)} starting`],
    ...(has(charts, "gpu") ? gpuTiles(at) : cpuTiles(at)),
  ];
  list.replaceChildren(...tiles.map(([label, value, more]) => tile(label, value, more)));
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

function tile(label, value, more) {
  const box = document.createElement("div");
  const name = document.createElement("dt");
  name.textContent = label;
  const shown = document.createElement("dd");
  shown.className = "value";
  shown.textContent = value ?? NOTHING;
  const beside = document.createElement("dd");
  beside.className = "more";
  beside.textContent = more;
  box.append(name, shown, beside);
  return box;
}
