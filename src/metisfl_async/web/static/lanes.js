// Learners over time: a lane for each of a few, a map of many. One canvas, which the pointer and arrow keys read.
"use strict";

const ARROWS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
const FEW = 60; // learners that have lanes
const LANE = 22; // pixels, as in the style sheet
const [MAP, AXIS] = [400, 20];

class Lanes {
  /** The text of a cell goes to `told`, and the name of a learner that is clicked in the map to `find`. */
  constructor(canvas, told, find) {
    Object.assign(this, { canvas, told, find, paint: canvas.getContext("2d"), row: 0, column: 0 });
    for (const type of ["pointermove", "click"]) canvas.addEventListener(type, (event) => this.point(event));
    canvas.addEventListener("keydown", (event) => this.press(event));
  }

  /** Draw learners, pairs of a number and a row, as they were at a time. */
  show(learners, tables, rounds, at, zoom, open) {
    Object.assign(this, { learners, words: tables.constants.get(0).words, colors: {}, width: this.canvas.clientWidth });
    this.tall = learners.length > FEW ? MAP / learners.length : LANE;
    this.bottom = learners.length * this.tall;
    this.canvas.width = this.width * devicePixelRatio; // this clears it
    this.canvas.height = (this.bottom + AXIS) * devicePixelRatio;
    this.paint.scale(devicePixelRatio, devicePixelRatio);
    this.paint.font = "12px system-ui, 'DejaVu Sans', sans-serif";
    if (learners.length > FEW) this.map([...tables.column.values()], at, open);
    else this.lanes([...tables.task.values()], rounds, at, zoom);
    const cell = this.cells(this.row)[this.column];
    if (!cell || document.activeElement !== this.canvas) return;
    this.paint.strokeStyle = css("ink");
    this.paint.strokeRect(cell.left, this.row * this.tall, cell.right - cell.left, Math.max(this.tall, 3));
  }

  /** Draw what a few did in the latest rounds; unzoomed, one is about 90 pixels wide. */
  lanes(tasks, rounds, to, zoom) {
    const first = rounds.at(-Math.ceil((this.width / 90) * zoom));
    const from = first ? to - (rounds.at(-1).end - first.at) : 0;
    const x = (ms) => ((Math.max(ms, from) - from) / (to - from || 1)) * this.width;
    for (const { number, at } of rounds.filter((round) => round.at >= from)) {
      this.ink("line").fillRect(x(at), 0, 1, this.bottom);
      if (number % Math.ceil(zoom / 2) === 0) this.ink("soft").fillText(number, x(at) + 3, this.bottom + AXIS - 6);
    }
    const rows = new Map(this.learners.map(([n], row) => [n, row]));
    const spans = this.learners.map(() => []);
    for (const [n, task, phases, times, outcome] of tasks) {
      const row = rows.get(n);
      const stop = Math.min(times[phases.length] ?? to, to);
      if (row === undefined || !(times[0] <= to) || stop < from) continue;
      const isOver = times[phases.length] <= to;
      const isBad = isOver && outcome > "a";
      const marks = [...times.slice(0, phases.length).filter((ms) => ms <= to), stop].map(x);
      marks.slice(1).forEach((right, i) => {
        const color = isBad && i + 2 === marks.length ? outcome : phases[i];
        this.ink(color).fillRect(marks[i], row * LANE + 3, Math.max(right - marks[i], 1), LANE - 6);
      });
      const [left, right] = [marks[0], marks.at(-1)];
      if (isBad || (isOver && outcome === "C" && right - left > 14)) {
        this.ink("card").fillRect(right - 13, row * LANE + 4, 12, LANE - 8);
        this.ink(outcome).fillText(this.words[outcome][0], right - 12, row * LANE + 15);
      }
      const text = `${task}, ${this.words[isOver ? outcome : phases[marks.length - 2]]}, ${clock(stop - times[0])}`;
      spans[row].push({ left: left - 2, right: right + 2, text });
    }
    this.cells = (row) => (spans[row] ?? []).sort((a, b) => a.left - b.left);
  }

  /** Draw a column for each round, and in it a line for each of many, or for the worst of those that share a pixel. */
  map(columns, at, open) {
    const ended = columns.filter(([, end]) => end <= at + 0.1).sort((a, b) => a[1] - b[1]);
    if (open) ended.push([open, at, Object.fromEntries(this.learners.map(([n, { state }]) => [n, state]))]);
    const shown = ended.slice(-Math.floor(this.width / 3));
    const wide = Math.min(this.width / shown.length, 48);
    shown.forEach(([number, , codes], column) => {
      let worst = ".";
      this.learners.forEach(([n], row) => {
        if (codes[n] > worst) worst = codes[n];
        const [top, next] = [Math.floor(row * this.tall), Math.floor((row + 1) * this.tall)];
        if (top === next) return;
        if (worst !== ".") this.ink(worst).fillRect(column * wide, top, wide > 6 ? wide - 1 : wide, next - top);
        worst = ".";
      });
      if (column % Math.ceil(40 / wide) === 0) this.ink("soft").fillText(number, column * wide + 3, MAP + AXIS - 6);
    });
    this.cells = (row) => shown.map(([number, , codes], column) => {
      const text = `round ${number}: ${this.words[codes[this.learners[row]?.[0]] || "."]}`;
      return { left: column * wide, right: (column + 1) * wide, text };
    });
  }

  ink(color) {
    this.paint.fillStyle = this.colors[color] ??= css(color);
    return this.paint;
  }

  point({ type, offsetX, offsetY }) {
    const row = Math.min(Math.floor(offsetY / this.tall), this.learners.length - 1);
    const column = this.cells(row).findIndex(({ left, right }) => offsetX >= left && offsetX < right);
    if (column < 0) return;
    this.read(row, column);
    if (type === "click" && this.learners.length > FEW) this.find.value = this.learners[row][1].id;
  }

  press(event) {
    if (!(event.key in ARROWS)) return;
    event.preventDefault();
    const [down, right] = ARROWS[event.key];
    const row = Math.max(0, Math.min(this.row + down, this.learners.length - 1));
    this.read(row, Math.max(0, Math.min(this.column + right, this.cells(row).length - 1)));
  }

  /** Tell what is in a cell. */
  read(row, column) {
    Object.assign(this, { row, column });
    this.told.textContent = `${this.learners[row]?.[1].id ?? "nobody"}, ${this.cells(row)[column]?.text ?? "nothing"}`;
  }
}
