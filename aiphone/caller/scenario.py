"""A bad network, the same every time: what becomes of each packet is drawn from a seed."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scenario:
    """What a network does to packets that pass it one way.

    Loss follows the Gilbert model: ``loss`` is the share of packets lost in the long run and ``burst`` the mean
    length of a run of losses. ``delay`` is added to every packet, and up to ``jitter`` more to each one on its own,
    so packets overtake each other when ``jitter`` exceeds their distance. Times in seconds.
    """

    seed: int = 1
    loss: float = 0.0
    burst: float = 1.0
    delay: float = 0.0
    jitter: float = 0.0
    duplicate: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.loss < 1 and 0 <= self.duplicate <= 1 and self.burst >= 1):
            raise ValueError(
                "a scenario needs a loss from 0 to below 1, a duplicate from 0 to 1 and a burst of 1 or more"
            )
        if self.delay < 0 or self.jitter < 0:
            raise ValueError("a scenario's delay and jitter are seconds from 0")

    def start(self) -> Path:
        """A network in its first moment."""
        return Path(self)


class Path:
    """The run of a scenario over one stream of packets. One thread at a time."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._random = random.Random(scenario.seed)
        self._losing = False

    def next_packet(self) -> list[float]:
        """Delays in seconds, one for each copy that arrives; empty when the packet is lost."""
        s = self._scenario
        # Always the same number of draws a packet, so that changing one property leaves the others' fate alone.
        fate, first, twice, second = (self._random.random() for _ in range(4))
        if s.burst == 1.0:
            self._losing = fate < s.loss
        elif self._losing:
            self._losing = fate >= 1 / s.burst
        else:
            self._losing = fate < s.loss / (s.burst * (1 - s.loss))
        if self._losing:
            return []
        delays = [s.delay + s.jitter * first]
        if twice < s.duplicate:
            delays.append(s.delay + s.jitter * second)
        return delays
