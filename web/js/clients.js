// SIP clients: the accounts with which this phone registers at a PBX or a provider.

import { get, getWithTag, path, post, put, remove } from "./api.js";
import { confirmed, empty, field, h, heading, icon, keep, light, setText, showErrors, toast, values } from "./dom.js";
import { on } from "./events.js";
import { when } from "./format.js";
import { onStatus, repeat } from "./state.js";

export const title = "SIP clients";

const LIGHT = { registered: "good", registering: "busy", failed: "bad", stopped: "idle" };
const WORDS = { registered: "Registered", registering: "Registering", failed: "Not registered", stopped: "Stopped" };

/** The light's colour and the words beside it. */
export function describe(client) {
  const words = WORDS[client.state] ?? String(client.state ?? "");
  return [LIGHT[client.state] ?? "idle", client.reason ? `${words}: ${client.reason}` : words];
}

export async function show(root, { signal }) {
  const list = h("ul", { class: "clients", "aria-live": "polite", "aria-relevant": "text" });
  const card = h("section", { class: "card", "aria-label": "Your SIP clients", hidden: true }, list);
  const nothing = h("section", { class: "card", hidden: true },
    empty("No SIP client yet", "Add the account that this phone uses at your PBX or SIP provider. It then answers whoever calls that number.",
      h("p", {}, h("a", { href: "#/guide" }, "Show me step by step"))));
  const problem = h("p", { class: "error", role: "alert" });
  let clients = [];

  async function load() {
    try {
      clients = (await get("sip-clients", { signal })).sip_clients;
      setText(problem, "");
      draw();
    } catch (error) {
      if (!signal.aborted) setText(problem, error.message);
    }
  }

  function draw() {
    card.hidden = clients.length === 0;
    nothing.hidden = clients.length > 0;
    keep(list, clients, (client) => client.client_id, makeRow, fillRow);
  }

  function makeRow({ client_id: id }) {
    const of = () => clients.find((client) => client.client_id === id);
    const row = h("li", {}, light(), h("span", { class: "name" }),
      h("span", { class: "state" }), h("span", { class: "about" }),
      h("div", { class: "actions" },
        h("button", { class: "toggle", onclick: (event) => toggle(of(), event.currentTarget) }),
        h("button", { class: "quiet edit", onclick: () => edit(of()) }, "Edit")));
    return row;
  }

  function fillRow(row, client) {
    const [colour, words] = describe(client);
    const name = client.display_name || client.client_id;
    row.dataset.light = colour;
    setText(row.querySelector(".name"), name);
    setText(row.querySelector(".state"), words);
    row.querySelector(".state").title = client.since ? `since ${when(client.since)}` : "";
    setText(row.querySelector(".about"), `${client.client_id} · ${client.username} at ${client.server_ip}:${client.server_port}`);
    const running = client.state !== "stopped";
    const button = row.querySelector(".toggle");
    setText(button, running ? "Stop" : "Start");
    button.classList.toggle("quiet", running);
    button.setAttribute("aria-label", `${running ? "Stop" : "Start"} ${name}`);
    row.querySelector(".edit").setAttribute("aria-label", `Edit ${name}`);
  }

  async function toggle(client, button) {
    const action = client.state === "stopped" ? "start" : "stop";
    button.disabled = true;
    try {
      await post(path("sip-clients", client.client_id, action));
      await load();
    } catch (error) {
      toast(error.message, "bad");
    } finally {
      button.disabled = false;
    }
  }

  async function edit(client) {
    let tag = null;
    try {
      const found = await getWithTag(path("sip-clients", client.client_id), { signal });
      tag = found.etag;
      openForm({ client: found.answer, tag, taken: [], done: load });
    } catch (error) {
      if (!signal.aborted) toast(error.message, "bad");
    }
  }

  const add = h("button", { id: "add-client", onclick: () => openForm({ taken: clients.map((c) => c.client_id), done: load }) },
    icon("plus"), "Add New SIP Client");
  root.append(heading("SIP clients", add), h("div", { class: "stack" }, direct(signal), problem, card, nothing));

  on("registration", (event) => {
    const client = clients.find((one) => one.client_id === event.client_id);
    if (!client) return;
    Object.assign(client, { state: event.state, reason: event.reason ?? "", since: event.since });
    draw();
  }, signal);
  for (const type of ["connected", "clients", "reset"]) on(type, load, signal);
  repeat(load, 5000, signal);
  await load();
}

/** The address that needs no account: the quickest call of all. */
function direct(signal) {
  const link = h("a", { class: "uri mono" });
  const copy = h("button", { class: "quiet", onclick: () => copyText(link, copy) }, "Copy");
  const hint = h("p", { class: "hint" });
  const box = h("section", { class: "card", "aria-label": "Direct line", hidden: true },
    h("div", { class: "address" }, h("div", {}, h("p", { class: "muted" }, "Call without an account"), link), copy), hint);
  onStatus(({ sip_uri: uri = "" }) => {
    box.hidden = uri === "";
    setText(link, uri);
    // Only a SIP address becomes a link, whatever the server says.
    if (/^sips?:/i.test(uri)) link.href = uri;
    else link.removeAttribute("href");
    setText(hint, /@(127\.|localhost|\[::1\])/.test(uri) ? "Any softphone on this machine reaches it." : "");
  }, signal);
  return box;
}

async function copyText(link, button) {
  try {
    await navigator.clipboard.writeText(link.textContent);
    setText(button, "Copied");
  } catch {
    // Without a secure context there is no clipboard: select the text, so that the keyboard can copy it.
    getSelection().selectAllChildren(link);
    setText(button, "Press Ctrl+C");
  }
  setTimeout(() => setText(button, "Copy"), 2000);
}

// ------------------------------------------------------------------ the form

const EMPTY = {
  client_id: "", username: "", password: "", server_ip: "", server_port: 5060, display_name: "AI Assistant",
  auto_answer: true, greeting: "Hello, this is {name}. How can I help you?",
  transport: "udp", srtp: "off", auth_username: "", proxy: "", persona: "", enabled: true,
};

/** The next "office-1", "office-2", ... that is free. */
function freeId(taken) {
  let number = 1;
  while (taken.includes(`client-${number}`)) number += 1;
  return `client-${number}`;
}

/** Ask for a client's fields, in a dialog; `done(client)` when it was saved. */
export async function openForm({ client = null, tag = null, taken = [], done }) {
  const known = client ?? { ...EMPTY, client_id: freeId(taken) };
  const text = (value) => String(value ?? "");
  const { personas } = await get("personas").catch(() => ({ personas: [] }));
  const password = client
    ? { hint: "Leave empty to keep the password that is stored.", autocomplete: "new-password" }
    : { hint: "The account's password. It is stored encrypted and never shown again.", autocomplete: "new-password" };
  const fields = [
    field({ label: "Client ID", name: "client_id", value: known.client_id, required: true, readonly: client !== null, maxlength: "64", spellcheck: "false", hint: "A short name for this account, for you. It cannot be changed later." }),
    field({ label: "Username", name: "username", value: text(known.username), required: true, spellcheck: "false", autocomplete: "off", placeholder: "1001", hint: "The extension or account name at the server." }),
    field({ label: "Password", name: "password", type: "password", required: client === null, ...password }),
    field({ label: "Server IP", name: "server_ip", value: text(known.server_ip), required: true, spellcheck: "false", placeholder: "192.168.1.10", hint: "Address or name of the PBX or provider." }),
    field({ label: "Server Port", name: "server_port", type: "number", value: text(known.server_port), required: true, min: "1", max: "65535", inputmode: "numeric", hint: "Nearly always 5060." }),
    field({ label: "Display Name", name: "display_name", value: text(known.display_name), maxlength: "128", hint: "What other phones show." }),
    field({ label: "Auto Answer", name: "auto_answer", type: "checkbox", value: known.auto_answer, hint: "Answer every call on this account at once." }),
    field({ label: "Greeting", name: "greeting", type: "textarea", value: text(known.greeting), rows: "2", hint: "The first sentence a caller hears. {name} becomes the assistant's name. Empty: the persona's greeting." }),
  ];
  fields[6].classList.add("wide");
  fields[7].classList.add("wide");
  const more = h("details", { class: "wide" }, h("summary", {}, "More options"),
    h("div", { class: "form-grid" },
      field({ label: "Transport", name: "transport", value: known.transport || "udp", options: [["udp", "UDP"], ["tcp", "TCP"], ["tls", "TLS (encrypted)"]], hint: "TLS hides who calls whom; the server's port for it is often 5061." }),
      field({ label: "Encrypt the sound", name: "srtp", value: known.srtp || "off", options: [["off", "Never"], ["optional", "When the other side can"], ["mandatory", "Always (SRTP)"]], hint: "Without TLS, whoever reads the signalling can read the keys." }),
      field({ label: "Auth username", name: "auth_username", value: text(known.auth_username), spellcheck: "false", hint: "Only when it differs from the username." }),
      field({ label: "Outbound proxy", name: "proxy", value: text(known.proxy), spellcheck: "false", hint: "Only when the provider asks for one." }),
      field({ label: "Persona", name: "persona", value: text(known.persona), options: [["", "Default"], ...personas.filter((p) => !p.is_default).map((p) => [p.name, p.name])], hint: "Who answers on this account." })));
  const save = h("button", { type: "submit" }, client ? "Save" : "Add SIP Client");
  const form = h("form", { class: "client-form", novalidate: true, onsubmit: submit },
    h("div", { class: "form-grid" }, fields, more),
    h("p", { class: "form-error", role: "alert" }),
    h("div", { class: "actions" }, save, h("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, "Cancel"),
      client && h("span", { class: "grow" }), client && h("button", { type: "button", class: "danger", onclick: drop }, "Delete")));
  const heading2 = h("h2", { id: "client-form-title" }, client ? `Edit ${known.client_id}` : "Add New SIP Client");
  const dialog = h("dialog", { "aria-labelledby": "client-form-title", onclose: () => dialog.remove() },
    heading2, h("p", { class: "hint" }, client ? "Changes take effect when the client registers again." : "Your PBX or provider gives you the username, the password and the server."), form);
  document.body.append(dialog);
  dialog.showModal();
  form.elements[client ? "username" : "client_id"].focus();

  async function submit(event) {
    event.preventDefault();
    const body = values(form);
    const missing = { client_id: "A name for this account", username: "The extension or account name", server_ip: "The server's address" };
    if (!client) missing.password = "The account's password";
    const fields = Object.entries(missing).filter(([name]) => !String(body[name]).trim()).map(([name, what]) => ({ field: name, message: `${what} is needed here.` }));
    if (fields.length) return showErrors(form, { message: "", fields });
    if (client && body.password === "") delete body.password;
    body.enabled = known.enabled ?? true;
    save.disabled = true;
    try {
      const saved = client ? await put(path("sip-clients", known.client_id), body, { etag: tag }) : await post("sip-clients", body);
      dialog.close();
      toast(client ? "Saved." : `${body.client_id} was added. Press Start to register it.`);
      await done(saved);
    } catch (error) {
      showErrors(form, error);
    } finally {
      save.disabled = false;
    }
    return undefined;
  }

  async function drop() {
    if (!await confirmed(`Delete ${known.client_id}? Its calls stay in the history.`, "Delete")) return;
    try {
      await remove(path("sip-clients", known.client_id));
      dialog.close();
      await done(null);
    } catch (error) {
      showErrors(form, error);
    }
  }
}
