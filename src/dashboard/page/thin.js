// On how many requests a percentile rests, and whether they are enough. What is thin is shown as thin, never hidden.

// With ten requests beyond it the shown p99 is, 95 % sure, the true p98.2 to p99.4; with one, the true p94.6 to p99.8.
const ENOUGH = 10;

// The q-quantile of n rests on the n(1 - q) slowest of them.
export function restsOn(q, n) {
  // 0.95 has no exact binary form: 20 requests are one of them, not 1.0000000000000009
  return Number((n * (1 - q)).toFixed(6));
}

// "enough", "thin", or "few": only the slowest request of a step, and no percentile.
export function grade(q, n) {
  const rests = restsOn(q, n);
  if (rests < 1) return "few";
  return rests < ENOUGH ? "thin" : "enough";
}

// What a line between two points may claim: no more than the weaker of them; null where there is none to draw.
export function gradeBetween(a, b) {
  if (a === null || b === null || a === "few" || b === "few") return null;
  return a === "thin" || b === "thin" ? "thin" : "enough";
}

// Each step's grade; null where the series has no value.
export function grades({ q }, values, requests) {
  return values.map((value, i) => (value === null ? null : grade(q, requests[i] ?? 0)));
}

// On what the percentiles of a step with n requests rest, in words.
export function restsOnWords(series, n) {
  const few = series.filter(({ q }) => grade(q, n) === "few").map(({ label }) => label);
  const lead = series.find(({ label }) => label === "p95");
  const rests = Math.floor(restsOn(lead.q, n));
  return [
    ...(rests >= 1 ? [`p95 rests on the slowest ${rests.toLocaleString("en-US")}`] : []),
    ...(few.length ? [`${few.join(", ")}: slowest of ${n}`] : []),
  ];
}
