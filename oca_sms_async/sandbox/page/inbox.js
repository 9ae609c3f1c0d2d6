// The inbox: the messages of /sandbox/events are shown as they come, as text and never as markup.
"use strict";

const SHOWN = 500;  // messages, the newest
const byId = (id) => document.getElementById(id);
const items = new Map();  // of the list, by msg_uid
const switches = new Map();  // by kind of fault
let played = {"failing-attempts": 0};  // the faults in the last event
let asked = Promise.resolve();  // changes of faults are sent one after the other
let setting = 0;  // the number of changes without an answer yet
let accepted = 0;  // messages, shown or not
let events, again;  // the stream, and the timer of the next try

function show(message) {
  let item = items.get(message.msg_uid);
  if (item === undefined) {
    item = byId("message").content.firstElementChild.cloneNode(true);
    items.set(message.msg_uid, item);
    byId("messages").prepend(item);
    item.querySelector(".phone").textContent = message.phone;
    item.querySelector(".text").textContent = message.text;
    const time = item.querySelector("time");
    time.dateTime = message.created_at;
    time.textContent = new Date(message.created_at).toLocaleTimeString();
    item.querySelector(".segments").textContent = plural(message.segments, "segment");
    item.querySelector(".attempts").textContent = plural(message.attempts, "attempt");
    item.querySelector(".played").textContent = message.faults.join(", ");
    if (message.code !== null) {
      const button = item.querySelector(".copy");
      button.hidden = false;
      button.textContent = `Copy ${message.code}`;
      button.addEventListener("click", () => copy(message.code));
    }
  }
  const status = item.querySelector(".status");
  status.textContent = status.dataset.status = message.status;
  item.dataset.words = [message.phone, message.text, message.code, message.status, ...message.faults].join("\n").toLowerCase();
  item.dataset.numbers = `${digits(message.phone)} ${message.code ?? ""}`;
}

function plural(count, noun) {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

function digits(text) {
  return text.replace(/\D/g, "");
}

async function copy(code) {
  let copied = true;
  try {
    await navigator.clipboard.writeText(code);
  } catch {  // a page that came by plain http from another machine has no clipboard
    const focused = document.activeElement, field = document.createElement("textarea");
    field.value = code;
    document.body.append(field);
    field.select();
    copied = document.execCommand("copy");
    field.remove();
    focused.focus({preventScroll: true});
  }
  byId("said").textContent = copied ? `${code} is copied.` : `${code} could not be copied.`;
}

function forgetAllBut(messages) {
  const kept = new Set(messages.map((message) => message.msg_uid));
  for (const uid of items.keys()) if (!kept.has(uid)) forget(uid);
}

function forget(uid) {
  items.get(uid).remove();
  items.delete(uid);
}

function filter() {
  const wanted = byId("search").value.trim().toLowerCase();
  const number = /^[\d\s()+./\p{Pd}\p{Cf}]*$/u.test(wanted) ? digits(wanted) : "";  // in any spacing
  let found = 0;
  for (const item of items.values()) {
    const {words, numbers} = item.dataset;
    const called = numbers.includes(number) || (number[0] === "0" && numbers.startsWith(`62${number.slice(1)}`));
    item.hidden = !((number && called) || words.includes(wanted));
    found += item.hidden ? 0 : 1;
  }
  const part = accepted > items.size ? `newest ${items.size} of ${accepted.toLocaleString("en")} messages` : "";
  byId("part").textContent = part && `The ${part} are shown and searched.`;
  byId("nothing").hidden = found > 0;
  byId("nothing").textContent = !items.size ? "No message has arrived yet."
    : part ? `None of the ${part} has this in it.` : "No message has this in it.";
}

function count(statistics) {
  const {refused, last_second: lastSecond, rate_limit: limit, quota} = statistics;
  accepted = statistics.accepted;
  byId("accepted").textContent = accepted.toLocaleString("en");
  byId("refused").textContent = Object.values(refused).reduce((sum, each) => sum + each, 0);
  byId("refusals").textContent = Object.entries(refused).map(([kind, times]) => `${times} × ${kind}`).join(", ");
  byId("rate").textContent = limit === null ? lastSecond : `${lastSecond} of ${limit}`;
  byId("meter").hidden = limit === null;
  byId("meter").max = limit ?? 1;
  byId("meter").value = lastSecond;
  byId("quota").textContent = quota ?? "–";
}

function showFaults(faults) {
  played = faults;
  if (setting > 0) return;  // the answer will be shown
  for (const [kind, value] of Object.entries(faults)) {
    if (kind === "failing-attempts") continue;
    const [box, percent] = switches.get(kind) ?? addSwitch(kind);
    box.checked = value > 0;
    if (value > 0 && percent !== document.activeElement)  // while it is being typed in
      percent.value = +(value * 100).toFixed(3);
  }
  if (byId("failing") !== document.activeElement) byId("failing").value = faults["failing-attempts"];
  const playing = Object.entries(faults).filter(([, value]) => value > 0).map(([kind]) => kind);
  byId("playing").textContent = playing.length ? `(${playing.join(", ")})` : "";
}

function addSwitch(kind) {
  const row = byId("switch").content.firstElementChild.cloneNode(true);
  const box = row.querySelector("[role=switch]"), percent = row.querySelector(".percent");
  row.querySelector(".kind").textContent = kind;
  box.name = kind;
  percent.setAttribute("aria-label", `${kind}: percent of the sends`);
  const set = () => setFault(kind, percent, percent.value / 100);
  box.addEventListener("change", () => {
    if (!(percent.value > 0)) percent.value = 100;
    if (box.checked) set(); else setFault(kind, box, 0);
  });
  percent.addEventListener("change", set);
  percent.addEventListener("blur", () => showFaults(played));
  byId("switches").append(row);
  switches.set(kind, [box, percent]);
  return [box, percent];
}

async function ask(path, request) {
  let answer = null;
  try {
    const response = await fetch(path, request);
    if (response.ok) answer = response.status === 204 ? {} : await response.json();
  } catch {}  // no answer, or another server's
  byId("complaint").textContent = answer === null ? "The sandbox did not do as it was asked." : "";
  return answer;
}

function setFault(kind, field, value) {
  if (!field.reportValidity()) return showFaults(played);
  setting += 1;
  asked = asked.then(async () => {
    let faults = await ask("sandbox/faults");  // a PUT sets all of them, and another page may have set some
    if (faults !== null) {
      const attempts = Math.min(faults["failing-attempts"], byId("failing").max);  // Python may set more than the page may
      const body = JSON.stringify({...faults, "failing-attempts": attempts, [kind]: value});
      faults = await ask("sandbox/faults", {method: "PUT", body});
    }
    setting -= 1;
    showFaults(faults ?? played);
  });
}

function watch() {
  clearTimeout(again);
  events?.close();
  if (document.hidden) return;  // each page that watches takes one of the browser's few connections to a host
  let first = true;  // the first state of a connection has all messages
  events = new EventSource("sandbox/events");
  events.addEventListener("open", () => {
    first = true;
    byId("complaint").textContent = "";
    byId("connection").textContent = "watching: messages appear as they arrive";
  });
  events.addEventListener("error", () => {
    byId("connection").textContent = "the sandbox does not answer; trying again…";
    if (events.readyState === EventSource.CLOSED) again = setTimeout(watch, 2000);  // after a refusal the browser gives up
  });
  events.addEventListener("state", (event) => {
    const {messages, statistics, faults, cleared} = JSON.parse(event.data);
    if (first || cleared) forgetAllBut(messages);  // the items that stay keep focus and place
    first = false;
    messages.forEach(show);
    for (const uid of items.keys()) {  // in the order of arrival
      if (items.size <= SHOWN) break;
      forget(uid);
    }
    count(statistics);
    showFaults(faults);
    filter();
  });
}

byId("failing").addEventListener("change", () => setFault("failing-attempts", byId("failing"), +byId("failing").value));
byId("failing").addEventListener("blur", () => showFaults(played));
byId("search").addEventListener("input", filter);
byId("faults").querySelector("form").addEventListener("submit", (event) => event.preventDefault());
byId("clear").addEventListener("click", () => ask("sandbox/messages", {method: "DELETE"}));
document.addEventListener("visibilitychange", watch);
watch();
