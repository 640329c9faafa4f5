"""The engine with its thread, on real sockets and the real clock. Waits are on events and sockets, with a time-out."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from aiphone.events import Event, PlayoutDrained, PlayoutStarted, RtpStream
from aiphone.media.engine import MediaEngine
from aiphone.media.ports import RtpPortPool
from aiphone.media.types import FrameFlag
from aiphone.native import g711, rtp
from aiphone.native.engine import live_allocations

PATIENCE = 5.0
SO_TIMESTAMPNS = getattr(socket, "SO_TIMESTAMPNS", 35)


def stream_to(port: int) -> RtpStream:
    return RtpStream("127.0.0.1", port, 0, "PCMU", 101, 20, send=True, receive=True)


@pytest.fixture
def engine() -> Iterator[MediaEngine]:
    before = live_allocations()
    engine = MediaEngine(4)
    engine.start()
    yield engine
    engine.stop()
    assert not engine.wait_frames(0.0)
    del engine
    assert live_allocations() <= before + 4  # the fixture's own engine lives until it is collected


@pytest.fixture
def peer() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", 0))
        s.settimeout(PATIENCE)
        yield s


def events_until(engine: MediaEngine, kind: type[Event]) -> list[Event]:
    deadline = time.monotonic() + PATIENCE
    seen: list[Event] = []
    while not any(isinstance(e, kind) for e in seen):
        assert time.monotonic() < deadline, f"no {kind.__name__} in {PATIENCE} s"
        select.select([engine], [], [], 0.1)
        seen += engine.events()
    return seen


def test_playout_is_paced_and_reported(engine: MediaEngine, peer: socket.socket) -> None:
    call = engine.add("c1", RtpPortPool("127.0.0.1", 44000, 44999).open(), stream_to(peer.getsockname()[1]))
    peer.recv(2048)
    before = time.monotonic()
    call.write(np.full(3200, 8000, np.int16))
    events = events_until(engine, PlayoutDrained)
    took = time.monotonic() - before
    assert isinstance(events[0], PlayoutStarted)
    assert before <= events[0].at <= before + took
    assert call.played == 3200
    assert took >= 0.15  # ten packets, 20 ms apart


def test_frames_wake_the_listener_and_carry_the_arrival_time(engine: MediaEngine, peer: socket.socket) -> None:
    pair = RtpPortPool("127.0.0.1", 44000, 44999).open()
    call = engine.add("c1", pair, stream_to(peer.getsockname()[1]))
    arrivals: list[float] = []

    def listen() -> None:
        deadline = time.monotonic() + PATIENCE
        while len(arrivals) < 5 and time.monotonic() < deadline:
            if engine.wait_frames(0.5):
                frames = call.read(100)
                arrivals.extend(frames.arrival[frames.flags & FrameFlag.NO_PACKET == 0].tolist())

    listener = threading.Thread(target=listen)
    listener.start()
    sent = []
    for i in range(20):
        peer.recv(2048)  # the engine's own packets are the clock
        sent.append(time.monotonic())
        peer.sendto(rtp.build(0, i == 0, i, i * 160, 5, b"\x80" * 160), ("127.0.0.1", pair.port))
    listener.join(PATIENCE)
    assert len(arrivals) >= 5
    assert arrivals == sorted(arrivals)
    # On the clock of time.monotonic(), from the first packet sent until now; how late each is depends on the machine.
    assert sent[0] - 0.001 <= arrivals[0] <= arrivals[-1] <= time.monotonic() + 0.001


def test_python_that_stands_still_delays_no_packet(engine: MediaEngine) -> None:
    """Nothing else of Python runs for two seconds: what was queued is sent on time, then silence, on time too."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        peer.settimeout(PATIENCE)
        peer.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        call = engine.add("c1", RtpPortPool("127.0.0.1", 44000, 44999).open(), stream_to(peer.getsockname()[1]))
        peer.recv(2048)
        call.write(np.full(320 * 40, 8000, np.int16))
        start = time.monotonic()
        while time.monotonic() - start < 2.0:
            sum(range(3_000_000))  # one C call that does not give up the GIL
        packets = []
        peer.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                data, control, _, _ = peer.recvmsg(2048, 64)
                packets.append((struct.unpack("qq", control[0][2][:16]), rtp.parse(data)))
    assert call.played == 320 * 40
    times = np.array([seconds + nanoseconds * 1e-9 for (seconds, nanoseconds), _ in packets])
    # A machine that stands still itself loses some of the hundred; a thread that waits for Python loses most.
    assert len(times) >= 60
    assert abs(np.median(np.diff(times)) - 0.02) < 0.005
    loud = [np.abs(g711.decode_ulaw(p[5])).max() > 4000 for _, p in packets]
    assert 40 <= sum(loud) <= 41  # the last of it is in the resampler for 5 ms more
    assert not any(loud[45:])


def test_stop_ends_everything_and_is_idempotent(peer: socket.socket) -> None:
    engine = MediaEngine(1)
    engine.start()
    call = engine.add("c1", RtpPortPool("127.0.0.1", 44000, 44999).open(), stream_to(peer.getsockname()[1]))
    peer.recv(2048)
    waiting = threading.Thread(target=engine.wait_frames, args=(PATIENCE,))
    waiting.start()
    engine.stop()
    waiting.join(PATIENCE / 2)
    assert not waiting.is_alive()
    assert call.closed
    assert call.stats().packets_sent >= 1
    engine.stop()
