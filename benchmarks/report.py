"""The table that a benchmark prints: what was promised, what was measured, and where it falls short."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One thing measured."""

    what: str
    unit: str
    measured: float | None
    """None when there was nothing to measure, which falls short of any target."""
    target: float | None = None
    """None for what is shown without having been promised."""
    at_least: bool = False
    """More is better; otherwise the target is a limit."""

    @property
    def short(self) -> bool:
        """Whether a promise is not kept."""
        if self.target is None:
            return False
        if self.measured is None:
            return True
        return self.measured < self.target if self.at_least else self.measured > self.target


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that is not below ``share`` of them; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * round(share * 100) // 100) - 1)]


def machine() -> str:
    """What the figures were taken on, as far as it matters to them."""
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return (
        f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}, Python {platform.python_version()}{load}"
    )


def table(rows: Sequence[Row]) -> str:
    """Rows for people."""
    lines = [("what", "target", "measured", "")]
    for row in rows:
        sign = ">=" if row.at_least else "<="
        target = "" if row.target is None else f"{sign} {row.target:g} {row.unit}"
        measured = "nothing" if row.measured is None else f"{_short(row.measured)} {row.unit}"
        verdict = "" if row.target is None else "short" if row.short else "ok"
        lines.append((row.what, target, measured, verdict))
    widths = [max(len(line[column]) for line in lines) for column in range(3)]
    return "\n".join(
        f"{line[0]:<{widths[0]}}  {line[1]:>{widths[1]}}  {line[2]:>{widths[2]}}  {line[3]}".rstrip() for line in lines
    )


def as_json(rows: Sequence[Row], **more: object) -> str:
    """Rows for programs."""
    return json.dumps({**more, "rows": [{**asdict(row), "short": row.short} for row in rows]}, indent=1)


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
