// A line of a conversation, and a turn's latency as a stacked bar: shown by several pages.

import { h, setText } from "./dom.js";
import { delay, PARTS } from "./format.js";

/** One line: who said it and what. `role` is "user" (the caller) or "assistant". */
export function said(role, text, { by = "", partial = false } = {}) {
  const name = by || (role === "assistant" ? "Assistant" : "Caller");
  return h("p", { class: `said ${role === "assistant" ? "assistant" : "caller"}${partial ? " partial" : ""}` },
    h("span", { class: "by" }, name), h("span", { class: "text" }, text));
}

/** Put another text into a line that `said` made. */
export const sayAgain = (line, text) => setText(line.querySelector(".text"), text);

/** What the assistant is saying, with one more phrase of it. */
export const sayingMore = (saying, phrase) => [saying, phrase].filter(Boolean).join(" ");

/** What it is still saying when `line` of it was said and is final: nothing, when it was interrupted there. */
export const stillSaying = (saying, line) =>
  (!line.interrupted && saying.startsWith(`${line.text} `) ? saying.slice(line.text.length + 1) : "");

/** A bar of a turn's parts, seconds by name, as long as its share of `longest` seconds. */
export function stacked(parts, longest, total) {
  const known = PARTS.filter(([name]) => parts[name] > 0);
  // Milliseconds, since shares that sum up to less than one would leave a part of the bar empty.
  const words = known.map(([name, label]) => `${label.toLowerCase()} ${delay(parts[name])}`).join(", ");
  const bar = h("span", { class: "stacked", role: "img", "aria-label": `Answered after ${delay(total)}: ${words}`, title: words });
  for (const [name] of known) {
    const part = h("span", { data: { part: name } });
    part.style.flexGrow = String(1000 * parts[name]);
    bar.append(part);
  }
  const rest = h("span", { class: "rest" });
  rest.style.flexGrow = String(1000 * Math.max(0, longest - total));
  bar.append(rest);
  return bar;
}

/** What the colours of `stacked` mean. */
export const legend = () => h("ul", { class: "legend", "aria-label": "Parts of the delay" },
  PARTS.map(([name, label, meaning]) => h("li", { title: meaning }, h("span", { class: "swatch", data: { part: name } }), label)));
