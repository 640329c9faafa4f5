"""How many threads a decode is worth: as many as it may have, or one.

The threads of a model meet hundreds of times for a token. Where another *process* shares a core with one of them, all
wait for it each time, and two threads take several times longer than one. Nobody tells us of other processes, but the
decodes themselves do: each kind of decode (a token, a few, a prompt) is done mostly with the number of threads that was
quicker of late. A token, or one for each of a few calls, is tried now and then with the other number, rarely where
that was far slower; a part of a prompt only while those say something else than it does, since everybody waits for it,
and with one thread twice as long. What is computed is the same.

No I/O and no clock: it is told what each decode cost.
"""

from __future__ import annotations

_WEIGHT = 0.4
"""Of a new measurement in the moving averages."""

_TRY = 64
"""One decode in so many is done the other way, to see whether that has become the better one."""

_TRY_CLEAR = 1024
"""The same while that was far slower when it was last tried: each trial is a pause in what is being said."""

_CLEAR = 1.4
"""Times as long as the way in use that the other took, from which on it is far slower."""

_TRY_DOUBTED = 8
"""The same, of the parts of prompts, while single tokens have found something else."""

_WORTH = 0.9
"""Fewer threads are taken when they need less than this part of the others' time: cores that are free are ours."""

_FEW = 8
"""Tokens up to which a decode is a step of several calls, and no prompt."""

_PROMPT = 3
"""The kind of a decode with part of a prompt; 1 is a single token, 2 a few."""


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
        known = self._fewer(kind)
        fewer = bool(known)  # all threads come first
        if kind != _PROMPT or self._steps_differ(fewer):
            first = known is None and (kind, False) in self._cost
            if first or (known is not None and self._is_due(kind, fewer)):
                fewer = not fewer
        return 1 if fewer else self._most

    def _is_due(self, kind: int, fewer: bool) -> bool:
        """Whether this decode is the one in so many that is not done with ``fewer`` threads, or all, as most are."""
        clear = self._cost[kind, not fewer] > _CLEAR * self._cost[kind, fewer]
        # All threads are slow where others take the cores, and quick again at once when they have left.
        every = _TRY_DOUBTED if kind == _PROMPT else _TRY_CLEAR if clear and not fewer else _TRY
        left = min(self._until_try.get(kind, every), every)
        self._until_try[kind] = left - 1 if left else every
        return not left

    def _fewer(self, kind: int) -> bool | None:
        """Whether one thread has been the quicker for such decodes; None while one way was never tried."""
        together, alone = self._cost.get((kind, False)), self._cost.get((kind, True))
        return None if together is None or alone is None else alone < _WORTH * together

    def _steps_differ(self, fewer: bool) -> bool:
        """Whether the decodes of single tokens have found something else than ``fewer``."""
        return (not fewer) in [self._fewer(kind) for kind in (1, 2)]

    def took(self, threads: int, tokens: int, seconds: float) -> None:
        """A decode of so many tokens by so many threads took ``seconds``."""
        key, cost = (_kind(tokens), threads == 1), seconds / tokens
        known = self._cost.get(key, cost)
        # What is half of the average or less was averaged over another time: a trial is made too rarely to wait for it.
        self._cost[key] = cost if 2 * cost < known else known + _WEIGHT * (cost - known)


def _kind(tokens: int) -> int:
    return min(tokens, 2) if tokens <= _FEW else _PROMPT
