// What a chart's steps mean, in words: no data, zero, unread, null, error and stale are never the same sentence.

import { count, time } from "./format.js";

// Runs of one kind of coverage: [first index, index behind the last].
export function runs(coverage, letter) {
  const found = [];
  coverage.forEach((of, at) => {
    if (of !== letter) return;
    const last = found.at(-1);
    if (last && last[1] === at) last[1] = at + 1;
    else found.push([at, at + 1]);
  });
  return found;
}

// A page sees silence, not its cause: whether nobody sent, or nobody has read yet what was sent.
export const SILENT = "producers silent or the pipeline behind";

// What a chart lags: the interval of a sample, and a flush.
const LAG_S = 10;
// In a step this long, what the lag takes away is no more than a tenth.
const LONG_S = 100;

// Whether a step has ended, and all of it been read.
export const isOver = (t, step, now) => t + step <= now - LAG_S;

// Whether a step's numbers are worth drawing: those of the last seconds would dip, because they are still being read.
export const isSettled = (t, step, now) => isOver(t, step, now) || Math.min(t + step, now) - t >= LONG_S;

const any = (series) => series?.some((value) => value !== null) ?? false;
const anyAbove0 = (series) => series?.some((value) => value > 0) ?? false;

// Silence longer than this is stale: three refreshes, and no less than what a chart lags.
const staleAfter = (panel) => Math.max(30, 3 * (panel.refresh_s ?? 0));

// Since when nothing has been heard of a deployment that should be there; null while it is heard.
export function staleSince(panel) {
  if (panel.range === null || panel.data_until === null || panel.stopped_since !== null) return null;
  return panel.now - panel.data_until > staleAfter(panel) ? panel.data_until : null;
}

// What stands under a chart's definition, {kind, text} each; empty where there is nothing to say.
export function statesOf(chart, answer, panel) {
  if (answer.error) {
    return [{ kind: "error", text: `Could not be read: ${answer.error.message} (${answer.error.code}). The others are not affected.` }];
  }
  const { coverage, series } = answer;
  const isAbsent = chart.of === "gpus" && !anyAbove0(series.gpus) && coverage.includes("d");
  if (isAbsent) return [{ kind: "absent", text: "No GPU reported." }];
  const steps = zero(chart, answer, panel) ?? none(chart, answer, panel);
  return [steps, nulls(chart, coverage, series)].filter((state) => state !== null);
}

function zero(chart, { coverage }, panel) {
  const last = coverage.findLast((letter) => letter !== "p");
  if (panel.stopped_since !== null && last === "z") {
    return { kind: "zero", text: `No replica since ${time(panel.stopped_since, panel.now)}: scaled to zero.` };
  }
  const isAllZero = coverage.includes("z") && coverage.every((letter) => letter === "z" || letter === "p");
  if (isAllZero && chart.of === "requests") {
    const reported = panel.charts.cpu.series?.replicas.findLast((value) => value !== null);
    const n = reported ?? null;
    const who = n === null ? "Replicas" : `${n} ${n === 1 ? "replica" : "replicas"}`;
    return { kind: "zero", text: `Zero requests. ${who} reported; none was asked.` };
  }
  return null;
}

function none(chart, { coverage, t, step }, panel) {
  const gaps = runs(coverage, "n");
  if (!gaps.length) {
    const pending = coverage.length > 0 && coverage.every((letter) => letter === "p");
    return pending ? { kind: "none", text: `Not here yet: read to ${time(panel.data_until ?? panel.start, panel.now)}.` } : null;
  }
  const stale = staleSince(panel);
  if (stale !== null && coverage.findLast((letter) => letter !== "p") === "n" && stale > t[0]) {
    return { kind: "stale", text: `Stale since ${time(stale, panel.now)}: ${SILENT}.` };
  }
  const isFirst = gaps[0][0] === 0 && panel.first_seen !== null && panel.first_seen >= t[0];
  if (isFirst && gaps.length === 1 && gaps[0][1] < t.length) {
    return { kind: "none", text: `First seen ${time(panel.first_seen, panel.now)}.` };
  }
  const [from, behind] = gaps.at(-1);
  const until = Math.min(t[behind - 1] + step, panel.now);
  const more = gaps.length > 1 ? ` ${gaps.length} gaps in all.` : "";
  // behind a gap that reaches to the present, the pipeline may still come
  const isLast = behind === t.length || coverage.slice(behind).every((letter) => letter === "p");
  const [orBehind, running] = isLast ? [", or the pipeline is behind", "Are agent and processor running?"] : ["", "Is the agent running?"];
  const why = chart.of === "requests" || panel.coverage[from] === "n"
    ? `no replica reported${orBehind}. ${running}`
    : `requests were counted, but no replica was sampled${orBehind}.`;
  return { kind: "none", text: `No data from ${time(t[from], panel.now)} to ${time(until, panel.now)}: ${why}${more}` };
}

function nulls(chart, coverage, series) {
  if (!coverage.includes("d")) return null;
  const main = chart.series[0].key;
  if (chart.of === "gpus" && !any(series[main])) {
    const gpus = series.gpus.findLast((value) => value !== null);
    return { kind: "null", text: `GPU cannot be read (${gpus} reported; MIG or no driver). This is not 0 %.` };
  }
  if (chart.stacked) {
    if (!anyAbove0(series.rps_unclassified)) return null;
    // which producers they are is in no table
    const n = Math.round(series.rps_unclassified.reduce((sum, rps, i) => sum + (rps ?? 0) * (series.seconds[i] ?? 0), 0));
    return { kind: "null", text: `Unclassified: ${count(n)} ${n === 1 ? "request" : "requests"} from producers that send no status. Upgrade them.` };
  }
  if (!any(series[main])) return { kind: "null", text: "No reading: this was not reported. It is not zero." };
  const limit = chart.series.find((of) => of.label === "limit");
  if (limit && !any(series[limit.key])) return { kind: "null", text: "No limit set, so no percentage." };
  return null;
}
