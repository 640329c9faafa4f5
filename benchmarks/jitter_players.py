"""Jitter buffers for the simulation: each gets packets at their arrival and is asked for sound every 20 ms.

``ours``      the native buffer and its delay rules, with what ``hearing.pyx`` does with their advice
``pjmedia``   pjsua2's own buffer, the real one (``benchmarks.pjmedia``)
``aiortc``    aiortc's own class; its frames go into an unbounded queue that the player empties, as in aiortc
``NetEq``     the published rules of WebRTC's NetEq: relative-delay histogram with a forgetting factor, target level,
              filtered buffer level, accelerate and preemptive expand by a pitch period (10 ms here), expand without
              moving on when nothing is there; the signal processing itself is not simulated

A player reports what it played and when, and how often speech stood still because a packet was not there yet.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np

from aiphone.native.jitter import JitterBuffer
from benchmarks import pjmedia
from benchmarks.jitter_traces import FRAME, Trace


class Player(Protocol):
    """One way to play a stream."""

    def put(self, seq: int, now: float) -> None: ...

    def tick(self, now: float) -> list[tuple[int, float]]:
        """What begins to sound in these 20 ms: sequence numbers and times."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a player made of a trace."""

    late: float
    """Share of the speech packets that arrived and were not heard, or were waited for in silence."""
    late_by_length: float
    """The same, where a wait of 2 ms counts as a tenth of a packet and not as one."""
    delay: float
    """Mean time from the shortest transit to the sound, seconds, over the speech packets heard."""


def play(player: Player, trace: Trace, phase: float) -> Result:
    """Run a trace; ticks are ``phase`` seconds behind the instants when a packet of the shortest transit comes."""
    order = np.argsort(trace.arrival, kind="stable")
    arrivals = [(float(trace.arrival[i]), int(i)) for i in order if math.isfinite(trace.arrival[i])]
    arrivals.append((math.inf, -1))
    heard: dict[int, float] = {}
    step = getattr(player, "step", FRAME)
    now, at = trace.shortest + phase * step / FRAME, 0
    for _ in range(int((len(trace.sent) + 50) * FRAME / step)):
        while arrivals[at][0] <= now:
            player.put(arrivals[at][1], arrivals[at][0])
            at += 1
        for seq, when in player.tick(now):
            heard.setdefault(seq, when)
        now += step
    return judge(trace, heard, getattr(player, "holes", None))


def judge(trace: Trace, heard: dict[int, float], holes: list[tuple[int, int]] | None = None) -> Result:
    """Late share and mean delay."""
    came = trace.came
    total = int(came.sum())
    played = [s for s in heard if s < len(came) and came[s]]
    stood = length = 0.0
    ordered = sorted(heard)
    heard_after = dict(itertools.pairwise(ordered))
    if holes is not None:
        waited: dict[int, int] = {}
        for after, samples in holes:
            waited[after] = waited.get(after, 0) + samples
        for after, samples in waited.items():
            other = heard_after.get(after)
            if other is None or not (trace.speech[after] and trace.speech[other] and other - after < 10):
                continue
            # What is left of the hole when the packets that were never heard are taken off: they are counted as such.
            # However short it is, it counts as a packet.
            left = samples / 160 - (other - after - 1)
            if left > 0.0:
                stood += max(1.0, left)
                length += left
    for one, other in itertools.pairwise(ordered) if holes is None else ():
        # Sound came later than its place after the one before: in speech that is a hole.
        extra = (heard[other] - heard[one]) / FRAME - (other - one)
        if extra > 0.9 and trace.speech[one] and trace.speech[other] and other - one < 10:
            stood += extra
    delay = sum(heard[s] - trace.sent[s] - trace.shortest for s in played) / max(1, len(played))
    dropped = total - len(played)
    return Result((dropped + stood) / total, (dropped + (length if holes is not None else stood)) / total, delay)


class Ours:
    """The native buffer, with what ``hearing.pyx`` does with its advice: time-scaling of the sound that waits.

    A step comes when what was played is over, in a grid of 2 ms. The sound itself is not simulated. In a pause a length
    from 2.5 to 15 ms (drawn: noise is most like itself anywhere) is taken or added in a step; in speech, once in 20 ms,
    a pitch period of 7 ms, where two neighbouring ones are alike enough: taken to be so in 4 of 10 cases, and in 7 of
    10 when the delay is far too long.
    """

    step = 0.002
    FRAME, GRID, PIECE, PIECE_LATER, PAUSE, LEAST, MOST, PITCH = 160, 16, 16, 160, 960, 20, 120, 56
    OVER, PATIENCE = 4.0, 240
    ALIKE: ClassVar[dict[str, float]] = {"grow": 0.4, "shrink": 0.4, "shrink now": 0.7}

    def __init__(self, trace: Trace, **options: float) -> None:
        self.buffer = JitterBuffer(**options)
        self.speech = trace.speech
        self.random = random.Random(1)
        self.sound: deque[tuple[int, int]] = deque()
        """Sequence number (-1: made up) and samples that wait to be heard."""
        self.next = -math.inf
        self.empty = self.unscaled = 0
        self.last = -1
        self.holes: list[tuple[int, int]] = []
        """After which packet speech waited for a late one, and for how many samples."""

    def put(self, seq: int, now: float) -> None:
        self.buffer.put(seq + 65536, (seq * 160) % 2**32, now)

    @property
    def waiting(self) -> int:
        return sum(samples for _, samples in self.sound)

    def fill(self, now: float) -> None:
        while self.waiting < self.GRID:
            why, seq, samples = self.buffer.get(now, self.PIECE_LATER if self.empty > self.PAUSE else self.PIECE)
            self.empty = 0 if why == "normal" else self.empty + samples * (why == "empty")
            if seq is not None:
                self.last = seq - 65536
            elif why == "empty" and self.last >= 0:
                self.holes.append((self.last, samples))
            self.sound.append((-1 if seq is None else seq - 65536, samples))

    def tick(self, now: float) -> list[tuple[int, float]]:
        if now < self.next - 1e-6:
            return []
        self.fill(now)
        self.adapt(now)
        self.fill(now)
        length = min(self.waiting, self.FRAME)
        length -= length % self.GRID
        self.next = now + length / 8000
        self.unscaled += length
        out, at = [], 0
        while at < length:
            seq, samples = self.sound.popleft()
            if seq >= 0:
                out.append((seq, now + at / 8000))
            taken = min(samples, length - at)
            if taken < samples:
                self.sound.appendleft((-1, samples - taken))
            at += taken
        return out

    def adapt(self, now: float) -> None:
        advice = self.buffer.advice(now, self.waiting)
        if advice == "keep" or self.waiting < 80:
            return
        head = next((seq for seq, _ in self.sound if seq >= 0), self.last)
        quiet = head >= 0 and not self.speech[head]
        apart = abs(self.buffer.delay_ms(now, self.waiting) - self.buffer.target_ms)
        most = min(int((apart + self.OVER) * 8), self.MOST)
        if advice != "grow":
            most = min(most, self.waiting - 40)
        change = self.random.randint(self.LEAST, max(most, self.LEAST)) if quiet else self.PITCH
        if (advice == "shrink" and self.unscaled < 0) or (not quiet and 0 <= self.unscaled < self.FRAME):
            return
        if change > most or change < self.LEAST or not (quiet or self.random.random() < self.ALIKE[advice]):
            if advice == "shrink":
                self.unscaled = -self.PATIENCE
            return
        if advice == "grow":
            self.sound.appendleft((-1, change))
        else:
            self.shorten(change)
        self.unscaled = 0

    def shorten(self, samples: int) -> None:
        for i, (seq, length) in enumerate(self.sound):
            taken = min(samples, length - 1)  # of a packet something is always heard
            self.sound[i] = (seq, length - taken)
            samples -= taken


class Pjmedia:
    """pjsua2's buffer."""

    def __init__(self, initial: int, *, fixed: bool, discard: bool) -> None:
        library = pjmedia.load()
        assert library is not None
        self.buffer = pjmedia.JitterBuffer(library, initial, initial, 40)
        if fixed:
            self.buffer.fix(initial)
        if not discard:
            self.buffer.keep_all()

    def put(self, seq: int, now: float) -> None:  # noqa: ARG002 - it counts ticks
        self.buffer.put(seq)

    def tick(self, now: float) -> list[tuple[int, float]]:
        seq = self.buffer.get()
        return [] if seq is None else [(seq, now)]


class Aiortc:
    """aiortc's buffer and the queue behind it."""

    def __init__(self, prefetch: int, capacity: int = 16) -> None:
        from aiortc.jitterbuffer import JitterBuffer as Buffer
        from aiortc.rtp import RtpPacket

        self.buffer, self.packet = Buffer(capacity=capacity, prefetch=prefetch), RtpPacket
        self.queue: deque[int] = deque()

    def put(self, seq: int, now: float) -> None:  # noqa: ARG002 - it does not know the time
        packet: Any = self.packet(payload_type=0, sequence_number=seq % 65536, timestamp=seq * 160)
        packet._data = b""  # as its receiver does
        _, frame = self.buffer.add(packet)
        if frame is not None:
            self.queue.append(frame.timestamp // 160)

    def tick(self, now: float) -> list[tuple[int, float]]:
        return [(self.queue.popleft(), now)] if self.queue else []


@dataclass(slots=True)
class NetEq:
    """The rules of NetEq. Levels in seconds; time runs in steps of 20 ms, sound in any length."""

    quantile: float = 0.95
    forget: float = 0.983
    least: float = 0.0
    target: float = 0.08
    histogram: list[float] = field(default_factory=lambda: [0.0] * 100)
    recent: deque[tuple[float, float]] = field(default_factory=deque)
    packets: dict[int, float] = field(default_factory=dict)
    level: float = 0.0
    next: int | None = None
    until: float = 0.0
    """Until when there is sound already made."""
    expanding: int = 0
    since_scaled: int = 100
    count: int = 0

    PITCH = 0.010
    WINDOW = 2.0

    def put(self, seq: int, now: float) -> None:
        transit = now - seq * FRAME
        while self.recent and now - self.recent[0][0] > self.WINDOW:
            self.recent.popleft()
        self.recent.append((now, transit))
        relative = transit - min(t for _, t in self.recent)
        self.count += 1
        forget = min(self.forget, 1.0 - 2.0 / (self.count + 1))
        bin_ = min(99, int(relative / FRAME))
        self.histogram = [h * forget for h in self.histogram]
        self.histogram[bin_] += 1.0 - forget
        sums = itertools.accumulate(self.histogram)
        index = next((i for i, below in enumerate(sums) if below >= self.quantile), len(self.histogram))
        self.target = max((index + 1) * FRAME, FRAME, self.least)
        if self.next is None or seq >= self.next:
            self.packets[seq] = now

    def tick(self, now: float) -> list[tuple[int, float]]:
        out: list[tuple[int, float]] = []
        if self.next is None:
            if not self.packets:
                return out
            self.next, self.until = min(self.packets), now
        # The buffer's level, smoothed the more the higher the target.
        waiting = len(self.packets) * FRAME + max(0.0, self.until - now)
        factor = 0.98 if self.target <= 0.02 else 0.988 if self.target <= 0.06 else 0.992
        self.level = factor * self.level + (1 - factor) * waiting
        self.since_scaled += 1
        while self.until < now + FRAME - 1e-9:
            begin = max(self.until, now)
            if self.next in self.packets:
                del self.packets[self.next]
                out.append((self.next, begin))
                self.next += 1
                self.expanding = 0
                self.until = begin + FRAME + self.scaled()
            elif self.packets and self.expanding >= min(self.packets) - self.next:
                self.next = min(self.packets)  # what was concealed is as long as what is missing: merge
            else:
                self.expanding += 1
                self.until = begin + FRAME
        return out

    def scaled(self) -> float:
        """What accelerate takes away or preemptive expand adds, once the level says so."""
        low = max(self.target * 0.75, self.target - 0.085)
        high = max(self.target, low + 0.02)
        if self.level >= high and (self.since_scaled > 3 or self.level >= 4 * high):
            change = -self.PITCH
        elif self.level < low and self.since_scaled > 3 and self.packets:
            change = self.PITCH
        else:
            return 0.0
        self.since_scaled = 0
        self.level += change
        return change


Make = Callable[[Trace], Player]


def candidates() -> dict[str, list[Make] | None]:
    """Each player with every setting that is tried; None for one that is missing here."""

    def ours(options: dict[str, float]) -> Make:
        return lambda trace: Ours(trace, **options)

    def netq(quantile: float, least: float, forget: float) -> Make:
        return lambda _trace: NetEq(quantile=quantile, least=least, forget=forget)

    def pj(initial: int, fixed: bool, discard: bool) -> Make:
        return lambda _trace: Pjmedia(initial, fixed=fixed, discard=discard)

    def aio(prefetch: int, capacity: int) -> Make:
        return lambda _trace: Aiortc(prefetch, capacity)

    try:
        import aiortc.jitterbuffer  # noqa: F401
    except ImportError:
        aiortc_ways = None
    else:
        aiortc_ways = [aio(n, 16 if n < 12 else 32) for n in (0, 1, 2, 3, 4, 5, 6, 8, 10, 14, 20)]
    quantiles = (0.90, 0.93, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99, 0.993, 0.996, 0.998, 0.9995)
    return {
        "ours": [
            ours({"quantile": q, "min_ms": m, "start_ms": s})
            for m, s in ((0.0, 4.0), (0.0, 40.0), (10.0, 40.0))
            for q in quantiles
        ],
        "pjsua2": None
        if pjmedia.load() is None
        else [
            pj(n, fixed, discard)
            for n in (0, 1, 2, 3, 4, 5, 6, 8, 11, 15)
            for fixed, discard in ((False, True), (False, False), (True, False))
        ],
        "aiortc": aiortc_ways,
        "NetEq rules": [
            netq(q, m, f) for f in (0.983, 0.998) for m in (0.0, 0.06, 0.12) for q in (0.9, 0.95, 0.97, 0.99, 0.995)
        ],
    }
