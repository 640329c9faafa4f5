"""A telephone on loopback and an engine that is stepped: what the tests of the media engine share."""

from __future__ import annotations

import contextlib
import math
import socket
from collections.abc import Iterator

import numpy as np

from aiphone.events import RtpStream
from aiphone.media.engine import MediaEngine
from aiphone.media.ports import RtpPortPool
from aiphone.media.types import JitterConfig
from aiphone.native import rtp
from aiphone.native.engine import live_allocations

TICK = 0.02
SILENCE = b"\xff" * 160


def tone(seconds: float, hz: float = 440.0, amplitude: float = 10000.0, rate: int = 16000) -> np.ndarray:
    return np.round(amplitude * np.sin(2 * math.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.int16)


class Peer:
    """A telephone on loopback: one socket for RTP, one for RTCP."""

    def __init__(self) -> None:
        self.rtp = self._socket()
        self.rtcp = self._socket()
        self.seq = 65530
        self.timestamp = 2**32 - 800
        self.ssrc = 0x1234

    @staticmethod
    def _socket() -> socket.socket:
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.bind(("127.0.0.1", 0))
        s.setblocking(False)
        return s

    def send(
        self,
        port: int,
        payload: bytes = SILENCE,
        pt: int = 0,
        marker: bool = False,
        sock: socket.socket | None = None,
    ) -> None:
        packet = rtp.build(pt, marker, self.seq, self.timestamp % 2**32, self.ssrc, payload)
        (sock or self.rtp).sendto(packet, ("127.0.0.1", port))
        self.seq += 1
        self.timestamp += len(payload)

    def received(self, sock: socket.socket | None = None) -> list[bytes]:
        packets = []
        with contextlib.suppress(BlockingIOError):
            while True:
                packets.append((sock or self.rtp).recv(2048))
        return packets

    def close(self) -> None:
        self.rtp.close()
        self.rtcp.close()


class Bench:
    """An engine that is stepped, one call, one peer."""

    def __init__(self, **options: object) -> None:
        config = {"jitter": JitterConfig(fixed_ms=20.0), "injected": True, **options}
        self.engine = MediaEngine(4, **config)  # type: ignore[arg-type]
        self.pool = RtpPortPool("127.0.0.1", 41000, 42999)
        self.peer = Peer()
        self.sockets = self.pool.open()
        self.now = 0.0
        self.call = self.engine.add("c1", self.sockets, self.stream())
        self.engine.step(self.now)

    def stream(self, **changes: object) -> RtpStream:
        values: dict[str, object] = {
            "remote_host": "127.0.0.1",
            "remote_port": self.peer.rtp.getsockname()[1],
            "payload_type": 0,
            "codec": "PCMU",
            "dtmf_payload_type": 101,
            "ptime_ms": 20,
            "send": True,
            "receive": True,
            "remote_rtcp_port": self.peer.rtcp.getsockname()[1],
        }
        return RtpStream(**{**values, **changes})  # type: ignore[arg-type]

    def tick(self, payload: bytes | None = None, n: int = 1, **options: object) -> None:
        for _ in range(n):
            if payload is not None:
                self.peer.send(self.sockets.port, payload, **options)  # type: ignore[arg-type]
            self.now += TICK
            self.engine.step(self.now)

    def close(self) -> None:
        self.engine.stop()
        self.peer.close()


def headers(packets: list[bytes]) -> list[tuple[int, bool, int, int, int, bytes]]:
    return [rtp.parse(p) for p in packets]


def benches() -> Iterator[Bench]:
    """One bench, and afterwards no native memory more than before."""
    before = live_allocations()
    b = Bench()
    yield b
    b.close()
    del b.engine, b.call
    assert live_allocations() == before
