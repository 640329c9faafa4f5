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
MOST_TURNS = 5000
"""Most turns that percentiles of the whole latency are taken from; of more, an even sample. Its 99th percentile is
then right to two tenths of a percent of the turns, and a month costs no more than a day."""
MOST_PARTS = 1500
"""The same for the parts, which take longer to read."""
_SAMPLE = "FROM turn WHERE at >= ? AND at < ? AND (call_id + number) % ? = 0"
"""One of so many turns, evenly chosen and the same ones each time. Not those of every n-th call, nor every n-th of a
call: first turns are like each other."""
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
        turns, interrupted, first = self._read(
            "SELECT count(*), sum(interrupted), min(at) FROM turn WHERE at >= ? AND at < ?", (since, end)
        )[0]
        if not turns:
            return LatencySummary(0, 0, None, {}, ())
        every = math.ceil(turns / MOST_TURNS)
        totals = self._read(f"SELECT at, total {_SAMPLE}", (since, end, every))
        length = next((step for step in _STEPS if (end - first) / step < POINTS), _STEPS[-1])
        stretches: dict[float, list[float]] = defaultdict(list)
        for at, total in totals:
            stretches[at // length * length].append(total)
        parts: dict[str, list[float]] = defaultdict(list)
        documents = self._read(
            # Which turns those are is in the index; what they have is looked up for them alone.
            f"SELECT parts FROM turn WHERE (call_id, number) IN (SELECT call_id, number {_SAMPLE})",
            (since, end, math.ceil(turns / MOST_PARTS)),
        )
        # One document of all: several times as fast as one by one.
        for turn in json.loads(f"[{','.join(row[0] for row in documents)}]"):
            for name, seconds in turn.items():
                parts[name].append(seconds)
        points = []
        for at, values in sorted(stretches.items()):
            p = _percentiles(values)
            points.append(LatencyPoint(at, every * len(values), p.p50, p.p95, p.p99))
        return LatencySummary(
            turns=turns,
            interrupted=interrupted,
            total=_percentiles([total for _, total in totals]),
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
