"""Audio that waits for room in the playout ring.

The engine's ring is a few seconds deep and bounded; an answer may be longer. The feeder keeps the rest, in order,
and tops the ring up. It never drops anything on its own: an answer's audio is bounded by the longest answer.
"""

from __future__ import annotations

from collections import deque

from aiphone.conversation.ports import MediaCallPort
from aiphone.events import Pcm
from aiphone.speech.echo import EchoGate


class PlayoutFeeder:
    """Feeds one call. Main thread only."""

    def __init__(self, call: MediaCallPort, echo: EchoGate) -> None:
        """``echo`` is told what will leave, and when."""
        self._call = call
        self._echo = echo
        self._backlog: deque[Pcm] = deque()

    def play(self, pcm: Pcm) -> None:
        """Queue audio behind what is there."""
        self._backlog.append(pcm)
        self.top_up()

    def top_up(self) -> None:
        """Move as much as fits. Called again and again while ``waiting``."""
        while self._backlog:
            pcm = self._backlog[0]
            position = self._call.played + self._call.queued
            taken = self._call.write(pcm)
            self._echo.queued(position, pcm[:taken])
            if taken < pcm.size:
                self._backlog[0] = pcm[taken:]
                return
            self._backlog.popleft()

    def stop(self) -> None:
        """Drop everything, here and in the ring."""
        self._backlog.clear()
        self._call.flush()
        self._echo.dropped()

    @property
    def waiting(self) -> bool:
        """True while audio waits for room."""
        return bool(self._backlog)
