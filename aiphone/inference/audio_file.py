"""Reading the audio that speech commands write: WAV and AIFF, as they come out of pipes.

The standard library's ``wave`` refuses floats and WAVE_FORMAT_EXTENSIBLE and trusts the lengths in the header,
which a program that writes to a pipe cannot know (espeak-ng writes 0x7ffff000). Only PCM matters here.

References: Microsoft's RIFF/WAVE; Apple's AIFF-C ("sowt" is little-endian PCM).
"""

from __future__ import annotations

import struct

import numpy as np

from aiphone.errors import SpeechError
from aiphone.events import Pcm

_WAVE_PCM, _WAVE_FLOAT, _WAVE_EXTENSIBLE = 0x0001, 0x0003, 0xFFFE


def is_audio_file(data: bytes) -> bool:
    """True when the bytes begin like a WAV or AIFF file."""
    return (data[:4] == b"RIFF" and data[8:12] == b"WAVE") or (data[:4] == b"FORM" and data[8:12] in (b"AIFF", b"AIFC"))


def read_audio_file(data: bytes) -> tuple[Pcm, int]:
    """Mono int16 samples and their rate (Hz) of a WAV or AIFF file; channels are averaged.

    Raises SpeechError when the bytes are another format, or hold no samples that we can read.
    """
    try:
        if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
            return _read_wav(data)
        if data[:4] == b"FORM" and data[8:12] in (b"AIFF", b"AIFC"):
            return _read_aiff(data)
    except (struct.error, ValueError, OverflowError) as error:
        raise SpeechError("the audio is damaged or cut off in its header") from error
    raise SpeechError("the audio is neither WAV nor AIFF")


def _chunks(data: bytes, order: str) -> dict[bytes, bytes]:
    """The chunks of a RIFF or FORM file; a length beyond the end means: up to the end."""
    found: dict[bytes, bytes] = {}
    at = 12
    while at + 8 <= len(data):
        name = data[at : at + 4]
        (size,) = struct.unpack_from(order + "I", data, at + 4)
        if name == b"data" and size == 0:
            size = len(data)  # written before anybody knew
        found.setdefault(name, data[at + 8 : at + 8 + size])
        at += 8 + size + (size & 1)
    return found


def _read_wav(data: bytes) -> tuple[Pcm, int]:
    chunks = _chunks(data, "<")
    if b"fmt " not in chunks or b"data" not in chunks:
        raise SpeechError("the WAV has no format or no samples")
    form = chunks[b"fmt "]
    kind, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", form)
    if kind == _WAVE_EXTENSIBLE:
        (kind,) = struct.unpack_from("<H", form, 24)
    body = chunks[b"data"]
    if kind == _WAVE_FLOAT and bits in (32, 64):
        samples = np.frombuffer(_whole(body, bits // 8), f"<f{bits // 8}").astype(np.float64) * 32767.0
    elif kind == _WAVE_PCM and bits == 8:
        samples = (np.frombuffer(body, np.uint8).astype(np.float64) - 128.0) * 256.0
    elif kind == _WAVE_PCM and bits in (16, 24, 32):
        samples = _integers(body, bits // 8, "<")
    else:
        raise SpeechError(f"the WAV is of kind {kind} with {bits} bits; write 16-bit PCM")
    return _mono(samples, channels), _checked(rate)


def _read_aiff(data: bytes) -> tuple[Pcm, int]:
    chunks = _chunks(data, ">")
    if b"COMM" not in chunks or b"SSND" not in chunks:
        raise SpeechError("the AIFF has no format or no samples")
    common = chunks[b"COMM"]
    channels, _, bits = struct.unpack_from(">hIh", common)
    rate = _extended(common[8:18])
    coding = common[18:22] if data[8:12] == b"AIFC" else b"NONE"
    (offset,) = struct.unpack_from(">I", chunks[b"SSND"])
    body = chunks[b"SSND"][8 + offset :]
    if coding not in (b"NONE", b"sowt", b"twos") or bits not in (16, 24, 32):
        raise SpeechError(f"the AIFF is {coding.decode('latin-1')!r} with {bits} bits; write 16-bit PCM")
    return _mono(_integers(body, bits // 8, "<" if coding == b"sowt" else ">"), channels), _checked(rate)


def _extended(data: bytes) -> int:
    """An 80-bit IEEE 754 extended number, which is how AIFF writes its rate, as an integer."""
    exponent, mantissa = struct.unpack(">HQ", data)
    rate: int = round(mantissa * 2.0 ** ((exponent & 0x7FFF) - 16383 - 63))
    return rate


def _whole(body: bytes, width: int) -> bytes:
    return body[: len(body) // width * width]


def _integers(body: bytes, width: int, order: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """PCM of 2, 3 or 4 bytes a sample, scaled to the range of int16."""
    raw = np.frombuffer(_whole(body, width), np.uint8).reshape(-1, width)
    if order == "<":
        raw = raw[:, ::-1]
    # Left-aligned in 32 bits, most significant byte first, so that the sign comes out right.
    aligned = np.zeros((len(raw), 4), np.uint8)
    aligned[:, :width] = raw
    return aligned.reshape(-1).view(">i4").astype(np.float64) / 65536.0


def _mono(samples: np.ndarray[tuple[int], np.dtype[np.float64]], channels: int) -> Pcm:
    if channels < 1:
        raise SpeechError("the audio has no channel")
    frames = samples[: len(samples) // channels * channels].reshape(-1, channels)
    pcm: Pcm = np.clip(np.rint(frames.mean(axis=1)), -32768, 32767).astype(np.int16)
    return pcm


def _checked(rate: int) -> int:
    if not 8_000 <= rate <= 48_000:
        raise SpeechError(f"the audio has a rate of {rate} Hz; use 8000 to 48000 Hz")
    return rate
