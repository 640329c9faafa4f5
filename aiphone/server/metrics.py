"""``GET /metrics``, in the text format of Prometheus.

Counters and histograms are kept as the facts come; everything that is a state (calls now, queues, jitter) is read from
``Control.status`` and ``Control.active_calls`` when somebody asks. The status' numbers become gauges under their own
names, so that a new figure needs no line here.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from aiphone.conversation import facts as f
from aiphone.events import LineChanged, LineState

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0)


class Metrics:
    """A watcher of the switchboard that counts. Main thread only."""

    def __init__(self, status: Callable[[], dict[str, Any]]) -> None:
        self._registry = CollectorRegistry()
        self._calls = Counter("aiphone_calls", "Calls that ended, by SIP status.", ["code"], registry=self._registry)
        self._turns = Counter("aiphone_turns", "Answers whose beginning was heard.", registry=self._registry)
        self._total = Histogram(
            "aiphone_turn_seconds",
            "From the caller's last sound to the first of the answer.",
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._parts = Histogram(
            "aiphone_turn_part_seconds",
            "What each stage added to a turn.",
            ["part"],
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._jitter = Histogram(
            "aiphone_call_jitter_seconds",
            "Interarrival jitter at the end of a call (RFC 3550 section 6.4.1).",
            buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1),
            registry=self._registry,
        )
        self._received = Counter("aiphone_rtp_packets_received", "RTP packets of ended calls.", registry=self._registry)
        self._lost = Counter(
            "aiphone_rtp_packets_lost", "RTP packets of ended calls that never came.", registry=self._registry
        )
        self._lines = Gauge(
            "aiphone_line_registered", "1 when the line is registered.", ["line"], registry=self._registry
        )
        self._registry.register(_StatusCollector(status))

    def __call__(self, fact: f.Fact) -> None:
        """Count one fact."""
        match fact:
            case LineChanged():
                self._lines.labels(fact.line_id).set(fact.state is LineState.REGISTERED)
            case f.TurnTimed():
                self._turns.inc()
                self._total.observe(fact.times.total)
                for part, seconds in fact.times.parts().items():
                    self._parts.labels(part).observe(seconds)
            case f.CallOver():
                self._calls.labels(str(fact.record.end_code)).inc()
                if fact.media is not None:
                    self._jitter.observe(fact.media.jitter_ms / 1000)
                    self._received.inc(fact.media.packets_received)
                    self._lost.inc(max(0, fact.media.lost))

    def forget_line(self, line_id: str) -> None:
        """A line was removed."""
        with contextlib.suppress(KeyError):
            self._lines.remove(line_id)

    def text(self) -> bytes:
        """The answer to ``GET /metrics``."""
        return generate_latest(self._registry)


class _StatusCollector(Collector):
    def __init__(self, status: Callable[[], dict[str, Any]]) -> None:
        self._status = status

    def describe(self) -> list[Metric]:
        """Nothing: the names come with the status."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every number of the status."""
        status = self._status()
        for name, value in _numbers("aiphone", status):
            yield GaugeMetricFamily(name, f"{name.removeprefix('aiphone_')} of GET /api/status.", value=value)


def _numbers(prefix: str, values: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for key, value in values.items():
        name = f"{prefix}_{re.sub(r'[^a-zA-Z0-9_]', '_', str(key))}"
        if isinstance(value, bool | int | float):
            yield name, float(value)
        elif isinstance(value, dict):
            yield from _numbers(name, value)
