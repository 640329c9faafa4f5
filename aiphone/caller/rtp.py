"""RTP packets (RFC 3550 section 5.1) and telephone events (RFC 4733), as a caller needs them."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from aiphone.events import Pcm
from aiphone.native.g711 import decode_alaw, decode_ulaw, encode_alaw, encode_ulaw

RATE = 8000
"""Clock and sample rate of G.711, Hz."""

FRAME = 160
"""Samples in 20 ms."""

VOICED_DBFS = -45.0
"""A frame above this is heard as sound: the threshold of the latency definition."""

SILENCE_DBFS = -120.0
"""What a frame of zeros is said to have, and the least any frame has."""

DIGITS = "0123456789*#ABCD"
"""RFC 4733 event codes 0 to 15."""

HEADER = struct.Struct("!BBHII")


@dataclass(frozen=True, slots=True)
class Packet:
    """An RTP packet without its contributing sources and extension."""

    payload_type: int
    sequence: int
    timestamp: int
    ssrc: int
    payload: bytes = field(repr=False)
    marker: bool = False

    def pack(self) -> bytes:
        """The bytes for the wire."""
        second = self.payload_type | (0x80 if self.marker else 0)
        return HEADER.pack(0x80, second, self.sequence, self.timestamp, self.ssrc) + self.payload

    @classmethod
    def parse(cls, data: bytes) -> Packet | None:
        """None when it is no RTP packet of version 2."""
        if len(data) < HEADER.size or data[0] >> 6 != 2:
            return None
        first, second, sequence, timestamp, ssrc = HEADER.unpack_from(data)
        start, end = HEADER.size + 4 * (first & 0x0F), len(data)
        if first & 0x10:
            if len(data) < start + 4:
                return None
            start += 4 + 4 * int.from_bytes(data[start + 2 : start + 4], "big")
        if first & 0x20:
            end -= data[-1]
        if start > end:
            return None
        return cls(second & 0x7F, sequence, timestamp, ssrc, data[start:end], bool(second & 0x80))


@dataclass(frozen=True, slots=True)
class TelephoneEvent:
    """Payload of a telephone-event packet. ``duration`` is in samples at 8 kHz."""

    event: int
    end: bool
    duration: int
    volume: int = 10

    def pack(self) -> bytes:
        """The four bytes."""
        return struct.pack("!BBH", self.event, (0x80 if self.end else 0) | self.volume, min(self.duration, 0xFFFF))

    @classmethod
    def parse(cls, payload: bytes) -> TelephoneEvent | None:
        """None when it is too short."""
        if len(payload) < 4:
            return None
        event, flags, duration = struct.unpack_from("!BBH", payload)
        return cls(event, bool(flags & 0x80), duration, flags & 0x3F)


def decode(codec: str, payload: bytes) -> Pcm:
    """G.711 to int16 at 8 kHz. ``codec`` is "PCMU" or "PCMA"."""
    return decode_alaw(payload) if codec == "PCMA" else decode_ulaw(payload)


def encode(codec: str, pcm: Pcm) -> bytes:
    """int16 at 8 kHz to G.711."""
    return encode_alaw(pcm) if codec == "PCMA" else encode_ulaw(pcm)


def level_dbfs(pcm: Pcm) -> float:
    """Root mean square in dB relative to full scale (a full-scale square wave is 0, a sine -3)."""
    if not len(pcm):
        return SILENCE_DBFS
    samples = pcm.astype(np.float32)
    mean_square = float(np.dot(samples, samples)) / len(pcm)
    return max(SILENCE_DBFS, 10 * math.log10(mean_square / 32768.0**2)) if mean_square else SILENCE_DBFS


@dataclass(frozen=True, slots=True)
class Frame:
    """What one tick of 20 ms sends: a payload of the audio codec, or of telephone-event."""

    payload: bytes = field(repr=False)
    level: float = SILENCE_DBFS
    event_offset: int | None = None
    """None for audio; else how many samples ago the event began, which sets its timestamp."""
    marker: bool = False

    @property
    def voiced(self) -> bool:
        """Audio that is heard."""
        return self.level > VOICED_DBFS


def audio_frames(codec: str, pcm: Pcm) -> list[Frame]:
    """Speech at 8 kHz as frames of 20 ms; the last one is filled up with silence. Levels are of the decoded frame."""
    padded = np.zeros(-(-len(pcm) // FRAME) * FRAME, dtype=np.int16)
    padded[: len(pcm)] = pcm
    frames = []
    for start in range(0, len(padded), FRAME):
        payload = encode(codec, padded[start : start + FRAME])
        frames.append(Frame(payload, level_dbfs(decode(codec, payload))))
    return frames


def digit_frames(digits: str, *, duration: float = 0.1, gap: float = 0.1) -> list[Frame | None]:
    """Keys as telephone events, then a pause; None is a tick of ordinary silence. ValueError for an unknown key."""
    ticks = max(1, round(duration / 0.02))
    frames: list[Frame | None] = []
    for digit in digits.upper():
        if digit not in DIGITS:
            raise ValueError(f"{digit!r} is not a telephone key: use {DIGITS}")
        event = DIGITS.index(digit)
        for tick in range(ticks):
            payload = TelephoneEvent(event, end=False, duration=(tick + 1) * FRAME).pack()
            frames.append(Frame(payload, event_offset=tick * FRAME, marker=tick == 0))
        # The end is sent three times (RFC 4733 section 2.5.1.4), a lost packet must not hold the key down.
        last = TelephoneEvent(event, end=True, duration=ticks * FRAME).pack()
        frames += [Frame(last, event_offset=(ticks + copy) * FRAME) for copy in range(3)]
        frames += [None] * max(1, round(gap / 0.02))
    return frames


@dataclass(slots=True)
class Received:
    """A packet that came in, stamped on the thread that owns the socket."""

    arrived_at: float
    packet: Packet
    codec: str
    """"PCMU", "PCMA", "TELEPHONE-EVENT", or nothing when the payload type was not agreed."""
    level: float
    source: tuple[str, int]

    @property
    def voiced(self) -> bool:
        """Audio that is heard."""
        return self.level > VOICED_DBFS


@dataclass(frozen=True, slots=True)
class Sent:
    """A packet that went out, or that the scenario lost, stamped when it left."""

    sent_at: float
    packet: Packet
    level: float
    copies: int = 1
    """How many of it will arrive: 0 when the scenario lost it."""


def unwrap(values: Sequence[int], bits: int) -> list[int]:
    """Counters that wrap, as numbers that do not: each is the nearest to the one before."""
    result: list[int] = []
    modulus = 1 << bits
    for value in values:
        if not result:
            result.append(value)
            continue
        step = (value - result[-1]) % modulus
        result.append(result[-1] + (step - modulus if step >= modulus // 2 else step))
    return result
