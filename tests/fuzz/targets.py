"""What is fuzzed: each target turns bytes into calls of the native code and says what must hold afterwards.

A target may raise ``ValueError`` or ``MediaError`` (refusals on purpose); anything else is a finding.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aiphone.errors import MediaError
from aiphone.native import rtcp, rtp
from aiphone.native.engine import NativeCall, NativeEngine, live_allocations
from aiphone.native.jitter import JitterBuffer
from aiphone.native.srtp import AVAILABLE, SUITES, NativeCrypto
from aiphone.native.telephone_event import KeyReceiver, KeySender

VECTORS = Path(__file__).parent.parent / "vectors" / "rtp"
OUR_SSRC = 0x01020304
KEY = bytes(range(30))
SUITE = next(iter(SUITES), "")


@dataclass(frozen=True, slots=True)
class Target:
    """One thing to fuzz."""

    name: str
    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]


def exact(data: bytes) -> npt.NDArray[np.uint8]:
    """The bytes in a block of memory of just that size, so that a read beyond them is seen."""
    return np.frombuffer(data, np.uint8).copy()


class Reader:
    """Takes numbers from the input, zeros when it is used up."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def __bool__(self) -> bool:
        return self.at < len(self.data)

    def number(self, size: int = 1) -> int:
        value = int.from_bytes(self.data[self.at : self.at + size].ljust(size, b"\0"), "big")
        self.at += size
        return value

    def take(self, size: int) -> bytes:
        taken = self.data[self.at : self.at + size]
        self.at += size
        return taken


# ------------------------------------------------------------------------------------------------------ parsers


def run_rtp(data: bytes) -> None:
    payload_type, _, seq, timestamp, ssrc, payload = rtp.parse(exact(data))  # type: ignore[arg-type]
    assert 0 <= payload_type < 128
    assert seq < 2**16
    assert timestamp < 2**32
    assert ssrc < 2**32
    assert payload in data[12:]


def run_rtcp(data: bytes) -> None:
    report = rtcp.parse(exact(data), OUR_SSRC)  # type: ignore[arg-type]
    assert 0 <= report["fraction_lost"] <= 255
    assert -(2**23) <= report["lost"] < 2**23


def run_telephone_event(data: bytes) -> None:
    reader, receiver, sender, now = Reader(data[:300]), KeyReceiver(), KeySender(), 0.0
    while reader:
        head = reader.number()
        if head & 0x80:
            sender.queue(reader.take(head & 0x3F))
            for _ in range(head & 0x1F):
                step = sender.step(reader.number(4))
                if step is not None and step[0] is not None:
                    assert len(step[0]) == 4
        else:
            now += (head & 0x70) / 1000
            payload = exact(reader.take(4 + (head & 7) - 4 * (head >> 3 & 1)))
            key = receiver.packet(payload, bool(head & 0x40), reader.number(4), now)  # type: ignore[arg-type]
            assert key is None or key in "0123456789*#ABCD"


def run_jitter(data: bytes) -> None:
    reader = Reader(data[:300])
    buffer = JitterBuffer(min_ms=float(reader.number()), max_ms=float(reader.number()) * 4, fixed_ms=-1.0)
    now, seq, timestamp = 1.0, 65536, 0
    while reader:
        head = reader.number()
        if head < 0x60:
            seq = max(1, seq + (head & 0x3F) - 8)
            timestamp += 160
            buffer.put(seq, timestamp, now, exact(bytes(1 + head)), 160)  # type: ignore[arg-type]
        elif head < 0x70:
            seq, timestamp = reader.number(3) + 1, reader.number(4)
            samples = 80 * (1 + (head & 7))
            buffer.put(seq, timestamp, now, exact(bytes(reader.number(2) or 1)), samples)  # type: ignore[arg-type]
        elif head < 0x80:
            buffer.skip(seq + (head & 0xF))
        elif head < 0xF8:
            # Steps as hearing makes them: a slot, a part of a tick, a tick.
            now += (0.002, 0.006, 0.02, 0.02)[head & 3]
            piece = (16, 16, 48, 160)[head >> 2 & 3]
            why, _, samples = buffer.get(now, piece)
            assert why in ("normal", "missing", "prefetching", "empty")
            assert 0 < samples <= 8 * 160
            buffer.advice(now, head & 0x70)
        else:
            now += reader.number(2) / 1000


# ------------------------------------------------------------------------------------------------------- engine


class Peers:
    """Two sockets for all runs: the signalled peer and a stranger."""

    def __init__(self) -> None:
        self.peer, self.stranger = self.open(), self.open()
        self.port = self.peer.getsockname()[1]

    @staticmethod
    def open() -> socket.socket:
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.bind(("127.0.0.1", 0))
        s.setblocking(False)
        return s

    def drain(self) -> Iterator[bytes]:
        with contextlib.suppress(OSError):
            while True:
                yield self.peer.recv(2048)


class Session:
    """Commands and datagrams, from bytes, for an engine without a thread."""

    CAPACITY = 3
    peers: Peers | None = None

    def __init__(self, data: bytes) -> None:
        Session.peers = Session.peers or Peers()
        self.reader = Reader(data)
        comfort = 1e-6 * (len(data) & 1)  # noise in our silence, described where the call knows comfort noise
        self.engine = NativeEngine(self.CAPACITY, injected=True, rtp_timeout=2.0, comfort_level=comfort)
        self.calls: list[tuple[NativeCall, int, int]] = []
        self.now = 0.0
        self.seq = 65530
        self.caller = NativeCrypto(KEY, SUITE, sending=True) if AVAILABLE else None

    @staticmethod
    def keys(secret: bool) -> tuple[NativeCrypto | None, NativeCrypto | None]:
        if not (secret and AVAILABLE):
            return None, None
        return NativeCrypto(KEY, SUITE, sending=True), NativeCrypto(KEY, SUITE, sending=False)

    def stream(self, flags: int) -> tuple[bytes, int, int, int, int, int, bool, bool, bool, bool]:
        assert self.peers is not None
        ptime = (80, 160, 240, 320, 400, 480, 160, 160)[flags & 7]
        host = socket.inet_aton("0.0.0.0" if flags == 0xFF else "127.0.0.1")
        keys = -1 if flags & 0x40 else 101
        port = self.peers.port
        return (
            host,
            port,
            port,
            8 * (flags >> 3 & 1),
            keys,
            ptime,
            flags & 0x70 != 0x70,
            flags & 0x90 != 0x90,
            bool(flags & 0x20),
            bool(flags & 0x08),
        )

    def add(self, flags: int, *, secret: bool = False) -> None:
        near, report = Peers.open(), Peers.open()
        ports = near.getsockname()[1], report.getsockname()[1]
        try:
            call = self.engine.add(
                near.fileno(),
                report.fileno(),
                self.stream(flags),
                OUR_SSRC,
                65535,
                2**32 - 1,
                bytes(16),
                self.keys(secret),
            )
        except MediaError:
            near.close()
            report.close()
            raise
        near.detach()
        report.detach()
        self.calls.append((call, *ports))

    def datagram(self, which: int) -> None:
        assert self.peers is not None
        _, port, report_port = self.calls[which % len(self.calls)]
        kind = self.reader.number()
        size = self.reader.number(2) % 2000 if kind & 0x80 else kind & 0x3F
        body = self.reader.take(size)
        if kind & 0x40:  # a good header, so that the body is reached
            self.seq += 1 + (size == 7)
            body = rtp.build((0, 8, 13, 101)[size & 3], False, self.seq, 160 * self.seq, 7, body)
        if which & 0x40:
            body = self.secret(body, rtcp=bool(which & 0x20))
        sender = self.peers.stranger if which & 0x10 else self.peers.peer
        sender.sendto(body, ("127.0.0.1", report_port if which & 0x20 else port))

    def secret(self, body: bytes, *, rtcp: bool) -> bytes:
        """As SRTP, so that what lies behind the authentication is reached; now and then with a bit that is wrong."""
        assert self.caller is not None
        sealed = bytearray(self.caller.apply(body, rtcp=rtcp, sending=True) or body)
        place = self.reader.number(2)
        if place & 0x8000 and sealed:
            sealed[place % len(sealed)] ^= 1 << (place >> 12 & 7)
        return bytes(sealed)

    def act(self) -> None:
        head = self.reader.number()
        action, which = head & 0x0F, head >> 4
        if action == 0 or not self.calls:
            self.add(self.reader.number(), secret=bool(head & 0x80))
            return
        call = self.calls[which % len(self.calls)][0]
        if action == 1:
            self.calls.pop(which % len(self.calls))[0].close()
        elif action == 2:
            call.write(np.full(1 + self.reader.number(2), 9000, np.int16))
        elif action == 3:
            call.flush()
        elif action == 4:
            call.send_digits(self.reader.take(which))
        elif action == 5:
            call.update(self.stream(self.reader.number()), self.keys(True) if which & 8 else None)
        elif action == 6:
            call.set_gain(self.reader.number() / 16)
        elif action == 7:
            call.read(self.reader.number())
        elif action == 8:
            call.tap() if which & 1 else call.untap()
        elif action == 9:
            for _ in range(which):
                call.set_gain(1.0)
                call.update(self.stream(which))
        elif action < 13:
            self.datagram(head >> 4 | self.reader.number() & (0x70 if AVAILABLE else 0x30))
        else:
            self.now += (0.002, 0.02, 0.02, 0.1, 0.1, 0.5, 2.5, 0.0)[which & 7]
            self.engine.step(self.now)
            for key, kind, *_ in self.engine.events():
                assert key >= 0
                assert 0 <= kind < 8

    def play(self) -> None:
        assert self.peers is not None
        try:
            while self.reader:
                with contextlib.suppress(MediaError):
                    self.act()
            self.engine.step(self.now + 0.04)
            for call, *_ in self.calls:
                stats = call.stats()
                signed = ("round_trip_ms", "delay_ms", "remote_lost")
                assert all(value >= 0 for name, value in stats.items() if name not in signed), stats
        finally:
            self.engine.stop()
        for packet in self.peers.drain():
            assert 12 <= len(packet) <= 12 + 480 + 14


def run_engine(data: bytes) -> None:
    before = live_allocations()
    session = Session(data[:600])
    session.play()
    del session
    assert live_allocations() == before, "the engine kept native memory"


# -------------------------------------------------------------------------------------------------------- seeds


def rtcp_seeds() -> list[bytes]:
    build = rtcp.build
    return [
        build(7, 1e9, 100, 10, 1600, source=(OUR_SSRC, [1, 2, 4])),
        build(7, 1e9, 100, 10, 1600, sent=False, bye=True, source=(OUR_SSRC, [1, 3])),
        build(7, 1e9, 100, 0, 0, sent=False),
    ]


def engine_seeds() -> list[bytes]:
    talk = bytes.fromhex("0001") + b"".join(bytes([0x0A, 0x00, 0x60]) + bytes(32) + b"\x1d" for _ in range(6))
    # The same encrypted, with one forgery.
    secret = bytes.fromhex("8001") + b"".join(
        bytes([0x0A, 0x40, 0x60]) + bytes(32) + bytes([0x80 * (n == 3), n, 0x1D]) for n in range(6)
    )
    # RFC 3389, both ways: speech, noise of three levels, one with a spectrum, one the loudest, speech again; then ours.
    voice = (bytes([0x0A, 0x00, 0x61]) + bytes(33) + b"\x1d") * 3
    levels = (b"\x0a\x00\x42\x28\x00\x3d", b"\x0a\x00\x46\x32" + bytes(range(5)) + b"\x5d", b"\x0a\x00\x42\x00\xff\x1d")
    ours = bytes.fromhex("021000 5d 5d 18 3d 3d 1d")
    noise = b"\x00\x09" + voice + b"".join(levels) + voice + levels[0] + ours
    return [
        talk,
        secret,
        noise,
        noise + b"\x0d",
        talk + bytes.fromhex("02ffff1d1d33031d1d340102031d1d4d1d"),
        # Recorded, in single slots, with gaps from 2 ms to 2.5 s, and again.
        talk
        + bytes.fromhex("18")
        + (talk[2:] + bytes.fromhex("0d0d0d3d"))
        + talk[2:]
        + bytes.fromhex("5d08186d")
        + talk[2:],
        bytes.fromhex("000100210009 0b0070") + b"\x80" * 48 + bytes.fromhex("1d1d18021000dd1d0811011d"),
        bytes([0x00, 0x20]) + b"".join(b"\x0a\x00\xc0" + len(s).to_bytes(2, "big") + s + b"\x1d" for s in rtcp_seeds()),
    ]


def planted_run(_data: bytes) -> None:
    raise NotImplementedError("the fuzzer itself calls the planted parser")


TARGETS = {
    target.name: target
    for target in (
        Target("rtp", run_rtp, lambda: [path.read_bytes() for path in sorted(VECTORS.glob("*.bin"))]),
        Target("rtcp", run_rtcp, rtcp_seeds),
        Target(
            "telephone_event", run_telephone_event, lambda: [bytes.fromhex("000001000a00a000000064"), b"\x83\1\2\3"]
        ),
        Target("jitter", run_jitter, lambda: [b"\x14\x4b" + b"\x09\x80" * 20, b"\x14\x4b\x62\x00\x01\x00\x00\x00\x00"]),
        Target("engine", run_engine, engine_seeds),
        Target("planted", planted_run, lambda: [bytes(8)]),
    )
}
PARSERS_AND_ENGINE = [name for name in TARGETS if name != "planted"]
