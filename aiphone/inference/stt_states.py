"""Whisper states, lent for one transcription at a time.

A state is 20 to 60 MB and 10 to 20 ms to make, and carries nothing from one transcription to the next. So there are
no more of them than transcriptions that run at once, however many calls there are, and few are kept for the next.

A context that leaves padding behind its keys and values has states to itself: with flash attention whisper.cpp
attends to what is in the padding (see ``FLASH_QUANTUM`` in ``stt_guard``), and only a state that never held anything
longer has nothing there.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from aiphone.inference.whisper_cpp import Aborted, DecodeParams, Segment

KEPT = 2
"""States that wait for the next transcription, the latest used: a call alternates between the context of its partial
transcripts and that of the whole turn."""


class StatePort(Protocol):
    """What is needed of a ``WhisperState``."""

    def full(
        self,
        pcm: npt.NDArray[np.float32],
        params: DecodeParams,
        *,
        abort: Callable[[], bool] | None = None,
        stop: Callable[[list[int]], bool] | None = None,
    ) -> list[Segment]:
        """Transcribe."""
        ...

    def detect_language(self, pcm: npt.NDArray[np.float32], threads: int) -> tuple[str, float]:
        """The language spoken, and how probable it is."""
        ...

    def close(self) -> None:
        """Free it."""
        ...


class StatePool:
    """The states of one model. Any thread."""

    def __init__(self, make: Callable[[], StatePort], quantum: int) -> None:
        """``make`` gives a fresh state; its errors come out of ``lend``. Contexts that are multiples of ``quantum``
        share their states."""
        self._make = make
        self._quantum = quantum
        self._free: list[tuple[int, StatePort]] = []
        """The latest used last."""
        self._lent = 0
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def lend(self, context: int) -> Iterator[StatePort]:
        """A state for an encoder context, 0 for the full one; nobody else uses it meanwhile.

        One that failed is not used again.
        """
        kind = -1 if context == 0 else context if context % self._quantum else 0
        with self._lock:
            waiting = next((entry for entry in reversed(self._free) if entry[0] == kind), None)
            if waiting is not None:
                self._free.remove(waiting)
            state = waiting[1] if waiting is not None else None
            self._lent += 1
        try:
            if state is None:
                state = self._make()
            yield state
        except Aborted:
            self._keep(state, kind)
            raise
        except BaseException:
            if state is not None:
                state.close()
            raise
        else:
            self._keep(state, kind)
        finally:
            with self._lock:
                self._lent -= 1

    def _keep(self, state: StatePort | None, kind: int) -> None:
        if state is None:
            return
        with self._lock:
            self._free.append((kind, state))
            old = self._free.pop(0)[1] if len(self._free) > KEPT else None
        if old is not None:
            old.close()

    @property
    def free(self) -> int:
        """States that wait to be lent."""
        with self._lock:
            return len(self._free)

    @property
    def lent(self) -> int:
        """States in use."""
        return self._lent

    def close(self) -> None:
        """Free them; none may be in use."""
        with self._lock:
            for _, state in self._free:
                state.close()
            self._free.clear()
