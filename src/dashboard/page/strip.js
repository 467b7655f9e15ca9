// The strip of tiles. Of requests it tells the last minutes, held against the whole range; of replicas and what they use
// the last complete step, as the chart below says it.

import { lastComplete } from "./card.js";
import { bytes, cores, count, duration, NOTHING, percent, rate, span } from "./format.js";
import { grade, restsOn } from "./thin.js";

// A smaller change is none that anybody would act on.
const CHANGE = 0.1;
// A count of so many errs by 10 %, the smallest change that is told.
const ENOUGH_REQUESTS = 100;
// Failures are rare: as many as a percentile needs beyond it.
const ENOUGH_FAILED = 10;

const has = (charts, name) => charts[name].series?.gpus?.some((value) => value > 0);

export function fillStrip(list, panel) {
  const { charts, strip } = panel;
  const at = (name, key) => {
    const answer = charts[name];
    if (answer.error) return null;
    const index = lastComplete(answer, panel);
    return index === null ? null : answer.series[key][index];
  };
  const starting = at("replicas", "starting");
  const tiles = [
    ...(strip === null ? UNREAD : requestTiles(strip)),
    { name: "Replicas active", value: count(at("replicas", "active")), more: starting === null ? "" : `${count(starting)} starting` },
    ...(has(charts, "gpu") ? gpuTiles(at) : cpuTiles(at)),
  ];
  list.replaceChildren(...tiles.map(tile));
}

const REQUEST_TILES = ["Volume", "5xx", "End-to-end p95", "Inference p95", "Queue p95"];
const UNREAD = REQUEST_TILES.map((name) => ({ name, value: NOTHING, more: "" }));

export function requestTiles({ recent, range }) {
  const [volume, failed, endToEnd, inference, queue] = REQUEST_TILES;
  const over = `in ${span(recent.stop - recent.start)}`;
  const n = recent.requests === null ? "" : `n ${count(recent.requests)}`;
  return [
    { name: volume, value: rate(recent.rps), trend: ofVolume(recent, range), more: n && `${n} ${over}` },
    { name: failed, value: percent(recent.share_5xx), trend: ofFailed(recent, range), more: n },
    { name: endToEnd, ...percentile(0.95, "end_to_end_p95_ms", recent, range) },
    { name: inference, ...percentile(0.95, "inference_p95_ms", recent, range) },
    { name: queue, ...percentile(0.95, "queue_p95_ms", recent, range) },
  ];
}

function ofVolume(recent, range) {
  if (recent.requests === null) return "";
  // from nothing to nothing is no change; from nothing to something has no share
  const isEnough = recent.requests >= ENOUGH_REQUESTS || (recent.requests === 0 && range.requests === 0);
  return trend(recent.rps, range.rps, isEnough || range.requests >= ENOUGH_REQUESTS, `n ${count(recent.requests)}`);
}

function ofFailed(recent, range) {
  if (recent.share_5xx === null) return "";
  const n = Math.round(recent.share_5xx * recent.requests);
  const isEnough = n >= ENOUGH_FAILED || (recent.requests >= ENOUGH_REQUESTS && range.share_5xx * recent.requests >= ENOUGH_FAILED);
  const isNone = recent.requests >= ENOUGH_REQUESTS && range.share_5xx === 0;
  return trend(recent.share_5xx, range.share_5xx, isEnough || isNone, `${count(n)} of ${count(recent.requests)}`);
}

// How a value stands to the range's: a share of at least 10 %, "steady", or that they are too few to say.
export function trend(now, before, isEnough, told) {
  if (now === null || before === null) return "";
  if (!isEnough) return `too few (${told})`;
  if (before === 0) return now === 0 ? "steady" : "";
  const change = now / before - 1;
  if (Math.abs(change) < CHANGE) return "steady";
  const shown = Math.abs(change) < 10 ? `${Math.round(Math.abs(change) * 100)} %` : `${count(Math.round(now / before))} ×`;
  return Math.abs(change) < 10 ? `${change > 0 ? "+" : "-"}${shown}` : shown;
}

// A percentile with what it rests on. Muted where that is thin; where it is too few, the range's stands for it.
export function percentile(q, key, recent, range) {
  const [ms, n] = [recent[key], recent.requests];
  if (ms === null || n === null) return { value: NOTHING, more: n === null ? "" : `n ${count(n)}` };
  const few = `too few (n ${count(n)})`;
  switch (grade(q, n)) {
    case "enough":
      return { value: duration(ms), trend: trend(ms, range[key], true), more: `n ${count(n)}` };
    case "thin":
      return { value: duration(ms), trend: few, more: `rests on ${Math.floor(restsOn(q, n))}`, look: "thin" };
    default:
      if (grade(q, range.requests) === "few") return { value: few, more: "", look: "few" };
      return { value: duration(range[key]), trend: few, more: `range: n ${count(range.requests)}`, look: "thin" };
  }
}

function gpuTiles(at) {
  const gpus = at("gpu", "gpus");
  const total = at("gpu_memory", "memory_total_bytes_avg");
  return [
    { name: "GPU", value: percent(at("gpu", "usage_ratio_avg")), more: gpus === null ? "" : `${count(gpus)} ${gpus === 1 ? "GPU" : "GPUs"}` },
    { name: "GPU memory", value: bytes(at("gpu_memory", "memory_used_bytes_avg")), more: total === null ? "" : `of ${bytes(total)}` },
  ];
}

function cpuTiles(at) {
  const limit = at("cpu", "limit_cores_avg");
  const memory = at("memory", "memory_limit_bytes_avg");
  return [
    { name: "CPU", value: cores(at("cpu", "usage_cores_avg")), more: limit === null ? "" : `of ${cores(limit)}` },
    { name: "Memory", value: bytes(at("memory", "memory_bytes_avg")), more: memory === null ? "" : `of ${bytes(memory)}` },
  ];
}

function tile({ name, value, trend: change, more, look }) {
  const box = document.createElement("div");
  const line = (kind, className, text) => {
    const made = document.createElement(kind);
    made.className = className;
    made.textContent = text;
    box.append(made);
  };
  line("dt", "", name);
  line("dd", ["value", look].filter(Boolean).join(" "), value ?? NOTHING);
  if (change) line("dd", "trend", change);
  line("dd", "more", more);
  return box;
}
