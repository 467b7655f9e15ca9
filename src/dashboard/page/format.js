// Numbers and times as people read them. Null is a dash, never zero; 0 % and 100 % only when they are exact.

export const NOTHING = "-";

const digits = (value) => (value >= 100 || Number.isInteger(value) ? 0 : 1);
const number = (value, n) => value.toLocaleString("en-US", { minimumFractionDigits: n, maximumFractionDigits: n });

export function duration(ms) {
  if (ms === null || ms === undefined) return NOTHING;
  if (ms > 0 && ms < 0.0005) return "< 1 µs";
  if (ms < 0.9995) return `${number(ms * 1000, 0)} µs`;
  if (ms < 9.95) return `${number(ms, 1)} ms`;
  if (ms < 999.5) return `${number(ms, 0)} ms`;
  if (ms < 59_950) return `${number(ms / 1000, 1)} s`;
  const seconds = Math.round(ms / 1000);
  return `${Math.floor(seconds / 60)} min ${String(seconds % 60).padStart(2, "0")} s`;
}

export function rate(perSecond) {
  if (perSecond === null || perSecond === undefined) return NOTHING;
  // what is there is never written as none
  if (perSecond > 0 && perSecond * 60 < 0.05) return "< 0.1 req/min";
  if (perSecond > 0 && perSecond < 0.1) return `${number(perSecond * 60, 1)} req/min`;
  return `${number(perSecond, digits(perSecond))} req/s`;
}

export function bytes(value) {
  if (value === null || value === undefined) return NOTHING;
  if (value > 0 && value < 0.05) return "< 0.1 B";
  const { name, per } = byteUnit(value);
  return `${number(value / per, digits(value / per))} ${name}`;
}

function byteUnit(value) {
  const names = ["B", "KiB", "MiB", "GiB", "TiB"];
  let per = 1;
  let at = 0;
  while (value / per >= 1024 && at < names.length - 1) {
    per *= 1024;
    at += 1;
  }
  return { name: names[at], per };
}

export function percent(ratio) {
  if (ratio === null || ratio === undefined) return NOTHING;
  const value = ratio * 100;
  if (value === 0 || value === 100) return `${value} %`;
  if (value < 0.1) return "< 0.1 %";
  if (value < 9.95) return `${number(value, 1)} %`;
  if (value > 99.5 && value < 100) return value >= 99.95 ? "> 99.9 %" : `${number(value, 1)} %`;
  return `${number(value, 0)} %`;
}

export function cores(value) {
  if (value === null || value === undefined) return NOTHING;
  return value < 10 ? `${Number(value.toPrecision(2))} cores` : `${number(value, digits(value))} cores`;
}

export function count(value) {
  if (value === null || value === undefined) return NOTHING;
  if (value > 0 && value < 0.05) return "< 0.1";
  return number(value, Number.isInteger(value) ? 0 : 1);
}

// One unit an axis, chosen by its highest value: its name, and what one of it is worth.
export function axisUnit(kind, highest) {
  switch (kind) {
    case "duration":
      if (highest < 1) return { name: "µs", per: 1e-3 };
      if (highest < 950) return { name: "ms", per: 1 };
      return highest < 120_000 ? { name: "s", per: 1000 } : { name: "min", per: 60_000 };
    case "rate":
      return highest > 0 && highest < 0.1 ? { name: "req/min", per: 1 / 60 } : { name: "req/s", per: 1 };
    case "bytes":
      return byteUnit(highest);
    case "percent":
      return { name: "%", per: 0.01 };
    case "cores":
      return { name: "cores", per: 1 };
    default:
      return { name: "", per: 1 };
  }
}

export const written = { duration, rate, bytes, percent, cores, count };

const two = (value) => String(value).padStart(2, "0");

// 12:04, with seconds where they say something, and the day where it is not today's.
export function time(seconds, now = Date.now() / 1000) {
  const at = new Date(seconds * 1000);
  const clock = `${two(at.getHours())}:${two(at.getMinutes())}${at.getSeconds() ? `:${two(at.getSeconds())}` : ""}`;
  const isToday = at.toDateString() === new Date(now * 1000).toDateString();
  return isToday ? clock : `${two(at.getDate())} ${at.toLocaleString("en-GB", { month: "short" })} ${clock}`;
}

export function span(seconds) {
  if (seconds % 86_400 === 0) return `${seconds / 86_400} d`;
  if (seconds % 3600 === 0) return `${seconds / 3600} h`;
  return seconds % 60 === 0 ? `${seconds / 60} min` : `${seconds} s`;
}

export const rfc3339 = (seconds) => new Date(seconds * 1000).toISOString().replace(".000Z", "Z");
