// One call of the history: the conversation with its times, where each answer's delay went, the recording.

import { get, path, post } from "./api.js";
import { confirmed, h, heading, icon, setText, toast } from "./dom.js";
import { on } from "./events.js";
import { callerOf, clock, delay, exactly, percent } from "./format.js";
import { legend, said, stacked } from "./said.js";

export const title = "Call";

export async function show(root, { argument, signal }) {
  const call = await get(path("calls", argument), { signal });
  const [name, address] = callerOf(call);
  const back = h("p", { class: "back" }, h("a", { href: "#/history" }, icon("back"), "History"));
  const forget = h("button", { class: "danger", onclick: forgetCaller }, "Forget this caller");
  const recording = call.has_recording ? player() : null;
  const { box, lines } = dialogue(call, recording);

  root.append(back, heading(name, forget), h("div", { class: "stack" },
    h("section", { class: "card", "aria-label": "About this call" }, facts()),
    recording && h("section", { class: "card" }, h("h2", {}, "Recording"), recording),
    h("section", { class: "card" }, h("h2", {}, "Conversation"),
      call.turns.length > 0 && [h("p", { class: "hint" }, "The bar above an answer shows what the caller waited for."), legend()], box),
    media(call.media)));
  if (recording) follow(recording, lines, signal);
  if (call.ended === null) on("ended", (event) => { if (event.call === call.id) dispatchEvent(new Event("hashchange")); }, signal);

  function facts() {
    const waits = call.turns.map((turn) => turn.total).sort((a, b) => a - b);
    const rows = [
      ["Caller", address || name],
      ["Called", `${call.called || "–"}${call.direction === "web" ? ", from the browser" : `, line ${call.line_id}`}`],
      ["Began", exactly(call.started)],
      ["Length", call.answered === null ? "not answered" : clock(call.seconds)],
      ["Ended", call.ended === null ? "still going on" : `${call.end_reason || "hung up"}${call.end_code && call.end_code !== 200 ? ` (${call.end_code})` : ""}`],
      ["Answers", waits.length ? `${waits.length}, half of them within ${delay(waits[Math.floor((waits.length - 1) / 2)])}, the slowest after ${delay(waits.at(-1))}` : "none"],
    ];
    const links = ["text", "vtt", "json"].map((format) => h("a", { class: "button quiet", download: `call-${call.id}.${format === "text" ? "txt" : format}`,
      href: `api/${path("calls", call.id, "transcript")}?format=${format}` }, { text: "Text", vtt: "Subtitles (WebVTT)", json: "JSON" }[format]));
    return [h("dl", { class: "facts" }, rows.map(([key, value]) => [h("dt", {}, key), h("dd", {}, value)])),
      call.words.length > 0 && h("div", { class: "actions", role: "group", "aria-label": "Download the transcript" }, h("span", { class: "muted" }, "Download:"), links)];
  }

  function player() {
    const audio = h("audio", { controls: true, preload: "metadata", src: `api/${path("calls", call.id, "recording")}` });
    audio.setAttribute("aria-label", "Recording of this call");
    return audio;
  }

  async function forgetCaller() {
    if (!await confirmed(`Forget ${name}? All calls, words, recordings and memories of this caller are removed for good.`, "Forget")) return;
    try {
      const gone = await post("callers/forget", { caller: call.caller });
      toast(`Forgotten: ${gone.calls} calls, ${gone.sessions} remembered conversations.`);
      location.hash = "#/history";
    } catch (error) {
      toast(error.message, "bad");
    }
  }
}

/** The conversation in order, each answer with its bar above it. */
function dialogue(call, recording) {
  const box = h("div", { class: "dialogue" });
  const lines = [];
  const longest = Math.max(...call.turns.map((turn) => turn.total), 0.001);
  // A turn's bar stands before the first answer that was said after it began.
  const turns = [...call.turns].sort((a, b) => a.at - b.at);
  for (const line of [...call.words].sort((a, b) => a.offset - b.offset || a.number - b.number)) {
    if (line.role === "assistant" && turns.length && turns[0].at <= line.at) {
      const turn = turns.shift();
      box.append(h("div", { class: "turn-time" }, stacked(turn.parts, longest, turn.total), h("span", { class: "number" }, delay(turn.total))));
    }
    const who = line.role === "assistant" ? "Assistant" : "Caller";
    const cut = line.interrupted ? " · interrupted" : "";
    const element = said(line.role, line.text, { by: recording ? `${who}${cut}` : `${who} · ${clock(line.offset)}${cut}` });
    if (recording) {
      const play = () => { recording.currentTime = line.offset; recording.play(); };
      element.querySelector(".by").append(h("button", { class: "from", "aria-label": `Play from ${clock(line.offset)}`, onclick: play }, `▸ ${clock(line.offset)}`));
    }
    lines.push({ element, offset: line.offset });
    box.append(element);
  }
  if (lines.length === 0) box.append(h("p", { class: "muted" }, "Nothing was said, or the words are no longer kept."));
  return { box, lines };
}

/** Mark the line that the recording is at. */
function follow(audio, lines, signal) {
  let marked = null;
  audio.addEventListener("timeupdate", () => {
    const now = lines.findLast((line) => line.offset <= audio.currentTime + 0.05)?.element ?? null;
    if (now === marked) return;
    marked?.classList.remove("now");
    marked?.removeAttribute("aria-current");
    now?.classList.add("now");
    now?.setAttribute("aria-current", "true");
    if (now && !audio.paused) now.scrollIntoView({ block: "nearest" });
    marked = now;
  }, { signal });
}

// ------------------------------------------------------------------ media statistics

const LABELS = { jitter_ms: "Jitter", rtt_ms: "Round trip time", codec: "Codec", lost: "Packets lost", packets_received: "Packets received", packets_sent: "Packets sent" };
const FIRST = Object.keys(LABELS);

function media(found) {
  if (!found || Object.keys(found).length === 0) return null;
  const plain = Object.entries(found).filter(([, value]) => ["number", "string", "boolean"].includes(typeof value))
    .sort(([a], [b]) => (FIRST.indexOf(a) + 1 || 99) - (FIRST.indexOf(b) + 1 || 99));
  const received = found.packets_received ?? 0;
  const rows = plain.map(([key, value]) => [LABELS[key] ?? words(key), figure(key, value)
    + (key === "lost" && received > 0 ? ` (${percent(Math.max(0, value) / (received + Math.max(0, value)))})` : "")]);
  const shown = (part) => h("dl", { class: "facts" }, part.map(([key, value]) => [h("dt", {}, key), h("dd", { class: "number" }, value)]));
  return h("section", { class: "card" }, h("h2", {}, "Line quality"), shown(rows.slice(0, 6)),
    rows.length > 6 && h("details", {}, h("summary", {}, "All figures"), shown(rows.slice(6))));
}

const words = (key) => { const text = key.replace(/_ms$/, "").replaceAll("_", " "); return text.charAt(0).toUpperCase() + text.slice(1); };

function figure(key, value) {
  if (typeof value !== "number") return String(value);
  const rounded = Number.isInteger(value) ? value : Number(value.toFixed(2));
  return key.endsWith("_ms") ? `${rounded} ms` : String(rounded);
}
