"""How many threads a decode is worth: as many as it may have, or one.

The threads of a model meet hundreds of times for a token. Where another *process* shares a core with one of them, all
wait for it each time, and two threads take several times longer than one. Nobody tells us of other processes, but the
decodes themselves do: each kind of decode (a token, a few, a prompt) is done now and then with the other number of
threads, and mostly with the number that was quicker of late. What is computed is the same.

No I/O and no clock: it is told what each decode cost.
"""

from __future__ import annotations

_WEIGHT = 0.4
"""Of a new measurement in the moving averages."""

_TRY = 64
"""One decode in so many is done the other way, to see whether that has become the better one."""

_WORTH = 0.9
"""Fewer threads are taken when they need less than this part of the others' time: cores that are free are ours."""

_FEW = 8
"""Tokens up to which a decode is a step of several calls, and no prompt."""


class Crew:
    """``most`` is the number of threads that a decode may have. One thread at a time."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._cost: dict[tuple[int, bool], float] = {}
        self._until_try: dict[int, int] = {}

    def choose(self, tokens: int) -> int:
        """Threads for a decode of so many tokens."""
        if self._most == 1:
            return 1
        kind = _kind(tokens)
        together, alone = self._cost.get((kind, False)), self._cost.get((kind, True))
        if together is None:
            return self._most
        if alone is None:
            return 1
        fewer = alone < _WORTH * together
        left = self._until_try.get(kind, _TRY)
        self._until_try[kind] = left - 1 if left else _TRY
        if not left:
            fewer = not fewer
        return 1 if fewer else self._most

    def took(self, threads: int, tokens: int, seconds: float) -> None:
        """A decode of so many tokens by so many threads took ``seconds``."""
        key, cost = (_kind(tokens), threads == 1), seconds / tokens
        known = self._cost.get(key, cost)
        self._cost[key] = known + _WEIGHT * (cost - known)


def _kind(tokens: int) -> int:
    return min(tokens, 2) if tokens <= _FEW else 3
