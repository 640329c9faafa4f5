"""The picture of the bench of the turns: plain SVG, drawn from the figures and nothing else.

Left: latency (p50, p95, p99) with so many calls at once, and beneath each column the share of turns cut short and lost;
the peer's beside them. Right: the trade-off curves. It reads in light and dark pages: it brings its own background.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 960, 420
INK, FAINT, PAPER = "#24292f", "#d0d7de", "#ffffff"
COLOURS = ("#0969da", "#54aeff", "#b6e3ff")
CURVES = {"fixed timer": "#8c959f", "smart turn alone": "#bf8700", "ours": "#0969da"}
PEER = "#cf222e"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of bars."""

    name: str
    p50: float | None
    p95: float | None
    p99: float | None
    cut_short: float | None
    """Percent."""
    lost: float | None
    peer: bool = False


def text(x: float, y: float, words: str, *, size: int = 12, anchor: str = "middle", colour: str = INK) -> str:
    """Words at a place."""
    place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size}"'
    return f'<text {place} text-anchor="{anchor}" fill="{colour}">{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, colour: str = FAINT) -> str:
    """A thin line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def ceiling(value: float, step: float) -> float:
    """The next multiple of ``step``."""
    return max(step, -(-value // step) * step)


def percents(value: float | None) -> str:
    """A share in a few characters."""
    return "–" if value is None else f"{value:.1f} %" if 0 < value < 10 else f"{value:.0f} %"  # noqa: RUF001


def bars(columns: Sequence[Column], left: float, top: float, width: float, height: float) -> list[str]:
    """The latency panel."""
    most = ceiling(max((c.p99 or c.p95 or c.p50 or 0.0 for c in columns), default=0.0), 500)
    out = [text(left, top - 14, "wire to wire, ms: p50, p95, p99", anchor="start", size=13)]
    for step in range(5):
        y = top + height * (1 - step / 4)
        out += [line(left, y, left + width, y), text(left - 6, y + 4, f"{most * step / 4:.0f}", anchor="end", size=11)]
    room = width / max(1, len(columns))
    bar = min(22.0, room / 4)
    for number, column in enumerate(columns):
        centre = left + room * (number + 0.5)
        for place, (value, colour) in enumerate(zip((column.p50, column.p95, column.p99), COLOURS, strict=True)):
            if value is None:
                continue
            tall = height * min(1.0, value / most)
            x = centre + (place - 1.5) * bar
            fill = PEER if column.peer else colour
            opacity = f' opacity="{1 - 0.3 * place:.1f}"' if column.peer else ""
            out.append(
                f'<rect x="{x:.1f}" y="{top + height - tall:.1f}" width="{bar - 2:.1f}" height="{tall:.1f}" '
                f'fill="{fill}"{opacity}><title>{value:.0f} ms</title></rect>'
            )
        if column.p50 is not None:
            tall = height * min(1.0, column.p50 / most)
            out.append(text(centre - bar, top + height - tall - 4, f"{column.p50:.0f}", size=11))
        out += [
            text(centre, top + height + 18, column.name),
            text(centre, top + height + 36, percents(column.cut_short), colour=PEER if column.peer else INK),
            text(centre, top + height + 54, percents(column.lost), colour=PEER if column.peer else INK),
        ]
    out += [
        text(left - 6, top + height + 36, "cut short", anchor="end", size=11),
        text(left - 6, top + height + 54, "lost", anchor="end", size=11),
    ]
    return out


def curves(
    lines: Mapping[str, Sequence[tuple[float, float]]],
    shipped: tuple[float, float] | None,
    left: float,
    top: float,
    width: float,
    height: float,
) -> list[str]:
    """The trade-off panel: mean wait (ms) to the right, share cut short (%) upwards."""
    points = [p for line_ in lines.values() for p in line_]
    widest = ceiling(max((x for x, _ in points), default=0.0), 250)
    highest = ceiling(max((y for _, y in points), default=0.0), 10)
    out = [text(left, top - 14, "cut short, %, over the mean wait for the end of a turn, ms", anchor="start", size=13)]

    def place(point: tuple[float, float]) -> tuple[float, float]:
        return left + width * point[0] / widest, top + height * (1 - point[1] / highest)

    for step in range(5):
        x, y = left + width * step / 4, top + height * (1 - step / 4)
        out += [
            line(left, y, left + width, y),
            text(left - 6, y + 4, f"{highest * step / 4:g}", anchor="end", size=11),
            text(x, top + height + 18, f"{widest * step / 4:.0f}", size=11),
        ]
    for number, (name, values) in enumerate(lines.items()):
        colour = CURVES.get(name, INK)
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(place, values))
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>' for x, y in map(place, values)]
        out.append(text(left + width, top + 14 + 16 * number, name, anchor="end", colour=colour))
    if shipped is not None:
        x, y = place(shipped)
        out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="none" stroke="{INK}" stroke-width="2"/>')
        out.append(text(left + width, top + 14 + 16 * len(lines), "○ as shipped", anchor="end"))
    return out


def draw(
    columns: Sequence[Column],
    lines: Mapping[str, Sequence[tuple[float, float]]],
    shipped: tuple[float, float] | None,
    note: str,
) -> str:
    """The whole picture as SVG. ``note`` says what it was taken on."""
    share = 0.56
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" role="img">',
        "<title>Turn-taking: latency on the wire and turns cut short</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="{PAPER}"/>',
        *bars(columns, 76, 48, WIDTH * share - 90, 260),
        *curves(lines, shipped, WIDTH * share + 60, 48, WIDTH * (1 - share) - 84, 260),
        text(14, HEIGHT - 14, note, anchor="start", size=11, colour="#57606a"),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"
