// A chart's card: title, definition, state, plot, legend, advice, and the table that says the same in text.

import { count, NOTHING, percent, rfc3339, span, time, written } from "./format.js";
import { seriesId } from "./charts.js";
import { Plot } from "./plot.js";
import { restsOnWords } from "./thin.js";
import { isOver, runs, statesOf } from "./words.js";

const element = (name, className, text) => {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};

export class Card {
  // `toggled` is told the id of a series that was switched, `pointed` the moment that keys chose in which chart, `retry` that
  // a failed chart is asked for again.
  constructor(chart, { toggled, pointed, retry }) {
    this.chart = chart;
    this.pointed = pointed;
    this.retry = retry;
    this.latest = null;
    this.shownOf = null;
    this.root = element("section", "card");
    this.root.id = chart.name;
    const title = element("h2", "", chart.title);
    title.id = `${chart.name}-title`;
    this.root.setAttribute("aria-labelledby", title.id);
    this.readout = element("p", "readout");
    this.toggle = element("button", "toggle", "Table");
    this.toggle.type = "button";
    this.toggle.setAttribute("aria-expanded", "false");
    this.toggle.setAttribute("aria-label", `Table of ${chart.title}`);
    this.toggle.addEventListener("click", () => this.toggleTable());
    // of times, whose steps may be longer than the others'
    this.per = element("span", "per");
    if (this.isOfTimes()) title.append(" ", this.per);
    const head = element("div", "card-head");
    head.append(title, this.readout, this.toggle);
    this.definition = element("p", "definition");
    this.states = element("div", "states");
    this.box = element("div", "plot");
    this.box.tabIndex = 0;
    this.box.setAttribute("role", "img");
    this.box.setAttribute("aria-label", chart.title);
    this.box.addEventListener("keydown", (event) => this.key(event));
    this.legend = element("div", "legend");
    this.values = new Map();
    this.buttons = new Map(chart.series.map((of) => [of.key, this.button(of, toggled)]));
    this.thin = element("p", "thin-note", "○ rests on fewer than 10");
    this.thin.hidden = true;
    this.legend.append(...this.buttons.values(), this.thin);
    this.table = element("div", "table");
    this.table.hidden = true;
    this.table.tabIndex = 0;
    this.table.setAttribute("role", "region");
    this.table.setAttribute("aria-label", `${chart.title}, as a table`);
    this.root.append(head, this.definition, this.states, this.box, this.legend, this.table, ...advice(chart));
    this.plot = new Plot(this.box, chart, (index) => this.moved(index));
    this.at = null;
  }

  button(of, toggled) {
    const button = element("button");
    button.type = "button";
    const look = this.chart.stacked && !of.line ? "" : ` line${of.dash?.length ? (of.dash[0] < 4 ? " dot" : " dash") : ""}`;
    const value = element("span", "value");
    button.append(element("span", `swatch${look} c-${of.colour}`), element("span", "", of.label), value);
    button.addEventListener("click", () => toggled(seriesId(this.chart, of)));
    this.values.set(of.key, value);
    return button;
  }

  isOfTimes() {
    return this.chart.series.some(({ q }) => q);
  }

  // of: what the panel was asked with; staleFrom: from when on nothing is known, or null; until: where the plot ends.
  show(panel, of, facts, hidden, { staleFrom, until }) {
    const answer = panel.charts[this.chart.name];
    const states = statesOf(this.chart, answer, panel);
    const isAbsent = states.some(({ kind }) => kind === "absent");
    this.say(states);
    this.root.classList.toggle("failed", Boolean(answer.error));
    this.root.classList.toggle("absent", isAbsent);
    if (this.shownOf !== of) this.clear();
    this.shownOf = of;
    if (answer.error) return;
    this.definition.textContent = this.chart.definition(span(answer.step), facts);
    this.per.textContent = `per ${span(answer.step)}`;
    this.latest = { panel, answer };
    for (const of of this.chart.series) {
      const button = this.buttons.get(of.key);
      button.hidden = Boolean(of.ifAny) && !answer.series[of.key].some((value) => value > 0);
      button.setAttribute("aria-pressed", String(!hidden.has(seriesId(this.chart, of))));
    }
    if (!isAbsent) this.plot.draw(answer, { ...panel, until }, hidden, staleFrom);
    this.thin.hidden = !this.plot.hasThin();
    this.box.setAttribute("aria-label", this.summary());
    this.moved(this.plot.uplot?.cursor.idx ?? null);
    if (!this.table.hidden) this.fillTable();
  }

  // Nothing of another deployment or range stays, not even where the new one cannot be read.
  clear() {
    this.latest = null;
    this.plot.clear();
    this.readout.textContent = this.per.textContent = "";
    this.thin.hidden = true;
    for (const value of this.values.values()) value.textContent = NOTHING;
    this.box.setAttribute("aria-label", this.chart.title);
    this.table.replaceChildren();
  }

  say(states) {
    this.states.replaceChildren(...states.map(({ kind, text }) => {
      const line = element("p", `state ${kind}`, text);
      if (kind === "error") {
        const again = element("button", "", "Retry");
        again.type = "button";
        again.addEventListener("click", this.retry);
        line.append(again);
      }
      return line;
    }));
  }

  // The numbers of one step: under the cursor, else the last complete one.
  moved(index) {
    this.at = index;
    if (!this.latest) return;
    const { answer, panel } = this.latest;
    const at = index ?? lastComplete(answer, panel);
    const write = written[this.chart.unit];
    for (const { key } of this.chart.series) {
      this.values.get(key).textContent = at === null ? NOTHING : write(answer.series[key][at]);
    }
    this.readout.textContent = at === null ? "" : this.step(at);
  }

  // To the step that holds this second; null is no step.
  pointTo(seconds) {
    if (!this.latest) return;
    const { t, step } = this.latest.answer;
    const at = seconds === null ? -1 : t.findLastIndex((from) => from <= seconds && seconds < from + step);
    this.plot.cursorTo(at < 0 ? null : at);
  }

  step(at) {
    const { answer, panel } = this.latest;
    const { t, step, series, coverage } = answer;
    const parts = [`${time(t[at], panel.now)}-${time(Math.min(t[at] + step, panel.now), panel.now)}`];
    const ratio = series.usage_ratio_avg ?? series.memory_ratio_avg;
    if (ratio && !this.chart.ratio && ratio[at] !== null) parts.push(percent(ratio[at]));
    if (this.chart.of === "requests" && series.requests[at] !== null) {
      parts.push(`${count(series.requests[at])} ${series.requests[at] === 1 ? "request" : "requests"}`);
    }
    const percentiles = this.chart.series.filter(({ q }) => q);
    if (percentiles.length && series.requests[at] > 0 && series[percentiles[0].key][at] !== null) {
      parts.push(...restsOnWords(percentiles, series.requests[at]));
    }
    if (series.client_gone?.[at] > 0) parts.push(`${count(series.client_gone[at])} client gone (499)`);
    const replicas = this.chart.unit === "count" ? null : series.replicas?.[at] ?? null;
    if (replicas !== null) parts.push(`${count(replicas)} ${replicas === 1 ? "replica" : "replicas"}`);
    if (coverage[at] === "n") parts.push("no data");
    if (coverage[at] === "p") parts.push("not here yet");
    else if (!isOver(t[at], step, panel.now)) parts.push("still being read");
    if (coverage[at] === "z") parts.push("zero");
    return parts.join(" · ");
  }

  // The chart in a sentence, for those who hear it.
  summary() {
    const { answer, panel } = this.latest;
    const { coverage, t, series } = answer;
    const lead = this.chart.series.find(({ label }) => label === "p95") ?? this.chart.series.find(({ label }) => label === "2xx") ?? this.chart.series[0];
    const write = written[this.chart.unit];
    const now = lastComplete(answer, panel);
    const from = `${this.chart.title}, ${time(panel.start, panel.now)} to ${time(Math.min(panel.stop, panel.now), panel.now)}.`;
    const values = series[lead.key];
    const highest = values.reduce((best, value, at) => (value !== null && (best === null || value > values[best]) ? at : best), null);
    const said = highest === null
      ? " No data."
      : ` ${lead.label} now ${now === null ? NOTHING : write(values[now])}, highest ${write(values[highest])} at ${time(t[highest], panel.now)}.`;
    const gaps = runs(coverage, "n").length;
    return `${from}${said} ${gaps} ${gaps === 1 ? "gap" : "gaps"}. V for the table.`;
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.latest) return;
    const last = this.latest.answer.t.length - 1;
    if (last < 0) return;
    const to = { ArrowLeft: (this.at ?? last + 1) - 1, ArrowRight: (this.at ?? -1) + 1, Home: 0, End: last }[event.key];
    if (to !== undefined) this.pointed(this.latest.answer.t[Math.min(Math.max(to, 0), last)], this);
    else if (event.key === "Escape") this.pointed(null, this);
    else if (event.key === "v") this.toggleTable();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  toggleTable() {
    this.table.hidden = !this.table.hidden;
    this.toggle.setAttribute("aria-expanded", String(!this.table.hidden));
    if (!this.table.hidden && this.latest) this.fillTable();
  }

  // Unrounded, as the API gave it.
  fillTable() {
    const { t, coverage, series } = this.latest.answer;
    const names = Object.keys(series);
    const table = element("table");
    const head = element("tr");
    head.append(...["t", "coverage", ...names].map((name) => {
      const cell = element("th", "", name);
      cell.scope = "col";
      return cell;
    }));
    const top = element("thead");
    top.append(head);
    const body = element("tbody");
    for (let at = t.length - 1; at >= 0; at -= 1) {
      const row = element("tr");
      const when = element("th", "", rfc3339(t[at]));
      when.scope = "row";
      row.append(when, ...[coverage[at], ...names.map((name) => series[name][at] ?? "")].map((value) => element("td", "", String(value))));
      body.append(row);
    }
    table.append(top, body);
    this.table.replaceChildren(table);
  }
}

// The last step that has ended and been read to its end.
export function lastComplete({ t, step, coverage }, { now }) {
  for (let at = t.length - 1; at >= 0; at -= 1) {
    if (isOver(t[at], step, now) && coverage[at] !== "p") return at;
  }
  return null;
}

function advice(chart) {
  if (!chart.advice) return [];
  const box = element("div", "advice");
  box.append(element("p", "", "What to look out for (nothing is evaluated here):"));
  for (const [when, what] of chart.advice) {
    const line = element("p");
    line.append(element("b", "", `${when}: `), what);
    box.append(line);
  }
  return [box];
}
