"""Sounds that the bench of the turns makes itself: the noise of lines, coughs, breath, tones. All int16 at 8 kHz.

Everything random comes from a generator that the caller of the function brings, so a corpus is the same every time.
Levels are root mean squares in dB of full scale, as in ``aiphone.caller.rtp.level_dbfs``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from aiphone.caller.rtp import FRAME, RATE, VOICED_DBFS, level_dbfs
from aiphone.events import Pcm

Float = npt.NDArray[np.float64]
SPEECH_DBFS = -20.0
"""Active level that all speech is brought to: what a telephone's gain control aims at."""


def at_level(signal: Float, dbfs: float) -> Pcm:
    """A signal of any scale as int16 of this level."""
    rms = float(np.sqrt(np.mean(signal**2))) or 1.0
    scaled = signal * (32768 * 10 ** (dbfs / 20) / rms)
    return np.clip(np.round(scaled), -32768, 32767).astype(np.int16)


def band_noise(seconds: float, low: float, high: float, slope: float, draw: np.random.Generator) -> Float:
    """Noise from ``low`` to ``high`` Hz whose level falls by ``slope`` dB an octave."""
    count = round(seconds * RATE)
    spectrum = np.fft.rfft(draw.standard_normal(count))
    frequency = np.maximum(np.fft.rfftfreq(count, 1 / RATE), 1.0)
    shape = np.where((frequency >= low) & (frequency <= high), (frequency / 1000) ** (-slope / 6.02), 0.0)
    return np.fft.irfft(spectrum * shape, count)


def line_noise(seconds: float, dbfs: float, draw: np.random.Generator) -> Pcm:
    """What is heard on a line where nobody speaks: noise that falls by 3 dB an octave (pink)."""
    return at_level(band_noise(seconds, 60, 3600, 3.0, draw), dbfs)


def hum(seconds: float, dbfs: float) -> Pcm:
    """Mains hum: 50 Hz and its odd harmonics."""
    t = np.arange(round(seconds * RATE)) / RATE
    return at_level(np.sum([np.sin(2 * np.pi * 50 * n * t + n) / n for n in (1, 3, 5, 7, 9)], axis=0), dbfs)


def ringback(seconds: float, dbfs: float) -> Pcm:
    """The tone of a telephone that rings elsewhere: 440 and 480 Hz, 2 s of every 6 (ITU-T E.180)."""
    t = np.arange(round(seconds * RATE)) / RATE
    tone = at_level(np.sin(2 * np.pi * 440 * t) + np.sin(2 * np.pi * 480 * t), dbfs)
    return np.where(t % 6 < 2, tone, 0).astype(np.int16)


def cough(draw: np.random.Generator) -> Pcm:
    """One to three bursts of broad noise, each with a hard attack and a fall within 0.1 to 0.2 s."""
    parts: list[Float] = []
    for _ in range(int(draw.integers(1, 4))):
        length = float(draw.uniform(0.15, 0.30))
        burst = band_noise(length, 250, 3400, 4.0, draw)
        t = np.arange(len(burst)) / RATE
        parts += [burst * np.minimum(1, t / 0.008) * np.exp(-t / 0.07), np.zeros(round(RATE * draw.uniform(0.08, 0.2)))]
    return at_level(np.concatenate(parts), -22.0)


def breath(draw: np.random.Generator) -> Pcm:
    """Air over the mouthpiece: soft noise that swells and fades."""
    length = float(draw.uniform(0.5, 1.0))
    air = band_noise(length, 300, 3000, 2.0, draw)
    return at_level(air * np.hanning(len(air)), -34.0)


def knock(draw: np.random.Generator) -> Pcm:
    """Something falls on the table: two short, low bursts."""
    parts: list[Float] = []
    for _ in range(2):
        burst = band_noise(0.12, 80, 1200, 6.0, draw)
        t = np.arange(len(burst)) / RATE
        parts += [burst * np.exp(-t / 0.015), np.zeros(round(RATE * draw.uniform(0.1, 0.25)))]
    return at_level(np.concatenate(parts), -24.0)


def levels(pcm: Pcm) -> list[float]:
    """Level of each 20 ms, the last part of one left out."""
    return [level_dbfs(pcm[start : start + FRAME]) for start in range(0, len(pcm) - FRAME + 1, FRAME)]


def normalised(pcm: Pcm, dbfs: float = SPEECH_DBFS) -> Pcm:
    """Speech at this active level: of the 20 ms that are within 25 dB of the loudest."""
    found = levels(pcm)
    loudest = max(found, default=VOICED_DBFS)
    powers = [10 ** (level / 10) for level in found if level > loudest - 25]
    active = 10 * np.log10(np.mean(powers)) if powers else dbfs
    return np.clip(np.round(pcm * 10 ** ((dbfs - active) / 20)), -32768, 32767).astype(np.int16)


def trimmed(pcm: Pcm) -> Pcm:
    """Without the silence before the first voiced 20 ms and behind the last, but for 40 ms."""
    voiced = [number for number, level in enumerate(levels(pcm)) if level > VOICED_DBFS]
    if not voiced:
        return pcm[:0]
    return pcm[max(0, voiced[0] - 2) * FRAME : (voiced[-1] + 3) * FRAME]


def mixed(*signals: Pcm) -> Pcm:
    """The sum, clipped, as long as the longest."""
    total = np.zeros(max((len(signal) for signal in signals), default=0), np.int32)
    for signal in signals:
        total[: len(signal)] += signal
    return np.clip(total, -32768, 32767).astype(np.int16)


def joined(parts: Sequence[Pcm]) -> Pcm:
    """One behind the other."""
    return np.concatenate([*parts, np.zeros(0, np.int16)]).astype(np.int16)


def silence(seconds: float) -> Pcm:
    """Zeros."""
    return np.zeros(round(seconds * RATE), np.int16)


def looped(pcm: Pcm, seconds: float) -> Pcm:
    """Exactly this much of it, from its start again where it ends."""
    return np.resize(pcm, round(seconds * RATE)).astype(np.int16)
