// History: all calls, the latest first, found by what was said, who called and on which line.

import { get, query } from "./api.js";
import { empty, field, h, heading, keep, setText } from "./dom.js";
import { on } from "./events.js";
import { callerOf, clock, exactly, when } from "./format.js";

export const title = "History";

const PAGE = 50;
const PAUSE = 250;

/** What the owner looked for last: it is there again when they come back from a call. */
const asked = { text: "", line: "" };

export async function show(root, { signal }) {
  let calls = [];
  let next = null;
  let latest = 0;
  const list = h("ul", { class: "calls" });
  const card = h("section", { class: "card", "aria-label": "Calls" }, list);
  const nothing = h("section", { class: "card", hidden: true });
  const problem = h("p", { class: "error", role: "alert" });
  const found = h("p", { class: "visually-hidden", role: "status" });
  const more = h("button", { class: "quiet", hidden: true, onclick: () => load(true) }, "Older calls");
  const lines = [["", "All lines"], ["direct", "direct"]];
  const text = field({ label: "Search", name: "text", type: "search", value: asked.text, placeholder: "A word that was said, a name or a number", maxlength: "200" });
  const line = field({ label: "Line", name: "line", value: asked.line, options: lines });
  const form = h("form", { class: "search", role: "search", onsubmit: (event) => { event.preventDefault(); load(); } }, text, line, h("button", { class: "quiet" }, "Search"));
  root.append(heading("History"), form, problem, found, card, nothing, h("p", { class: "actions" }, more));

  let waiting = 0;
  form.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(load, PAUSE); });
  signal.addEventListener("abort", () => clearTimeout(waiting));

  async function load(older = false) {
    const mine = ++latest;
    asked.text = form.elements.text.value.trim();
    asked.line = form.elements.line.value;
    try {
      const answer = await get(`calls${query({ ...asked, limit: PAGE, before: older === true ? next : "" })}`, { signal });
      // An answer that a later question has overtaken is not shown.
      if (mine !== latest) return;
      calls = older === true ? [...calls, ...answer.calls] : answer.calls;
      next = answer.next;
      setText(problem, "");
      draw();
    } catch (error) {
      if (!signal.aborted && mine === latest) setText(problem, error.message);
    }
  }

  function draw() {
    card.hidden = calls.length === 0;
    nothing.hidden = calls.length > 0;
    more.hidden = next === null;
    const searched = asked.text || asked.line;
    nothing.replaceChildren(searched ? empty("Nothing found", "No call fits this search.")
      : empty("No calls yet", "Every call is kept here with what was said and how long each answer took.", h("a", { class: "button", href: "#/talk" }, "Make the first call")));
    setText(found, `${calls.length}${next === null ? "" : " and more"} calls found`);
    keep(list, calls, (call) => call.id, makeRow, fillRow);
  }

  function makeRow(call) {
    return h("li", {}, h("a", { href: `#/call/${encodeURIComponent(call.id)}` },
      h("span", { class: "who" }), h("time", { class: "side" }), h("span", { class: "detail" }), h("span", { class: "side muted" })));
  }

  function fillRow(row, call) {
    const [who, time, detail, length] = row.firstChild.children;
    const [name, address] = callerOf(call);
    setText(who, name);
    setText(time, when(call.started));
    time.title = exactly(call.started);
    const by = { web: "from the browser", out: `called from ${call.line_id}` }[call.direction] ?? `line ${call.line_id}`;
    const how = call.ended === null ? "going on" : call.answered === null ? (call.end_reason || "not answered") : "";
    setText(detail, [address, by, how, call.has_recording ? "recorded" : ""].filter(Boolean).join(" · "));
    setText(length, call.answered === null ? "–" : clock(call.seconds));
  }

  on("ended", () => { if (calls.length <= PAGE) load(); }, signal);
  get("sip-clients", { signal }).then(({ sip_clients: clients }) => {
    form.elements.line.append(...clients.map((one) => h("option", { value: one.client_id, selected: one.client_id === asked.line }, one.display_name || one.client_id)));
  }, () => {});
  await load();
}
