// The list: a page of the messages and refused requests, as text and never as markup.
"use strict";

const SHOWN = 25;  // entries on a page of the list
const REST = 200;  // milliseconds between two questions for the list
const items = new Map();  // of the list, by key
const view = {search: "", outcome: "all", skip: 0, until: ""};  // the entries that are wanted
let newest = null;  // the exact time of the newest entry on the first page
let listing = false, stale = false;  // whether the list is being asked for, and whether it must be asked for again

async function list() {
  if (listing) return void (stale = true);
  listing = true;
  do {
    stale = false;
    const wanted = String(new URLSearchParams({...view, limit: SHOWN}));
    const found = await fetchJson(`sandbox/entries?${wanted}`);
    if (found !== null && wanted === String(new URLSearchParams({...view, limit: SHOWN}))) showList(found, view.skip);
    await new Promise((done) => setTimeout(done, REST));
  } while (stale);
  listing = false;
}

function showList(found, skip) {
  if (skip > 0 && found.total <= skip) return goTo(0);  // they were forgotten meanwhile
  if (skip === 0) newest = found.newest;
  const rows = new Map(found.entries.map((entry) => [entry.msg_uid ?? `refused ${entry.number}`, entry]));
  for (const [key, item] of items) if (!rows.has(key)) (item.remove(), items.delete(key));
  let next = byId("messages").firstElementChild;
  for (const [key, entry] of rows) {  // the items that stay keep focus and place
    const item = items.get(key) ?? addItem(key, entry);
    if (item === next) next = next.nextElementSibling;
    else byId("messages").insertBefore(item, next);
    showStatus(item, entry);
  }
  const last = skip + found.entries.length;
  byId("part").textContent = found.total === 0 ? ""
    : `${(skip + 1).toLocaleString("en")}–${last.toLocaleString("en")} of ${found.total.toLocaleString("en")}`
      + (found.newer ? `, ${found.newer.toLocaleString("en")} newer` : "");
  byId("pages").hidden = found.total <= SHOWN && skip === 0;
  byId("newer").disabled = skip === 0;
  byId("older").disabled = last >= found.total;
  byId("nothing").hidden = found.total > 0;
  const noun = view.outcome === "refused" ? "refused request" : view.outcome === "accepted" ? "accepted message" : "message";
  byId("nothing").textContent = view.search ? `No ${noun} has this in it.`
    : view.outcome === "all" ? "No message has arrived yet." : `There is no ${noun}.`;
}

function addItem(key, entry) {
  const item = byId("entry").content.firstElementChild.cloneNode(true);
  items.set(key, item);
  const fill = (name, text) => { item.querySelector(`.${name}`).textContent = text; };
  const time = item.querySelector("time");
  time.dateTime = entry.created_at;
  time.textContent = moments.format(new Date(entry.created_at));
  const api = access.apis.find((it) => it.name === entry.api)?.title;
  if (entry.outcome === "refused") {
    item.className = "refused";
    fill("phone", entry.phone || "no number");
    fill("outcome", "refused");
    fill("text", entry.reason);
    fill("attempts", entry.code === null ? `HTTP ${entry.status}` : `HTTP ${entry.status}, code ${entry.code}`);
    fill("api", api === undefined ? entry.operation : `${entry.operation} by ${api}`);
    fill("played", entry.kind);
    return item;
  }
  fill("phone", entry.phone);
  fill("text", entry.text);
  fill("segments", `${plural(entry.segments, "segment")}, ${entry.encoding}`);
  fill("attempts", plural(entry.attempts, "attempt"));
  fill("api", entry.sender_id === null ? `by ${api}` : `by ${api} from ${entry.sender_id}`);
  fill("played", entry.faults.join(", "));
  if (entry.code !== null) {
    const button = item.querySelector(".copy");
    button.hidden = false;
    button.textContent = `Copy ${entry.code}`;
    button.addEventListener("click", () => copy(entry.code, entry.code));
  }
  return item;
}

function showStatus(item, entry) {
  if (entry.outcome === "refused") return;
  const status = item.querySelector(".status");
  status.textContent = status.dataset.status = entry.status;
}

function goTo(skip) {
  if (view.skip === 0) view.until = newest ?? "";  // older pages stay as they are while messages arrive
  view.skip = Math.max(0, skip);
  if (view.skip === 0) view.until = "";
  list();
}

function narrow(change) {
  Object.assign(view, change, {skip: 0, until: ""});
  list();
}

byId("search").addEventListener("input", () => narrow({search: byId("search").value.trim()}));
byId("outcomes").addEventListener("change", (event) => narrow({outcome: event.target.value}));
byId("newer").addEventListener("click", () => goTo(view.skip - SHOWN));
byId("older").addEventListener("click", () => goTo(view.skip + SHOWN));
