// The page: it is told of changes by /sandbox/events, and says so when it is told no more.
"use strict";

const moments = new Intl.DateTimeFormat(undefined, {dateStyle: "medium", timeStyle: "medium"});
let counts = {accepted: 0, refused: 0};
let events, again;  // the stream, and the timer of the next try
let heard = null;  // the time of the last event
let loading = null;  // the access that is being asked for, anew with each connection

function byId(id) {
  return document.getElementById(id);
}

function plural(count, noun) {
  return `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
}

async function fetchJson(path, request) {
  try {
    const response = await fetch(path, request);
    return response.ok ? await response.json() : null;
  } catch {  // no answer, or another server's
    return null;
  }
}

async function ask(path, request) {
  const answer = await fetchJson(path, request);
  byId("complaint").textContent = answer === null ? "The sandbox did not do as it was asked." : "";
  return answer;
}

function count(statistics) {
  const {refused, last_second: lastSecond, rate_limit: limit, quota} = statistics;
  const wasEmpty = counts.accepted + counts.refused === 0;
  counts = {accepted: statistics.accepted, refused: Object.values(refused).reduce((sum, each) => sum + each, 0)};
  const isEmpty = counts.accepted + counts.refused === 0;
  if (heard === null || wasEmpty !== isEmpty) byId("access").open = isEmpty;
  byId("clear").disabled = isEmpty;
  byId("accepted").textContent = counts.accepted.toLocaleString("en");
  byId("refused").textContent = counts.refused.toLocaleString("en");
  byId("refusals").textContent = Object.entries(refused).map(([kind, times]) => `${times} × ${kind}`).join(", ");
  byId("rate").textContent = limit === null ? lastSecond : `${lastSecond} of ${limit}`;
  byId("meter").hidden = limit === null;
  byId("meter").max = limit ?? 1;
  byId("meter").value = lastSecond;
  byId("quota").textContent = quota?.toLocaleString("en") ?? "–";
}

function tally({accepted, refused}) {
  return `${plural(accepted, "message")} and ${plural(refused, "refused request")}`;
}

async function forget() {
  byId("forget").close();
  const forgotten = await ask("sandbox/entries", {method: "DELETE"});
  if (forgotten === null) return;
  byId("said").textContent = `Forgotten: ${tally(forgotten)}.`;
  byId("search").focus();  // «Forget all» has nothing to forget, and holds no focus
  goTo(0);
}

function lose() {
  if (!byId("lost").hidden) return;  // it has been said
  const since = heard === null ? "" : ` This page shows its state at ${moments.format(heard)}.`;
  byId("lost").textContent = `Disconnected: the sandbox does not answer.${since}`;
  byId("lost").hidden = false;
  byId("connection").textContent = "trying again…";
  document.title = "Disconnected – SMS sandbox";
}

function find() {
  loading = null;
  byId("complaint").textContent = "";
  byId("lost").hidden = true;
  byId("connection").textContent = "watching: messages appear as they arrive";
  document.title = "SMS sandbox";
}

async function load() {
  const found = await fetchJson("sandbox/access");
  if (found === null) return void (loading = null);
  access = found;
  showAccess();
}

function watch() {
  clearTimeout(again);
  events?.close();
  if (document.hidden) return;  // each page that watches takes one of the browser's few connections to a host
  const connection = events = new EventSource("sandbox/events");
  connection.addEventListener("open", find);
  connection.addEventListener("error", () => {
    lose();
    if (connection.readyState === EventSource.CLOSED) again = setTimeout(watch, 2000);  // after a refusal the browser gives up
  });
  connection.addEventListener("state", async (event) => {
    await (loading ??= load());  // the list and the switches need its names and sentences
    if (access.apis.length === 0) return;
    const {statistics, faults} = JSON.parse(event.data);
    count(statistics);
    heard = new Date();
    showFaults(faults);
    list();
  });
}

byId("clear").addEventListener("click", () => {
  byId("question").textContent = `Forget ${tally(counts)}?`;
  byId("forget").showModal();
});
byId("keep").addEventListener("click", () => byId("forget").close());
byId("sure").addEventListener("click", forget);
document.addEventListener("visibilitychange", watch);
document.addEventListener("DOMContentLoaded", watch);  // when the other scripts are there
