// The switches of the faults: they follow the sandbox, and set its faults one change after the other.
"use strict";

const switches = new Map();  // by kind of fault
let played = {"failing-attempts": 0};  // the faults in the last event
let asked = Promise.resolve();  // changes are sent one after the other
let setting = 0;  // the number of changes without an answer yet

function showFaults(faults) {
  played = faults;
  if (setting > 0) return;  // the answer will be shown
  for (const [kind, value] of Object.entries(faults)) {
    if (kind === "failing-attempts") continue;
    const [box, percent] = switches.get(kind) ?? addSwitch(kind);
    box.checked = value > 0;
    if (percent !== document.activeElement) {  // while it is being typed in
      percent.disabled = !box.checked;
      if (value > 0) percent.value = +(value * 100).toFixed(3);
    }
  }
  if (byId("failing") !== document.activeElement) byId("failing").value = faults["failing-attempts"];
  const playing = Object.entries(faults).filter(([, value]) => value > 0).map(([kind]) => kind);
  byId("playing").textContent = playing.length ? `(${playing.join(", ")})` : "";
}

function addSwitch(kind) {
  const row = byId("switch").content.firstElementChild.cloneNode(true);
  const box = row.querySelector("[role=switch]"), percent = row.querySelector(".percent");
  const sentence = row.querySelector(".sentence");
  row.querySelector(".kind").textContent = kind;
  sentence.textContent = access.faults[kind];
  sentence.id = `about-${kind}`;
  box.name = kind;
  box.setAttribute("aria-describedby", sentence.id);
  percent.setAttribute("aria-label", `${kind}: percent of the sends`);
  box.addEventListener("change", () => {
    percent.disabled = !box.checked;
    if (!percent.checkValidity() || percent.value === "0") percent.value = 100;
    setFault(kind, box, box.checked ? percent.value / 100 : 0);
  });
  percent.addEventListener("change", () => setFault(kind, percent, percent.value / 100));
  percent.addEventListener("blur", () => showFaults(played));
  byId("switches").append(row);
  switches.set(kind, [box, percent]);
  return [box, percent];
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
    if (value === 0 && field === document.activeElement && field.className === "percent") switches.get(kind)[0].focus();
    showFaults(faults ?? played);
  });
}

byId("failing").addEventListener("change", () => setFault("failing-attempts", byId("failing"), +byId("failing").value));
byId("failing").addEventListener("blur", () => showFaults(played));
byId("faults").querySelector("form").addEventListener("submit", (event) => event.preventDefault());
