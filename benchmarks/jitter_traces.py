"""Delay traces for the jitter buffer benchmark, all drawn from a seed, and the best that could be done with each.

A trace is what a network does to five minutes of 20 ms packets: how long each took, or that it was lost. The
profiles follow ITU-T G.1050 (a network of links whose occupancy changes in bursts: well managed, partly managed,
unmanaged) and the Gilbert-Elliott model with gamma-distributed jitter and Pareto-distributed spikes; three more are
a wireless link that stands still now and then, a route that changes, and a sender whose clock is 200 ppm off.

Speech comes in spurts between pauses (exponential, means of 1.2 and 0.8 s), as in Moon, Kurose and Towsley,
"Packet audio playout delay adjustment: performance bounds and algorithms" (1998). ``optimum`` is their bound: the
lowest mean delay of any choice of one playout delay for each spurt, made with the future known.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FRAME = 0.020
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Trace:
    """One network. Times in seconds; ``arrival`` is infinite for a lost packet."""

    name: str
    arrival: Floats
    speech: npt.NDArray[np.bool_]
    sent: Floats

    @property
    def shortest(self) -> float:
        """The shortest transit."""
        return float(np.min(self.arrival - self.sent))

    @property
    def came(self) -> npt.NDArray[np.bool_]:
        """Speech packets that arrived."""
        return np.isfinite(self.arrival) & self.speech

    def spurts(self) -> list[npt.NDArray[np.int64]]:
        """The packets of each talk spurt that arrived."""
        edges = np.flatnonzero(np.diff(np.concatenate([[False], self.speech, [False]]).astype(np.int8)))
        pairs = zip(edges[::2], edges[1::2], strict=True)
        found = (np.flatnonzero(self.came[a:b]) + a for a, b in pairs)
        return [spurt for spurt in found if len(spurt)]


def talk(rng: np.random.Generator, n: int) -> npt.NDArray[np.bool_]:
    """Which packets are speech."""
    flags: list[bool] = []
    speaking = True
    while len(flags) < n:
        flags += [speaking] * max(3, int(rng.exponential(1.2 if speaking else 0.8) / FRAME))
        speaking = not speaking
    return np.array(flags[:n])


def gilbert_elliott(rng: np.random.Generator, n: int, loss: float, burst: float) -> npt.NDArray[np.bool_]:
    """Which packets are lost: a share of ``loss`` in the long run, in runs of ``burst`` on average."""
    lost = np.zeros(n, np.bool_)
    bad, leave = False, 1.0 / burst
    enter = leave * loss / (1.0 - loss)
    draws = rng.random(n)
    for i in range(n):
        bad = draws[i] >= leave if bad else draws[i] < enter
        lost[i] = bad
    return lost


def occupied(rng: np.random.Generator, n: int, share: float, burst: float, peak: float) -> Floats:
    """Queueing behind bursts of other traffic on one link, after G.1050: it fills at once and drains at its rate."""
    queue, out = 0.0, np.zeros(n)
    starts = rng.random(n) < share
    for i in range(n):
        if starts[i]:
            queue += rng.exponential(burst)
        out[i] = min(queue, peak) * (0.7 + 0.3 * rng.random())
        queue = max(0.0, queue - 0.35 * FRAME)
    return out


def in_order(sent: Floats, transit: Floats) -> Floats:
    """One queue cannot be overtaken in: what comes behind a late packet is late too."""
    return np.maximum.accumulate(sent + transit) - sent


def traces(seconds: float = 300.0, seed: int = 1050) -> list[Trace]:
    """Nine networks."""
    n = int(seconds / FRAME)
    sent = np.arange(n) * FRAME

    def gamma(rng: np.random.Generator, shape: float, mean: float) -> Floats:
        return rng.gamma(shape, mean / shape, n)

    def spikes(rng: np.random.Generator, share: float, alpha: float, scale: float, most: float) -> Floats:
        out, at = np.zeros(n), rng.random(n) < share
        out[at] = np.minimum(scale * (1 + rng.pareto(alpha, int(at.sum()))), most)
        return out

    def lan(rng: np.random.Generator) -> tuple[Floats, npt.NDArray[np.bool_]]:
        return 0.004 + gamma(rng, 2.0, 0.0015), gilbert_elliott(rng, n, 0.0005, 1.0)

    def managed(rng: np.random.Generator) -> tuple[Floats, npt.NDArray[np.bool_]]:
        wait = occupied(rng, n, 0.010, 0.012, 0.04)
        return in_order(sent, 0.020 + gamma(rng, 2.0, 0.002) + wait), gilbert_elliott(rng, n, 0.0005, 1.0)

    def partly(rng: np.random.Generator) -> tuple[Floats, npt.NDArray[np.bool_]]:
        wait = occupied(rng, n, 0.015, 0.025, 0.12) + occupied(rng, n, 0.01, 0.010, 0.03)
        return in_order(sent, 0.050 + gamma(rng, 2.0, 0.004) + wait), gilbert_elliott(rng, n, 0.01, 2.0)

    def unmanaged(rng: np.random.Generator) -> tuple[Floats, npt.NDArray[np.bool_]]:
        wait = occupied(rng, n, 0.012, 0.050, 0.30) + occupied(rng, n, 0.02, 0.020, 0.06)
        return in_order(sent, 0.080 + gamma(rng, 1.5, 0.008) + wait), gilbert_elliott(rng, n, 0.04, 3.0)

    def ge_gamma(rng: np.random.Generator) -> tuple[Floats, npt.NDArray[np.bool_]]:
        return 0.030 + gamma(rng, 1.2, 0.015), gilbert_elliott(rng, n, 0.03, 3.0)

    def ge_pareto(rng: np.random.Generator) -> tuple[Floats, npt.NDArray[np.bool_]]:
        wait = gamma(rng, 2.0, 0.005) + spikes(rng, 0.015, 1.8, 0.030, 0.25)
        return in_order(sent, 0.030 + wait), gilbert_elliott(rng, n, 0.02, 2.0)

    def wireless(rng: np.random.Generator) -> tuple[Floats, npt.NDArray[np.bool_]]:
        stops = np.zeros(n)
        stops[rng.random(n) < 0.004] = rng.uniform(0.05, 0.14)
        return in_order(sent, 0.010 + gamma(rng, 2.0, 0.004) + stops), gilbert_elliott(rng, n, 0.005, 2.0)

    def routes(rng: np.random.Generator) -> tuple[Floats, npt.NDArray[np.bool_]]:
        steps = np.repeat(rng.choice([0.02, 0.035, 0.06, 0.045], 10), n // 10 + 1)[:n]
        scale = np.repeat(rng.choice([0.5, 1.0, 2.0, 3.0], 10), n // 10 + 1)[:n]
        return steps + gamma(rng, 2.0, 0.004) * scale, gilbert_elliott(rng, n, 0.005, 1.5)

    def drift(rng: np.random.Generator) -> tuple[Floats, npt.NDArray[np.bool_]]:
        return 0.1 + gamma(rng, 2.0, 0.004) + 200e-6 * (sent - sent[-1] / 2), gilbert_elliott(rng, n, 0.002, 1.0)

    kinds: dict[str, Callable[[np.random.Generator], tuple[Floats, npt.NDArray[np.bool_]]]] = {
        "LAN": lan,
        "G.1050 well managed": managed,
        "G.1050 partly managed": partly,
        "G.1050 unmanaged": unmanaged,
        "Gilbert-Elliott, gamma": ge_gamma,
        "Gilbert-Elliott, Pareto": ge_pareto,
        "wireless, stalls": wireless,
        "route changes": routes,
        "clock 200 ppm off": drift,
    }
    made = []
    for number, (name, kind) in enumerate(kinds.items()):
        rng = np.random.default_rng([seed, number])
        transit, lost = kind(rng)
        lost[0] = False
        made.append(Trace(name, np.where(lost, np.inf, sent + transit), talk(rng, n), sent))
    return made


def best_fixed(trace: Trace, late: float) -> float:
    """The lowest delay (seconds over the shortest transit) that is the same all the time and good enough."""
    return float(np.quantile((trace.arrival - trace.sent - trace.shortest)[trace.came], 1.0 - late, method="higher"))


def optimum(trace: Trace, late: float, step: float = 0.0, phase: float = 0.0) -> float:
    """Lowest mean delay (seconds over the shortest transit) at which at most ``late`` of the packets are late.

    One delay for each spurt, chosen with the future known (dynamic programming over spurts and packets given up,
    after Moon et al., section 3). With ``step`` only delays of ``phase`` + k * ``step`` can be had, as where sound
    is made in ticks.
    """
    spurts = trace.spurts()
    packets = sum(map(len, spurts))
    most = math.floor(late * packets)
    cost = np.full(most + 1, np.inf)
    cost[0] = 0.0
    for spurt in spurts:
        ordered = np.sort(trace.arrival[spurt] - trace.sent[spurt] - trace.shortest)[::-1]
        if step:
            ordered = np.ceil((ordered - phase) / step - 1e-9) * step + phase
        given_up = np.arange(min(len(ordered), most + 1))
        own = np.array([(len(ordered) - j) * ordered[j] for j in given_up])
        new = np.full(most + 1, np.inf)
        for j in given_up:
            new[j:] = np.minimum(new[j:], cost[: most + 1 - j] + own[j])
        cost = new
    best = min((cost[j] / (packets - j), j) for j in range(most + 1) if np.isfinite(cost[j]))
    return float(best[0])
