// Settings: what is kept and for how long, the models, who is remembered, tokens for programs.

import { get, getWithTag, patch, path, post, query, remove } from "./api.js";
import { confirmed, field, h, heading, keep, setText, showErrors, toast, values } from "./dom.js";
import { on } from "./events.js";
import { bytes, count, exactly, percent, when } from "./format.js";
import { onStatus } from "./state.js";

export const title = "Settings";

export async function show(root, { signal, state }) {
  const problem = h("p", { class: "error", role: "alert" });
  const stack = h("div", { class: "stack" }, problem);
  root.append(heading("Settings"), stack);
  const cards = [keeping, names, models, sessions, state.session.password_required ? tokens : null, audit, about].filter(Boolean);
  const shown = await Promise.allSettled(cards.map((card) => card(signal)));
  if (signal.aborted) return;
  for (const one of shown) {
    if (one.status === "fulfilled") stack.append(one.value);
    else setText(problem, `${problem.textContent} ${one.reason.message}`.trim());
  }
}

async function keeping(signal) {
  const settings = await get("settings", { signal });
  const days = (label, name) => field({ label, name, type: "number", min: "0", max: "36500", step: "1", value: String(settings[name]), hint: "Days; 0 is for ever." });
  const form = h("form", { novalidate: true, onsubmit: submit },
    h("div", { class: "form-grid" },
      field({ label: "Record calls", name: "record_calls", type: "checkbox", value: settings.record_calls, hint: "Callers must know in many countries: say it in the greeting." }),
      days("Keep recordings", "keep_recordings_days"), days("Keep transcripts", "keep_transcripts_days"), days("Keep the list of calls", "keep_calls_days")),
    h("p", { class: "form-error", role: "alert" }), h("div", { class: "actions" }, h("button", {}, "Save")));
  form.querySelector(".check").classList.add("wide");
  async function submit(event) {
    event.preventDefault();
    try {
      await patch("settings", values(form));
      showErrors(form, null);
      toast("Saved.");
    } catch (error) {
      showErrors(form, error);
    }
  }
  return h("section", { class: "card" }, h("h2", {}, "What is kept"), form);
}

async function names(signal) {
  let tag = null;
  const box = field({ label: "Further names of this server", name: "allowed_hosts", type: "textarea", rows: "3", spellcheck: "false", placeholder: "phone.example.org", hint: "One on each line. Requests under other names are refused, so that no web site can pass itself off as this page." });
  box.classList.add("wide");
  const form = h("form", { novalidate: true, onsubmit: submit }, h("div", { class: "form-grid" }, box),
    h("p", { class: "form-error", role: "alert" }), h("div", { class: "actions" }, h("button", {}, "Save the names")));
  async function load() {
    const { answer, etag } = await getWithTag("settings", { signal });
    tag = etag;
    form.elements.allowed_hosts.value = answer.allowed_hosts.join("\n");
  }
  async function submit(event) {
    event.preventDefault();
    try {
      await patch("settings", { allowed_hosts: form.elements.allowed_hosts.value.split(/[\s,]+/).filter(Boolean) }, { etag: tag });
      showErrors(form, null);
      toast("Saved.");
      await load();
    } catch (error) {
      showErrors(form, error);
    }
  }
  // Another change of the settings gives them another version; what is being typed here stays.
  on("settings", async () => { if (form.contains(document.activeElement)) tag = (await getWithTag("settings", { signal })).etag; else await load(); }, signal);
  await load();
  return h("section", { class: "card" }, h("h2", {}, "Address of this page"), h("p", { class: "hint" }, `It is open as ${location.host} now; localhost always works.`), form);
}

const ROLE = { whisper: "Speech to text", llm: "Language model", voice: "Voice", vad: "Voice activity", turn: "Turn end" };

async function models(signal) {
  const body = h("tbody", {});
  let found = [];
  async function load() {
    found = (await get("models", { signal })).models;
    draw();
  }
  function draw() {
    keep(body, found, (model) => `${model.role} ${model.name}`, makeRow, fillRow);
  }
  function makeRow({ name, role }) {
    const of = () => found.find((model) => model.name === name && model.role === role);
    return h("tr", {}, h("td", {}), h("td", {}), h("td", { class: "number" }), h("td", {}, h("button", { class: "quiet", onclick: (event) => act(of(), event.currentTarget) })));
  }
  function fillRow(row, model) {
    const [name, role, size, cell] = row.children;
    if (!name.firstChild) name.append(h("strong", {}), h("p", { class: "hint" }));
    setText(name.firstChild, model.name);
    setText(name.lastChild, [model.good_for, model.licence].filter(Boolean).join(" · "));
    setText(role, ROLE[model.role] ?? model.role);
    const pull = model.pull?.state === "pulling" ? model.pull : null;
    setText(size, pull ? (pull.total ? percent(pull.done / pull.total) : bytes(pull.done)) : bytes(model.size));
    const button = cell.firstChild;
    const choosable = ["whisper", "llm", "voice"].includes(model.role);
    setText(button, pull ? "Downloading" : !model.installed ? "Download" : model.chosen ? (model.in_use ? "In use" : "After the next start") : model.in_use ? "Keep using" : "Use");
    button.setAttribute("aria-label", `${button.textContent}: ${model.name}`);
    button.disabled = Boolean(pull) || (model.installed && (model.chosen || !choosable));
    button.hidden = model.installed && !model.chosen && !choosable;
  }
  async function act(model, button) {
    button.disabled = true;
    try {
      if (model.installed) {
        const { restart_needed: restart } = await post(path("models", model.name, "choose"));
        toast(restart ? `${model.name} is used after the next start.` : `${model.name} is used from now on.`);
      } else model.pull = await post(path("models", model.name, "pull"));
      await load();
    } catch (error) {
      toast(error.message, "bad");
      draw();
    }
  }
  on("model", (event) => {
    const model = found.find((one) => one.name === event.name);
    if (!model) return;
    model.pull = event;
    if (event.state === "failed") toast(`${event.name}: ${event.error}`, "bad");
    if (event.state === "pulling") draw();
    else load();
  }, signal);
  await load();
  return h("section", { class: "card" }, h("h2", {}, "Models"), h("p", { class: "hint" }, "A model that you choose is used after the next start of the server; calls go on with the one before until then."), h("div", { class: "table-wrap", tabindex: "0", role: "region", "aria-label": "Models" }, h("table", {},
    h("thead", {}, h("tr", {}, ["Name", "For", "Size", "Use"].map((text) => h("th", { scope: "col" }, text)))), body)));
}

async function sessions(signal) {
  const list = h("ul", { class: "clients plain" });
  const nothing = h("p", { class: "muted" }, "Nobody is remembered.");
  async function load() {
    const { sessions: found } = await get("sessions", { signal });
    nothing.hidden = found.length > 0;
    keep(list, found, (one) => one.key, (one) => h("li", {}, h("span", {}), h("span", { class: "name" }), h("span", { class: "about" }),
      h("div", { class: "actions" }, h("button", { class: "quiet", onclick: () => look(one) }, "Show"), h("button", { class: "danger", onclick: () => forget(one) }, "Forget"))), (row, one) => {
      setText(row.querySelector(".name"), one.key);
      setText(row.querySelector(".about"), `${count(one.messages, "message")} · last call ${when(one.updated)}`);
      row.querySelector(".danger").setAttribute("aria-label", `Forget ${one.key}`);
      row.querySelector(".quiet").setAttribute("aria-label", `Show ${one.key}`);
    });
  }
  async function look(one) {
    try {
      const found = await get(path("sessions", one.key));
      const dialog = h("dialog", { "aria-label": `What is remembered of ${one.key}`, onclose: () => dialog.remove() },
        h("h2", {}, one.key), h("p", { class: "hint" }, `Last call ${exactly(found.updated)}`),
        h("dl", { class: "facts" }, found.messages.map(({ role, content }) => [h("dt", {}, role), h("dd", {}, content)])),
        h("form", { method: "dialog" }, h("div", { class: "actions" }, h("button", {}, "Close"))));
      document.body.append(dialog);
      dialog.showModal();
    } catch (error) {
      toast(error.message, "bad");
    }
  }
  async function forget(one) {
    if (!await confirmed(`Forget ${one.key}? The assistant remembers nothing of this caller then.`, "Forget")) return;
    try {
      await remove(path("sessions", one.key));
      await load();
    } catch (error) {
      toast(error.message, "bad");
    }
  }
  await load();
  return h("section", { class: "card" }, h("h2", {}, "Who is remembered"), nothing, list);
}

async function tokens(signal) {
  const list = h("ul", { class: "clients plain" });
  const secret = h("p", { class: "notice break", role: "status", hidden: true });
  const form = h("form", { novalidate: true, onsubmit: submit }, h("div", { class: "form-grid" },
    field({ label: "New token for", name: "name", maxlength: "100", placeholder: "Grafana" }),
    field({ label: "May", name: "role", value: "read", options: [["read", "look"], ["operate", "also call and hang up"], ["admin", "change everything"]] })),
  h("p", { class: "form-error", role: "alert" }), h("div", { class: "actions" }, h("button", {}, "Make a token")));
  async function load() {
    const { tokens: found } = await get("tokens", { signal });
    keep(list, found, (one) => one.id, (one) => h("li", {}, h("span", {}), h("span", { class: "name" }, one.name), h("span", { class: "about" }, `${one.role} · made ${when(one.created)}`),
      h("div", { class: "actions" }, h("button", { class: "danger", "aria-label": `Delete the token ${one.name}`, onclick: () => drop(one) }, "Delete"))));
  }
  async function submit(event) {
    event.preventDefault();
    try {
      const made = await post("tokens", values(form));
      form.reset();
      showErrors(form, null);
      secret.hidden = false;
      setText(secret, `Copy it now, it is not shown again: ${made.token}`);
      await load();
    } catch (error) {
      showErrors(form, error);
    }
  }
  async function drop(one) {
    try {
      await remove(path("tokens", one.id));
      await load();
    } catch (error) {
      toast(error.message, "bad");
    }
  }
  await load();
  return h("section", { class: "card" }, h("h2", {}, "Tokens for programs"), list, secret, form);
}

async function audit(signal) {
  const list = h("ul", { class: "clients plain" });
  const nothing = h("p", { class: "muted" }, "Nothing was done yet.");
  const more = h("button", { class: "quiet", onclick: () => load().catch((error) => toast(error.message, "bad")) }, "Earlier");
  let before = null;
  async function load() {
    const page = await get(`audit${query({ limit: 10, before })}`, { signal });
    before = page.next;
    more.hidden = before === null;
    list.append(...page.entries.map((one) => h("li", {}, h("span", {}), h("span", { class: "name" }, `${one.action} ${one.target}`),
      h("span", { class: "about" }, [exactly(one.at), one.actor, one.detail].filter(Boolean).join(" · ")))));
    nothing.hidden = list.firstChild !== null;
  }
  await load();
  return h("section", { class: "card" }, h("h2", {}, "What was done"), nothing, list, h("div", { class: "actions" }, more));
}

async function about(signal) {
  const version = h("dd", {});
  onStatus((status) => setText(version, status.version), signal);
  return h("section", { class: "card" }, h("h2", {}, "About"), h("dl", { class: "facts" }, h("dt", {}, "aiphone"), version,
    h("dt", {}, "For programs"), h("dd", {}, h("a", { href: "api/openapi.json" }, "OpenAPI document"), ", ", h("a", { href: "metrics" }, "Prometheus metrics"))));
}
