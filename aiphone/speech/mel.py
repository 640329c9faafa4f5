"""Log-mel features as Whisper's encoder takes them, for 8 s of audio.

What whisper's feature extractor does (OpenAI whisper, ``audio.py``; the Slaney mel scale of Auditory Toolbox), in
numpy: the waveform at zero mean and unit variance, frames of 25 ms every 10 ms under a Hann window, centred with
reflected ends, power in 80 mel bands, its logarithm within 80 dB of the loudest value, scaled to about -1..1.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from aiphone.events import INTERNAL_RATE

SECONDS = 8
SAMPLES = SECONDS * INTERNAL_RATE
BANDS = 80
FRAMES = SAMPLES // 160

_WINDOW = 400  # samples: 25 ms
_HOP = 160  # samples: 10 ms
_LEAST_POWER = 1e-10

Float32 = npt.NDArray[np.float32]


def mel_filters() -> Float32:
    """float32 [80, 201]: weights of the FFT's bins in each band, every band of the same area (Slaney)."""

    def to_hertz(mel: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        # Linear up to 1000 Hz (15 mel), from there on 27 steps to 6400 Hz.
        return np.where(mel < 15.0, mel * 200.0 / 3.0, 1000.0 * 6.4 ** ((mel - 15.0) / 27.0))

    nyquist = INTERNAL_RATE / 2
    highest = 15.0 + 27.0 * np.log(nyquist / 1000.0) / np.log(6.4)
    edges = to_hertz(np.linspace(0.0, highest, BANDS + 2))
    bins = np.linspace(0.0, nyquist, _WINDOW // 2 + 1)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    filters: Float32 = (triangles * (2.0 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32)
    return filters


class LogMel:
    """Makes the features. Any thread; instances hold constants only."""

    def __init__(self) -> None:
        self._filters = mel_filters()
        self._hann: Float32 = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_WINDOW) / _WINDOW)).astype(np.float32)

    def features(self, pcm: npt.NDArray[np.int16]) -> Float32:
        """int16 mono at 16 kHz to float32 [80, 800]: the last 8 s, or silence and then what there is."""
        wave = np.zeros(SAMPLES, np.float32)
        last = pcm[-SAMPLES:]
        if last.size:
            wave[-last.size :] = last / np.float32(32768.0)
        wave = (wave - wave.mean()) / np.sqrt(wave.var() + np.float32(1e-7))
        # Silence before short audio is the same frame again and again: one of them is computed.
        blank = max(0, (SAMPLES - last.size - _WINDOW) // _HOP - 1)
        padded = np.pad(wave, _WINDOW // 2, mode="reflect")
        frames = sliding_window_view(padded, _WINDOW)[blank * _HOP :: _HOP][: FRAMES - blank]
        spectrum = np.fft.rfft(frames * self._hann, axis=1)
        power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)
        bands = np.log10(np.maximum(power @ self._filters.T, np.float32(_LEAST_POWER)))
        bands = np.concatenate((np.repeat(bands[:1], blank, axis=0), bands))
        bands = np.maximum(bands, bands.max() - np.float32(8.0))
        scaled: Float32 = ((bands + np.float32(4.0)) / np.float32(4.0)).T
        return np.ascontiguousarray(scaled)
