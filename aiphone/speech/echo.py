"""Our own voice, sent back by the far end: how loud it may be, so that it is not taken for the caller.

A hybrid or a speakerphone returns what we play, weaker by the *echo return loss* and later by the way there and back.
Nothing is subtracted here. For every delay that an echo may have, the gate knows a *bound*: what comes back after that
delay, relative to what left, is hardly more than this. A frame that comes in no louder than some part of what left may
return is *masked*: it counts as silence for the start and the end of a voice. A caller who speaks over us is louder
than that; where not, the words decide (``barge_in.is_echo``).

The bounds begin at ``FIRST_RETURN``, where all that is no louder than we are may be our own. Each frame that comes in
while something we said may be coming back lowers those that it contradicts: an echo adds to what is on the line, so
what is quiet now has no loud echo in it, whoever speaks. That is why a caller who talks over us does not disturb the
learning, why one second of our voice is enough for it, and why the right delay needs not be looked for: it is the one
whose bound stays. Bounds follow a low quantile and not the least, since a line returns some sounds less than others.
They rise slowly, for a line that changes, and begin again when the conversation recognised its own words (``heard``).

Threads: ``queued``, ``dropped``, ``gain`` and ``heard`` from the main thread, ``mask`` from the listener.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from aiphone.events import FRAME_SAMPLES, Pcm

FIRST_RETURN = 0.0
"""dB: what comes back, relative to what we play, before anything is known."""

_DELAYS = 32  # frames that an echo may be late: 640 ms, jitter buffers included
_MARGIN = 5.0  # dB above the bound that may still be echo
_AUDIBLE = -50.0  # dBFS: what is played below this has no echo worth learning from
_FALL = 0.1  # share of the difference that a bound goes down in a frame that contradicts it
_RISE = 0.04  # dB that it goes up in one that does not
_SMOOTH = 3  # frames whose mean power is compared, so that one lost packet or a step between frames is no proof
_SILENCE = -100.0


def frame_levels(pcm: Pcm) -> list[float]:
    """RMS in dBFS of each full 20 ms frame of int16 PCM at 16 kHz."""
    frames = pcm[: len(pcm) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES).astype(np.float32) / 32768.0
    power = np.einsum("ij,ij->i", frames, frames) / FRAME_SAMPLES
    levels: list[float] = (10.0 * np.log10(power + 1e-10)).tolist()
    return levels


class _Smooth:
    """The mean power of the last frames, in dB."""

    def __init__(self) -> None:
        self._powers: deque[float] = deque(maxlen=_SMOOTH)

    def add(self, level: float) -> float:
        self._powers.append(10.0 ** (level / 10.0))
        return 10.0 * math.log10(sum(self._powers) / len(self._powers))

    def full(self) -> bool:
        return len(self._powers) == _SMOOTH

    def clear(self) -> None:
        self._powers.clear()


class EchoGate:
    """What of a call's incoming sound may be our own. One for each call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the three below, which both threads use
        self._levels: deque[tuple[int, float]] = deque()  # (position of the first sample, level) of queued frames
        self._gain = 0.0
        self._bounds = np.full(_DELAYS, FIRST_RETURN)  # dB, by delay: 1, 2, ... frames
        # Listener thread only. What left, oldest first: levels, and the same smoothed. The newest has the delay 0.
        self._position = 0
        self._left = np.full(_DELAYS + 2, _SILENCE)
        self._left_smooth = self._left.copy()
        self._smooth_out, self._smooth_in = _Smooth(), _Smooth()
        self._fading = 0  # frames until what left last cannot come back any more

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
        """Our own words were recognised: more comes back than was thought, or later."""
        with self._lock:
            self._bounds[:] = FIRST_RETURN

    @property
    def return_level(self) -> float:
        """The most that may come back relative to what we play, in dB, as far as it is known. Any thread."""
        with self._lock:
            return float(self._bounds.max())

    # ------------------------------------------------------------------ listener thread

    @property
    def sounding(self) -> bool:
        """Whether something that left may still come back."""
        return self._fading > 0

    def mask(self, levels: Sequence[float], played: int, received: Sequence[bool] = ()) -> list[bool]:
        """Which of the frames that have just come in (their levels in dBFS, oldest first) may be our echo.

        ``played`` is the playout position now; ``received`` says which frames came in a packet, all of them when it is
        empty: the others prove nothing.
        """
        with self._lock:
            masked = []
            leaving = self._leaving(played, len(levels))
            for level, out, true in zip(levels, leaving, received or [True] * len(levels), strict=True):
                self._add(out)
                if self._fading == 0:
                    self._smooth_in.clear()
                    masked.append(False)
                    continue
                if true:
                    self._learn(self._smooth_in.add(level))
                else:
                    self._smooth_in.clear()
                masked.append(level <= self._loudest() + _MARGIN)
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

    def _add(self, out: float) -> None:
        """A frame left."""
        if out >= _AUDIBLE:
            self._fading = _DELAYS + 2
        elif self._fading:
            self._fading -= 1
        smooth = self._smooth_out.add(out)
        if self._fading:
            for ring, newest in ((self._left, out), (self._left_smooth, smooth)):
                ring[:-1] = ring[1:]
                ring[-1] = newest

    def _loudest(self) -> float:
        """What may come back now, in dBFS. With the lock."""
        # One frame to either side: what comes in is not aligned with what left.
        return float((_of_three(np.maximum, self._left) + self._bounds).max())

    def _learn(self, level: float) -> None:
        """From the smoothed level of what has come in. With the lock."""
        if not self._smooth_in.full():
            return
        left = _of_three(np.minimum, self._left_smooth)
        returned = level - left
        bounds = self._bounds
        change = np.where(returned < bounds, _FALL * (returned - bounds), _RISE)
        change[left < _AUDIBLE] = 0.0
        np.minimum(bounds + change, FIRST_RETURN, out=bounds)


def _of_three(pick: np.ufunc, ring: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The most or least of each frame and its neighbours, by delay: 1, 2, ... frames."""
    found: npt.NDArray[np.float64] = pick(pick(ring[:-2], ring[1:-1]), ring[2:])[::-1]
    return found
