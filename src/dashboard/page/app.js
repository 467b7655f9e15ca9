// The page: the URL says what is shown, the API what it is. It asks again while it is live and seen.

import * as address from "./address.js";
import { Card } from "./card.js";
import { CHARTS } from "./charts.js";
import { time } from "./format.js";
import { fillStrip } from "./strip.js";
import { ask, Trouble, worded } from "./trouble.js";
import { SILENT, staleSince } from "./words.js";

// After a failure: soon enough to notice, rare enough to leave a server that starts alone.
const AGAIN_S = 5;
// The list of deployments changes rarely.
const LIST_EVERY_MS = 30_000;

const by = (id) => document.getElementById(id);
const [deploymentBox, rangeBox, liveButton] = [by("deployment"), by("range"), by("live")];

let view = address.read(location.search);
let deployments = [];
let listedAt = 0;
let panel = null;
// What the panel was asked with; it is shown under no other name and over no other range.
let panelOf = null;
// Why nothing new comes, and since when: {reason, since}.
let lost = null;
let asking = null;
let nextAt = null;

const cards = CHARTS.map((chart) => new Card(chart, { toggled, pointed, retry: refresh }));
by("charts").append(...cards.map((card) => card.root));
by("charts").hidden = true;
rangeBox.append(...address.RANGES.map(([value, text]) => new Option(text, value)));

// Reads what the view asks for. A later call overtakes an earlier one.
async function refresh() {
  asking?.abort();
  const mine = new AbortController();
  asking = mine;
  nextAt = null;
  try {
    if (Date.now() - listedAt > LIST_EVERY_MS || !deployments.length) {
      const listed = await ask("/api/v1/deployments", mine);
      if (asking !== mine) return;
      ({ deployments } = listed);
      listedAt = Date.now();
      fillDeployments();
    }
    if (!view.deployment) takeDefault();
    if (view.deployment) {
      const url = address.panelUrl(view);
      const read = await ask(url, mine);
      if (asking !== mine) return;
      [panel, panelOf] = [read, url];
    }
    lost = null;
    say(view.deployment ? null : "No deployment has reported yet. Publish request batches or replica samples to Kafka; schemas/examples/producer.py shows how. This page will notice.");
  } catch (error) {
    if (asking !== mine) return;
    failed(error);
  }
  asking = null;
  paint();
  schedule();
}

// The last heard of, where the URL names none; from here on it names this one, so that Back finds it again.
function takeDefault() {
  const last = deployments.reduce((best, of) => (!best || of.last_seen > best.last_seen ? of : best), null);
  if (!last) return;
  view.deployment = last.id;
  history.replaceState(null, "", address.write(view));
}

function failed(error) {
  if (error.code === "unknown_deployment" || error.code === "bad_parameter") {
    panel = lost = null;
    const what = error.code === "unknown_deployment" ? `No such deployment: ${view.deployment}.` : error.message;
    return say(what, "error");
  }
  // a fault of the page's own is no fault of the connection
  if (!(error instanceof Trouble)) console.error(error);
  const { reason, since } = worded(error);
  // another reason begins anew
  if (lost?.reason !== reason) lost = { reason, since: Date.now() / 1000 };
  say(since(time(lost.since)), "error");
}

function say(text, kind = "") {
  const notice = by("notice");
  const ignored = view.ignored.join(". ");
  const whole = [text, ignored && `${ignored}.`].filter(Boolean).join(" ");
  if (notice.textContent !== whole) notice.textContent = whole;
  notice.className = `notice ${kind}`;
  notice.hidden = !whole;
}

function schedule() {
  const isMoving = view.live && !view.from && !document.hidden;
  if (lost === null && panel !== null && !isMoving) return;
  nextAt = Date.now() + 1000 * (lost === null ? panel?.refresh_s ?? AGAIN_S : AGAIN_S);
}

// Counts down to the next question; the text is no live region, lest it be read out each second.
setInterval(() => {
  const left = nextAt === null ? null : Math.max(0, Math.ceil((nextAt - Date.now()) / 1000));
  if (left === null) by("countdown").textContent = asking ? "" : "Not live";
  else by("countdown").textContent = lost === null ? `again in ${left} s` : `Trying again in ${left} s.`;
  if (left === 0) refresh();
}, 250);

const name = (of) => of.name || of.id;

function fillDeployments() {
  const groups = new Map();
  for (const of of deployments) {
    const model = of.model_name || of.model_id || "Model not reported";
    groups.set(model, [...(groups.get(model) ?? []), of]);
  }
  const made = [...groups].sort(([a], [b]) => a.localeCompare(b)).map(([model, of]) => {
    const group = document.createElement("optgroup");
    group.label = model;
    const sorted = [...of].sort((a, b) => name(a).localeCompare(name(b)));
    group.append(...sorted.map((one) => {
      const kind = one.kind === "development" ? "development" : "";
      return new Option([name(one), one.environment, kind].filter(Boolean).join(" · "), one.id);
    }));
    return group;
  });
  const isKnown = deployments.some((of) => of.id === view.deployment);
  if (view.deployment && !isKnown) made.unshift(new Option(view.deployment, view.deployment));
  deploymentBox.replaceChildren(...made);
  deploymentBox.value = view.deployment ?? "";
}

function paint() {
  deploymentBox.value = view.deployment ?? "";
  paintRange();
  liveButton.setAttribute("aria-pressed", String(view.live && !view.from));
  // what is asked for keeps its place on the page, and shows nothing of what was there before
  const isWaiting = panel === null && asking !== null;
  for (const id of ["strip", "charts"]) by(id).classList.toggle("waiting", isWaiting);
  by("charts").hidden = panel === null && !isWaiting;
  const facts = deployments.find((of) => of.id === view.deployment);
  document.title = facts ? `${name(facts)} - modelmeter` : "modelmeter";
  by("facts").textContent = facts
    ? [...new Set([name(facts), facts.model_name, facts.environment, facts.kind, facts.instance_type])].filter(Boolean).join(" · ")
    : view.deployment ?? "";
  paintBadge();
  if (panel === null) return by("strip").replaceChildren();
  fillStrip(by("strip"), panel);
  // a lost connection leaves the numbers as they were; only the grey grows
  const isLost = lost !== null && panel.range !== null;
  const stale = isLost
    ? { staleFrom: panel.now, until: Math.max(panel.now, Math.floor(Date.now() / 1000)) }
    : { staleFrom: staleSince(panel), until: Math.min(panel.stop, panel.now) };
  for (const card of cards) card.show(panel, panelOf, facts, view.hide, stale);
}

function paintBadge() {
  const badge = by("badge");
  const stale = panel === null ? null : staleSince(panel);
  const [kind, text] = panel === null ? ["", ""]
    : lost !== null ? ["lost", `Stale since ${time(panel.now)}: ${lost.reason}`]
    : stale !== null ? ["stale", `Stale since ${time(stale, panel.now)}: ${SILENT}`]
    : panel.stopped_since !== null ? ["", `Complete, no replica since ${time(panel.stopped_since, panel.now)}`]
    : panel.data_until === null ? ["", "No data"]
    : ["", `Data until ${time(panel.data_until, panel.now)}`];
  badge.className = kind;
  if (badge.textContent !== text) badge.textContent = text;
}

function paintRange() {
  rangeBox.querySelector("option[value=own]")?.remove();
  if (view.from) rangeBox.append(new Option(`${view.from} to ${view.to}`, "own"));
  rangeBox.value = view.from ? "own" : view.range;
}

// A choice is a history entry.
function choose(change) {
  const next = { ...view, ...change, ignored: [] };
  history.pushState(null, "", address.write(next));
  look(next);
}

// Turns to another view. A panel of another deployment or range goes at once: under the new name it would be untrue.
function look(next) {
  view = next;
  if (!view.deployment || panelOf !== address.panelUrl(view)) panel = null;
  refresh();
  paint();
}

// Keys move the cursor of all charts at once, as the mouse does: to a moment, since steps differ. The chart that has the keys
// comes last: a cursor that is moved moves the others to its step's middle.
function pointed(seconds, own) {
  for (const card of [...cards.filter((card) => card !== own), own]) card.pointTo(seconds);
}

function toggled(id) {
  const hide = new Set(view.hide);
  if (!hide.delete(id)) hide.add(id);
  view = { ...view, hide, ignored: [] };
  history.replaceState(null, "", address.write(view));
  paint();
}

deploymentBox.addEventListener("change", () => choose({ deployment: deploymentBox.value }));
rangeBox.addEventListener("change", () => rangeBox.value !== "own" && choose({ range: rangeBox.value, from: null, to: null }));
liveButton.addEventListener("click", () => choose(view.from ? { from: null, to: null, live: true } : { live: !view.live }));
addEventListener("popstate", () => look(address.read(location.search)));
document.addEventListener("visibilitychange", () => (document.hidden ? (nextAt = null) : view.live && refresh()));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => cards.forEach((card) => card.plot.repaint()));
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select, input")) return;
  const act = { "/": () => deploymentBox.focus(), r: () => rangeBox.focus(), l: () => liveButton.click() }[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

refresh();
