// One chart on a canvas. It draws what it is given: data, zero on the axis, a hatch where there is none, grey where it is
// stale. Values are only scaled to the axis's unit and, in a stack, put upon each other.

import uPlot from "./vendor/uPlot.esm.js";
import { seriesId } from "./charts.js";
import { axisUnit, time } from "./format.js";
import { isSettled, runs } from "./words.js";

const SYNC = uPlot.sync("panel");
// Replicas are whole.
const WHOLE = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000];
const FONT = "11px system-ui, sans-serif";
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

export class Plot {
  // `moved` is told the index under the cursor, or null.
  constructor(box, chart, moved) {
    // the base of a stack is drawn last, over the layers that reach down behind it
    const layers = chart.stacked ? [...chart.series].reverse() : chart.series;
    Object.assign(this, { box, chart, moved, layers, drawn: null, uplot: null });
    new ResizeObserver(() => this.uplot?.setSize(this.size())).observe(box);
  }

  size() {
    return { width: Math.max(this.box.clientWidth, 80), height: Math.max(this.box.clientHeight, 80) };
  }

  // until: where the plot ends. hidden: ids of series that are switched off. staleFrom: from when on nothing is known, or null.
  draw({ t, step, series, coverage: told }, { start, now, until }, hidden, staleFrom) {
    const settled = t.map((at) => isSettled(at, step, now));
    const coverage = told.map((of, i) => (of === "d" && !settled[i] ? "p" : of));
    const shown = this.chart.series.map((of) => (hidden.has(seriesId(this.chart, of)) ? t.map(() => null) : series[of.key].map((value, i) => (settled[i] ? value : null))));
    const highest = Math.max(0, ...stackOrNot(this.chart, shown).flat().filter((value) => value !== null));
    const unit = axisUnit(this.chart.unit, highest);
    const scaled = shown.map((values) => values.map((value) => (value === null ? null : value / unit.per)));
    this.drawn = { t, step, coverage, start, stop: Math.max(until, start + step), now, staleFrom, unit,
      failed: series.rps_5xx?.map((value, i) => value > 0 && settled[i]) ?? [],
      isBlank: shown.flat().every((value) => value === null) };
    const columns = stackOrNot(this.chart, scaled);
    // the middle of what is seen of a step: that of an open one may lie beyond the axis, where nothing can be pointed at
    const middle = (at) => (at + Math.max(at, Math.min(at + step, this.drawn.stop))) / 2;
    const data = [t.map(middle), ...(this.chart.stacked ? [...columns].reverse() : columns)];
    if (this.uplot) this.uplot.setData(data);
    else this.make(data);
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
      series: [{}, ...this.layers.map((of) => this.series(of))],
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

  series(of) {
    const stroke = colour(of.colour);
    if (this.chart.stacked) {
      return { stroke, fill: stroke, width: 0, points: { show: false }, paths: (u, at) => this.blocks(u, at) };
    }
    return {
      stroke, width: of.width, dash: of.dash,
      points: { show: true, size: 4, width: 1.5, stroke, fill: stroke, filter: (u, at) => lonely(u.data[at]) },
    };
  }

  // A stack's layer: one block a step, exactly as wide as the step.
  blocks(u, at) {
    const fill = new Path2D();
    const { t, step, stop } = this.drawn;
    const base = u.valToPos(0, "y", true);
    u.data[at].forEach((value, i) => {
      // a layer that adds nothing would show as an edge of the one below
      const below = u.data[at + 1]?.[i] ?? 0;
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

// A stack's layers, each upon those before it: the first series lies at the base.
function stackOrNot(chart, columns) {
  if (!chart.stacked) return columns;
  const sums = columns[0].map(() => 0);
  return columns.map((values) => values.map((value, i) => {
    if (value === null) return null;
    sums[i] += value;
    return sums[i];
  }));
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
