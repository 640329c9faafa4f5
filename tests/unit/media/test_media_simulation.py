"""The simulation of our own jitter buffer does what the engine does: the same delay, in the same slots."""

from __future__ import annotations

import contextlib
import math
import random

import numpy as np
import pytest
from media_bench import Bench

from aiphone.media.types import JitterConfig
from benchmarks.jitter_players import Ours
from benchmarks.jitter_traces import FRAME, Trace

SLOT = 0.002


class Longest(random.Random):
    """Silence is most like itself as far away as is allowed."""

    def randint(self, a: int, b: int) -> int:
        return max(a, b)


def network(seed: int, jitter: float, loss: float, seconds: float) -> Trace:
    rng = np.random.default_rng(seed)
    sent = np.arange(int(seconds / FRAME)) * FRAME + 0.003
    arrival = sent + rng.gamma(1.5, jitter / 1.5, len(sent))
    arrival[len(sent) // 2 : len(sent) // 2 + 6] += 0.15  # once it stands still
    arrival[1:][rng.random(len(sent) - 1) < loss] = np.inf
    return Trace("test", arrival, np.zeros(len(sent), np.bool_), sent)


@pytest.mark.parametrize(("seed", "jitter", "loss"), [(1, 0.002, 0.0), (2, 0.015, 0.03), (3, 0.04, 0.05)])
def test_the_simulation_decides_as_the_engine_does(seed: int, jitter: float, loss: float) -> None:
    """Silence on both sides, so that nothing depends on the sound: every step's delay and target are the same."""
    trace = network(seed, jitter, loss, 8.0)
    bench = Bench(jitter=JitterConfig())
    ours = Ours(trace, min_ms=10.0, start_ms=40.0)
    ours.random = Longest()
    arrivals = sorted((at, seq) for seq, at in enumerate(trace.arrival) if math.isfinite(at))
    place, ear, started, heard = 0, 10, False, 0
    unread: list[int] = []
    try:
        for slot in range(1, int(8.5 / SLOT)):
            now = slot * SLOT
            while place < len(arrivals) and arrivals[place][0] <= now:
                seq = arrivals[place][1]
                bench.peer.seq, bench.peer.timestamp = (65530 + seq) % 65536, 2**32 - 800 + 160 * seq
                bench.peer.send(bench.sockets.port)
                unread.append(seq)
                place += 1
            bench.engine.step(now)
            heard += len(bench.call.read(10).pcm)
            with contextlib.suppress(BlockingIOError):
                while bench.peer.rtp.recv(2048):
                    pass
            if slot < ear:
                continue
            # The engine stamps what it reads in its step with the time of that step.
            for seq in unread:
                ours.put(seq, now)
            started, unread = started or bool(unread), []
            if not started:
                ear += 10
                continue
            ours.tick(now)
            ear = round(ours.next / SLOT)
            stats = bench.call.stats()
            assert stats.target_ms == pytest.approx(ours.buffer.target_ms, abs=1e-6), f"at {now:.3f} s"
            delay = ours.buffer.delay_ms(now, ours.waiting)
            assert stats.delay_ms == pytest.approx(delay, abs=1e-6), f"at {now:.3f} s"
        assert bench.call.stats().late == ours.buffer.late
        assert heard == pytest.approx(8.4 / FRAME, abs=6)
    finally:
        bench.close()
