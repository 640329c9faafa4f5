"""How much of a waiting prompt goes into the next batch.

Reading a prompt and speaking share one batch, and the whole batch takes as long as its tokens cost. ``Pace`` learns
that cost, and how much it varies, while it runs, and answers with a number of prompt tokens that keeps the pause
between two tokens of a generating call within the budget. It does no I/O and knows no clock: it is told what each
decode cost.

A pause may be 2.5 times what it is without a reader, and the budget longer. The more calls speak, the more a reader
gets of each decode: were it the same few tokens for all, the last of many who ask at once would wait for most of the
others' answers.

The estimate is the one that TCP's retransmission timer uses (RFC 6298): a moving average, and a moving average of the
distance from it. On a quiet machine the second is next to nothing; on a busy one it keeps the bound.
"""

from __future__ import annotations

_SMALLEST_CHUNK = 4
"""Prompts make at least this progress with each decode, or a busy machine would never answer a second caller."""

_WEIGHT = 0.25
"""Of a new measurement in the moving averages."""

_LEAST_COST = 1e-6

_HEADROOM = 0.8
"""Part of the time allowed that is planned for while somebody speaks."""

_IDLE_HEADROOM = 0.9
"""The same while nobody does."""

_LONGER = 2.5
"""Times its usual length that a pause may last, beside the budget."""

_FIRST_CHUNK = 16
"""Tokens of the very first decode, when nothing is known of this machine and model."""

_DEVIATIONS = 2.0
"""So many mean deviations above the average a decode is expected to cost while somebody speaks."""


class Pace:
    """``budget`` is the time in seconds that reading may add to 2.5 times the usual pause of a generating call.

    ``idle_budget`` bounds a decode while nobody is generating: a new caller or a cancellation waits no longer.
    """

    def __init__(self, budget: float, idle_budget: float, n_batch: int) -> None:
        self._budget = budget
        self._idle_budget = max(idle_budget, budget)
        self._n_batch = n_batch
        self._read_cost = 0.0
        self._read_deviation = 0.0
        self._step_cost = 0.010
        self._alone = 0.0

    @property
    def read_cost(self) -> float:
        """Seconds for one token of a prompt, as measured lately; a guess before the first measurement."""
        return self._read_cost or 0.002

    @property
    def step_cost(self) -> float:
        """Seconds for a decode of generated tokens only, as measured lately."""
        return self._step_cost

    def chunk(self, generating: int) -> int:
        """Most prompt tokens for the next decode, beside ``generating`` calls with a token each."""
        if not self._read_cost:
            fits = _FIRST_CHUNK
        elif generating:
            usual = self._alone + (generating - 1) * self._read_cost
            allowed = _HEADROOM * (self._budget + (_LONGER - 1) * usual)
            fits = int(allowed / (self._read_cost + _DEVIATIONS * self._read_deviation))
        else:
            fits = int(_IDLE_HEADROOM * self._idle_budget / self._read_cost)
        return max(0, min(max(fits, _SMALLEST_CHUNK), self._n_batch - generating))

    def measured(self, generating: int, reading: int, seconds: float) -> None:
        """A decode of ``generating`` single tokens and ``reading`` prompt tokens took ``seconds``."""
        if reading == 0:
            self._step_cost += _WEIGHT * (seconds - self._step_cost)
            others = max(0, generating - 1)
            alone = max(seconds - others * self._read_cost, seconds / (others + 1))
            self._alone += _WEIGHT * (alone - self._alone) if self._alone else alone
            return
        # In a mixed batch the cost is shared out alike; a small one says little about a token's own cost.
        if reading < _SMALLEST_CHUNK:
            return
        cost = max(seconds / (generating + reading), _LEAST_COST)
        if not self._read_cost:
            self._read_cost = cost
            return
        self._read_deviation += _WEIGHT * (abs(cost - self._read_cost) - self._read_deviation)
        self._read_cost += _WEIGHT * (cost - self._read_cost)
