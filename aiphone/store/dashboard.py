"""Figures for the dashboard: latency percentiles over time, calls by the hour."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence

from aiphone.store.calls import CallTables
from aiphone.store.records import HourCount, LatencyPoint, LatencySummary, Percentiles

HOUR = 3600.0
POINTS = 96
"""Most points of a latency summary."""
_STEPS = (60.0, 300.0, 900.0, HOUR, 6 * HOUR, 24 * HOUR, 7 * 24 * HOUR, 28 * 24 * HOUR)
"""Lengths that a point of the summary may stand for, in seconds."""


def nearest_rank(ordered: Sequence[float], percent: float) -> float:
    """The smallest value that at least ``percent`` of the values do not exceed; ``ordered`` is sorted, not empty."""
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def _percentiles(values: list[float]) -> Percentiles:
    values.sort()
    return Percentiles(*(nearest_rank(values, percent) for percent in (50, 95, 99)))


class Dashboard(CallTables):
    """Figures over many calls. Any thread; tens of milliseconds for thousands of turns, so not the main one."""

    def latency_summary(self, since: float, until: float | None = None) -> LatencySummary:
        """Latency of the turns from ``since`` to ``until`` (None is now)."""
        end = self._wall() if until is None else until
        rows = self._read(
            "SELECT at, total, interrupted, parts FROM turn WHERE at >= ? AND at < ? ORDER BY at",
            (since, end),
        )
        if not rows:
            return LatencySummary(0, 0, None, {}, ())
        length = next((step for step in _STEPS if (end - rows[0][0]) / step < POINTS), _STEPS[-1])
        stretches: dict[float, list[float]] = defaultdict(list)
        for at, total, _, _ in rows:
            stretches[at // length * length].append(total)
        parts: dict[str, list[float]] = defaultdict(list)
        # One document of all: several times as fast as one by one.
        for turn in json.loads(f"[{','.join(row[3] for row in rows)}]"):
            for name, seconds in turn.items():
                parts[name].append(seconds)
        points = []
        for at, totals in stretches.items():
            totals.sort()
            points.append(LatencyPoint(at, len(totals), nearest_rank(totals, 50), nearest_rank(totals, 95)))
        return LatencySummary(
            turns=len(rows),
            interrupted=sum(row[2] for row in rows),
            total=_percentiles([row[1] for row in rows]),
            parts={name: _percentiles(values) for name, values in parts.items()},
            points=tuple(points),
        )

    def calls_by_hour(self, since: float, until: float | None = None) -> list[HourCount]:
        """How many calls started in each hour up to ``until`` (None is now), but for those without any."""
        end = self._wall() if until is None else until
        rows = self._read(
            "SELECT CAST(started / 3600 AS INTEGER), count(*), count(answered), coalesce(sum(ended - answered), 0) "
            "FROM call WHERE started >= ? AND started < ? GROUP BY 1 ORDER BY 1",
            (since, end),
        )
        return [HourCount(hour * HOUR, calls, answered, seconds) for hour, calls, answered, seconds in rows]
