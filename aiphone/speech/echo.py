"""Our own voice, sent back by the far end: how loud it may be, so that it is not taken for the caller.

A hybrid or a speakerphone returns what we play, weaker by the *echo return loss* and later by the way there and back.
Nothing is subtracted here. For each frame that comes in, the loudest of what left during the last half second is
known; what comes in no louder than that less the loss can be our echo and is *masked*: it counts as silence for the
start and the end of a voice. A caller who speaks over us is louder than that; where not, the words decide
(``barge_in.is_echo``).

The return level starts at ``FIRST_RETURN`` and is followed from then on. While we play and nobody is taken for
speaking, the loudest that came back within 2.5 s is the return level, so that a line without echo soon asks nothing
more of the caller. It goes up only when the conversation says that it recognised its own words (``heard``).

Threads: ``queued``, ``dropped``, ``gain`` and ``heard`` from the main thread, ``mask`` from the listener.
"""

from __future__ import annotations

import threading
from collections import deque

import numpy as np

from aiphone.events import FRAME_SAMPLES, Pcm

FIRST_RETURN = -12.0
"""dB: what comes back, relative to what we play, before anything is known. Hybrids do better, most telephones too."""

LEAST_RETURN, MOST_RETURN = -60.0, 0.0

_DELAY = 30  # frames that an echo may be late: 600 ms, jitter buffers included
_MARGIN = 5.0  # dB above what was seen that may still be echo
_AUDIBLE = -50.0  # dBFS: what is played below this has no echo worth learning from
_LEARN = 125  # frames whose loudest is taken for the return level: in less, our own loudest may not have come back
_CORRECTION = 6.0  # dB the return level goes up when our own words came through
_SILENCE = -100.0


def frame_levels(pcm: Pcm) -> list[float]:
    """RMS in dBFS of each full 20 ms frame of int16 PCM at 16 kHz."""
    frames = pcm[: len(pcm) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES).astype(np.float32) / 32768.0
    power = np.einsum("ij,ij->i", frames, frames) / FRAME_SAMPLES
    levels: list[float] = (10.0 * np.log10(power + 1e-10)).tolist()
    return levels


class EchoGate:
    """What of a call's incoming sound may be our own. One for each call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the four below, which both threads use
        self._levels: deque[tuple[int, float]] = deque()  # (position of the first sample, level) of queued frames
        self._gain = 0.0
        self._return = FIRST_RETURN
        self._learn: deque[float] = deque(maxlen=_LEARN)
        # Listener thread only.
        self._position = 0
        self._left: deque[float] = deque([_SILENCE] * _DELAY, maxlen=_DELAY)

    # ------------------------------------------------------------------ main thread

    def queued(self, position: int, pcm: Pcm) -> None:
        """Audio (int16 at 16 kHz) was queued that will leave from playout position ``position`` on."""
        levels = frame_levels(pcm)
        with self._lock:
            self._levels.extend((position + i * FRAME_SAMPLES, level) for i, level in enumerate(levels))

    def dropped(self) -> None:
        """What was queued and has not left will not leave."""
        with self._lock:
            self._levels.clear()

    def gain(self, db: float) -> None:
        """The level of what is played was changed."""
        with self._lock:
            self._gain = db

    def heard(self) -> None:
        """Our own words were recognised: more comes back than was thought."""
        with self._lock:
            self._return = min(MOST_RETURN, self._return + _CORRECTION)
            self._learn.clear()

    @property
    def return_level(self) -> float:
        """What comes back relative to what we play, in dB, as far as it is known. Any thread."""
        return self._return

    # ------------------------------------------------------------------ listener thread

    def mask(self, levels: list[float], played: int, *, voice: bool) -> list[bool]:
        """Which of the frames that have just come in (their levels in dBFS, oldest first) may be our echo.

        ``played`` is the playout position now; ``voice`` is true while the caller is taken for speaking.
        """
        with self._lock:
            leaving = self._leaving(played, len(levels))
            masked = []
            for level, out in zip(levels, leaving, strict=True):
                self._left.append(out)
                loudest = max(self._left)
                if loudest < _AUDIBLE:
                    masked.append(False)
                    continue
                masked.append(level <= loudest + self._return + _MARGIN)
                if not voice:
                    self._follow(level - loudest)
            return masked

    def _leaving(self, played: int, count: int) -> list[float]:
        """Levels of what left while ``count`` frames came in; silence where nothing was queued. With the lock."""
        out = []
        while self._levels and self._levels[0][0] < played:
            position, level = self._levels.popleft()
            if position >= self._position - FRAME_SAMPLES:
                out.append(level + self._gain)
        self._position = played
        return [_SILENCE] * (count - len(out)) + out[len(out) - count if len(out) > count else 0 :]

    def _follow(self, returned: float) -> None:
        """Learn from a frame in which nobody speaks. With the lock."""
        self._learn.append(returned)
        if len(self._learn) == _LEARN:
            self._return = min(self._return, max(LEAST_RETURN, max(self._learn)))
