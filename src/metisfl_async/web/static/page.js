// The page: takes rows in, from the stream or from the file itself, and shows them as they were at a chosen time.
"use strict";

const $ = (id) => document.getElementById(id);
const tables = {};
const metricCharts = new Charts($("metric-charts")), trafficCharts = new Charts($("traffic-charts"));
const lanes = new Lanes($("lanes"), $("told"));
let at = null; // milliseconds since the federation started; null: now
let shownCharts = "", shownFailures = ""; // what they were drawn of
let heardAt = 0, latest = 0, isDue = false, playing = 0;

function forget() {
  for (const name of ["run", "learner", "round", "task", "column", "failure"]) tables[name] = new Map();
  latest = 0;
  clearCharts();
}

function clearCharts() {
  metricCharts.clear();
  trafficCharts.clear();
  shownCharts = "";
}

function take(rows) {
  for (const row of rows) {
    const [name, key] = row.length > 2 ? row : [row[0], 0], value = row.at(-1), table = tables[name];
    if (!table) continue; // a newer server may know more
    table.set(key, value);
    if (name === "round") latest = Math.max(latest, value.end);
    if (name === "task") latest = Math.max(latest, ...value.slice(3, 8).filter((ms) => ms != null));
    if (name === "failure") latest = Math.max(latest, value[0]);
    table.delete(key - run().most?.[name]); // the server has forgotten it, too
  }
  heardAt = performance.now();
  due();
}

const run = () => tables.run.get(0) ?? { phase: "waiting" };
const isOver = () => ["finished", "failed"].includes(run().phase);
const now = () => (isOver() || !heardAt || saved ? latest : latest + (performance.now() - heardAt));

function due() {
  if (isDue) return;
  isDue = true;
  setTimeout(() => requestAnimationFrame(() => { isDue = false; show(); }), tables.learner.size > 500 ? 300 : 60);
}

// --- what is shown ---

function show() {
  const facts = run(), time = at ?? now();
  const rounds = [...tables.round.values()].filter((round) => round.end <= time + 0.1).sort((a, b) => a.number - b.number || a.at - b.at);
  const failures = [...tables.failure.values()].filter((failure) => failure[0] <= time + 0.1);
  const unit = facts.in_rounds === false ? "model" : "round", isTime = $("axis").value === "time";
  document.title = `${facts.name || "Federation"}: ${facts.phase}`;
  $("name").textContent = facts.name || "Federation";
  $("phase").textContent = facts.phase;
  $("phase").className = `pill ${facts.phase}`;
  $("reason").textContent = facts.stalled || facts.reason || "";
  $("started").textContent = facts.started_at ? `started ${new Date(facts.started_at * 1000).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" })}` : "";
  $("nothing").hidden = tables.learner.size > 0;
  showFacts(facts, rounds, failures, time, unit);
  showLearners(time);
  for (const [id, there] of [["metrics", rounds.length], ["traffic", rounds.length], ["failures", failures.length], ["time", latest]]) $(id).hidden = !there;
  showCharts(rounds, unit, isTime);
  showFailures(failures, unit);
  showNotes(rounds, unit);
  if ($("rounds").open) showRounds(rounds, unit);
  $("clock").textContent = clock(time);
  $("clock").setAttribute("aria-label", `${clock(time)} since the start`);
  if (at === null) $("at").value = 1000;
  $("now").hidden = at === null;
}

function showCharts(rounds, unit, isTime) {
  const kind = `${rounds.length} ${rounds.at(-1)?.end} ${isTime} ${tables.learner.size}`;
  if (!rounds.length || kind === shownCharts) return; // drawing thousands of rounds takes time
  shownCharts = kind;
  const byX = isTime ? [...rounds].sort((a, b) => a.end - b.end) : rounds; // models are evaluated in any order
  $("axis").options[0].textContent = `${unit}s`;
  $("rounds").firstElementChild.textContent = `${unit === "round" ? "Rounds" : "Models"}, as a table`;
  showMetrics(metricCharts, byX, tables.learner, isTime);
  showTraffic(trafficCharts, byX, unit, isTime);
}

function showFacts(facts, rounds, failures, time, unit) {
  const published = rounds.filter((round) => round.published), sum = (name) => rounds.reduce((all, round) => all + round[name], 0);
  const open = at === null ? facts.open : null, values = [];
  values.push([unit === "round" ? "Rounds" : "Models", published.length]);
  if (open && unit === "round") values.push([`Round ${open.number}`, `${Math.min(open.reported, open.asked)} of ${open.asked}`]);
  values.push(["Learners", at === null && !isOver() && !saved ? `${facts.connected} of ${tables.learner.size}` : tables.learner.size]);
  for (const [kind, name] of [["evaluation", ""], ["central", "central "]]) {
    const metrics = rounds.findLast((round) => Object.keys(round[kind]).length)?.[kind] ?? {};
    for (const key of Object.keys(metrics).sort().slice(0, 3)) values.push([name + key, short(metrics[key])]);
  }
  values.push(["Time", clock(time)], ["Traffic", bytes(sum("sent") + sum("received"))]);
  values.push(["Failures", at === null ? facts.failures ?? 0 : failures.length]);
  const list = $("facts");
  list.replaceChildren(...values.map(([name, value]) => {
    const box = make("div");
    make("dt", name, box);
    make("dd", String(value), box, name === "Failures" && value ? "bad" : "");
    return box;
  }));
}

const collator = new Intl.Collator(undefined, { numeric: true });
function ordered() {
  const wanted = $("find").value.toLowerCase(), order = $("order").value, id = (a, b) => collator.compare(a[1].id, b[1].id);
  const rows = [...tables.learner].filter(([, learner]) => !wanted || learner.id.toLowerCase().includes(wanted)).sort(id);
  return order === "id" || tables.learner.size <= FEW ? rows : rows.sort((a, b) => (b[1][order] ?? 0) - (a[1][order] ?? 0) || id(a, b));
}

function showLearners(time) {
  const isLarge = tables.learner.size > FEW, rows = ordered(), isMany = rows.length > FEW;
  $("learners").hidden = !tables.learner.size;
  for (const id of ["find-label", "order-label"]) $(id).hidden = !isLarge;
  $("zoom").hidden = isMany;
  lanes.show(isMany ? rows : rows.slice(0, FEW), tables, time, isMany, at === null && run().open);
  const keys = isMany ? [["counted soon", "fast"], ["counted late in the round", "slow"], ["failed or lost", "failed"], ["too late", "late"],
    ...(at === null && run().open ? [["downloading now", "fetching"], ["training now", "training"], ["uploading now", "uploading"]] : [])]
    : [...[...PHASES, "evaluating"].map((name) => [name === "fetching" ? "downloading" : name, name]), ["failed or lost", "failed"], ["too late", "late"]];
  $("lanes-legend").replaceChildren(...keys.map(([name, color]) => {
    const item = make("li");
    make("span", "", item, "key").style.background = css(color);
    item.append(name);
    return item;
  }));
  if ($("each").open) {
    const head = ["learner", "now", "asked", "counted", "failed", "last training", "traffic"];
    table($("each").lastElementChild, head, rows.slice(0, 500).map(([, learner]) => [
      learner.id, at === null ? [learner.here === false ? learner.reason || "away" : "", learner.state].filter(Boolean).join("; ") : "",
      learner.asked, learner.counted, learner.failures, learner.seconds == null ? "–" : `${short(learner.seconds)} s`, bytes(learner.bytes)]), rows.length);
  }
}

function showFailures(failures, unit) {
  const kind = `${failures.length} ${failures.at(-1)?.[0]} ${tables.failure.size && Math.max(...tables.failure.keys())}`;
  if (kind === shownFailures) return; // those that are open stay open
  shownFailures = kind;
  $("failures").firstElementChild.textContent = failures.length > 100 ? "Failures, the latest 100" : "Failures";
  $("failure-list").replaceChildren(...failures.slice(-100).reverse().map(([ms, number, learner, task, type, message]) => {
    const item = make("details");
    make("summary", `${clock(ms)}: ${tables.learner.get(learner)?.id ?? ""}, ${task} in ${unit} ${number}: ${type}`, item);
    make("pre", message, item);
    return item;
  }));
}

function showNotes(rounds, unit) {
  const round = rounds.findLast((each) => each.notes.length);
  $("notes").hidden = !round;
  if (round) {
    table($("note-table"), ["learner", `in ${unit} ${round.number}`], round.notes.map(([learner, notes]) => [
      tables.learner.get(learner)?.id ?? "", Object.entries(notes).map(([name, value]) => `${name}: ${typeof value === "number" ? short(value) : typeof value === "object" ? JSON.stringify(value) : value}`).join(", ")]));
  }
}

function showRounds(rounds, unit) {
  const names = ["train", "evaluation", "central"].flatMap((kind) => [...new Set(rounds.flatMap((round) => Object.keys(round[kind])))].map((name) => [kind, name]));
  table($("rounds").lastElementChild, [unit, "updates", "failed", "seconds", ...names.map((name) => name.join(" "))], rounds.slice(-500).reverse().map((round) => [
    round.number + (round.published ? "" : ` (no model: ${round.failure || "too few updates"})`), `${round.counted} of ${round.asked}`, round.failed,
    short((round.end - round.at) / 1000), ...names.map(([kind, name]) => short(own(round[kind], name)))]), rounds.length);
}

function table(parent, head, rows, total = rows.length) {
  const element = make("table");
  const top = make("tr", "", make("thead", "", element)), body = make("tbody", "", element);
  for (const name of head) make("th", name, top).scope = "col";
  for (const row of rows) {
    const line = make("tr", "", body);
    for (const [i, value] of row.entries()) make("td", String(value), line, head[i] === "failed" && value ? "bad" : "");
  }
  const scrolled = parent.scrollTop;
  parent.replaceChildren(element);
  if (total > rows.length) make("p", `${rows.length} of ${total} are shown.`, parent);
  parent.scrollTop = scrolled;
}

// --- time ---

function goTo(ms) {
  at = ms >= now() ? null : Math.max(ms, 0);
  $("at").value = at === null ? 1000 : (1000 * at) / now();
  due();
}

function play() {
  clearInterval(playing);
  playing = playing ? 0 : setInterval(() => {
    goTo((at ?? 0) + now() / 300); // the whole run in about half a minute
    if (at === null) play();
  }, 100);
  $("play").textContent = playing ? "Pause" : "Play";
  if (playing && at === null) goTo(0);
}

// --- the stream ---

let stream = null, lastId = "";

function tell(text, kind) {
  if (!kind && !$("link").className) return; // what it says is not of the connection
  $("link").textContent = text;
  $("link").className = kind;
}

function listen() {
  stream = new EventSource(lastId ? `events?after=${lastId}` : "events");
  const heard = (event) => {
    tell("", "");
    lastId = event.lastEventId;
    if (event.type === "all") forget();
    take(JSON.parse(event.data));
  };
  stream.addEventListener("all", heard);
  stream.addEventListener("rows", heard);
  stream.addEventListener("open", () => tell("", ""));
  stream.addEventListener("error", () => {
    if (isOver()) tell("the server has ended", "over");
    else tell("connection lost; trying again", "lost");
    if (stream.readyState === EventSource.CLOSED) setTimeout(listen, 2000);
  });
}

async function stop() {
  if ($("stopping").returnValue !== "stop") return;
  const answer = await fetch("stop", { method: "POST", headers: { Authorization: `Bearer ${$("token").value}` } });
  $("token").value = "";
  $("link").className = "";
  $("link").textContent = await answer.text();
}

const saved = $("saved") !== null;
forget();
$("at").addEventListener("input", () => goTo(($("at").value * now()) / 1000));
$("play").addEventListener("click", play);
$("now").addEventListener("click", () => goTo(Infinity));
$("closer").addEventListener("click", () => { lanes.zoom /= 2; due(); });
$("wider").addEventListener("click", () => { lanes.zoom *= 2; due(); });
$("stop").addEventListener("click", () => $("stopping").showModal());
$("stopping").addEventListener("close", stop);
$("lanes").addEventListener("moved", due);
$("lanes").addEventListener("chosen", (event) => { if (tables.learner.size > FEW) { $("find").value = event.detail ?? ""; due(); } });
for (const id of ["axis", "order", "find"]) $(id).addEventListener("input", due);
for (const id of ["rounds", "each"]) $(id).addEventListener("toggle", due);
addEventListener("resize", due);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { clearCharts(); due(); });
$("stop").hidden = !document.body.dataset.canStop;
if (saved) {
  $("save").hidden = true;
  take(JSON.parse($("saved").textContent));
} else {
  listen();
  setInterval(() => { if (run().phase === "running" && at === null) due(); }, 1000);
}
