// Two small charts as inline SVG. Each has a sentence for who cannot see it, and a table would say no more.

import { s } from "./dom.js";

const WIDTH = 720;
const HEIGHT = 220;
const LEFT = 52;
const RIGHT = 12;
const TOP = 12;
const BOTTOM = 26;

/** A round number at or above `value`, and the step of a grid with four lines. */
export function ceiling(value) {
  const wanted = Math.max(value, 1e-9);
  const power = 10 ** Math.floor(Math.log10(wanted));
  const top = [1, 2, 4, 5, 8, 10].map((factor) => factor * power).find((candidate) => candidate >= wanted * 0.9999);
  return { top, step: top / 4 };
}

/** The frame of a chart: grid, labels of both axes, and functions from figures to places. */
function frame({ from, to, highest, label, unit, whole = false }) {
  let { top, step } = ceiling(highest);
  if (whole && top < 4) [top, step] = [4, 1];
  const x = (at) => LEFT + (WIDTH - LEFT - RIGHT) * ((at - from) / (to - from || 1));
  const y = (value) => HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value / top);
  const chart = s("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label });
  for (let value = 0; value <= top * 1.001; value += step) {
    chart.append(s("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value) }),
      s("text", { x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, unit(value)));
  }
  const hours = (to - from) / 3600;
  const every = [1, 2, 3, 4, 6, 12, 24, 48, 96, 168].find((size) => hours / size <= 8) ?? 168;
  const first = new Date(from * 1000);
  first.setMinutes(0, 0, 0);
  for (let at = first.getTime() / 1000; at <= to; at += 3600) {
    const date = new Date(at * 1000);
    if (at < from || date.getHours() % Math.min(every, 24) !== 0) continue;
    if (every > 24 && date.getDate() % (every / 24) !== 0) continue;
    const text = every >= 24 ? date.toLocaleDateString([], { day: "numeric", month: "short" }) : date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    chart.append(s("text", { x: Math.min(WIDTH - 20, Math.max(LEFT, x(at))), y: HEIGHT - 6, "text-anchor": "middle" }, text));
  }
  return { chart, x, y };
}

/** Bars: `items` are `[{at, value}]`, each `width` seconds long. */
export function bars({ items, width, from, to, label, title }) {
  const highest = Math.max(1, ...items.map((item) => item.value));
  const { chart, x, y } = frame({ from, to, highest, label, whole: true, unit: (value) => String(Math.round(value)) });
  for (const { at, value } of items) {
    const left = Math.max(LEFT, x(at) + 1);
    const wide = Math.max(2, x(at + width) - 1 - left);
    chart.append(s("rect", { class: "bars", x: left, y: y(value), width: wide, height: Math.max(0, y(0) - y(value)), rx: Math.min(3, wide / 2) }, s("title", {}, title({ at, value }))));
  }
  return chart;
}

/** Lines: `series` are `[{name, points: [{at, value}]}]`; the name is the class that colours it. */
export function lines({ series, from, to, gap, label, unit }) {
  const highest = Math.max(...series.flatMap(({ points }) => points.map((point) => point.value)), 0.1);
  const { chart, x, y } = frame({ from, to, highest, label, unit });
  for (const { name, points } of series) {
    let path = "";
    let before = -Infinity;
    for (const { at, value } of points) {
      // A stretch without a turn is a gap, not a line that claims to know.
      path += `${at - before > gap ? "M" : "L"}${x(at).toFixed(1)} ${y(value).toFixed(1)}`;
      before = at;
    }
    chart.append(s("path", { class: name, d: path || "M0 0" }));
    chart.append(...points.map(({ at, value }) => s("circle", { class: name, cx: x(at), cy: y(value), r: points.length > 60 ? 1.5 : 3 }, s("title", {}, `${name} ${unit(value)}`))));
  }
  return chart;
}
