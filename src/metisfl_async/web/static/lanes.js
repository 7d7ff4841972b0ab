// Learners over time: a lane for each of a few, a heat map of many. One canvas, which arrow keys and the pointer read.
"use strict";

const FEW = 60, LANE = 22, MAP_HEIGHT = 420;
const PHASES = ["waiting", "fetching", "training", "uploading"];
const BAD = { failed: "failed", lost: "failed", rejected: "failed", late: "late", expired: "late", cancelled: "cancelled" };
const CELLS = { F: ["failed", "failed"], X: ["lost", "failed"], R: ["rejected", "failed"], L: ["late", "late"], E: ["expired", "late"], C: ["cancelled", "cancelled"], f: ["folded", "cancelled"], ".": ["not asked", "back"],
  w: ["waiting", "waiting"], d: ["downloading", "fetching"], t: ["training", "training"], u: ["uploading", "uploading"] };
const NOW = { waiting: "w", fetching: "d", working: "t", uploading: "u", folded: "0", counted: "0", "": ".", failed: "F", lost: "X", late: "L", expired: "E", rejected: "R", cancelled: "C" };
const said = (code) => CELLS[code]?.[0] ?? (code < "9" ? `counted after ${10 * code} to ${10 * code + 10} % of the round` : "counted last");

class Lanes {
  constructor(canvas, told) {
    Object.assign(this, { canvas, told, rows: [], spans: [], columns: [], zoom: 1, row: 0, column: 0 });
    canvas.addEventListener("pointermove", (event) => this.point(event));
    canvas.addEventListener("click", (event) => this.point(event, true));
    canvas.addEventListener("keydown", (event) => this.key(event));
  }

  /** Draw learners (rows: [number, learner]) as they were at a time. */
  show(rows, tables, at, isMany, open) {
    Object.assign(this, { rows, at, isMany, learners: tables.learner });
    const ratio = devicePixelRatio || 1, width = this.canvas.parentElement.clientWidth - 30;
    const height = isMany ? MAP_HEIGHT : rows.length * LANE + 24;
    if (this.canvas.width !== Math.round(width * ratio) || this.canvas.height !== Math.round(height * ratio)) {
      this.canvas.width = Math.round(width * ratio);
      this.canvas.height = Math.round(height * ratio);
      this.canvas.style.height = `${height}px`;
    }
    this.paint = this.canvas.getContext("2d");
    this.paint.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.paint.clearRect(0, 0, width, height);
    this.paint.font = "12px system-ui, 'DejaVu Sans', sans-serif";
    this.paint.textBaseline = "middle";
    this.left = isMany ? 0 : Math.min(140, width * 0.28);
    this.width = width;
    if (isMany) this.map(tables, open);
    else this.lanes(tables);
  }

  // --- lanes of a few ---

  lanes({ task, round }) {
    const lengths = [...round.values()].slice(-20).map((r) => r.end - r.at).sort((a, b) => a - b);
    const span = lengths.length ? Math.max((this.width / 90) * this.zoom * lengths[lengths.length >> 1], 10) : Infinity;
    const to = Math.max(this.at, 1), from = Math.max(0, to - span), scale = (this.width - this.left - 8) / (to - from);
    const x = (ms) => this.left + (Math.max(ms, from) - from) * scale;
    const places = new Map(this.rows.map(([n], place) => [n, place]));
    this.spans = [];
    this.grid(round, from, to, x);
    this.rows.forEach(([, learner], place) => {
      this.paint.fillStyle = css(learner.here === false ? "failed" : "ink");
      this.paint.fillText(fitting(this.paint, learner.id, this.left - 10), 0, place * LANE + LANE / 2);
    });
    for (const [id, values] of task) {
      const [learner, number, kind, sent, fetch, work, upload, end, outcome, staleness] = values;
      const place = places.get(learner), start = sent ?? fetch ?? work ?? end;
      if (place === undefined || start == null || start > to || (end ?? to) < from) continue;
      const isOver = end != null && end <= to, stop = isOver ? end : to, y = place * LANE + 3, bad = isOver ? BAD[outcome] : undefined;
      const marks = [start, fetch ?? work, work, upload, null].map((ms) => (ms == null || ms > stop ? null : ms));
      let phase = "waiting";
      for (let i = 0; i < 4; i++) {
        if (marks[i] == null) continue;
        const next = marks.slice(i + 1).find((ms) => ms != null) ?? stop;
        phase = kind === "evaluate" && i >= 2 ? "evaluating" : PHASES[i];
        this.box(x(marks[i]), y, x(next), next === stop && bad ? bad : phase);
      }
      if (bad) this.sign(x(stop), y, bad === "failed" ? "✕" : "!", bad);
      else if (isOver && outcome === "counted" && kind === "train" && x(stop) - x(start) > 14) this.sign(x(stop), y, "✓", "counted");
      const what = isOver ? outcome || "over" : phase;
      this.spans.push({ id, place, left: x(start), right: x(stop), text: `${this.learners.get(learner).id}: ${kind} in round ${number}, ${what}, ${clock(stop - start)}${staleness ? `, staleness ${staleness}` : ""}` });
    }
    this.spans.sort((a, b) => a.place - b.place || a.left - b.left);
    this.canvas.setAttribute("aria-label", `What ${this.rows.length} learners did from ${clock(from)} to ${clock(to)}; arrow keys tell one task after another`);
    this.mark();
  }

  grid(rounds, from, to, x) {
    const bottom = this.rows.length * LANE;
    this.paint.strokeStyle = css("line");
    let free = this.left;
    for (const round of rounds.values()) {
      if (round.at < from || round.at > to) continue;
      this.paint.beginPath();
      this.paint.moveTo(x(round.at), 0);
      this.paint.lineTo(x(round.at), bottom + 4);
      this.paint.stroke();
      if (x(round.at) >= free && x(round.at) < this.width - 90) {
        this.paint.fillStyle = css("soft");
        this.paint.fillText(String(round.number), x(round.at) + 3, bottom + 12);
        free = x(round.at) + 30;
      }
    }
    this.paint.textAlign = "right";
    this.paint.fillStyle = css("soft");
    this.paint.fillText(clock(to), this.width, bottom + 12);
    this.paint.textAlign = "left";
  }

  box(left, top, right, color) {
    this.paint.fillStyle = css(color);
    this.paint.fillRect(left, top, Math.max(right - left, 1), LANE - 6);
  }

  sign(right, top, text, color) {
    this.paint.fillStyle = css("card");
    this.paint.fillRect(right - 13, top + 1, 12, LANE - 8);
    this.paint.fillStyle = css(color);
    this.paint.fillText(text, right - 12, top + LANE / 2 - 3);
  }

  // --- a map of many ---

  map({ column }, open) {
    const ended = [...column.values()].filter((values) => values[3] <= this.at + 0.1).sort((a, b) => a[2] - b[2]);
    if (open) {
      const cells = [];
      for (const [n, learner] of this.learners) cells[n] = NOW[learner.state] ?? "F";
      ended.push([open.number, 0, 0, 0, cells]);
    }
    this.columns = ended.slice(-Math.floor(this.width / 3));
    const count = Math.max(this.columns.length, 1), height = MAP_HEIGHT - 20;
    const wide = Math.min(this.width / count, 48), tall = height / Math.max(this.rows.length, 1);
    Object.assign(this, { wide, tall });
    const lines = Math.min(this.rows.length, height), colors = new Map();
    const color = (code) => {
      if (!colors.has(code)) colors.set(code, CELLS[code] ? css(CELLS[code][1]) : `color-mix(in oklab, ${css("slow")} ${code * 11}%, ${css("fast")})`);
      return colors.get(code);
    };
    this.columns.forEach((values, c) => {
      const cells = values[4];
      for (let line = 0; line < lines; line++) {
        const first = Math.floor((line * this.rows.length) / lines), next = Math.floor(((line + 1) * this.rows.length) / lines);
        let worst = cells[this.rows[first][0]] ?? ".";
        for (let i = first + 1; i < next; i++) worst = worse(worst, cells[this.rows[i][0]] ?? ".");
        if (worst === ".") continue;
        this.paint.fillStyle = color(worst);
        this.paint.fillRect(c * wide, (line * height) / lines, wide > 6 ? wide - 1 : wide, Math.max(height / lines, 1));
      }
    });
    this.paint.fillStyle = css("soft");
    let free = 0;
    this.columns.forEach((values, c) => {
      if (c * wide < free) return;
      this.paint.fillText(String(values[0]), c * wide + 2, height + 12);
      free = c * wide + 40;
    });
    this.canvas.setAttribute("aria-label", `${this.rows.length} learners from top to bottom, ${this.columns.length} rounds from left to right; arrow keys tell one cell after another`);
    this.mark();
  }

  // --- reading it ---

  point(event, isClick = false) {
    const left = event.offsetX, top = event.offsetY;
    if (this.isMany) {
      this.column = Math.min(Math.floor(left / this.wide), this.columns.length - 1);
      this.row = Math.min(Math.floor(top / this.tall), this.rows.length - 1);
    } else {
      const found = this.spans.findIndex((span) => span.place === Math.floor(top / LANE) && left >= span.left - 2 && left <= span.right + 2);
      if (found < 0) return;
      this.column = found;
    }
    this.tell();
    if (isClick) this.canvas.dispatchEvent(new CustomEvent("chosen", { detail: this.chosen() }));
  }

  key(event) {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    const into = (n, length) => Math.max(0, Math.min(n, length - 1));
    if (this.isMany) {
      this.column = into(this.column + step[0], this.columns.length);
      this.row = into(this.row + step[1], this.rows.length);
    } else if (step[1]) {
      const place = (this.spans[this.column]?.place ?? 0) + step[1], found = this.spans.findIndex((span) => span.place === place);
      if (found >= 0) this.column = found;
    } else {
      this.column = into(this.column + step[0], this.spans.length);
    }
    this.tell();
  }

  chosen() { return this.isMany ? this.rows[this.row]?.[1].id : this.rows[this.spans[this.column]?.place]?.[1].id; }

  tell() {
    const cell = this.columns[this.column], row = this.rows[this.row];
    if (this.isMany) this.told.textContent = cell && row ? `${row[1].id}, round ${cell[0]}: ${said(cell[4][row[0]] ?? ".")}` : "";
    else this.told.textContent = this.spans[this.column]?.text ?? "";
    this.canvas.dispatchEvent(new Event("moved"));
  }

  mark() {
    if (document.activeElement !== this.canvas) return;
    const span = this.spans[this.column];
    this.paint.strokeStyle = css("ink");
    if (this.isMany) this.paint.strokeRect(this.column * this.wide, this.row * this.tall - 1, this.wide, Math.max(this.tall, 3));
    else if (span) this.paint.strokeRect(span.left, span.place * LANE + 2, span.right - span.left, LANE - 4);
  }
}

const RANK = "FXRELCfwdtu9876543210.";
const worse = (a, b) => (RANK.indexOf(a) <= RANK.indexOf(b) ? a : b);

function fitting(paint, text, width) {
  if (paint.measureText(text).width <= width) return text;
  while (text.length > 1 && paint.measureText(text + "…").width > width) text = text.slice(0, -1);
  return text + "…";
}
