// The page: takes rows in, from the server or from the file itself, and shows them as they were at a chosen time.
"use strict";

const $ = (id) => document.getElementById(id);
const metrics = new Charts($("metric-charts"));
const traffic = new Charts($("traffic-charts"));
const lanes = new Lanes($("lanes"), $("told"), $("find"));
const DATE = { dateStyle: "medium", timeStyle: "short" };
const collator = new Intl.Collator(undefined, { numeric: true });
const tables = {};
let at = null; // milliseconds since the federation started; null: now
let latest = 0; // the same, of what was heard last
let heardAt = 0;
let lastId = "";
let drawing = 0; // the timer of the next one
let drawn = { key: "", means: [] }; // what the charts show

const constants = () => tables.constants.get(0);
const run = () => tables.run.get(0);
const isLive = () => !$("saved") && !["finished", "failed"].includes(run()?.phase);
const now = () => latest && latest + (isLive() ? performance.now() - heardAt : 0);

// --- what is heard ---

function forget() {
  for (const name of ["constants", "run", "learner", "round", "task", "column"]) tables[name] = new Map();
  $("failures").replaceChildren();
  latest = 0;
}

function take(rows) {
  for (const [name, key, value] of rows) {
    if (name === "failure") addFailure(value);
    if (name === "round") latest = Math.max(latest, value.end);
    if (name === "task") latest = Math.max(latest, ...value[3]);
    tables[name]?.set(key, value);
    tables[name]?.delete(key - constants().most[name]); // the server has forgotten it, too
  }
  heardAt = performance.now();
  due();
}

function addFailure([ms, title, message]) {
  const item = make("details");
  item.dataset.ms = ms;
  make("summary", `${clock(ms)}: ${title}`, item);
  make("pre", message, item);
  $("failures").prepend(item);
  $("failures").children[constants().most.failure]?.remove();
}

function listen() {
  const stream = new EventSource(`events?after=${lastId}`);
  stream.onopen = () => $("link").replaceChildren();
  stream.onmessage = ({ lastEventId, data }) => {
    if (lastEventId.split("-")[0] !== lastId.split("-")[0]) forget(); // it is of another run
    lastId = lastEventId;
    take(JSON.parse(data));
  };
  stream.onerror = () => {
    $("link").textContent = isLive() ? "connection lost; trying again" : "the server has ended";
    if (stream.readyState === EventSource.CLOSED) setTimeout(listen, 2000);
  };
}

// --- what is shown ---

function due() {
  if (!document.hidden) drawing ||= setTimeout(show, tables.learner.size > 500 ? 300 : 60);
}

function show() {
  drawing = 0;
  if (!run()) return; // it comes with other rows
  const { name, phase, started_at: started, unit } = run();
  const time = at ?? now();
  const x = $("axis").value;
  const rounds = [...tables.round.values()].filter(({ end }) => end <= time + 0.1).sort((a, b) => a[x] - b[x]);
  const noted = rounds.findLast(({ notes }) => notes.length);
  for (const item of $("failures").children) item.hidden = item.dataset.ms > time + 0.1;
  for (const id of ["name", "phase", "reason"]) $(id).textContent = run()[id];
  document.title = `${name}: ${phase}`;
  $("started").textContent = started ? `started ${new Date(1000 * started).toLocaleString(undefined, DATE)}` : "";
  $("clock").textContent = clock(time);
  $("axis").options[0].textContent = `${unit}s`;
  $("at").value = (1000 * time) / now();
  showCharts(rounds, x);
  showFacts(rounds, time);
  showLearners(rounds, time);
  table($("notes"), ["learner", `in ${unit} ${noted?.number}`], noted?.notes ?? []);
}

function showFacts(rounds, time) {
  const failed = [...$("failures").children].filter(({ hidden }) => !hidden).length;
  const sum = rounds.reduce((all, { traffic: { bytes: { sent, received } } }) => all + sent + received, 0);
  const facts = at === null ? run().facts : [["learners", tables.learner.size], ["failures", failed]];
  const published = rounds.filter((round) => round.published).length;
  const all = [[`${run().unit}s`, published], ...facts, ...drawn.means, ["time", clock(time)], ["traffic", bytes(sum)]];
  $("facts").replaceChildren(...all.map(([name, value]) => {
    const box = make("div");
    make("dt", name, box);
    make("dd", value, box, name === "failures" && value ? "bad" : "");
    return box;
  }));
}

/** Draw the charts of rounds, and their table. */
function showCharts(rounds, x) {
  const key = [rounds.length, rounds.at(-1)?.end, x, css("ink"), innerWidth, $("rounds").open].join();
  if (key === drawn.key) return; // drawing thousands of rounds takes time
  const [measured, sent] = [charts(rounds, "metrics", x, short), charts(rounds, "traffic", x, bytes)];
  const columns = [...measured, ...sent].flatMap(({ title, names, data, format }) => names.flatMap((name, k) =>
    (name in LINES ? [{ name, head: `${title}: ${LINES[name].label}`, values: data[k + 1], format }] : [])));
  const means = columns.filter(({ name }) => name === "evaluation" || name === "central").slice(0, 6);
  drawn = { key, means: means.map(({ head, values }) => [head, short(last(values))]) };
  metrics.show(measured);
  const dots = rounds.flatMap(({ stale }) => stale).sort((a, b) => a[0] - b[0]);
  const data = [0, 1].map((part) => dots.map((dot) => dot[part]));
  const staleness = { title: "staleness of each update", x: "time", names: ["stale"], data, format: short };
  traffic.show(dots.length ? [...sent, staleness] : sent);
  if (!$("rounds").open) return;
  const head = [run().unit, "updates", "failed", "seconds", ...columns.map((column) => column.head)];
  const cells = rounds.map(({ told }, i) => [...told, ...columns.map(({ values, format }) => format(values[i]))]);
  table($("round-table"), head, cells.reverse());
}

/** Make charts of a part of the rounds' rows: one for each title in it, with a line for each name. */
function charts(rounds, part, x, format) {
  return [...new Set(rounds.flatMap((round) => Object.keys(round[part])))].slice(0, 24).map((title) => {
    const all = rounds.map((round) => round[part][title] ?? {});
    const names = [...new Set(all.flatMap((values) => Object.keys(values)))];
    const data = [rounds.map((round) => round[x]), ...names.map((name) => all.map((values) => values[name]))];
    return { title, x: x === "end" ? "time" : run().unit, names, data, format };
  });
}

function showLearners(rounds, time) {
  const isLarge = tables.learner.size > FEW;
  const wanted = $("find").value.toLowerCase();
  const order = isLarge ? $("order").value : "name"; // which is no number, so that the collator decides
  const learners = [...tables.learner].filter(([, { id }]) => id.toLowerCase().includes(wanted));
  learners.sort(([, a], [, b]) => b[order] - a[order] || collator.compare(a.id, b.id));
  const open = at === null && run().open;
  const is = { begun: latest, now: at === null, open, large: isLarge, map: learners.length > FEW };
  document.body.className = [run().phase, ...Object.keys(is).filter((name) => is[name])].join(" ");
  $("names").replaceChildren(...learners.slice(0, FEW).map(([, it]) => make("li", it.id, null, it.away && "bad")));
  lanes.show(learners, tables, rounds, time, 2 ** -$("zoom").value, open);
  if (!$("each").open) return;
  const words = ({ away, state }) => (at === null ? [away, constants().words[state]].filter(Boolean).join("; ") : "");
  table($("each-table"), ["learner", "now", "asked", "counted", "failed", "last training, s", "traffic"], learners.map(
    ([, it]) => [it.id, words(it), it.asked, it.counted, it.failures, short(it.seconds), bytes(it.bytes)],
  ));
}

function table(parent, head, rows) {
  const element = make("table");
  const top = element.createTHead().insertRow();
  const body = element.createTBody();
  for (const name of head) make("th", name, top).scope = "col";
  for (const row of rows.slice(0, 500)) {
    const line = body.insertRow();
    row.forEach((value, i) => make("td", value, line, head[i] === "failed" && value ? "bad" : ""));
  }
  if (rows.length > 500) element.createCaption().textContent = `500 of ${rows.length} are shown.`;
  parent.replaceChildren(element);
}

function goTo(ms) {
  at = ms < now() ? ms : null;
  $("play").checked &&= at !== null;
  due();
}

async function stop(event) {
  event.preventDefault();
  const answer = await fetch("stop", { method: "POST", headers: { Authorization: `Bearer ${$("token").value}` } });
  $("answer").textContent = await answer.text();
  event.target.reset();
}

$("at").addEventListener("input", ({ target: { value } }) => goTo(value < 1000 ? (value * now()) / 1000 : Infinity));
$("now").addEventListener("click", () => goTo(Infinity));
$("play").addEventListener("input", () => goTo(at ?? 0));
$("stopping").addEventListener("submit", stop);
for (const type of ["pointermove", "click"]) $("lanes").addEventListener(type, due);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", due);
for (const type of ["input", "toggle", "resize", "keydown", "visibilitychange"]) addEventListener(type, due, true);
forget();
if ($("saved")) take(JSON.parse($("saved").textContent));
else listen();
setInterval(() => isLive() && due(), 1000);
setInterval(() => $("play").checked && goTo(at + now() / 300), 100); // the whole run in half a minute
