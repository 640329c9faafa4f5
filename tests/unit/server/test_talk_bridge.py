"""The browser's call: as a peer of the real engine on an injected clock, and over a real WebSocket."""

from __future__ import annotations

import json
import math
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.testing import AsyncHTTPTestCase, gen_test
from tornado.web import Application
from tornado.websocket import websocket_connect

from aiphone import events as ev
from aiphone.clock import ManualClock, SystemClock
from aiphone.errors import NetworkError
from aiphone.media.engine import MediaCall, MediaEngine
from aiphone.media.ports import RtpPortPool
from aiphone.native import g711, rtp
from aiphone.server.talk import (
    CLOSED_NORMALLY,
    NOT_UNDERSTOOD,
    TRY_AGAIN_LATER,
    CallRouter,
    LineCodec,
    TalkBridge,
    TalkHandler,
)

TICK = 0.02
FRAME = 320


def tone(seconds: float, hz: float = 440.0, amplitude: float = 10000.0) -> ev.Pcm:
    t = np.arange(round(seconds * ev.INTERNAL_RATE)) / ev.INTERNAL_RATE
    return np.round(amplitude * np.sin(2 * math.pi * hz * t)).astype(np.int16)


def rms(pcm: ev.Pcm) -> float:
    return float(np.sqrt(np.mean(pcm.astype(float) ** 2)))


class Loop:
    """Readers that the test calls."""

    def __init__(self) -> None:
        self.readers: dict[int, Callable[[], None]] = {}

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        self.readers[fd] = callback

    def remove_reader(self, fd: int) -> None:
        del self.readers[fd]

    def turn(self) -> None:
        for callback in list(self.readers.values()):
            callback()


class Page:
    """A browser that writes everything down."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.told: list[dict[str, Any]] = []
        self.closed: list[tuple[int, str]] = []

    def audio(self, frame: bytes) -> None:
        self.frames.append(frame)

    def tell(self, message: dict[str, Any]) -> None:
        self.told.append(message)

    def close(self, code: int, reason: str) -> None:
        self.closed.append((code, reason))

    @property
    def pcm(self) -> ev.Pcm:
        return np.frombuffer(b"".join(self.frames), "<i2")


class CountedPorts(RtpPortPool):
    """Knows what came back."""

    def __init__(self) -> None:
        super().__init__("127.0.0.1", 46000, 46999)
        self.given_back = 0

    def close(self, sockets: ev.RtpSockets) -> None:
        self.given_back += 1
        super().close(sockets)


class Bench:
    """A bridge, one browser, and an engine that is stepped."""

    def __init__(self) -> None:
        self.clock = ManualClock(100.0)
        self.loop = Loop()
        self.ports = CountedPorts()
        self.events: list[ev.Event] = []
        self.bridge = TalkBridge(self.ports, self.events.append, self.clock, self.loop)  # type: ignore[arg-type]
        self.engine = MediaEngine(4, injected=True)
        self.page = Page()
        self.call = self.bridge.connect(self.page)
        self.now = 0.0
        self.media: MediaCall | None = None

    def answer(self) -> MediaCall:
        self.bridge.answer(self.call.call_id)
        negotiated = self.of(ev.MediaNegotiated)[-1]
        assert negotiated.sockets is not None
        self.media = self.engine.add(negotiated.call_id, negotiated.sockets, negotiated.stream)
        self.engine.step(self.now)
        return self.media

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def tick(self, *messages: bytes, n: int = 1) -> None:
        for _ in range(n):
            for message in messages:
                self.call.audio(message)
            self.now += TICK
            self.clock.advance(TICK)
            self.engine.step(self.now)
            self.loop.turn()

    def heard(self) -> ev.Pcm:
        assert self.media is not None
        return self.media.read(100).pcm.reshape(-1)


@pytest.fixture
def bench() -> Iterator[Bench]:
    b = Bench()
    yield b
    b.bridge.close()
    b.engine.stop()
    assert not b.loop.readers


# --------------------------------------------------------------------------------------------- the call's events


def test_a_browser_rings_like_a_telephone(bench: Bench) -> None:
    (incoming,) = bench.events
    assert isinstance(incoming, ev.IncomingCall)
    assert (incoming.call_id, incoming.line_id, incoming.caller) == ("w1", "web", "sip:browser@127.0.0.1")
    assert incoming.at == 100.0
    bench.bridge.answer("w1", 180)
    assert bench.events == [incoming]
    assert bench.page.told == []


def test_answering_hands_the_sockets_over_and_tells_the_page(bench: Bench) -> None:
    bench.answer()
    assert [type(event) for event in bench.events[1:]] == [ev.MediaNegotiated, ev.CallConfirmed]
    assert bench.page.told == [{"type": "started", "call_id": "w1"}]
    bench.bridge.answer("w1")
    assert len(bench.events) == 3


def test_a_refusal_is_told_with_a_code_and_a_reason(bench: Bench) -> None:
    bench.bridge.reject("w1", 486, "Busy Here", 30)
    sentence = "everybody is busy; try again in 30 s"
    assert bench.of(ev.CallEnded) == [ev.CallEnded("w1", 486, sentence, 100.0)]
    assert bench.page.told == [{"type": "ended", "reason": sentence}]
    assert bench.page.closed == [(TRY_AGAIN_LATER, sentence)]
    assert bench.ports.given_back == 1
    assert bench.bridge.calls == {}


@pytest.mark.parametrize("answered", [False, True])
def test_a_call_ends_once_whoever_ends_it(bench: Bench, answered: bool) -> None:
    if answered:
        bench.answer()
    bench.bridge.hangup("w1", reason="the assistant said goodbye")
    bench.call.gone()
    bench.bridge.hangup("w1")
    (ended,) = bench.of(ev.CallEnded)
    assert (ended.code, ended.reason) == (200, "the assistant said goodbye")
    assert bench.page.closed == [(CLOSED_NORMALLY, "the assistant said goodbye")]
    assert bench.ports.given_back == (0 if answered else 1)  # later they are the engine's


def test_a_browser_that_leaves_ends_its_call(bench: Bench) -> None:
    bench.answer()
    bench.call.gone()
    assert bench.of(ev.CallEnded)[0].reason == "the browser hung up"
    bench.call.audio(bytes(640))  # what was on its way is ignored
    bench.bridge.answer("w1")
    assert len(bench.of(ev.CallConfirmed)) == 1


def test_a_bridge_that_is_closed_takes_no_calls(bench: Bench) -> None:
    bench.bridge.close()
    assert bench.of(ev.CallEnded)[0].code == 503
    with pytest.raises(NetworkError, match="shutting down"):
        bench.bridge.connect(Page())


def test_each_call_has_a_number_and_ports_of_its_own(bench: Bench) -> None:
    other = bench.bridge.connect(Page())
    assert other.call_id == "w2"
    bench.bridge.hangup("w1")
    assert list(bench.bridge.calls) == ["w2"]


# ------------------------------------------------------------------------------------------------------- audio


def test_what_the_browser_says_is_heard_by_the_listener(bench: Bench) -> None:
    bench.answer()
    speech = tone(1.0)
    for at in range(0, len(speech), FRAME):
        bench.tick(speech[at : at + FRAME].tobytes())
    heard = bench.heard()
    assert len(heard) >= 45 * FRAME
    steady = heard[10 * FRAME :].astype(float)
    assert rms(steady) == pytest.approx(7071, rel=0.02)
    assert np.argmax(np.abs(np.fft.rfft(steady[:8000]))) * 2 == 440
    stats = bench.media.stats() if bench.media else None
    assert stats is not None
    assert (stats.lost, stats.late, stats.strays, stats.invalid) == (0, 0, 0, 0)


def test_what_the_assistant_says_comes_back_in_frames_of_20_ms(bench: Bench) -> None:
    media = bench.answer()
    media.write(tone(0.5, hz=700.0))
    bench.tick(n=40)
    assert len(bench.page.frames) >= 39
    assert {len(frame) for frame in bench.page.frames} == {640}
    assert rms(bench.page.pcm[5 * FRAME : 20 * FRAME]) == pytest.approx(7071, rel=0.02)
    assert rms(bench.page.pcm[-5 * FRAME :]) < 10


def test_messages_of_any_length_give_the_same_packets() -> None:
    speech = tone(0.5)
    whole = LineCodec().encode(speech)
    for size in (128, 320, 480, 1000):
        codec = LineCodec()
        parts = [p for at in range(0, len(speech), size) for p in codec.encode(speech[at : at + size])]
        assert parts == whole
    assert {len(payload) for payload in whole} == {160}


def test_audio_before_the_answer_is_not_sent(bench: Bench) -> None:
    bench.call.audio(tone(0.02).tobytes())
    media = bench.answer()
    bench.tick(n=3)
    assert media.stats().packets_received == 0


def test_a_burst_after_a_stall_is_taken_and_the_call_does_not_stay_behind(bench: Bench) -> None:
    media = bench.answer()
    frame = tone(0.02, hz=400.0).tobytes()
    bench.tick(frame, n=100)
    bench.tick(n=40)  # the network holds 0.8 s back ...
    for _ in range(40):
        bench.call.audio(frame)  # ... and delivers it at once
    bench.tick(frame, n=100)
    bench.heard()
    bench.tick(frame, n=50)
    assert rms(bench.heard()) == pytest.approx(7071, rel=0.05)
    assert media.stats().delay_ms <= 300  # the jitter buffer's bound, not the 0.8 s
    assert bench.call.flooded == 0


def test_after_a_pause_of_the_browser_the_caller_is_heard_again(bench: Bench) -> None:
    media = bench.answer()
    frame = tone(0.02, hz=400.0).tobytes()
    bench.tick(frame, n=100)
    bench.tick(n=250)
    bench.tick(frame, n=100)
    bench.heard()
    bench.tick(frame, n=50)
    assert rms(bench.heard()) == pytest.approx(7071, rel=0.05)
    assert media.stats().delay_ms < 200


def test_a_flood_is_bounded_and_counted(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    media = bench.answer()
    for _ in range(1000):
        bench.call.audio(bytes(640))
    bench.tick(n=3)
    assert media.stats().packets_received == 100  # two seconds
    assert bench.call.flooded == 900 * FRAME
    bench.tick(bytes(640), bytes(640), n=100)  # twice as fast as anybody speaks
    assert media.stats().packets_received == pytest.approx(100 + 110, abs=3)
    bench.bridge.hangup("w1")
    assert "s of audio too much; dropped" in caplog.text


@pytest.mark.parametrize("rubbish", [b"\0" * 641, b"\0" * 20_000])
def test_what_is_no_audio_ends_the_call(bench: Bench, rubbish: bytes) -> None:
    bench.answer()
    bench.call.audio(rubbish)
    assert bench.page.closed[0][0] == NOT_UNDERSTOOD
    assert len(bench.of(ev.CallEnded)) == 1


def test_only_the_engine_is_heard(bench: Bench) -> None:
    bench.answer()
    bench.tick(n=5)
    frames = len(bench.page.frames)
    (fd,) = bench.loop.readers
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger,
        socket.socket(fileno=os.dup(fd)) as ours,
    ):
        loud = rtp.build(0, False, 1, 160, 1, g711.encode_ulaw(np.full(160, 9000, np.int16)))
        stranger.sendto(loud, ours.getsockname())
    bench.loop.turn()
    assert len(bench.page.frames) == frames


# ------------------------------------------------------------------------------------------------------ the router


def test_commands_go_where_the_call_is() -> None:
    class Port:
        def __init__(self) -> None:
            self.got: list[tuple[Any, ...]] = []

        def answer(self, call_id: str, code: int = 200) -> None:
            self.got.append(("answer", call_id, code))

        def reject(self, call_id: str, code: int, reason: str = "", retry_after: int | None = None) -> None:
            self.got.append(("reject", call_id, code, reason, retry_after))

        def hangup(self, call_id: str, code: int = 0, reason: str = "") -> None:
            self.got.append(("hangup", call_id, code, reason))

    sip, talk = Port(), Port()
    router = CallRouter(sip, talk)
    router.answer("w1")
    router.answer("c1", 180)
    router.reject("o7", 486, "Busy Here", 30)
    router.hangup("w2", reason="over")
    assert talk.got == [("answer", "w1", 200), ("hangup", "w2", 200, "over")]
    assert sip.got == [("answer", "c1", 180), ("reject", "o7", 486, "Busy Here", 30)]


# --------------------------------------------------------------------------------------------------- the WebSocket


class TestHandler(AsyncHTTPTestCase):
    bridge: TalkBridge | None = None

    def get_app(self) -> Application:
        self.events: list[ev.Event] = []
        self.handlers: list[TalkHandler] = []
        handlers = self.handlers

        class Kept(TalkHandler):
            def open(self, *args: str, **kwargs: str) -> None:
                handlers.append(self)
                super().open(*args, **kwargs)

        return Application([(r"/api/talk", Kept, {"bridge": lambda: self.bridge})])

    def start_bridge(self) -> TalkBridge:
        self.bridge = TalkBridge(CountedPorts(), self.post, SystemClock(), self.io_loop.asyncio_loop)  # type: ignore[attr-defined]
        return self.bridge

    def post(self, event: ev.Event) -> None:
        self.events.append(event)

    def tearDown(self) -> None:
        if self.bridge is not None:
            self.bridge.close()
        for event in self.events:
            if isinstance(event, ev.MediaNegotiated) and event.sockets is not None:
                os.close(event.sockets.rtp_fd)
                os.close(event.sockets.rtcp_fd)
        super().tearDown()

    def request(self, **headers: str) -> HTTPRequest:
        return HTTPRequest(f"ws://127.0.0.1:{self.get_http_port()}/api/talk", headers=headers)

    async def until_closed(self, connection: Any) -> None:
        while await connection.read_message() is not None:
            pass
        connection.close()

    @gen_test
    async def test_a_call_over_a_real_socket(self) -> None:
        bridge = self.start_bridge()
        connection = await websocket_connect(self.request())
        bridge.answer("w1")
        started = await connection.read_message()
        assert json.loads(str(started)) == {"type": "started", "call_id": "w1"}
        negotiated = next(e for e in self.events if isinstance(e, ev.MediaNegotiated))
        with socket.socket(fileno=os.dup(negotiated.sockets.rtp_fd)) as engine:
            packet = rtp.build(0, True, 1, 160, 1, g711.encode_ulaw(np.full(160, 9000, np.int16)))
            engine.sendto(packet, ("127.0.0.1", negotiated.stream.remote_port))
            frame = await connection.read_message()
            assert isinstance(frame, bytes)
            assert len(frame) == 640
            await connection.write_message(tone(0.02).tobytes(), binary=True)
            bridge.hangup("w1", reason="that was all")
        ended = await connection.read_message()
        assert json.loads(str(ended)) == {"type": "ended", "reason": "that was all"}
        await self.until_closed(connection)
        assert (connection.close_code, connection.close_reason) == (CLOSED_NORMALLY, "that was all")

    @gen_test
    async def test_each_browser_is_a_caller_of_its_own(self) -> None:
        self.start_bridge()
        for number, browser in enumerate(("0a1b2c3d", "ffffffff"), 1):
            request = self.request()
            request.url += f"?browser={browser}"
            connection = await websocket_connect(request)
            rings = [e for e in self.events if isinstance(e, ev.IncomingCall)]
            assert len(rings) == number
            assert rings[-1].caller == f"sip:browser-{browser}@127.0.0.1"
            connection.close()
            await self.until_closed(connection)

    @gen_test
    async def test_an_id_that_is_none_is_refused(self) -> None:
        self.start_bridge()
        for browser in ("short", "%3Csip%3Aeve%40h%3E00", "a" * 33, "0a1b%0D%0A2c3d"):
            request = self.request()
            request.url += f"?browser={browser}"
            connection = await websocket_connect(request)
            await self.until_closed(connection)
            assert connection.close_code == NOT_UNDERSTOOD
        assert self.events == []

    @gen_test
    async def test_a_busy_server_says_so(self) -> None:
        bridge = self.start_bridge()
        connection = await websocket_connect(self.request())
        bridge.reject("w1", 486, "Busy Here", 30)
        await self.until_closed(connection)
        assert connection.close_code == TRY_AGAIN_LATER
        assert connection.close_reason == "everybody is busy; try again in 30 s"

    @gen_test
    async def test_a_server_that_is_still_loading_says_so(self) -> None:
        connection = await websocket_connect(self.request())
        await self.until_closed(connection)
        assert connection.close_code == TRY_AGAIN_LATER
        assert "still being loaded" in str(connection.close_reason)

    @gen_test
    async def test_closing_the_page_ends_the_call(self) -> None:
        self.start_bridge()
        connection = await websocket_connect(self.request())
        connection.close()
        await self.until_closed(connection)
        assert [e.reason for e in self.events if isinstance(e, ev.CallEnded)] == ["the browser hung up"]

    @gen_test
    async def test_another_site_may_not_call(self) -> None:
        self.start_bridge()
        with pytest.raises(HTTPClientError, match="403"):
            await websocket_connect(self.request(Origin="http://evil.example"))
        assert self.events == []

    @gen_test
    async def test_a_slow_browser_does_not_fill_the_memory(self) -> None:
        bridge = self.start_bridge()
        connection = await websocket_connect(self.request())
        bridge.answer("w1")
        (handler,) = self.handlers
        for _ in range(500):
            handler.audio(bytes(640))
        assert handler.dropped == 450
        await connection.read_message()
        assert len(await connection.read_message() or b"") == 640
        connection.close()
        await self.until_closed(connection)
