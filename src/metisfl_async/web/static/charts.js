// Charts of metrics, traffic and memory over rounds or time. Texts of peers become text nodes only.
"use strict";

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const short = (value) => (value == null ? "–" : Math.abs(value) >= 1e5 || (value && Math.abs(value) < 1e-3) ? value.toExponential(2) : +value.toPrecision(4) + "");
const own = (values, name) => (Object.hasOwn(values, name) ? values[name] : undefined); // learners choose names, "constructor" too
const bytes = (value) => {
  const power = Math.min(4, Math.floor(Math.log10(Math.max(value, 1)) / 3));
  return `${+(value / 1000 ** power).toPrecision(3)} ${["B", "kB", "MB", "GB", "TB"][power]}`;
};
const clock = (ms) => {
  const s = Math.floor(ms / 1000), two = (n) => String(n).padStart(2, "0");
  return s < 60 ? `${(ms / 1000).toFixed(1)} s` : s < 3600 ? `${Math.floor(s / 60)}:${two(s % 60)}` : `${Math.floor(s / 3600)}:${two(Math.floor(s / 60) % 60)}:${two(s % 60)}`;
};

function make(tag, text = "", parent = null, kind = "") {
  const element = document.createElement(tag);
  if (text !== "") element.textContent = text;
  if (kind) element.className = kind;
  if (parent) parent.append(element);
  return element;
}

const WHOLE = [...Array(12).keys()].flatMap((power) => [1, 2, 5].map((n) => n * 10 ** power)); // between lines: there is no round 1.5

/** One chart with its title and a legend that tells the values under the cursor. Lines: {label, color, dash, faint, points}. */
class Chart {
  constructor(parent, title, lines, format, bands = []) {
    this.figure = make("figure", "", parent);
    make("figcaption", title, this.figure);
    this.legend = make("ul", "", this.figure, "legend");
    this.plot = make("div", "", this.figure);
    this.plot.setAttribute("role", "img");
    Object.assign(this, { title, lines, format });
    const axis = { stroke: css("soft"), grid: { stroke: css("line"), width: 1 }, ticks: { stroke: css("line"), width: 1 } };
    const text = "12px system-ui, 'DejaVu Sans', sans-serif";
    this.uplot = new uPlot({
      width: Math.max(parent.clientWidth && this.plot.clientWidth, 200), height: 210,
      legend: { show: false }, cursor: { y: false, drag: { x: false, y: false }, points: { size: 7 } },
      scales: { x: { time: false, range: (_, min, max) => (min === max ? [min - 1, max + 1] : [min, max]) },
        y: format === bytes ? { range: (_, min, max) => [0, max * 1.1 || 1] } : {} },
      axes: [{ ...axis, font: text, incrs: WHOLE, values: (_, at) => at.map((x) => (this.isTime ? clock(x) : Number.isInteger(x) ? String(x) : "")) },
        { ...axis, font: text, size: 64, values: (_, at) => at.map(format) }],
      series: [{}, ...lines.map((line) => ({
        stroke: line.color, width: line.faint ? 1 : 2, dash: line.dash, alpha: line.faint ? 0.35 : 1, spanGaps: true,
        paths: line.points ? () => null : undefined,
        points: { show: line.points || (line.faint ? false : (u, i) => u.data[0].length <= 40), size: line.points ? 4 : 6, fill: line.color },
      }))],
      bands,
      hooks: { setCursor: [(u) => this.tell(u.cursor.idx)] },
    }, [[]].concat(lines.map(() => [])), this.plot);
    this.keys = lines.map((line) => {
      if (line.faint && !line.label) return null;
      const item = make("li", "", this.legend), key = make("span", "", item, "key line" + (line.dash ? " dashed" : ""));
      key.style.borderColor = line.color;
      return make("span", line.label, item);
    });
    new ResizeObserver(() => this.plot.clientWidth && this.uplot.setSize({ width: this.plot.clientWidth, height: 210 })).observe(this.figure);
  }

  show(data, isTime = false) {
    this.isTime = isTime;
    this.uplot.setData(data);
    this.tell(null);
    const said = this.lines.map((line, i) => line.label && `${line.label} ${this.format(last(data[i + 1]))}`).filter(Boolean);
    this.plot.setAttribute("aria-label", `${this.title}: ${said.join(", ")}; the table below has all values`);
  }

  tell(index) {
    this.keys?.forEach((key, i) => {
      const values = this.uplot.data[i + 1], value = index == null ? last(values) : values[index];
      if (key) key.textContent = `${this.lines[i].label} ${value == null ? "" : this.format(value)}`;
    });
  }
}

const last = (values) => values.findLast((value) => value != null);

/** Keeps the charts of a section: makes those anew whose lines are others than before. */
class Charts {
  constructor(parent) { this.parent = parent; this.charts = new Map(); }

  show(title, lines, data, { format = short, bands = [], isTime = false } = {}) {
    const kind = JSON.stringify(lines.map((line) => line.label ?? ""));
    let chart = this.charts.get(title);
    if (!chart || chart.kind !== kind) {
      chart?.figure.remove();
      chart = new Chart(this.parent, title, lines, format, bands);
      chart.kind = kind;
      this.charts.set(title, chart);
    }
    chart.show(data, isTime);
  }

  clear() { this.charts.clear(); this.parent.replaceChildren(); }
}

/** Draw a chart for each metric: means of training and evaluation, central evaluation, and learners as faint lines. */
function showMetrics(charts, rounds, learners, isTime) {
  const x = rounds.map((round) => (isTime ? round.end : round.number));
  const names = new Set(rounds.flatMap((round) => ["train", "evaluation", "central"].flatMap((kind) => Object.keys(round[kind]))));
  names.delete("num_examples");
  const order = ["loss", "accuracy"], rank = (name) => (order.indexOf(name) + 1 || 9);
  for (const name of [...names].sort((a, b) => rank(a) - rank(b) || (a < b ? -1 : 1)).slice(0, 24)) {
    const lines = [], data = [x], bands = [];
    const add = (line, values) => { if (values.some((value) => value != null)) { lines.push(line); data.push(values); return true; } return false; };
    const of = rounds.map((round) => own(round.each, name) ?? []);
    if (of.some((each) => each.spread)) {
      const edge = { color: css("evaluation"), faint: true };
      add({ ...edge, label: "" }, of.map((each) => each.spread?.[1]));
      add({ ...edge, label: "" }, of.map((each) => each.spread?.[0]));
      bands.push({ series: [1, 2], fill: css("evaluation") + "33" });
    } else {
      const each = of.map((pairs) => new Map(pairs));
      const several = learners.size > 1 ? [...learners.keys()] : [];
      several.forEach((n) => add({ color: css("evaluation"), faint: true, label: "" }, each.map((values) => values.get(n))));
    }
    add({ label: "training", color: css("train"), dash: [6, 4] }, rounds.map((round) => own(round.train, name)));
    add({ label: "evaluation", color: css("evaluation") }, rounds.map((round) => own(round.evaluation, name)));
    add({ label: "central evaluation", color: css("central"), dash: [2, 3] }, rounds.map((round) => own(round.central, name)));
    if (lines.length) charts.show(name, lines, data, { bands, isTime });
  }
}

/** Draw bytes, memory, and staleness where there are no rounds. */
function showTraffic(charts, rounds, unit, isTime) {
  const x = rounds.map((round) => (isTime ? round.end : round.number));
  charts.show(`bytes in each ${unit}`, [{ label: "to learners", color: css("evaluation") }, { label: "from learners", color: css("train"), dash: [6, 4] }],
    [x, rounds.map((round) => round.sent), rounds.map((round) => round.received)], { format: bytes, isTime });
  charts.show("updates in the controller's memory", [{ label: "at most", color: css("central") }],
    [x, rounds.map((round) => round.memory)], { format: bytes, isTime });
  const dots = rounds.flatMap((round) => round.stale).sort((a, b) => a[0] - b[0]);
  if (dots.length) {
    charts.show("staleness of each update", [{ label: "models published meanwhile", color: css("evaluation"), points: true }],
      [dots.map((dot) => dot[0]), dots.map((dot) => dot[1])], { isTime: true });
  }
}
