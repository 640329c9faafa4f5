// Personas: who answers, what they say first, how patient they are.

import { get, getWithTag, path, post, put, remove } from "./api.js";
import { confirmed, field, h, heading, icon, setText, showErrors, toast, values } from "./dom.js";
import { on } from "./events.js";

export const title = "Personas";

/** What an assistant may do besides talking, as the API calls it, and for people. */
const ACTIONS = [
  ["hang up", "Hang up", "When the caller says goodbye."],
  ["transfer", "Transfer the caller", "To those named below, and to nobody else."],
  ["press", "Press keys", "As on a telephone, for menus of other machines."],
  ["hold", "Put the caller on hold", "For a little while."],
];

export async function show(root, { argument, signal }) {
  if (argument) return edit(root, argument === "+" ? null : argument, signal);
  const list = h("ul", { class: "calls" });
  const problem = h("p", { class: "error", role: "alert" });
  root.append(heading("Personas", h("a", { class: "button", href: "#/personas/+" }, icon("plus"), "Add a persona")),
    h("div", { class: "stack" }, h("p", { class: "muted" }, "A persona is who answers: its instructions, its first words, its voice and its patience. A change takes effect with the next call."), problem,
      h("section", { class: "card", "aria-label": "All personas" }, list)));
  async function load() {
    try {
      const { personas } = await get("personas", { signal });
      list.replaceChildren(...personas.map((one) => h("li", {}, h("a", { href: `#/personas/${encodeURIComponent(one.name)}` },
        h("span", { class: "who" }, one.name), h("span", { class: "side muted" }, one.is_default ? "answers by default" : ""),
        h("span", { class: "detail" }, `${one.bot_name} · ${one.greeting || "no greeting"}`)))));
    } catch (error) {
      if (!signal.aborted) setText(problem, error.message);
    }
  }
  on("personas", load, signal);
  return load();
}

async function edit(root, name, signal) {
  const [{ answer: persona, etag }, { models }] = await Promise.all([
    getWithTag(path("personas", name ?? "default"), { signal }),
    get("models", { signal }).catch(() => ({ models: [] })),
  ]);
  const voices = models.filter((model) => model.role === "voice" && model.installed).map((model) => [model.name, model.name]);
  if (persona.voice && !voices.some(([voice]) => voice === persona.voice)) voices.push([persona.voice, persona.voice]);
  const number = (label, key, step, hint, more = {}) => field({ label, name: key, type: "number", value: String(persona[key]), step, hint, ...more });
  const text = (label, key, hint = "", more = {}) => field({ label, name: key, value: persona[key], hint, ...more });
  const long = (label, key, rows, hint) => { const box = text(label, key, hint, { type: "textarea", rows }); box.classList.add("wide"); return box; };
  const may = ([action, label, hint]) => {
    const box = field({ label, name: "actions", type: "checkbox", value: persona.actions.includes(action), hint });
    box.querySelector("input").value = action;
    return box;
  };
  const group = (caption, fields, open = false) => h("details", { class: "card", open }, h("summary", {}, caption), h("div", { class: "form-grid" }, fields));

  const save = h("button", { type: "submit" }, name ? "Save" : "Add persona");
  const form = h("form", { class: "stack", novalidate: true, onsubmit: submit },
    h("section", { class: "card" }, h("div", { class: "form-grid" },
      field({ label: "Name", name: "name", value: name ? persona.name : "", readonly: name !== null, required: true, maxlength: "64", spellcheck: "false", hint: "For you. It cannot be changed later." }),
      text("The assistant calls itself", "bot_name"),
      long("Greeting", "greeting", "2", "The first words of a call. {name} and {caller} are filled in."),
      long("Greeting for those who called before", "greeting_again", "2", "Said to callers whose conversation is remembered. Empty: the same greeting."),
      field({ label: "Remember callers", name: "remember", type: "checkbox", value: persona.remember, hint: "From call to call, when the server was started with a session file." }),
      long("Instructions", "prompt", "7", "What the assistant is, knows and must not do. Short and clear works best."),
      field({ label: "Voice", name: "voice", value: persona.voice, options: [["", "Default"], ...voices], hint: "More voices: Settings, Models." }),
      number("Speed", "speed", "0.05", "1 is the voice's own pace; more is faster.", { min: "0.5", max: "2" }),
      text("Language", "language", "A code such as en, or auto; empty is what the server was started with (-l)."),
      text("Names and words to expect", "vocabulary", "What callers are likely to say, such as the names of people and products. It is understood better."))),
    group("Turn taking", [
      number("Patience (seconds)", "patience", "0.05", "So much silence ends the caller's turn. Less is faster, and cuts in more often."),
      number("Patience, clearly finished", "patience_floor", "0.05", "The same after a question or a whole sentence, with the voice falling."),
      number("Patience, clearly not finished", "patience_ceiling", "0.05", "The same in the middle of a sentence or a number."),
      text("Filler", "filler", "Said once when an answer takes long. Empty: nothing."),
      number("Filler after (seconds)", "filler_after", "0.1", "From the caller's last sound."),
      number("Interrupted after (seconds)", "interrupt_after", "0.05", "So much of the caller's voice stops the assistant."),
      number("Give up after (seconds)", "think_limit", "1", "An answer that has not begun by then is given up."),
      text("Apology", "apology", "Said when an answer failed.")]),
    group("Silence and limits", [
      number("Ask after (seconds)", "idle_after", "1", "So much silence, and the assistant asks. 0 is never."),
      text("The question then", "idle_prompt"),
      number("Hang up after", "idle_limit", "1", "So many questions without an answer."),
      text("Goodbye", "goodbye"),
      number("Longest call (seconds)", "max_call_seconds", "1", "0 is without limit.")]),
    group("What it may do", [
      ...ACTIONS.map(may),
      field({ label: "Transfers go to", name: "transfers", type: "textarea", rows: "3", value: persona.transfers.join("\n"), spellcheck: "false", hint: "One a line, such as sales = sip:sales@example.com. The assistant knows the names." }),
      text("Said before a transfer", "connecting", "When the assistant says nothing itself."),
      text("Said when nobody answers", "nobody_there")]),
    group("Advanced", [
      text("The transcript calls the caller", "caller_name"),
      text("Wake command", "wake_command", "When set, only turns that begin with it are answered."),
      text("Said after the wake command alone", "heard_ok"),
      number("Temperature", "temperature", "0.05", "0 always takes the likeliest word."),
      number("Top k", "top_k", "1", ""), number("Top p", "top_p", "0.01", ""), number("Min p", "min_p", "0.01", ""),
      number("Longest answer (tokens)", "max_tokens", "1", ""), number("Seed", "seed", "1", ""),
      field({ label: "Answers end before", name: "stop", type: "textarea", rows: "2", value: persona.stop.join("\n"), spellcheck: "false", hint: "Texts that are not said and end the answer, one a line." })]),
    h("p", { class: "form-error", role: "alert" }),
    h("div", { class: "actions" }, save, h("a", { class: "button quiet", href: "#/personas" }, "Cancel"), h("span", { class: "grow" }),
      name && !persona.is_default && h("button", { type: "button", class: "danger", onclick: drop }, "Delete")));
  // A field that the server knows and this page does not, yet: better under its plain name than not at all.
  const unknown = Object.entries(persona).filter(([key, value]) => !form.elements[key] && !["version", "is_default"].includes(key) && value !== null && typeof value !== "object");
  if (unknown.length) form.querySelector(".form-error").before(group("More", unknown.map(([key, value]) => field({ label: key.replaceAll("_", " "), name: key, value: typeof value === "boolean" ? value : String(value),
    type: { boolean: "checkbox", number: "number" }[typeof value] ?? "text", step: typeof value === "number" ? "any" : null }))));
  root.append(h("p", { class: "back" }, h("a", { href: "#/personas" }, icon("back"), "Personas")), heading(name ?? "Add a persona"), form);

  function body() {
    const all = values(form);
    all.actions = [...form.querySelectorAll("[name=actions]:checked")].map((one) => one.value);
    for (const name of ["transfers", "stop"]) all[name] = all[name].split("\n").map((line) => line.trim()).filter((line) => line);
    return all;
  }

  async function submit(event) {
    event.preventDefault();
    save.disabled = true;
    try {
      if (name) await put(path("personas", name), body(), { etag });
      else await post("personas", body());
      toast("Saved. It takes effect with the next call.");
      location.hash = "#/personas";
    } catch (error) {
      showErrors(form, error);
    } finally {
      save.disabled = false;
    }
  }

  async function drop() {
    if (!await confirmed(`Delete ${name}?`, "Delete")) return;
    try {
      await remove(path("personas", name), { etag });
      location.hash = "#/personas";
    } catch (error) {
      showErrors(form, error);
    }
  }
}
