// Talk now: a call from this browser. It goes the way of every other call; this page only adds the microphone, the
// loudspeaker and a picture of where each part of the delay goes.

import { AudioLink, TalkError } from "./audio-link.js";
import { h, heading, icon, keep, setText } from "./dom.js";
import { on } from "./events.js";
import { delay, PARTS } from "./format.js";
import { meter, meterShare } from "./live.js";
import { said, sayAgain, sayingMore, stillSaying } from "./said.js";
import { inNextFrame } from "./state.js";

export const title = "Talk now";

const STATE_WORDS = {
  waiting: "Connecting", listening: "It listens. Say something.", hearing: "It hears you", pausing: "Did you finish?", thinking: "It thinks",
  speaking: "It speaks. You may interrupt.", interrupting: "You both speak", transferring: "It connects you", holding: "You are on hold", closing: "It says goodbye",
};
/** What the browser adds to a turn, measured from microphone to loudspeaker, is believed up to this (seconds). */
const BELIEVED = 1;
const BROWSER = ["browser", "Browser", "microphone, network, jitter buffer and loudspeaker"];

export async function show(root, { signal }) {
  let link = null;
  let callId = null;
  let lines = [];
  let heard = "";
  let spoken = "";
  let turns = 0;
  let onset = null;
  let turn = null;

  const orb = h("div", { class: "orb", "aria-hidden": "true" }, icon("talk"));
  const state = h("p", { class: "lead", role: "status" }, "Talk to the assistant with this computer's microphone");
  const problem = h("p", { class: "error", role: "alert" });
  const button = h("button", { class: "big", id: "talk-button", onclick: () => (link ? hangUp() : call()) }, "Start talking");
  const mine = meter("You");
  const its = meter("Assistant");
  const meters = h("div", { class: "meters" }, mine.row, its.row);
  const words = h("div", { class: "words", role: "log", "aria-label": "What is being said", tabindex: "0" });
  const list = h("ul", { class: "delays" });
  const hint = h("p", { class: "hint" }, "Each answer shows here what you waited for.");
  const buffer = h("p", { class: "hint number" });
  const later = h("p", {});
  const talked = h("section", { class: "card", hidden: true }, h("h2", {}, "What is said"), words, later);
  root.append(heading("Talk now"), h("div", { class: "stack" },
    h("section", { class: "card talk", "aria-label": "Call" }, orb, state, button, problem, meters, h("p", { class: "hint" }, "Headphones work best. The call is kept in the history like every other.")),
    talked,
    h("section", { class: "card" }, h("h2", {}, "Where the delay goes"), hint, list, buffer)));
  meters.hidden = true;

  async function call() {
    setText(problem, "");
    button.disabled = true;
    setText(state, "Connecting");
    lines = []; heard = spoken = ""; turns = 0; turn = null; onset = null;
    drawWords();
    drawTurn();
    later.replaceChildren();
    const mineNow = new AudioLink((name, value) => { if (link === mineNow) handlers[name]?.(value); });
    link = mineNow;
    try {
      await mineNow.start();
    } catch (error) {
      link = null;
      idle("Talk to the assistant with this computer's microphone");
      setText(problem, error instanceof TalkError ? error.message : `The call could not be made: ${error.message}`);
      return;
    }
    if (signal.aborted) { mineNow.stop(); return; }
    button.disabled = false;
    button.classList.add("danger");
    setText(button, "Hang up");
    meters.hidden = false;
    talked.hidden = false;
  }

  function hangUp() {
    link?.stop();
    over("You hung up.");
  }

  function over(text) {
    link = null;
    idle(text);
    later.replaceChildren(h("a", { href: "#/history" }, "See it in the history"));
  }

  function idle(text) {
    setText(state, text);
    setText(button, "Start talking");
    button.classList.remove("danger");
    button.disabled = false;
    meters.hidden = true;
    orb.style.setProperty("--level", "0");
  }

  const drawLevels = inNextFrame(() => {
    if (!link) return;
    const { microphone, loudspeaker } = link.levels;
    mine.fill.style.transform = `scaleX(${meterShare(microphone)})`;
    its.fill.style.transform = `scaleX(${meterShare(loudspeaker)})`;
    orb.style.setProperty("--level", meterShare(Math.max(microphone, loudspeaker)).toFixed(3));
    setText(buffer, `The browser's jitter buffer holds ${delay(Math.round(50 * link.depth) / 50)}; ${link.gaps} gaps${link.dropped ? `, ${link.dropped} frames dropped` : ""}.`);
  }, signal);

  const handlers = {
    started: (id) => { callId = id; setText(state, STATE_WORDS.waiting); },
    ended: (reason) => over(`The call is over${reason ? `: ${reason}` : ""}.`),
    levels: drawLevels,
    onset: (waited) => { onset = { waited, at: performance.now() }; addBrowser(); },
  };

  /** The turn's event and the sound of the answer come at nearly the same time, in either order. */
  function addBrowser() {
    if (!turn || !onset || turn.browser !== null || Math.abs(turn.at - onset.at) > 1500) return;
    const rest = onset.waited - turn.total;
    turn.browser = rest > 0 && rest < BELIEVED ? rest : (link?.depth ?? 0) + (link?.outputLatency ?? 0) + 0.02;
    onset = null;
    drawTurn();
  }

  function drawTurn() {
    hint.hidden = turn !== null;
    const rows = !turn ? [] : [...PARTS, ...(turn.browser === null ? [] : [BROWSER])].map(([name, label, meaning]) => ({ name, label, meaning, value: name === "browser" ? turn.browser : turn.parts[name] ?? 0 }));
    const total = rows.reduce((sum, row) => sum + row.value, 0);
    if (turn) rows.push({ name: "sum", label: `Answer ${turns}`, meaning: "from your last sound to its first", value: total });
    keep(list, rows, (row) => row.name, (row) => h("li", { class: row.name === "sum" ? "sum" : "", title: row.meaning },
      h("span", {}), h("span", { class: "track" }, row.name === "sum" ? null : h("span", { data: { part: row.name } })), h("span", { class: "number" })), (element, row) => {
      const [label, track, number] = element.children;
      setText(label, row.label);
      setText(number, delay(row.value));
      if (track.firstChild) track.firstChild.style.width = `${total ? (100 * row.value) / total : 0}%`;
    });
  }

  function drawWords() {
    const shown = lines.map((line, index) => ({ ...line, key: index }));
    if (heard) shown.push({ role: "user", text: heard, key: "heard", partial: true });
    if (spoken) shown.push({ role: "assistant", text: spoken, key: "spoken", partial: true });
    keep(words, shown, (line) => `${line.key} ${line.role}`, (line) => said(line.role, line.text, { by: line.role === "assistant" ? "Assistant" : "You", partial: line.partial }), (element, line) => sayAgain(element, line.text));
    words.scrollTop = words.scrollHeight;
  }

  const mineOnly = (handler) => (event) => { if (link && event.call_id === callId) handler(event); };
  on("state", mineOnly((event) => {
    setText(state, STATE_WORDS[event.state] ?? event.state);
    if (event.state === "listening") heard = "";
  }), signal);
  on("hearing", mineOnly((event) => { heard = event.text; drawWords(); }), signal);
  on("speaking", mineOnly((event) => { spoken = sayingMore(spoken, event.text); drawWords(); }), signal);
  // A turn becomes final with the first sound of its answer, so the words of both may be on their way.
  on("words", mineOnly((event) => {
    if (event.role === "user") heard = "";
    else spoken = stillSaying(spoken, event);
    lines.push({ role: event.role, text: event.text });
    drawWords();
  }), signal);
  on("turn", mineOnly((event) => {
    turns += 1;
    turn = { parts: event.parts, total: event.total, browser: null, at: performance.now() };
    drawTurn();
    addBrowser();
  }), signal);
  // Without its sound (muted, or the sound came with the greeting) the turn is shown with what the server measured.
  signal.addEventListener("abort", () => { link?.stop(); link = null; });
}
