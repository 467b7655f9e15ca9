// What the page shows, as its URL says it. Defaults are left out; what cannot be read is told, never guessed.

export const RANGES = [
  ["15m", "15 minutes"], ["1h", "1 hour"], ["6h", "6 hours"], ["24h", "24 hours"], ["7d", "7 days"],
];
const DEFAULT_RANGE = "6h";
const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/;

export function read(search) {
  const given = new URLSearchParams(search);
  const view = { deployment: null, range: DEFAULT_RANGE, from: null, to: null, hide: new Set(), live: true, ignored: [] };
  for (const [name, value] of given) {
    const why = take(view, name, value);
    if (why) view.ignored.push(`Ignored ${name}: ${why}`);
  }
  if (Boolean(view.from) !== Boolean(view.to)) {
    view.ignored.push(`Ignored ${view.from ? "from" : "to"}: from and to stand together`);
    view.from = view.to = null;
  }
  return view;
}

// Puts one parameter in its place, or gives why not.
function take(view, name, value) {
  switch (name) {
    case "deployment":
      view.deployment = value || null;
      return null;
    case "range":
      if (!RANGES.some(([known]) => known === value)) return `it is one of ${RANGES.map(([known]) => known).join(", ")}`;
      view.range = value;
      return null;
    case "from":
    case "to":
      if (!TIME.test(value)) return "a time is written 2026-11-24T05:00:00Z";
      view[name] = value;
      return null;
    case "hide":
      view.hide = new Set(value.split(",").filter(Boolean));
      return null;
    case "live":
      if (value !== "0" && value !== "1") return "it is 0 or 1";
      view.live = value === "1";
      return null;
    default:
      return "it is no parameter of this page";
  }
}

export function write(view) {
  const out = new URLSearchParams();
  if (view.deployment) out.set("deployment", view.deployment);
  if (view.from) {
    out.set("from", view.from);
    out.set("to", view.to);
  } else if (view.range !== DEFAULT_RANGE) {
    out.set("range", view.range);
  }
  if (view.hide.size) out.set("hide", [...view.hide].sort().join(","));
  if (!view.live) out.set("live", "0");
  // commas and colons are legal in a query, and easier to read
  const text = out.toString().replaceAll("%2C", ",").replaceAll("%3A", ":");
  return text ? `/?${text}` : "/";
}

// The same, as the API asks for it.
export function panelUrl(view) {
  const out = new URLSearchParams({ deployment: view.deployment });
  if (view.from) {
    out.set("start", view.from);
    out.set("stop", view.to);
  } else {
    out.set("range", view.range);
  }
  return `/api/v1/panel?${out}`;
}
