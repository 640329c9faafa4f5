"""Single tones in telephone audio: the beep after which an answering machine records.

A frame has a tone when nearly all its power lies around one frequency; a beep is such a tone that keeps its frequency,
is as long as beeps are, and ends in silence. Speech has harmonics and moves, keys are two tones at once, and the three
tones before "this number is not in service" follow each other without a gap.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aiphone.events import FRAME_SAMPLES, FRAME_SECONDS, INTERNAL_RATE, Pcm

_LOWEST, _HIGHEST = 350.0, 2200.0
"""Hz. Below, a hummed vowel may look like a tone; above, telephones have little."""
_PURITY = 0.9
"""Share of a frame's power that lies around its strongest frequency."""
_PURITY_OF_ALL = 0.75
"""The same of a whole beep, which may swell and fade."""
_QUIETEST = -45.0
"""dBFS."""
_DRIFT = 0.03
"""Share of its frequency by which a tone may seem to move from frame to frame."""
_SHORTEST, _LONGEST = 0.13, 2.5
"""Seconds. A fax machine's tone is longer."""
_FALL = 15.0
"""dB by which it is quieter after a beep than during it ..."""
_SILENCE = 4
"""... for so many frames."""

_BIN = INTERNAL_RATE / (2 * FRAME_SAMPLES)
_AROUND = 2
"""Bins to each side that a tone is seen in."""

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Tone:
    """A beep that is over."""

    frequency: float
    """Hz."""
    seconds: float


class ToneDetector:
    """Listens to one call. Not thread-safe."""

    def __init__(self) -> None:
        self._before = np.zeros(FRAME_SAMPLES, np.float64)
        self._tone: list[Float64] = []
        """The frames of a tone."""
        self._frequency = 0.0
        self._level = 0.0
        self._silent = 0

    def add(self, frame: Pcm) -> Tone | None:
        """Take the next 20 ms (int16 [320] at 16 kHz); the beep that has ended, if one has."""
        samples = frame.astype(np.float64) / 32768.0
        block, self._before = np.concatenate((self._before, samples)), samples
        level = 10.0 * float(np.log10(np.mean(np.square(samples)) + 1e-12))
        frequency, purity = _strongest(block)
        pure = level > _QUIETEST and purity > _PURITY
        if pure and self._tone and not self._silent and abs(frequency - self._frequency) < _DRIFT * self._frequency:
            self._tone.append(samples)
            self._level = max(self._level, level)
            return None
        if self._tone and level < self._level - _FALL:
            self._silent += 1
            return self._ended() if self._silent >= _SILENCE else None
        if self._tone and not self._silent and not pure and abs(frequency - self._frequency) < 2 * _BIN:
            return None  # its last frame, which it does not fill
        self._silent = 0
        self._tone = [samples] if pure and _LOWEST <= frequency <= _HIGHEST else []
        self._frequency, self._level = frequency, level
        return None

    def _ended(self) -> Tone | None:
        tone, self._tone, self._silent = self._tone, [], 0
        seconds = len(tone) * FRAME_SECONDS
        if not _SHORTEST <= seconds <= _LONGEST:
            return None
        # All of it at once tells tones apart that are close together, as those of a line that rings.
        frequency, purity = _strongest(np.concatenate(tone))
        return Tone(frequency, seconds) if purity > _PURITY_OF_ALL else None


def _strongest(samples: Float64) -> tuple[float, float]:
    """The strongest frequency in Hz, and the share of the power that lies around it."""
    power = np.square(np.abs(np.fft.rfft(samples * np.hanning(len(samples)))))
    first = max(0, int(power.argmax()) - _AROUND)
    near = power[first : first + 2 * _AROUND + 1]
    # Between two bins, the centre of what is around the strongest says where it is.
    centre = float((near * np.arange(first, first + len(near))).sum() / (near.sum() + 1e-12))
    return centre * INTERNAL_RATE / len(samples), float(near.sum() / (power.sum() + 1e-12))
