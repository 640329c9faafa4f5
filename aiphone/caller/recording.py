"""What a caller heard: received packets put back in their places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from aiphone.caller.rtp import FRAME, RATE, Received, Sent, decode, unwrap
from aiphone.events import Pcm

STATIC_CODECS = {0: "PCMU", 8: "PCMA"}

REBASE = 5 * RATE
"""A stream whose timestamps are further off than this from the arrival times has started anew."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """Of the packets of the last source (SSRC) heard."""

    packets: int = 0
    lost: int = 0
    """Sequence numbers that never came."""
    duplicates: int = 0
    reordered: int = 0
    jitter: float = 0.0
    """Interarrival jitter (RFC 3550 section 6.4.1) at the end, seconds."""
    longest_gap: float = 0.0
    """Longest time between two arrivals, seconds."""


@dataclass(frozen=True, slots=True)
class Recording:
    """Audio at 8 kHz, int16, placed by RTP timestamp; where nothing came there is silence."""

    pcm: Pcm = field(repr=False)
    started_at: float
    """Arrival of the first audio packet: the time of sample 0, but for that packet's delay on the way."""
    packets: list[Received] = field(repr=False)
    """Audio packets in order of arrival."""
    positions: list[int] = field(repr=False)
    """Index of each packet's first sample in ``pcm``."""

    def between(self, start: float, end: float) -> Pcm:
        """The audio whose packets arrived from ``start`` to ``end`` (monotonic seconds), both included."""
        inside = [
            (position, position + len(packet.packet.payload))
            for packet, position in zip(self.packets, self.positions, strict=True)
            if start <= packet.arrived_at <= end
        ]
        if not inside:
            return np.zeros(0, dtype=np.int16)
        return self.pcm[min(first for first, _ in inside) : max(last for _, last in inside)]

    def statistics(self) -> Statistics:
        """Loss, order and jitter."""
        if not self.packets:
            return Statistics()
        ssrc = self.packets[-1].packet.ssrc
        stream = [p for p in self.packets if p.packet.ssrc == ssrc]
        numbers = unwrap([p.packet.sequence for p in stream], 16)
        stamps = unwrap([p.packet.timestamp for p in stream], 32)
        distinct = len(set(numbers))
        seen: set[int] = set()
        reordered, highest, jitter, gap = 0, numbers[0], 0.0, 0.0
        for i, number in enumerate(numbers):
            if number < highest and number not in seen:
                reordered += 1
            highest = max(highest, number)
            seen.add(number)
            if i:
                wait = stream[i].arrived_at - stream[i - 1].arrived_at
                gap = max(gap, wait)
                jitter += (abs(wait - (stamps[i] - stamps[i - 1]) / RATE) - jitter) / 16
        lost = max(numbers) - min(numbers) + 1 - distinct
        return Statistics(len(stream), lost, len(numbers) - distinct, reordered, jitter, gap)


def build(received: Sequence[Received]) -> Recording:
    """Put packets in their places. A new SSRC, or a jump in the timestamps, is placed by its time of arrival."""
    packets = [p for p in received if p.codec in ("PCMU", "PCMA")]
    if not packets:
        return Recording(np.zeros(0, dtype=np.int16), 0.0, [], [])
    started_at = packets[0].arrived_at
    positions: list[int] = []
    run: tuple[int, int, int] | None = None  # SSRC, timestamp and position of the packet before
    for packet in packets:
        by_arrival = round((packet.arrived_at - started_at) * RATE)
        position = by_arrival
        if run and run[0] == packet.packet.ssrc:
            step = (packet.packet.timestamp - run[1]) & 0xFFFFFFFF
            step -= 1 << 32 if step >= 1 << 31 else 0
            if abs(run[2] + step - by_arrival) < REBASE:
                position = run[2] + step
        run = (packet.packet.ssrc, packet.packet.timestamp, position)
        positions.append(position)
    origin = min(positions)
    positions = [position - origin for position in positions]
    length = max(p + len(packet.packet.payload) for p, packet in zip(positions, packets, strict=True))
    pcm = np.zeros(length, dtype=np.int16)
    for packet, position in zip(packets, positions, strict=True):
        samples = decode(packet.codec, packet.packet.payload)
        pcm[position : position + len(samples)] = samples
    return Recording(pcm, started_at + origin / RATE, packets, positions)


def side_by_side(sent: Sequence[Sent], heard: Recording) -> Pcm:
    """Two columns on one time axis: left what the caller sent, right what it heard."""
    spoken = [s for s in sent if s.packet.payload_type in STATIC_CODECS]
    starts = [s.sent_at for s in spoken[:1]] + ([heard.started_at] if heard.packets else [])
    if not starts:
        return np.zeros((0, 2), dtype=np.int16)
    zero = min(starts)
    stamps = unwrap([s.packet.timestamp for s in spoken], 32)
    places = [round((spoken[0].sent_at - zero) * RATE) + stamp - stamps[0] for stamp in stamps]
    right = round((heard.started_at - zero) * RATE) if heard.packets else 0
    both = np.zeros((max([right + len(heard.pcm), *(place + FRAME for place in places)]), 2), dtype=np.int16)
    for packet, place in zip(spoken, places, strict=True):
        samples = decode(STATIC_CODECS[packet.packet.payload_type], packet.packet.payload)
        both[place : place + len(samples), 0] = samples
    both[right : right + len(heard.pcm), 1] = heard.pcm
    return both
