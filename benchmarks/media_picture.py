"""Pictures of the media benchmarks: horizontal bars and line charts as SVG, without a plotting library.

Text and lines have the colour of the page around them (``currentColor``), so that a picture can be read on a light
page and on a dark one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

WIDTH = 760
COLOURS = ("#2a78c8", "#d1495b", "#edae49", "#66a182", "#8d6a9f", "#7f7f7f", "#b0724e")
Curve = Sequence[tuple[float, float]]


def _page(height: float, title: str, body: Sequence[str]) -> str:
    style = "font-family:sans-serif;font-size:12px;fill:currentColor"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" style="color:#555;{style}">'
    return "\n".join([head, f'<text x="8" y="20" font-size="15">{escape(title)}</text>', *body, "</svg>", ""])


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def bars(
    path: Path,
    title: str,
    groups: Mapping[str, Mapping[str, float | None]],
    unit: str,
    missing: str = "missing",
) -> None:
    """A group of bars for each thing measured, a bar for each peer; for None the word for what is missing."""
    most = max((v for group in groups.values() for v in group.values() if v is not None), default=1.0) or 1.0
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    y, body = 38.0, []
    for what, group in groups.items():
        body.append(f'<text x="8" y="{y + 11:.0f}">{escape(what)}</text>')
        y += 17
        for name, value in group.items():
            colour = COLOURS[names.index(name) % len(COLOURS)]
            long = 0.0 if value is None else max(1.0, 400.0 * value / most)
            said = missing if value is None else f"{_number(value)} {unit}"
            body += [
                f'<text x="170" y="{y + 11:.0f}" text-anchor="end">{escape(name)}</text>',
                f'<rect x="178" y="{y + 1:.0f}" width="{long:.1f}" height="12" fill="{colour}"/>',
                f'<text x="{184 + long:.0f}" y="{y + 11:.0f}">{escape(said)}</text>',
            ]
            y += 16
        y += 8
    path.parent.mkdir(exist_ok=True)
    path.write_text(_page(y + 4, title, body), encoding="utf-8")


def lines(path: Path, title: str, curves: Mapping[str, Curve], x_label: str, y_label: str) -> None:
    """One curve for each name, on common linear axes."""
    points = [p for curve in curves.values() for p in curve]
    low_x, high_x = min(p[0] for p in points), max(p[0] for p in points)
    low_y, high_y = min(p[1] for p in points), max(p[1] for p in points)
    step = 10 ** math.floor(math.log10(max(high_y - low_y, 1e-9)))
    step = step / 2 if (high_y - low_y) / step < 4 else step
    low_y, high_y = math.floor(low_y / step) * step, math.ceil(high_y / step) * step
    left, top, wide, tall = 60.0, 36.0, WIDTH - 230.0, 260.0

    def place(x: float, y: float) -> tuple[float, float]:
        return left + wide * (x - low_x) / (high_x - low_x or 1), top + tall * (high_y - y) / (high_y - low_y or 1)

    body = []
    for i in range(round((high_y - low_y) / step) + 1):
        x, y = place(low_x, low_y + i * step)
        body.append(f'<path d="M{x:.1f} {y:.1f}h{wide:.0f}" stroke="currentColor" stroke-opacity="0.2"/>')
        body.append(f'<text x="{left - 6:.0f}" y="{y + 4:.1f}" text-anchor="end">{low_y + i * step:g}</text>')
    for i in range(5):
        x, y = place(low_x + (high_x - low_x) * i / 4, low_y)
        label = low_x + (high_x - low_x) * i / 4
        body.append(f'<text x="{x:.1f}" y="{y + 16:.1f}" text-anchor="middle">{label:g}</text>')
    for i, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[i % len(COLOURS)]
        track = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*p) for p in curve))
        body.append(f'<polyline points="{track}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        y = top + 12 + 18 * i
        body.append(f'<rect x="{left + wide + 12:.0f}" y="{y - 9:.0f}" width="12" height="10" fill="{colour}"/>')
        body.append(f'<text x="{left + wide + 30:.0f}" y="{y:.0f}">{escape(name)}</text>')
    body.append(
        f'<text x="{left + wide / 2:.0f}" y="{top + tall + 34:.0f}" text-anchor="middle">{escape(x_label)}</text>'
    )
    body.append(f'<text x="8" y="{top - 4:.0f}" font-size="11">{escape(y_label)}</text>')
    path.parent.mkdir(exist_ok=True)
    path.write_text(_page(top + tall + 44, title, body), encoding="utf-8")
