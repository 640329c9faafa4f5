"""The jitter buffer: scenarios as text (``tests/scenarios/jitter``), and properties that hold for any network."""

from __future__ import annotations

import operator
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiphone.native.jitter import JitterBuffer

SCENARIOS = sorted((Path(__file__).parents[2] / "scenarios" / "jitter").glob("*.txt"))
STEP_MS = 20.0
FIRST_STEP_MS = 5.0
CYCLE = 65536
"""The engine's sequence numbers begin one cycle up."""

COMPARE: dict[str, Callable[[object, object], bool]] = {"<": operator.lt, ">": operator.gt, "=": operator.eq}


class Scenario:
    """One file, played."""

    def __init__(self, text: str) -> None:
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.expected: dict[float, tuple[str, int | None]] = {}
        self.options: dict[str, float] = {}
        lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
        self.end = 0.0
        for line in lines:
            if line.startswith("buffer "):
                words = line.split()[1:]
                self.options = {f"{k}_ms": float(v) for k, v in zip(words[::2], words[1::2], strict=True)}
        self.buffer = JitterBuffer(**self.options)
        for line in lines:
            self.line(line)

    def line(self, line: str) -> None:
        number = r"(\d+(?:\.\d+)?)"
        if line.startswith("buffer "):
            return
        if m := re.fullmatch(rf"arrive (\d+)(?: ts (-?\d+))? at {number}", line):
            seq = int(m[1])
            self.arrive(seq, int(m[2]) if m[2] else seq * 160, float(m[3]))
        elif m := re.fullmatch(rf"arrive (\d+)\.\.(\d+) every {number} at {number}", line):
            for i, seq in enumerate(range(int(m[1]), int(m[2]) + 1)):
                self.arrive(seq, seq * 160, float(m[4]) + i * float(m[3]))
        elif m := re.fullmatch(rf"skip (\d+) at {number}", line):
            seq = int(m[1])
            self.events.append((float(m[2]), 0, lambda: self.buffer.skip(CYCLE + seq)))
        elif m := re.fullmatch(rf"step {number}(?:\.\.{number})? -> (\w+)(?: (\d+))?", line):
            at, i = float(m[1]), 0
            while at <= float(m[2] or m[1]):
                self.expected[at] = (m[3], int(m[4]) + i if m[4] else None)
                at, i = at + STEP_MS, i + 1
            self.end = max(self.end, at - STEP_MS)
        elif m := re.fullmatch(rf"after {number} (\w+) ([<>=]) (.+)", line):
            at, name, compare, value = float(m[1]), m[2], COMPARE[m[3]], m[4]
            self.events.append((at, 2, lambda: self.check(at, name, compare, value)))
            self.end = max(self.end, at)
        else:
            raise AssertionError(f"cannot read {line!r}")

    def arrive(self, seq: int, timestamp: int, at: float) -> None:
        self.events.append((at, 0, lambda: self.put(seq, timestamp, at)))

    def put(self, seq: int, timestamp: int, at: float) -> None:
        self.buffer.put(CYCLE + seq, timestamp % 2**32, at / 1000)

    def check(self, at: float, name: str, compare: Callable[[object, object], bool], value: str) -> None:
        last_step = FIRST_STEP_MS + STEP_MS * ((at - FIRST_STEP_MS) // STEP_MS)
        # Playing has moved on by the packet of the last step.
        actual = {
            "delay": lambda: round(self.buffer.delay_ms(last_step / 1000) + STEP_MS, 3),
            "advice": lambda: self.buffer.advice((last_step + STEP_MS) / 1000),
            "target": lambda: self.buffer.target_ms,
            "late": lambda: self.buffer.late,
            "resynchronised": lambda: self.buffer.resynchronised,
        }[name]()
        wanted: object = value if isinstance(actual, str) else float(value)
        assert compare(actual, wanted), f"at {at}: {name} is {actual}, not {value}"

    def play(self) -> None:
        at = FIRST_STEP_MS
        while at <= self.end:
            self.events.append((at, 1, lambda at=at: self.step(at)))  # type: ignore[misc]
            at += STEP_MS
        for _, _, action in sorted(self.events, key=lambda e: e[:2]):
            action()

    def step(self, at: float) -> None:
        why, seq, _ = self.buffer.get(at / 1000)
        if at in self.expected:
            assert (why, seq and seq - CYCLE) == self.expected[at], f"at {at}"


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda p: p.stem)
def test_scenario(path: Path) -> None:
    Scenario(path.read_text()).play()


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    loss=st.sampled_from([0.0, 0.05, 0.3]),
    spread=st.sampled_from([0.0, 10.0, 60.0, 400.0]),
    duplicates=st.sampled_from([0.0, 0.1]),
    first=st.sampled_from([0, 65_530]),
)
def test_any_network(seed: int, loss: float, spread: float, duplicates: float, first: int) -> None:
    """Each packet is played at most once, in order, never beyond the bound; what is not played is accounted for."""
    rng = random.Random(seed)
    buffer = JitterBuffer(max_ms=200)
    events: list[tuple[float, int, int]] = []
    for i in range(400):
        at = i * 0.02 + rng.random() * spread / 1000
        if rng.random() >= loss:
            events.append((at, 0, i))
            if rng.random() < duplicates:
                events.append((at + rng.random() * 0.1, 0, i))
    events += [(0.005 + 0.02 * i, 1, i) for i in range(450)]
    played: list[int] = []
    arrived: set[int] = set()
    base = 2**32 - 160 * 200
    for at, kind, i in sorted(events):
        if kind == 0:
            arrived.add(i)
            buffer.put(CYCLE + first + i, (base + 160 * i) % 2**32, at)
            continue
        why, seq, samples = buffer.get(at)
        if why == "normal":
            assert seq is not None
            played.append(seq - CYCLE - first)
            assert at - played[-1] * 0.02 <= 0.2 + 0.021 + spread / 1000
        else:
            assert 0 < samples <= 160
    assert played == sorted(set(played))
    assert set(played) <= arrived
    assert len(played) + buffer.late + buffer.overflowed >= len(arrived)


def test_one_late_packet_in_a_hundred_is_about_what_is_allowed() -> None:
    """The target is a quantile: with exponential delays about one in a hundred comes after it."""
    rng = random.Random(7)
    buffer = JitterBuffer(quantile=0.99)
    n = 6000
    events = sorted(
        [(i * 0.02 + rng.expovariate(1 / 0.012), 0, i) for i in range(n)] + [(0.005 + 0.02 * i, 1, i) for i in range(n)]
    )
    for at, kind, i in events:
        if kind == 0:
            buffer.put(CYCLE + i, i * 160, at)
        else:
            buffer.get(at)
    assert 40 <= buffer.target_ms <= 80  # ln(100) * 12 ms = 55 ms
    assert buffer.late / n <= 0.015


def test_bounds_and_fixed_mode() -> None:
    fixed = JitterBuffer(fixed_ms=80)
    for i in range(100):
        fixed.put(CYCLE + i, i * 160, i * 0.02 + (0.15 if i % 3 else 0))
    assert fixed.target_ms == 80
    bounded = JitterBuffer(max_ms=100)
    for i in range(300):
        bounded.put(CYCLE + i, i * 160, i * 0.02 + (0.3 if i % 3 else 0))
    assert bounded.target_ms == 100


def test_longer_payloads_than_60_ms_are_refused() -> None:
    assert JitterBuffer().put(CYCLE, 0, 0.0, bytes(481), 481) == "too long"


def test_a_hole_that_was_heard_counts_as_late() -> None:
    """Played one step after it was due is no loss, but it is a hole: the target sees to it that they become rare."""
    rng = random.Random(3)
    buffer, n, holes = JitterBuffer(min_ms=4, start_ms=4), 6000, 0
    events = [(i * 0.02 + rng.random() * 0.03, 0, i) for i in range(n)] + [(0.005 + 0.02 * i, 1, i) for i in range(n)]
    for at, kind, i in sorted(events):
        if kind == 0:
            buffer.put(CYCLE + i, i * 160, at)
        else:
            holes += buffer.get(at)[0] == "empty" and i > n // 2
    assert holes / (n / 2) < 0.02


def test_the_delay_is_left_alone_near_its_target() -> None:
    """Time-scaling moves it by 2.5 ms at the least: what is nearer to the target than that stays."""

    def advice(step_ms: float, waiting: int) -> str:
        buffer = JitterBuffer(fixed_ms=40)
        for i in range(20):
            buffer.put(CYCLE + i, 160 * i, 0.02 * i)
        buffer.get(0.040)
        return buffer.advice(step_ms / 1000, waiting)

    assert advice(40, 160) == "keep"
    assert advice(40, 160 - 28) == "grow"  # what waits ends 3.5 ms too early
    assert advice(40, 160 - 20) == "keep"
    assert advice(40, 160 + 12) == "keep"
    assert advice(40, 160 + 20) == "shrink"
    assert advice(125, 160) == "shrink now"


def test_a_step_without_a_packet_is_as_long_as_was_asked_for() -> None:
    """And where the delay is built up, as long as that takes: the first packet is played on time, wherever that is."""
    buffer = JitterBuffer(fixed_ms=33)
    buffer.put(CYCLE, 0, 0.0)
    assert buffer.get(0.0, 32) == ("prefetching", None, 160)
    assert buffer.get(0.020, 32) == ("prefetching", None, 104)
    assert buffer.get(0.033, 32) == ("normal", CYCLE, 160)
    assert buffer.get(0.053, 32) == ("empty", None, 32)
    assert buffer.get(0.057, 16) == ("empty", None, 16)
    buffer.put(CYCLE + 1, 160, 0.058)
    assert buffer.get(0.059, 16) == ("normal", CYCLE + 1, 160)
    assert buffer.delay_ms(0.079) == pytest.approx(39.0)
