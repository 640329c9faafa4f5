// Live: every call as it happens. Fifty of them stay smooth: a card is made once for each call, an event touches the
// one text that changed, and levels are drawn once a frame whatever their rate.

import { get, path, post } from "./api.js";
import { empty, h, heading, icon, keep, setText, toast } from "./dom.js";
import { on } from "./events.js";
import { callerOf, clock, delay } from "./format.js";
import { openDialler } from "./dialler.js";
import { said, sayAgain, sayingMore, stillSaying } from "./said.js";
import { inNextFrame, repeat } from "./state.js";

export const title = "Live calls";

/** Lines kept in a card; the whole conversation is in the history. */
const MOST_LINES = 12;
const FLOOR = -60;

const STATE_WORDS = {
  waiting: "being connected", listening: "listening", hearing: "caller speaks", pausing: "caller pauses", thinking: "thinking",
  speaking: "assistant speaks", interrupting: "both speak", transferring: "connecting the caller", holding: "caller on hold", closing: "saying goodbye", ringing: "ringing",
};

/** dBFS -> 0...1, for a meter from -60 dBFS to full scale. */
export const meterShare = (level) => Math.min(1, Math.max(0, (level - FLOOR) / -FLOOR));

/** A meter; its figure is for eyes only, a screen reader reads the state and the words. */
export function meter(label) {
  const fill = h("span", {});
  return { row: [h("span", { "aria-hidden": "true" }, label), h("div", { class: "meter", "aria-hidden": "true" }, fill)], fill };
}

export async function show(root, { signal }) {
  const calls = new Map();
  const list = h("div", { class: "live-calls", role: "list", "aria-label": "Calls going on" });
  const nothing = h("section", { class: "card", hidden: true },
    empty("Nobody is on the phone", "A call appears here the moment it rings.", h("a", { class: "button", href: "#/talk" }, "Try it from this browser")));
  const problem = h("p", { class: "error", role: "alert" });
  const number = h("p", { class: "muted", role: "status" });
  root.append(heading("Live calls", number, h("button", { class: "quiet", id: "place-call", onclick: openDialler }, icon("clients"), "Place a call")), problem, list, nothing);

  const drawLevels = inNextFrame(() => {
    for (const call of calls.values()) {
      if (!call.levels || !call.view) continue;
      call.view.caller.style.transform = `scaleX(${meterShare(call.levels.in)})`;
      call.view.assistant.style.transform = `scaleX(${meterShare(call.levels.out)})`;
      call.levels = null;
    }
  }, signal);

  const draw = inNextFrame(() => {
    keep(list, [...calls.values()], (call) => call.call_id, makeCard, fillCard);
    nothing.hidden = calls.size > 0;
    setText(number, calls.size ? (calls.size === 1 ? "1 call" : `${calls.size} calls`) : "");
  }, signal);

  async function load() {
    try {
      const live = (await get("live", { signal })).calls;
      const ids = new Set(live.map((call) => call.call_id));
      for (const id of calls.keys()) if (!ids.has(id)) calls.delete(id);
      for (const call of live) note(call.call_id, { ...call, levels: { in: call.level_in, out: call.level_out } });
      setText(problem, "");
      draw();
      drawLevels();
    } catch (error) {
      if (!signal.aborted) setText(problem, error.message);
    }
  }

  function note(id, facts) {
    const known = calls.get(id);
    if (known) return Object.assign(known, facts);
    const call = { call_id: id, view: null, lines: [], heard: "", spoken: "", reading: true, ...facts };
    // Its length is counted from here: the server's and this machine's clock need not agree.
    call.zero = performance.now() - 1000 * (facts.seconds ?? 0);
    calls.set(id, call);
    readWords(call);
    return call;
  }

  /** What was said before this page was opened. */
  async function readWords(call) {
    const before = [];
    try {
      if (call.id !== null && (call.seconds ?? 0) > 1) before.push(...(await get(path("calls", call.id), { signal })).words);
    } catch { /* the words from now on are shown all the same */ }
    const known = new Set(call.lines.map((line) => `${line.role} ${line.at}`));
    call.lines.unshift(...before.filter((line) => !known.has(`${line.role} ${line.at}`)));
    call.reading = false;
    drawWords(call);
  }

  function makeCard(call) {
    const caller = meter("Caller");
    const assistant = meter("Assistant");
    const view = {
      who: h("h2", { class: "who" }), about: h("p", { class: "hint break" }), clock: h("span", { class: "clock" }),
      state: h("span", { class: "muted" }), turn: h("span", { class: "muted number" }),
      words: h("div", { class: "words", role: "log", "aria-label": "What is being said", tabindex: "0" }),
      caller: caller.fill, assistant: assistant.fill,
      end: h("button", { class: "danger", onclick: () => hangUp(call) }, "Hang up"),
    };
    call.view = view;
    const card = h("div", { class: "card live-call", role: "listitem" },
      h("header", {}, h("div", {}, view.who, view.about), view.clock),
      h("div", { class: "meters" }, caller.row, assistant.row),
      view.words,
      h("footer", {}, h("div", {}, view.state, h("br"), view.turn), view.end));
    drawWords(call);
    return card;
  }

  function fillCard(card, call) {
    const { view } = call;
    const [name, address] = callerOf(call);
    setText(view.who, name);
    setText(view.about, [address, { web: "from the browser", out: `called from ${call.line_id}` }[call.direction] ?? `line ${call.line_id}`].filter(Boolean).join(" · "));
    setText(view.state, STATE_WORDS[call.state] ?? String(call.state ?? ""));
    setText(view.turn, Number.isFinite(call.last_turn) ? `last answer after ${delay(call.last_turn)}` : "");
    setText(view.clock, clock((performance.now() - call.zero) / 1000));
    view.end.setAttribute("aria-label", `Hang up ${name}`);
    // One conversation is read aloud as it goes; several at once would be noise.
    const live = calls.size > 1 ? "off" : "polite";
    if (view.words.getAttribute("aria-live") !== live) view.words.setAttribute("aria-live", live);
  }

  function drawWords(call) {
    if (!call.view) return;
    const lines = call.lines.slice(-MOST_LINES).map((line) => ({ key: `${line.role} ${line.at}`, ...line }));
    if (call.heard) lines.push({ key: "heard", role: "user", text: call.heard, partial: true });
    if (call.spoken) lines.push({ key: "spoken", role: "assistant", text: call.spoken, partial: true });
    const box = call.view.words;
    const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
    keep(box, lines, (line) => `${line.key} ${line.role}`, (line) => said(line.role, line.text, { partial: line.partial }), (element, line) => sayAgain(element, line.text));
    if (atEnd) box.scrollTop = box.scrollHeight;
  }

  async function hangUp(call) {
    call.view.end.disabled = true;
    try {
      await post(path("calls", call.call_id, "hangup"));
    } catch (error) {
      toast(error.message, "bad");
      call.view.end.disabled = false;
    }
  }

  /** A handler for events of calls that are known; an unknown call means that something was missed. */
  const known = (handler) => (event) => {
    const call = calls.get(event.call_id);
    if (call) handler(call, event);
    else load();
  };

  const handlers = {
    ringing: (event) => { note(event.call_id, { ...event, id: event.call, started: event.at, state: "ringing", seconds: 0 }); draw(); },
    answered: known((call, event) => { Object.assign(call, { id: event.call, answered: event.at }); draw(); }),
    moved: known((call, event) => { Object.assign(call, { caller: event.caller, caller_name: event.caller_name }); draw(); }),
    state: known((call, event) => {
      call.state = event.state;
      if (event.state === "listening") call.heard = "";
      draw();
    }),
    hearing: known((call, event) => { call.heard = event.text; drawWords(call); }),
    speaking: known((call, event) => { call.spoken = sayingMore(call.spoken, event.text); drawWords(call); }),
    // A turn becomes final with the first sound of its answer, so the words of both may be on their way.
    words: known((call, event) => {
      if (event.role === "user") call.heard = "";
      else call.spoken = stillSaying(call.spoken, event);
      call.lines.push({ role: event.role, text: event.text, at: event.at });
      if (!call.reading) call.lines.splice(0, call.lines.length - MOST_LINES);
      drawWords(call);
    }),
    turn: known((call, event) => { call.last_turn = event.total; draw(); }),
    levels: ({ calls: levels = [] }) => {
      for (const one of levels) if (calls.has(one.call_id)) calls.get(one.call_id).levels = one;
      drawLevels();
    },
    ended: (event) => { calls.delete(event.call_id); draw(); },
    connected: load,
    reset: load,
  };
  for (const [type, handler] of Object.entries(handlers)) on(type, handler, signal);
  repeat(draw, 1000, signal);
  repeat(load, 15000, signal);
  await load();
}
