// The base URLs and the credentials of the APIs, and the lines to paste, all to be copied.
"use strict";

let access = {apis: [], faults: {}};  // and a sentence for each fault

const CREDENTIALS = {
  OCA_SMS_BASE_URL: "Base URL", OCA_SMS_USERNAME: "Username", OCA_SMS_PASSWORD: "Password", OCA_SMS_TOKEN: "Token",
  OCA_SMS_SENDER_ID: "Sender",
};

function showAccess() {
  const api = access.apis.find((it) => it.name === byId("api").value) ?? access.apis[0];
  byId("api").replaceChildren(...access.apis.map((it) => new Option(it.title, it.name, false, it === api)));
  byId("lines").textContent = api.lines.join("\n");
  byId("credentials").replaceChildren(...Object.entries(CREDENTIALS).filter(([key]) => key in api.variables).map(([key, name]) => {
    const row = byId("credential").content.firstElementChild.cloneNode(true);
    row.querySelector("dt").textContent = name;
    row.querySelector("code").textContent = api.variables[key];
    const button = row.querySelector("button");
    button.setAttribute("aria-label", `Copy: ${name}`);
    button.addEventListener("click", () => copy(api.variables[key], name));
    return row;
  }));
}

async function copy(text, name) {
  let copied = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {  // a page that came by plain http from another machine has no clipboard
    const focused = document.activeElement, field = document.createElement("textarea");
    field.value = text;
    document.body.append(field);
    field.select();
    copied = document.execCommand("copy");
    field.remove();
    focused.focus({preventScroll: true});
  }
  byId("said").textContent = copied ? `${name} is copied.` : `${name} could not be copied.`;
}

byId("api").addEventListener("change", showAccess);
byId("copy-lines").addEventListener("click", () => copy(byId("lines").textContent, "The lines"));
