// The live status page: asks GET api/status once a second and shows the answer.
//
// Everything that comes from the server (a caller's name, the reason of a failure) is shown by textContent,
// never as HTML. Elements are kept and updated in place, so that focus, selection and a screen reader's place
// survive the next answer.

const PERIOD = 1000;
const PERIOD_HIDDEN = 10000;
const TIMEOUT = 4000;

const byId = (id) => document.getElementById(id);

// ------------------------------------------------------------------ small tools

/** Set an element's text, only when it changes. */
function setText(element, text) {
  const value = String(text ?? "");
  if (element.textContent !== value) element.textContent = value;
}

/** A new element with a class and a text. */
function make(tag, className = "", text = "") {
  const element = document.createElement(tag);
  if (className) element.className = className;
  setText(element, text);
  return element;
}

/** The key of each element that `keep` made; not an attribute, since a key may be anything a caller said. */
const keys = new WeakMap();

/** Make the children of `parent` match `items`: one child for each key, updated, added, removed, in order. */
function keep(parent, items, keyOf, create, update) {
  const present = new Map([...parent.children].map((child) => [keys.get(child), child]));
  items.forEach((item, index) => {
    const key = String(keyOf(item, index));
    const child = present.get(key) ?? create(item);
    present.delete(key);
    keys.set(child, key);
    update(child, item);
    if (parent.children[index] !== child) parent.insertBefore(child, parent.children[index] ?? null);
  });
  for (const child of present.values()) child.remove();
}

/** 65 -> "1:05", 3700 -> "1:01:40". */
function clock(seconds) {
  const total = Math.max(0, Math.floor(Number(seconds) || 0));
  const two = (number) => String(number).padStart(2, "0");
  const hours = Math.floor(total / 3600);
  const minutes = Math.floor(total / 60) % 60;
  return hours ? `${hours}:${two(minutes)}:${two(total % 60)}` : `${minutes}:${two(total % 60)}`;
}

/** 93784 -> "1 d 2 h", 125 -> "2 min 5 s". */
function duration(seconds) {
  const total = Math.max(0, Math.floor(Number(seconds) || 0));
  const parts = [["d", 86400, Infinity], ["h", 3600, 24], ["min", 60, 60], ["s", 1, 60]]
    .map(([unit, size, wrap]) => [Math.floor(total / size) % wrap, unit])
    .filter(([count]) => count > 0);
  return parts.slice(0, 2).map(([count, unit]) => `${count} ${unit}`).join(" ") || "0 s";
}

// ------------------------------------------------------------------ rows

/** One row of a list: a light, a name, something at the right, a line of detail. */
function makeRow() {
  const row = make("li");
  const light = make("span", "light");
  light.setAttribute("aria-hidden", "true");
  row.append(light, make("span", "name"), make("span", "side"), make("span", "detail"));
  return row;
}

function fillRow(row, state, name, side, detail) {
  row.dataset.state = state;
  setText(row.querySelector(".name"), name);
  setText(row.querySelector(".side"), side);
  setText(row.querySelector(".detail"), detail);
}

const LINE_LIGHT = { registered: "good", registering: "busy", failed: "bad", stopped: "idle" };

function showLines(lines) {
  keep(byId("line-list"), lines, (line) => line.line_id, makeRow, (row, line) => {
    fillRow(row, LINE_LIGHT[line.state] ?? "idle", line.display_name || line.line_id, line.state, line.reason);
  });
  byId("no-lines").hidden = lines.length > 0;
}

function showCalls(status) {
  const calls = status.calls ?? [];
  const nameOf = new Map((status.lines ?? []).map((line) => [line.line_id, line.display_name || line.line_id]));
  keep(byId("call-list"), calls, (call) => call.call_id, makeRow, (row, call) => {
    const line = nameOf.get(call.line_id) ?? call.line_id;
    const detail = [call.state, line ? `line ${line}` : ""].filter(Boolean).join(" · ");
    fillRow(row, "good", call.caller || "unknown caller", clock(call.seconds), detail);
  });
  byId("no-calls").hidden = calls.length > 0;
  setText(byId("call-count"), `${status.active_calls ?? calls.length} of ${status.max_calls ?? "?"}`);
}

// ------------------------------------------------------------------ the rest

function showReadiness(state, text) {
  byId("readiness").dataset.state = state;
  setText(byId("readiness-text"), text);
}

function showAddress(uri) {
  const link = byId("sip-uri");
  setText(link, uri || "\u2026");
  // Only a SIP address becomes a link, whatever the server says.
  if (/^sips?:/i.test(uri)) link.href = uri;
  else link.removeAttribute("href");
  byId("copy").disabled = uri === "";
  byId("dial-hint").hidden = !/@(127\.|localhost|\[::1\])/.test(uri);
}

function showWarnings(warnings) {
  keep(byId("warning-list"), [...new Set(warnings)], (text) => text, () => make("li"), setText);
  byId("warnings").hidden = warnings.length === 0;
}

/** {name: "tiny.en", threads: 2} -> "tiny.en (threads 2)"; what is not a plain value is left out. */
function describe(model) {
  if (model === null || typeof model !== "object") return String(model ?? "not loaded");
  const { name, ...rest } = model;
  const plain = Object.entries(rest).filter(([, value]) => value !== "" && ["string", "number", "boolean"].includes(typeof value));
  const details = plain.map(([key, value]) => `${key.replaceAll("_", " ")} ${value}`).join(", ");
  return details ? `${name ?? ""} (${details})`.trim() : String(name ?? "not loaded");
}

const MODEL_TITLE = { whisper: "Speech to text", llm: "Language model", voice: "Voice" };

function showSystem(status) {
  const facts = Object.entries(status.models ?? {}).map(([role, model]) => [MODEL_TITLE[role] ?? role, describe(model)]);
  const pjsua2 = status.pjsua2 ?? {};
  const limit = pjsua2.call_limit ? `, at most ${pjsua2.call_limit} calls` : "";
  facts.push(["pjsua2", `${pjsua2.version ?? "?"}${limit}${pjsua2.note ? `. ${pjsua2.note}` : ""}`]);
  facts.push(["Version", status.version ?? "?"], ["Running for", duration(status.uptime)]);
  const cells = facts.flatMap(([title, text]) => [["dt", title, title], ["dd", title, text]]);
  keep(byId("system"), cells, ([tag, title]) => `${tag} ${title}`, ([tag]) => make(tag), (cell, [, , text]) => setText(cell, text));
}

function show(status) {
  showReadiness(status.ready ? "good" : "busy", status.ready ? "Ready for calls" : "Starting");
  showAddress(String(status.sip_uri ?? ""));
  showWarnings(status.warnings ?? []);
  showCalls(status);
  showLines(status.lines ?? []);
  showSystem(status);
}

// ------------------------------------------------------------------ loop

async function refresh() {
  try {
    const response = await fetch("api/status", { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT) });
    if (!response.ok) throw new Error(`status ${response.status}`);
    show(await response.json());
    byId("content").classList.remove("stale");
  } catch (error) {
    console.warn("api/status:", error);
    showReadiness("bad", "The server does not answer");
    byId("content").classList.add("stale");
  }
}

let timer = 0;

async function loop() {
  clearTimeout(timer);
  await refresh();
  clearTimeout(timer);
  timer = setTimeout(loop, document.hidden ? PERIOD_HIDDEN : PERIOD);
}

async function copyAddress() {
  const button = byId("copy");
  const link = byId("sip-uri");
  try {
    await navigator.clipboard.writeText(link.textContent);
    setText(button, "Copied");
  } catch {
    // Without a secure context there is no clipboard: select the text, so that the keyboard can copy it.
    getSelection().selectAllChildren(link);
    setText(button, "Selected: press Ctrl+C");
  }
  setTimeout(() => setText(button, "Copy"), 2000);
}

byId("copy").addEventListener("click", copyAddress);
document.addEventListener("visibilitychange", () => { if (!document.hidden) loop(); });
loop();
