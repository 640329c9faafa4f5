"""Time as a dependency.

One clock for everything: ``CLOCK_MONOTONIC``, in seconds as a float, the same that ``time.monotonic()``
reads and that the native media thread stamps packets with. Code that needs the time takes a ``Clock``;
tests hand it a ``ManualClock``. The wall clock is for what people read (a call's start in a list), never for
durations.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Anything that can say what time it is. Callable from any thread."""

    def now(self) -> float:
        """Seconds on the monotonic clock."""
        ...


class SystemClock:
    """The machine's monotonic clock."""

    def now(self) -> float:
        """Seconds on the monotonic clock. Any thread."""
        return time.monotonic()


class ManualClock:
    """A clock that moves when it is told to. For tests."""

    def __init__(self, now: float = 0.0) -> None:
        self._now = now

    def now(self) -> float:
        """Where the clock stands."""
        return self._now

    def advance(self, seconds: float) -> float:
        """Move forward by ``seconds`` (0 or more) and return the new time."""
        if seconds < 0:
            raise ValueError("a monotonic clock does not go back")
        self._now += seconds
        return self._now
