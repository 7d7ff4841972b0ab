// Charts, drawn by uPlot, and what else writes numbers and makes elements.
"use strict";

/** What the lines of charts are called, and how uPlot draws them. Others are of single learners. */
const LINES = {
  train: { label: "training", color: "train", dash: [6, 4] },
  evaluation: { label: "evaluation", color: "evaluation" },
  central: { label: "central evaluation", color: "central", dash: [2, 3] },
  sent: { label: "to learners", color: "evaluation" },
  received: { label: "from learners", color: "train", dash: [6, 4] },
  updates: { label: "updates in the controller, at most", color: "central" },
  spent: { label: "all models so far", color: "central" },
  stale: { label: "models meanwhile", color: "evaluation", paths: () => null, points: { show: true, size: 4 } },
};
const FAINT = { class: "faint", color: "evaluation", width: 1, alpha: 0.35, points: { show: false } };
const HEIGHT = 210;
const STEPS = [...Array(12).keys()].flatMap((power) => [1, 2, 5].map((n) => n * 10 ** power)); // there is no round 1.5

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const last = (values) => values.findLast((value) => value != null);
const short = (value) => (value == null ? "–" : String(Number(value.toPrecision(4))));

function bytes(value) {
  const power = Math.min(4, Math.floor(Math.log10(Math.max(value, 1)) / 3));
  return `${Number((value / 1000 ** power).toPrecision(3))} ${["B", "kB", "MB", "GB", "TB"][power]}`;
}

function clock(ms) {
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  const minutes = new Date(ms).toISOString().slice(14, 19);
  return ms < 3_600_000 ? minutes : `${Math.floor(ms / 3_600_000)}:${minutes}`;
}

/** Make an element. Texts of peers become text nodes only. */
function make(tag, text = "", parent = null, className = "") {
  const element = Object.assign(document.createElement(tag), { textContent: text, className });
  parent?.append(element);
  return element;
}

/** The charts of a section. They stay, with the pointer in them, as long as they have the same lines. */
class Charts {
  constructor(parent) {
    this.parent = parent;
  }

  /** Draw charts over `x`: "time", or what is counted. `data` are places on it, and the values of each line. */
  show(charts) {
    const kind = JSON.stringify([css("ink"), ...charts.map(({ title, x, names }) => [title, x, names])]);
    if (kind !== this.kind) {
      this.kind = kind;
      this.plots?.forEach((plot) => plot.destroy());
      this.parent.replaceChildren();
      this.plots = charts.map((chart) => this.make(chart));
    }
    this.plots.forEach((plot, i) => {
      const { title, names, data, format } = charts[i];
      plot.setSize({ width: this.parent.firstChild.clientWidth, height: HEIGHT });
      plot.setData(data);
      const said = names.map((name, k) => name in LINES && `${LINES[name].label} ${format(last(data[k + 1]))}`);
      Object.assign(plot.root, { role: "img", ariaLabel: `${title}: ${said.filter(Boolean).join(", ")}` });
    });
  }

  make({ title, x, names, data, format }) {
    const figure = make("figure", "", this.parent);
    make("figcaption", title, figure);
    const lines = { stroke: css("line"), width: 1 };
    const axis = { stroke: css("soft"), grid: lines, ticks: lines, font: "12px system-ui, 'DejaVu Sans', sans-serif" };
    const place = (at) => (x === "time" ? clock(at) : Number.isInteger(at) ? String(at) : "");
    const told = (write) => (plot, value, line, index) => write(index == null ? last(plot.data[line]) : value);
    const series = names.map((name) => {
      const { color, points, ...look } = LINES[name] ?? FAINT;
      const stroke = css(color);
      return { stroke, width: 2, spanGaps: true, value: told(format), points: { fill: stroke, ...points }, ...look };
    });
    return new uPlot({
      width: HEIGHT,
      height: HEIGHT,
      legend: { markers: { dash: (plot, i) => (plot.series[i].dash ? "dashed" : "solid") } },
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 7 } },
      scales: { x: { time: false }, y: format === bytes ? { range: (_, min, max) => [0, max * 1.1 || 1] } : {} },
      axes: [
        { ...axis, incrs: STEPS, values: (_, places) => places.map(place) },
        { ...axis, size: 64, values: (_, values) => values.map(format) },
      ],
      series: [{ label: x, value: told(place) }, ...series],
      bands: [{ series: [names.indexOf("high") + 1, names.indexOf("low") + 1], fill: `${css("evaluation")}33` }],
    }, data, figure);
  }
}
