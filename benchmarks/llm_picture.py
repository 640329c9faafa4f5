"""The picture of ``llm_curves``: three panels below each other, to be read on a telephone as well.

Text and lines have one grey that can be read on a light page and on a dark one; the ground is the page's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

Curve = Mapping[str, Sequence[float]]

FIGURES = (
    ("tokens_s", "tokens a second, all calls together"),
    ("first_p95_s", "time to the first token, p95, seconds"),
    ("gap_p95_s", "pause between tokens, p95, seconds"),
)
COLOURS = {"ours": "#2a78c8", "locked": "#d1495b"}
NAMES = {"ours": "one batch (ours)", "locked": "Llama under a lock"}
WIDTH, HEIGHT, LEFT = 420, 150, 58
"""Of the page and of a panel's field, and the room for its labels; CSS pixels at full size."""
_PANEL = HEIGHT + 62


def ticks(most: float) -> list[float]:
    """From 0 to at least ``most`` in 2 to 5 round steps."""
    rough = most / 4 if most > 0 else 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * (1 - 1e-9))
    return [step * number for number in range(math.ceil(most / step - 1e-9) + 1)] if most > 0 else [0.0, 1.0]


def svg(curves: Mapping[str, Curve], numbers: Sequence[int], note: str) -> str:
    """The whole picture."""
    tall = 64 + len(FIGURES) * _PANEL
    lines = note.split("; ")
    title = "One language model from 1 to 16 calls at once"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {tall + 18 * len(lines)}" role="img" '
        'style="color:#777;font-family:sans-serif;font-size:15px;fill:currentColor">',
        f"<title>{escape(title)}: ours beside a lock around the model</title>",
    ]
    for index, who in enumerate(curves):
        y = 20 + 22 * index
        parts.append(f'<path d="M8 {y - 5}h28" stroke="{COLOURS[who]}" stroke-width="4"/>')
        parts.append(f'<text x="44" y="{y}">{escape(NAMES[who])}</text>')
    for panel, (name, heading) in enumerate(FIGURES):
        parts += _panel(86 + panel * _PANEL, name, heading, curves, numbers)
    parts.append(f'<text x="8" y="{tall}">calls at once</text>')
    parts += [f'<text x="8" y="{tall + 18 * n}">{escape(line)}</text>' for n, line in enumerate(lines, 1)]
    return "\n".join([*parts, "</svg>", ""])


def _panel(top: int, name: str, heading: str, curves: Mapping[str, Curve], numbers: Sequence[int]) -> list[str]:
    base, wide = top + HEIGHT, WIDTH - LEFT - 16
    marks = ticks(max(value for curve in curves.values() for value in curve[name]))
    parts = [f'<text x="8" y="{top - 14}" font-weight="bold">{escape(heading)}</text>']
    for mark in marks:
        y = base - mark / marks[-1] * HEIGHT
        parts.append(f'<path d="M{LEFT} {y:.1f}h{wide}" stroke="currentColor" stroke-opacity="0.3"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 5:.1f}" text-anchor="end">{mark:g}</text>')
    at = [LEFT + number / max(numbers) * wide for number in numbers]
    for x, number in zip(at, numbers, strict=True):
        parts.append(f'<text x="{x:.1f}" y="{base + 20}" text-anchor="middle">{number}</text>')
    for who, curve in curves.items():
        points = [(x, base - value / marks[-1] * HEIGHT) for x, value in zip(at, curve[name], strict=True)]
        drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{drawn}" fill="none" stroke="{COLOURS[who]}" stroke-width="3"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{COLOURS[who]}"/>' for x, y in points]
    return parts


def table(curves: Mapping[str, Curve], numbers: Sequence[int]) -> str:
    """The same as text: ours, the lock's, and ours in proportion."""
    rows = [f"{'calls':>5}  " + "  ".join(f"{heading:^39}" for _, heading in FIGURES)]
    rows.append(" " * 5 + "".join(f"  {'ours':>12} {'a lock':>12} {'ratio':>12} " for _ in FIGURES))
    for index, number in enumerate(numbers):
        cells = []
        for name, _ in FIGURES:
            ours, theirs = curves["ours"][name][index], curves["locked"][name][index]
            ratio = f"{ours / theirs:.2f}x" if theirs else "-"
            cells.append(f"  {ours:>12.3g} {theirs:>12.3g} {ratio:>12} ")
        rows.append(f"{number:>5}" + "".join(cells))
    return "\n".join(rows)
