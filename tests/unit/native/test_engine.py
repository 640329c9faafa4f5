"""The native engine under arbitrary input: commands in any order, datagrams of any kind. On an injected clock."""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiphone.errors import MediaError
from aiphone.native import g711, rtp
from aiphone.native.engine import NativeCall, NativeEngine, live_allocations


def descriptors() -> int:
    return sum(1 for _ in Path("/dev/fd").iterdir())


LOOPBACK = socket.inet_aton("127.0.0.1")


def udp() -> socket.socket:
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(("127.0.0.1", 0))
    s.setblocking(False)
    return s


def stream(port: int, **changes: object) -> tuple:  # type: ignore[type-arg]
    values = {
        "host": LOOPBACK, "port": port, "rtcp": port + 1, "pt": 0, "keys": 101, "ptime": 160,
        "send": True, "receive": True, "mux": False, "noise": False,
    }  # fmt: skip
    return tuple({**values, **changes}.values())


def add(engine: NativeEngine, port: int, **changes: object) -> tuple[NativeCall, int]:
    rtp_socket, rtcp_socket = udp(), udp()
    local = rtp_socket.getsockname()[1]
    call = engine.add(
        rtp_socket.fileno(),
        rtcp_socket.fileno(),
        stream(port, **changes),
        1,
        65535,
        2**32 - 1,
        b"0123456789abcdef",
    )
    rtp_socket.detach()
    rtcp_socket.detach()
    return call, local


def test_many_calls_each_have_memory_of_their_own() -> None:
    """More than share a large page; some go, and others take their places."""
    engine = NativeEngine(40, injected=True)
    before = live_allocations()
    levels: dict[int, int] = {}
    calls: list[NativeCall] = []

    def come(engine: NativeEngine, peer_port: int, count: int) -> None:
        for _ in range(count):
            call, local = add(engine, peer_port)
            assert (call.queued, call.played, call.stats()["packets_sent"]) == (0, 0, 0)
            levels[local] = round(400 * 1.1 ** len(levels))
            assert call.write(np.full(70000, levels[local], np.int16)) == 65536
            calls.append(call)

    with udp() as peer:
        peer.setblocking(False)
        come(engine, peer.getsockname()[1], 30)
        for i in range(5):
            engine.step(0.02 * i)
        for call in calls[::2]:
            call.close()
        engine.step(0.1)
        del calls[::2]
        come(engine, peer.getsockname()[1], 15)
        heard: dict[int, bytes] = {}
        for i in range(6, 12):
            engine.step(0.02 * i)
            with contextlib.suppress(BlockingIOError):
                while True:
                    packet, (_, sender) = peer.recvfrom(2048)
                    heard[sender] = packet[12:]
        assert len(heard) >= 30
        for local, payload in heard.items():
            assert g711.decode_ulaw(payload) == pytest.approx(levels[local], rel=0.045)
    for call in calls:
        call.close()
    engine.stop()
    assert live_allocations() == before


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32))
def test_any_order_of_commands_returns_everything(seed: int) -> None:
    rng = random.Random(seed)
    before, files = live_allocations(), descriptors()
    engine = NativeEngine(5, injected=True)
    calls: list[NativeCall] = []
    now = 0.0
    with udp() as peer:
        port = peer.getsockname()[1]
        for _ in range(120):
            action = rng.randrange(9)
            if action == 0:
                if len(calls) < 5:
                    calls.append(add(engine, port)[0])
                else:
                    with pytest.raises(MediaError), udp() as a:
                        engine.add(a.fileno(), -1, stream(port), 1, 1, 1, bytes(16))
            elif action == 1 and calls:
                calls.pop(rng.randrange(len(calls))).close()
            elif calls:
                call = rng.choice(calls)
                if action == 2:
                    call.write(np.full(rng.choice([1, 320, 5000, 70000]), 9000, np.int16))
                elif action == 3:
                    call.flush()
                elif action == 4:
                    with contextlib.suppress(MediaError):
                        call.send_digits(bytes(rng.randrange(16) for _ in range(rng.randrange(40))))
                elif action == 5:
                    ptime = rng.choice([80, 160, 240, 320, 480])
                    call.update(stream(port, pt=rng.choice([0, 8]), ptime=ptime, send=rng.random() < 0.8))
                elif action == 6:
                    call.set_gain(rng.random() * 4)
                elif action == 7:
                    call.read(rng.randrange(200))
            if action == 8 or rng.random() < 0.3:
                now += rng.choice([0.002, 0.02, 0.1])
                engine.step(now)
                engine.events()
    engine.stop()
    for call in calls:
        assert call.closed
    del engine, calls, call
    assert live_allocations() <= before
    assert descriptors() <= files


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.booleans())
def test_any_datagrams(seed: int, mux: bool) -> None:
    rng = random.Random(seed)
    engine = NativeEngine(1, injected=True)
    with udp() as peer, udp() as stranger:
        call, local = add(engine, peer.getsockname()[1], mux=mux)
        engine.step(0.0)
        for i in range(300):
            packet = bytearray(
                rtp.build(
                    rng.choice([0, 8, 13, 101, 72, rng.randrange(128)]),
                    rng.random() < 0.1,
                    (65500 + i + rng.choice([0, 0, 0, -3, 70, 5000])) % 65536,
                    (2**32 - 3200 + 160 * i + rng.choice([0, 0, 0, -80, 10**6, 2**31])) % 2**32,
                    rng.choice([7, 7, 7, 8]),
                    rng.randbytes(rng.choice([0, 1, 4, 80, 160, 480, 481, 1400, 1600])),
                )
            )
            if rng.random() < 0.3:
                packet[rng.randrange(len(packet))] = rng.randrange(256)
            del packet[rng.choice([len(packet), len(packet), rng.randrange(len(packet))]) :]
            rng.choice([peer, peer, peer, stranger]).sendto(packet, ("127.0.0.1", local))
            engine.step(0.02 * i)
            call.read(100)
        stats = call.stats()
        assert stats["packets_received"] <= 300
        assert all(value >= 0 for name, value in stats.items() if name not in ("round_trip_ms", "delay_ms"))
    engine.stop()


def test_the_frames_of_a_tick_wake_the_listener_once() -> None:
    engine = NativeEngine(10, injected=True)
    with udp() as peer:
        ports = [add(engine, peer.getsockname()[1])[1] for _ in range(10)]
        engine.step(0.0)
        woken = 0
        for i in range(50):
            for port in ports:
                peer.sendto(rtp.build(0, False, i, i * 160, 3, bytes(160)), ("127.0.0.1", port))
            for slot in range(10):
                engine.step(i * 0.02 + slot * 0.002)
                woken += engine.wait_frames(0.0)
        assert 48 <= woken <= 51
    engine.stop()


def test_calls_are_spread_over_the_tick() -> None:
    engine = NativeEngine(20, injected=True)
    with udp() as peer:
        for _ in range(20):
            add(engine, peer.getsockname()[1])
        engine.step(0.0)
        engine.step(0.098)
        counts = []
        for slot in range(10):
            with contextlib.suppress(BlockingIOError):
                while True:
                    peer.recv(2048)
            engine.step(0.1 + slot * 0.002)
            n = 0
            with contextlib.suppress(BlockingIOError):
                while peer.recv(2048):
                    n += 1
            counts.append(n)
        assert counts == [2] * 10
    engine.stop()


def test_a_stopped_engine_takes_no_calls() -> None:
    engine = NativeEngine(1, injected=True)
    engine.stop()
    with udp() as a, pytest.raises(MediaError, match="stopped"):
        engine.add(a.fileno(), -1, stream(5000), 1, 1, 1, bytes(16))


def test_only_an_injected_engine_is_stepped() -> None:
    with pytest.raises(MediaError, match="own clock"):
        NativeEngine(1).step(1.0)


def test_ipv6() -> None:
    try:
        near = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        near.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6 on loopback")
    engine = NativeEngine(1, injected=True)
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as far:
        far.bind(("::1", 0))
        far.settimeout(1)
        host = socket.inet_pton(socket.AF_INET6, "::1")
        local = near.getsockname()
        call = engine.add(near.detach(), -1, stream(far.getsockname()[1], host=host), 1, 1, 1, bytes(16))
        engine.step(0.0)
        assert len(far.recv(2048)) == 172
        for i in range(5):
            far.sendto(rtp.build(0, False, i, 160 * i, 3, bytes(160)), local)
            engine.step(0.02 * (i + 1))
        assert call.stats()["packets_received"] == 5
    engine.stop()
