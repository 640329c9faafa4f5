"""How models share the cores: who computes at the moment, and how threads wait.

The threads of one model meet after each of its steps, hundreds of times for a token. When one of them shares its core
with another model's, all wait for it each time: two threads on a busy core are then several times slower than one
thread alone. So each piece of work takes what is free when it begins, one thread at least.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager


def wait_gently() -> None:
    """Tell OpenMP how threads are to wait for each other. Before anything loads it.

    Those of one model must not burn the cores that another needs. But the threads of a small model meet hundreds of
    times for a token, some microseconds apart, and to be put to sleep and woken each time takes as long as the work:
    so they look a thousand times first, for some tens of microseconds. Looking ten times as long gains nothing on a
    quiet machine; on a busy one two threads then wait for each other on one core, and take three times as long.

    The policy is ``active`` although they do sleep: with ``passive`` GNU's library does not look even once as soon as
    it has made more threads than there are cores, whether or not they have anything to do, and two threads of Whisper
    are as slow as one. LLVM's library would never sleep with it, but for ``KMP_BLOCKTIME``.
    What the user has set stays as it is.
    """
    for name, value in (("OMP_WAIT_POLICY", "active"), ("GOMP_SPINCOUNT", "1000"), ("KMP_BLOCKTIME", "0")):
        os.environ.setdefault(name, value)


class Cores:
    """Accounts for ``count`` cores (None: this machine's). Any thread."""

    def __init__(self, count: int | None = None) -> None:
        self._count = count or os.cpu_count() or 1
        self._change = threading.Condition()
        self._busy = 0

    @property
    def busy(self) -> int:
        """Threads that compute now."""
        return self._busy

    @property
    def free(self) -> bool:
        """Whether a core has nothing to compute: the time for work that may turn out to be for nothing."""
        return self._busy < self._count

    @contextmanager
    def working(self, wanted: int, patience: float = 0.0) -> Iterator[int]:
        """Take up to ``wanted`` threads for a piece of work, as many as there are cores free; yields how many.

        When none is free it waits for one, ``patience`` seconds at most.
        """
        with self._change:
            if patience > 0:
                self._change.wait_for(lambda: self._busy < self._count, patience)
            threads = max(1, min(wanted, self._count - self._busy))
            self._busy += threads
        try:
            yield threads
        finally:
            with self._change:
                self._busy -= threads
                self._change.notify_all()
