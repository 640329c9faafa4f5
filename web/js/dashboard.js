// Dashboard: what an owner wants to know at a glance, and what is worth acting on.

import { get } from "./api.js";
import { bars, lines } from "./chart.js";
import { field, h, heading, keep, light, setText } from "./dom.js";
import { on } from "./events.js";
import { count, delay, duration, PARTS, when } from "./format.js";
import { describe as describeClient } from "./clients.js";
import { legend, stacked } from "./said.js";
import { onStatus, repeat } from "./state.js";

export const title = "Dashboard";

const RANGES = [["24", "Last 24 hours"], ["168", "Last 7 days"], ["744", "Last 31 days"]];
const MODEL_TITLE = { whisper: "Speech to text", llm: "Language model", voice: "Voice" };
let hours = "24";

export async function show(root, { signal }) {
  const range = field({ label: "Time shown", name: "hours", value: hours, options: RANGES, onchange: (event) => { hours = event.target.value; load(); } });
  range.firstChild.className = "visually-hidden";
  const problem = h("p", { class: "error", role: "alert" });
  const warnings = h("ul", { class: "warnings" });
  const warn = h("section", { class: "card", hidden: true }, h("h2", {}, "Worth your attention"), warnings);
  const tiles = h("div", { class: "tiles" });
  const perHour = h("div", {});
  const latency = h("div", {});
  const parts = h("div", {});
  const system = h("dl", { class: "facts" });
  const clients = h("ul", { class: "clients" });
  const linesCard = h("section", { class: "card" }, h("h2", {}, "SIP clients"), clients);
  root.append(heading("Dashboard", range), h("div", { class: "stack" }, problem, warn, tiles,
    h("section", { class: "card" }, h("h2", {}, "Calls"), perHour),
    h("section", { class: "card" }, h("h2", {}, "How long callers wait for an answer"), h("p", { class: "hint" }, "From the caller's last sound to the first sound of the answer, on the wire."), latency),
    h("section", { class: "card" }, h("h2", {}, "Where the delay goes"), parts),
    linesCard,
    h("section", { class: "card" }, h("h2", {}, "Models and limits"), system)));

  async function load() {
    try {
      const found = await get(`dashboard?hours=${hours}`, { signal });
      setText(problem, "");
      draw(found);
    } catch (error) {
      if (!signal.aborted) setText(problem, error.message);
    }
  }

  function draw(found) {
    showWarnings(found.warnings);
    const calls = found.hours.reduce((sum, hour) => sum + hour.calls, 0);
    const answered = found.hours.reduce((sum, hour) => sum + hour.answered, 0);
    const talked = found.hours.reduce((sum, hour) => sum + hour.seconds, 0);
    const figures = [
      ["Calls now", `${found.active_calls} of ${found.max_calls}`, found.active_calls >= found.max_calls ? "No room for another" : ""],
      ["Calls", String(calls), `${answered} answered, ${duration(talked)} in all`],
      ["Typical wait", found.latency ? delay(found.latency.p50) : "–", found.latency ? `95 of 100 within ${delay(found.latency.p95)}, 99 within ${delay(found.latency.p99)}` : "no turn yet"],
      ["Talked over", found.turns ? `${Math.round((100 * found.interrupted) / found.turns)} %` : "–", `of ${count(found.turns, "answer")}`],
    ];
    if (found.load.length) figures.push(["Load", found.load[0].toFixed(1), `on ${count(found.cores, "core")}`]);
    keep(tiles, figures, ([name]) => name, makeTile, fillTile);

    const to = Date.now() / 1000;
    const since = Math.min(found.since, to - 3600);
    perHour.replaceChildren(bars({ items: found.hours.map((hour) => ({ at: hour.at, value: hour.calls })), width: 3600, from: since, to,
      label: `Calls per hour: ${calls} in all.`, title: ({ at, value }) => `${when(at)}: ${count(value, "call")}` }));
    if (found.points.length === 0) latency.replaceChildren(h("p", { class: "muted" }, "No answer was measured in this time."));
    else {
      const gap = (3 * (to - since)) / 24;
      const series = ["p50", "p95", "p99"].map((name) => ({ name, points: found.points.map((point) => ({ at: point.at, value: point[name] })) }));
      latency.replaceChildren(
        h("ul", { class: "legend" }, h("li", {}, h("span", { class: "key" }), "half of the answers (p50)"), h("li", {}, h("span", { class: "key p95" }), "95 of 100 (p95)"), h("li", {}, h("span", { class: "key p99" }), "99 of 100 (p99)")),
        lines({ series, from: since, to, gap, unit: delay, label: `Delay over time. Now half within ${delay(found.points.at(-1).p50)}, 95 of 100 within ${delay(found.points.at(-1).p95)}, 99 within ${delay(found.points.at(-1).p99)}.` }));
    }
    drawParts(found.parts);
    drawClients(found.lines);
    drawSystem(found);
  }

  function showWarnings(texts) {
    keep(warnings, [...new Set(texts)], (text) => text, () => h("li"), setText);
    warn.hidden = texts.length === 0;
  }

  function drawParts(found) {
    const known = PARTS.filter(([name]) => found?.[name]);
    if (known.length === 0) return parts.replaceChildren(h("p", { class: "muted" }, "No answer was measured in this time."));
    const median = Object.fromEntries(known.map(([name]) => [name, found[name].p50]));
    const sum = Object.values(median).reduce((a, b) => a + b, 0);
    const rows = known.map(([name, label, meaning]) => h("tr", {}, h("td", {}, label, h("p", { class: "hint" }, meaning)), h("td", { class: "number" }, delay(found[name].p50)), h("td", { class: "number" }, delay(found[name].p95)), h("td", { class: "number" }, delay(found[name].p99))));
    return parts.replaceChildren(stacked(median, sum, sum), legend(), h("div", { class: "table-wrap", tabindex: "0", role: "region", "aria-label": "Parts of the delay" }, h("table", {},
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Part"), h("th", { scope: "col" }, "Typical"), h("th", { scope: "col" }, "95 of 100"), h("th", { scope: "col" }, "99 of 100"))), h("tbody", {}, rows))));
  }

  function drawClients(found) {
    linesCard.hidden = found.length === 0;
    keep(clients, found, (client) => client.client_id,
      () => h("li", {}, light(), h("span", { class: "name" }), h("span", { class: "state" })),
      (row, client) => {
        const [colour, words] = describeClient(client);
        row.dataset.light = colour;
        setText(row.querySelector(".name"), client.display_name || client.client_id);
        setText(row.querySelector(".state"), words);
      });
  }

  function drawSystem(found) {
    const facts = Object.entries(found.models ?? {}).map(([role, model]) => [MODEL_TITLE[role] ?? role, describe(model)]);
    const pjsua2 = found.pjsua2;
    if (pjsua2) facts.push(["pjsua2", `${pjsua2.version ?? "?"}${pjsua2.call_limit ? `, at most ${pjsua2.call_limit} calls` : ""}${pjsua2.note ? `. ${pjsua2.note}` : ""}`]);
    keep(system, facts.flatMap(([name, text]) => [["dt", name, name], ["dd", name, text]]), ([tag, name]) => `${tag} ${name}`, ([tag]) => h(tag), (cell, [, , text]) => setText(cell, text));
  }

  for (const type of ["ringing", "ended", "turn", "registration"]) on(type, soon, signal);
  let timer = 0;
  function soon() { timer ||= setTimeout(() => { timer = 0; load(); }, 1000); }
  signal.addEventListener("abort", () => clearTimeout(timer));
  onStatus((status) => showWarnings(status.warnings ?? []), signal);
  repeat(load, 20000, signal);
  await load();
}

const makeTile = () => h("div", { class: "tile" }, h("p", { class: "name" }), h("p", { class: "value" }), h("p", { class: "detail" }));

function fillTile(tile, texts) {
  [...tile.children].forEach((element, index) => setText(element, texts[index]));
}

/** {name: "tiny.en", threads: 2} -> "tiny.en (threads 2)"; what is no plain value is left out. */
export function describe(model) {
  if (model === null || typeof model !== "object") return String(model ?? "not loaded");
  const { name, file, ...rest } = model;
  const plain = Object.entries(rest).filter(([, value]) => value !== "" && ["string", "number"].includes(typeof value));
  const details = plain.slice(0, 4).map(([key, value]) => `${key.replaceAll("_", " ")} ${typeof value === "number" && !Number.isInteger(value) ? value.toFixed(2) : value}`).join(", ");
  const called = name ?? file ?? "";
  return details ? `${called} (${details})`.trim() : String(called || "not loaded");
}

