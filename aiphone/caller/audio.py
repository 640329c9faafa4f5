"""WAV files in and out, at the caller's 8 kHz."""

from __future__ import annotations

import math
import wave
from pathlib import Path

import numpy as np

from aiphone.caller.rtp import RATE
from aiphone.errors import MediaError
from aiphone.events import Pcm
from aiphone.native.resample import StreamResampler


def read_wav(path: Path | str) -> tuple[Pcm, int]:
    """Samples as int16 mono, and their rate. Takes PCM of 8, 16, 24 or 32 bits; channels are averaged.

    MediaError when the file is not there or is no such WAV file.
    """
    try:
        with wave.open(str(path), "rb") as file:
            channels, width, rate, frames = file.getparams()[:4]
            data = file.readframes(frames)
    except (OSError, EOFError, wave.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise MediaError(f"cannot read {str(path)!r} as a WAV file ({reason}): give a PCM WAV file") from error
    data = data[: len(data) // (width * channels) * width * channels]
    if width == 1:
        samples = (np.frombuffer(data, np.uint8).astype(np.int32) - 128) << 8
    elif width == 3:
        triples = np.frombuffer(data, np.uint8).reshape(-1, 3)
        samples = triples[:, 1].astype(np.int32) | triples[:, 2].astype(np.int8).astype(np.int32) << 8
    else:
        samples = np.frombuffer(data, "<i2" if width == 2 else "<i4").astype(np.int32) >> (0 if width == 2 else 16)
    mono = samples.reshape(-1, channels).mean(axis=1)
    return np.round(mono).astype(np.int16), rate


def load(path: Path | str) -> Pcm:
    """A WAV file of any rate from 8 to 48 kHz, as int16 mono at 8 kHz, as long as the original."""
    pcm, rate = read_wav(path)
    return to_line_rate(pcm, rate)


def to_line_rate(pcm: Pcm, rate: int) -> Pcm:
    """PCM at ``rate`` Hz to 8 kHz; the resampler's delay is cut off."""
    resampler = StreamResampler(rate, RATE)
    delay = round(resampler.delay * RATE)
    return np.concatenate([resampler.process(np.ascontiguousarray(pcm)), resampler.flush()])[delay:]


def write_wav(path: Path | str, pcm: Pcm, rate: int = RATE) -> None:
    """Write int16 PCM: mono from one dimension, one channel a column from two."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if pcm.ndim == 1 else pcm.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(pcm.astype("<i2").tobytes())


def tone(frequency: float, seconds: float, *, dbfs: float = -12.0) -> Pcm:
    """A sine at 8 kHz, to be recognised at the other end. ``dbfs`` is its root mean square."""
    t = np.arange(round(seconds * 8000)) / 8000
    amplitude = 32768 * math.sqrt(2) * 10 ** (dbfs / 20)
    return np.round(amplitude * np.sin(2 * np.pi * frequency * t)).astype(np.int16)
