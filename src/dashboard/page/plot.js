// One chart on a canvas. It draws what it is given: data, zero on the axis, a hatch where there is none, grey where it is
// stale. Values are only scaled to the axis's unit and, in a stack, put upon each other.

import uPlot from "./vendor/uPlot.esm.js";
import { seriesId } from "./charts.js";
import { axisUnit, time } from "./format.js";
import { gradeBetween, grades } from "./thin.js";
import { isSettled, runs } from "./words.js";

const SYNC = uPlot.sync("panel");
// Replicas are whole.
const WHOLE = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000];
// Steps closer than this have no room for a dot each: what is thin there is a thin line alone.
const DOT_ROOM = 5;
const FONT = "11px system-ui, sans-serif";
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

export class Plot {
  // `moved` is told the index under the cursor, or null.
  constructor(box, chart, moved) {
    Object.assign(this, { box, chart, moved, layers: layersOf(chart), drawn: null, uplot: null });
    new ResizeObserver(() => this.uplot?.setSize(this.size())).observe(box);
  }

  size() {
    return { width: Math.max(this.box.clientWidth, 80), height: Math.max(this.box.clientHeight, 80) };
  }

  // until: where the plot ends. hidden: ids of series that are switched off. staleFrom: from when on nothing is known, or null.
  draw({ t, step, series, coverage: told }, { start, now, until }, hidden, staleFrom) {
    const settled = t.map((at) => isSettled(at, step, now));
    const coverage = told.map((of, i) => (of === "d" && !settled[i] ? "p" : of));
    const isHidden = (of) => hidden.has(seriesId(this.chart, of));
    // what never occurs is no line on the axis; nor is a count where nothing was asked
    const isBare = (of) => of.ifAny && !series[of.key].some((value) => value > 0);
    const of = (one) => {
      const isOff = isHidden(one) || isBare(one);
      return series[one.key].map((value, i) => (isOff || !settled[i] || (one.line && told[i] !== "d") ? null : value));
    };
    const columns = stacked(this.chart, new Map(this.chart.series.map((one) => [one.key, of(one)])));
    const values = [...columns.values()].flat().filter((value) => value !== null);
    const unit = axisUnit(this.chart.unit, Math.max(0, ...values));
    this.drawn = { t, step, coverage, start, stop: Math.max(until, start + step), now, staleFrom, unit,
      grades: new Map(this.chart.series.filter(({ q }) => q).map((one) => [one.key, grades(one, columns.get(one.key), series.requests)])),
      failed: series.rps_5xx?.map((value, i) => value > 0 && settled[i]) ?? [],
      isBlank: values.length === 0 };
    // the middle of what is seen of a step: that of an open one, or of a first one that began before the axis, may lie beyond
    // it, where nothing can be pointed at
    const middle = (at) => (Math.max(at, start) + Math.max(at, Math.min(at + step, this.drawn.stop))) / 2;
    const scaled = (values) => values.map((value) => (value === null ? null : value / unit.per));
    const data = [t.map(middle), ...this.layers.map(({ of }) => scaled(columns.get(of.key)))];
    if (this.uplot) this.uplot.setData(data);
    else this.make(data);
  }

  // Whether something is drawn that rests on too few requests.
  hasThin() {
    return [...(this.drawn?.grades.values() ?? [])].flat().some((grade) => grade === "thin" || grade === "few");
  }

  clear() {
    this.uplot?.destroy();
    this.uplot = this.drawn = null;
  }

  // Anew, in the colours of now.
  repaint() {
    if (!this.uplot) return;
    const data = this.uplot.data;
    this.uplot.destroy();
    this.make(data);
  }

  make(data) {
    const { chart } = this;
    const options = {
      ...this.size(),
      legend: { show: false },
      cursor: { y: false, sync: { key: SYNC.key }, drag: { x: false, y: false }, points: { show: !chart.stacked } },
      scales: {
        x: { time: true, range: () => [this.drawn.start, this.drawn.stop] },
        y: { range: (u, low, high) => [0, top(chart, high, this.drawn.unit)] },
      },
      axes: [this.axis({ size: 24, values: (u, ticks) => ticks.map((tick) => time(tick, this.drawn.now)), space: 70 }),
        this.axis({ size: 64, values: (u, ticks) => this.ticks(ticks), space: 34, ...(chart.unit === "count" && { incrs: WHOLE }) })],
      series: [{}, ...this.layers.map((layer) => this.series(layer))],
      bands: chart.series[1]?.label === "highest" ? [{ series: [2, 1], fill: colour("band") }] : undefined,
      hooks: {
        drawAxes: [(u) => this.drawStates(u)],
        setCursor: [(u) => this.moved(u.cursor.idx ?? null)],
      },
    };
    this.uplot = new uPlot(options, data, this.box);
  }

  axis(more) {
    return {
      stroke: colour("muted"), font: FONT, grid: { stroke: colour("grid"), width: 1 }, ticks: { show: false }, gap: 6, ...more,
    };
  }

  // The unit stands beside the highest tick.
  ticks(ticks) {
    // nothing was read, so there is no unit to count in
    if (this.drawn.isBlank) return ticks.map(() => "");
    const last = ticks.length - 1;
    const decimals = Math.max(0, ...ticks.map((tick) => (String(+tick.toPrecision(6)).split(".")[1] ?? "").length));
    return ticks.map((tick, at) => (`${tick.toFixed(decimals)}${at === last && this.drawn.unit.name ? ` ${this.drawn.unit.name}` : ""}`));
  }

  series({ of, as }) {
    const stroke = colour(as === "casing" ? "panel" : of.colour);
    const alone = { show: true, size: 4, width: 1.5, stroke, fill: stroke };
    switch (as) {
      case "block":
        return { stroke, fill: stroke, width: 0, points: { show: false }, paths: (u, at) => this.blocks(u, at) };
      case "casing":
      case "stairs":
        return { stroke, width: as === "casing" ? 3.5 : 1.5, points: { show: false }, paths: (u, at) => this.stairs(u, at) };
      case "enough":
        return { stroke, width: of.width, dash: of.dash, paths: (u, at) => this.joined(u, at),
          points: { ...alone, filter: (u, at) => this.dots(u, at) } };
      case "thin":
        return { stroke, width: 1, alpha: 0.5, paths: (u, at) => this.joined(u, at),
          points: { ...alone, width: 1, fill: colour("panel"), filter: (u, at) => this.dots(u, at) } };
      default:
        return { stroke, width: of.width, dash: of.dash, points: { ...alone, filter: (u, at) => lonely(u.data[at]) } };
    }
  }

  // Lines between neighbouring steps that both rest on enough requests, or on their thin rest; none to a step with too few.
  joined(u, at) {
    const { of, as } = this.layers[at - 1];
    const grades = this.drawn.grades.get(of.key);
    const stroke = new Path2D();
    const [xs, ys] = [u.data[0], u.data[at]];
    for (let i = 1; i < ys.length; i += 1) {
      if (gradeBetween(grades[i - 1], grades[i]) !== as) continue;
      stroke.moveTo(u.valToPos(xs[i - 1], "x", true), u.valToPos(ys[i - 1], "y", true));
      stroke.lineTo(u.valToPos(xs[i], "x", true), u.valToPos(ys[i], "y", true));
    }
    return { stroke, fill: null, clip: null, band: null, gaps: null, flags: 0 };
  }

  // A full dot where no line leads to a step, a hollow one wherever it is thin and there is room; too few are dots alone.
  dots(u, at) {
    const { of, as } = this.layers[at - 1];
    const grades = this.drawn.grades.get(of.key);
    const hasRoom = u.valToPos(this.drawn.step, "x") - u.valToPos(0, "x") >= DOT_ROOM;
    u.series[at].points.size = as === "enough" || hasRoom ? 4 : 3;
    const isAlone = (i) => [i - 1, i + 1].every((j) => gradeBetween(grades[i], grades[j] ?? null) === null);
    const isDot = (grade, i) => (as === "enough" ? grade === "enough" && isAlone(i) : grade === "few" || (grade === "thin" && (hasRoom || isAlone(i))));
    return grades.flatMap((grade, i) => (isDot(grade, i) ? [i] : []));
  }

  // A count's line: level over each step.
  stairs(u, at) {
    const stroke = new Path2D();
    const { t, step, stop } = this.drawn;
    let isOpen = false;
    u.data[at].forEach((value, i) => {
      if (value === null) {
        isOpen = false;
        return;
      }
      const y = Math.round(u.valToPos(value, "y", true));
      const left = u.valToPos(t[i], "x", true);
      if (isOpen) stroke.lineTo(left, y);
      else stroke.moveTo(left, y);
      stroke.lineTo(u.valToPos(Math.min(t[i] + step, stop), "x", true), y);
      isOpen = true;
    });
    return { stroke, fill: null, clip: null, band: null, gaps: null, flags: 0 };
  }

  // A stack's layer: one block a step, exactly as wide as the step.
  blocks(u, at) {
    const fill = new Path2D();
    const { t, step, stop } = this.drawn;
    const base = u.valToPos(0, "y", true);
    u.data[at].forEach((value, i) => {
      // a layer that adds nothing would show as an edge of the one below
      const below = this.layers[at]?.as === "block" ? u.data[at + 1][i] ?? 0 : 0;
      if (!value || value === below) return;
      const left = Math.round(u.valToPos(t[i], "x", true));
      const right = Math.round(u.valToPos(Math.min(t[i] + step, stop), "x", true));
      const y = Math.round(u.valToPos(value, "y", true));
      fill.rect(left, y, right - left, base - y);
    });
    return { stroke: null, fill, clip: null, band: null, gaps: null, flags: 0 };
  }

  drawStates(u) {
    const { ctx, bbox } = u;
    const { coverage, failed, t, step, stop, staleFrom } = this.drawn;
    const x = (seconds) => Math.min(Math.max(u.valToPos(seconds, "x", true), bbox.left), bbox.left + bbox.width);
    const each = (letter, draw) => runs(coverage, letter).forEach(([from, behind]) => draw(x(t[from]), x(Math.min(t[behind - 1] + step, stop))));
    ctx.save();
    const pattern = hatch(ctx, colour("hatch"));
    for (const [letter, alpha] of [["n", 1], ["p", 0.4]]) {
      ctx.globalAlpha = alpha;
      ctx.fillStyle = pattern;
      each(letter, (left, right) => ctx.fillRect(left, bbox.top, right - left, bbox.height));
    }
    ctx.globalAlpha = 1;
    if (staleFrom !== null) {
      ctx.fillStyle = colour("stale");
      ctx.fillRect(x(staleFrom), bbox.top, x(stop) - x(staleFrom), bbox.height);
    }
    // zero lies on the axis, and is seen there
    ctx.fillStyle = colour("note");
    const thick = Math.round(2 * devicePixelRatio);
    each("z", (left, right) => ctx.fillRect(left, bbox.top + bbox.height - thick, right - left, thick));
    // a failure is seen however few they are: a tick under its step
    ctx.fillStyle = colour("s5xx");
    t.forEach((at, i) => {
      if (failed[i]) ctx.fillRect(x(at), bbox.top + bbox.height, Math.max(1, x(at + step) - x(at)), 2 * thick);
    });
    ctx.restore();
  }

  cursorTo(index) {
    if (!this.uplot) return;
    const left = index === null ? -10 : this.uplot.valToPos(this.uplot.data[0][index], "x");
    this.uplot.setCursor({ left, top: index === null ? -10 : 10 });
  }
}

function top(chart, high, unit) {
  if (chart.unit === "percent") return 100;
  if (!high || high <= 0) return chart.unit === "count" ? 2 : 1;
  return chart.unit === "count" ? Math.max(2, Math.ceil(high * 1.1)) : high * 1.1;
}

// What is drawn, first to last: a series and how. The base of a stack comes after the layers that reach down behind it;
// a line over it has an edge that parts it from them. A percentile is two layers, what rests on enough and what does not.
function layersOf({ series, stacked: isStacked }) {
  const as = (of, ...ways) => ways.map((way) => ({ of, as: way }));
  if (!isStacked) return series.flatMap((of) => (of.q ? as(of, "enough", "thin") : as(of, "line")));
  const blocks = series.filter(({ line }) => !line).reverse();
  return [...blocks.flatMap((of) => as(of, "block")), ...series.filter(({ line }) => line).flatMap((of) => as(of, "casing", "stairs"))];
}

// A stack's layers, each upon those before it: the first series lies at the base. A line is no layer.
function stacked({ series, stacked: isStacked }, columns) {
  if (!isStacked) return columns;
  const sums = [...columns.values()][0].map(() => 0);
  return new Map(series.map(({ key, line }) => [key, columns.get(key).map((value, i) => {
    if (value === null || line) return value;
    sums[i] += value;
    return sums[i];
  })]));
}

// Points with nothing on either side, which a line cannot show.
function lonely(values) {
  const found = [];
  values.forEach((value, i) => {
    const isAlone = (values[i - 1] ?? null) === null && (values[i + 1] ?? null) === null;
    if (value !== null && isAlone) found.push(i);
  });
  return found;
}

function hatch(ctx, stroke) {
  const size = Math.round(8 * devicePixelRatio);
  const tile = document.createElement("canvas");
  tile.width = tile.height = size;
  const pen = tile.getContext("2d");
  pen.strokeStyle = stroke;
  pen.lineWidth = Math.max(1, devicePixelRatio);
  pen.beginPath();
  for (const shift of [-size, 0, size]) {
    pen.moveTo(shift, size);
    pen.lineTo(shift + size, 0);
  }
  pen.stroke();
  return ctx.createPattern(tile, "repeat");
}
