"""Values that go in and out of the media engine."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

SILENCE_DBFS = -100.0
"""What a level says when there is no sound at all."""


@dataclass(frozen=True, slots=True)
class JitterConfig:
    """Bounds of the jitter buffer, in milliseconds behind the fastest packet."""

    min_ms: float = 10.0
    max_ms: float = 300.0
    start_ms: float = 40.0
    """Target before anything is known about the network."""
    fixed_ms: float | None = None
    """A target that never changes; None adapts."""
    quantile: float = 0.99
    """Share of packets that shall come in time."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_ms <= self.max_ms <= 500:
            raise ValueError("a jitter buffer needs 0 <= min_ms <= max_ms <= 500")
        if self.fixed_ms is not None and not 0 <= self.fixed_ms <= self.max_ms:
            raise ValueError("fixed_ms must lie between 0 and max_ms")
        if not 0.5 <= self.quantile < 1:
            raise ValueError("quantile must lie between 0.5 and 1")


class FrameFlag(enum.IntFlag):
    """What a frame is made of; 0 is plain decoded audio."""

    CONCEALED = 1
    """Packet loss concealment made some of it."""
    NO_PACKET = 2
    """There was nothing to play: the sender or the network pauses."""
    COMFORT_NOISE = 4
    """RFC 3389."""
    STRETCHED = 8
    """Longer or shorter than it was spoken, because the delay had to change."""


class Frames(NamedTuple):
    """Consecutive 20 ms frames of a call, oldest first."""

    pcm: npt.NDArray[np.int16]
    """Shape (n, 320), 16 kHz."""
    arrival: npt.NDArray[np.float64]
    """Shape (n,): when the RTP packet arrived that carried the frame's end, seconds on the monotonic clock; for
    frames without a packet, when the packet was due."""
    flags: npt.NDArray[np.uint8]
    """Shape (n,): ``FrameFlag``."""


@dataclass(frozen=True, slots=True)
class MediaStats:
    """A call's media in numbers, since it began."""

    packets_sent: int
    bytes_sent: int
    """Payload only."""
    send_errors: int
    packets_received: int
    bytes_received: int
    lost: int
    """RFC 3550 section 6.4.1."""
    late: int
    """Arrived, but after their time."""
    duplicated: int
    reordered: int
    concealed: int
    """What loss and lateness left out and concealment made up, in frames of 20 ms; the end of a stream is neither."""
    lengthened_ms: float
    """Sound added by time-scaling because the delay had to grow."""
    shortened_ms: float
    """Sound taken out by time-scaling because the delay had to shrink."""
    strays: int
    """Packets from an address that is not the peer's: never played."""
    invalid: int
    """Not RTP, or far out of sequence."""
    unknown_payload: int
    forged: int
    """SRTP and SRTCP packets whose tag did not fit: never played."""
    replayed: int
    """SRTP and SRTCP packets that came before: never played twice."""
    source_changes: int
    frames_lost: int
    """Frames that the listener did not fetch in time."""
    rtcp_received: int
    remote_lost: int
    """Packets of ours that the peer lost, as its RTCP reports say."""
    remote_fraction: float
    """Share of our packets lost in the peer's last interval."""
    jitter_ms: float
    """Interarrival jitter, RFC 3550 section 6.4.1."""
    remote_jitter_ms: float
    delay_ms: float
    """How far playing runs behind the fastest packet."""
    target_ms: float
    round_trip_ms: float | None
    """None until the peer's RTCP tells."""
    level_in_dbfs: float
    """RMS of what is heard, smoothed; 0 is a full-scale square."""
    level_out_dbfs: float


@dataclass(frozen=True, slots=True)
class EngineStats:
    """The media thread in numbers, since it began."""

    calls: int
    leaving: int
    """Calls that were closed and that the media thread still holds."""
    priority: str
    """``"realtime"``, ``"nice"`` or ``"normal"``: what the system allowed."""
    skipped: int
    """Ticks given up because the thread came more than 100 ms late."""
    events_dropped: int
    packets_timed: int
    late_p50_ms: float
    """Lateness of sent packets against the grid."""
    late_p99_ms: float
    late_max_ms: float
    call_bytes: int
    """Memory of one call, in bytes."""
