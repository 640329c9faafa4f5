"""Talk now on the real server: a browser asks a question over the WebSocket and hears the answer; and a call out."""

from __future__ import annotations

import asyncio
import json
import os
import wave
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from server_process import CAPITAL, spoken, transcribed
from tornado.httpclient import HTTPRequest
from tornado.testing import bind_unused_port
from tornado.websocket import WebSocketClientConnection, websocket_connect

from aiphone.caller import Caller
from aiphone.caller.rtp import RATE
from aiphone.cli.assembly import Phone, with_free_ports
from aiphone.clock import SystemClock
from aiphone.config import Settings, default_models_dir
from aiphone.conversation.record import CallRecord
from aiphone.events import FRAME_SAMPLES, FRAME_SECONDS, INTERNAL_RATE, Pcm
from aiphone.media.ports import RtpPortPool
from aiphone.native.resample import StreamResampler
from aiphone.server.assets import web_root
from aiphone.server.http import HttpServer, make_application
from aiphone.server.talk import TRY_AGAIN_LATER, CallRouter, TalkBridge, TalkHandler

pytestmark = pytest.mark.integration

GREETING = "Hello, how can I help you today?"
SILENCE = bytes(2 * FRAME_SAMPLES)
AUDIBLE = 500
"""Peak above which a frame of an answer counts as voice."""


def bridge_of(phone: Phone) -> TalkBridge:
    """The phone's own bridge; one that is put in where the phone has none."""
    wired: TalkBridge | None = getattr(phone, "talk", None)
    if wired is not None:
        return wired
    assert phone.sip is not None
    assert phone.switchboard is not None
    ports = RtpPortPool("127.0.0.1", *phone.settings.rtp_range())
    bridge = TalkBridge(ports, phone._post, phone.clock, phone.loop)
    board = phone.switchboard
    board._stages = replace(board._stages, sip=CallRouter(phone.sip, bridge))
    return bridge


@dataclass
class Place:
    """The running server of this module."""

    runner: asyncio.Runner
    phone: Phone
    bridge: TalkBridge
    port: int

    def url(self) -> HTTPRequest:
        return HTTPRequest(f"ws://127.0.0.1:{self.port}/api/talk")

    @property
    def board(self) -> Any:
        return self.phone.switchboard

    async def quiet(self) -> CallRecord:
        """Wait until all calls are over; the last one's record."""
        async with asyncio.timeout(10):
            while self.board.active:
                await asyncio.sleep(0.02)
        record: CallRecord = self.board.recent[-1]
        return record


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    settings = with_free_ports(
        Settings(
            models_dir=str(default_models_dir(os.environ)),
            data_dir=str(tmp_path_factory.mktemp("data")),
            greeting=GREETING,
            temp=0.0,
            max_calls=1,
            idle_after=0.0,
            filler="",  # on a busy machine it would be taken for the answer
        )
    )
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        phone = Phone(settings, loop, SystemClock())
        state: dict[str, Any] = {}

        async def start() -> None:
            await loop.run_in_executor(None, phone.load, lambda _: None)
            phone.start()
            bridge = bridge_of(phone)
            handler = (r"/api/talk", TalkHandler, {"bridge": lambda: bridge}, "operate")
            taken, port = bind_unused_port()
            taken.close()
            http = HttpServer(make_application(dict, web_root(), extra=[handler]), "127.0.0.1", port)
            http.start()
            state.update(bridge=bridge, http=http)

        async def stop() -> None:
            state["bridge"].close()
            await phone.stop()
            await state["http"].stop()

        runner.run(start())
        yield Place(runner, phone, state["bridge"], state["http"].port)
        runner.run(stop())


class Browser:
    """The page: a microphone that never stops, and a loudspeaker."""

    def __init__(self, connection: WebSocketClientConnection) -> None:
        self.connection = connection
        self.messages: list[dict[str, Any]] = []
        self.heard: list[Pcm] = []
        self.started = asyncio.Event()
        self.over = asyncio.Event()
        self.voiced_at: list[float] = []
        self._to_say: list[bytes] = []
        self._said_at = 0.0
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._speak())]

    async def _listen(self) -> None:
        clock = SystemClock()
        while (message := await self.connection.read_message()) is not None:
            if isinstance(message, str):
                self.messages.append(json.loads(message))
                self.started.set()
                continue
            assert len(message) == 2 * FRAME_SAMPLES
            pcm = np.frombuffer(message, "<i2")
            self.heard.append(pcm)
            if int(np.abs(pcm.astype(int)).max()) > AUDIBLE:
                self.voiced_at.append(clock.now())
        self.over.set()

    async def _speak(self) -> None:
        clock = SystemClock()
        due = clock.now()
        while not self.over.is_set():
            frame = self._to_say.pop(0) if self._to_say else SILENCE
            if frame is not SILENCE:
                self._said_at = clock.now()
            await self.connection.write_message(frame, binary=True)
            due += FRAME_SECONDS
            await asyncio.sleep(max(0.0, due - clock.now()))

    async def say(self, pcm: Pcm) -> float:
        """Speak (16 kHz); when the last frame of it left."""
        whole = len(pcm) - len(pcm) % FRAME_SAMPLES
        self._to_say += [pcm[at : at + FRAME_SAMPLES].tobytes() for at in range(0, whole, FRAME_SAMPLES)]
        while self._to_say:
            await asyncio.sleep(FRAME_SECONDS)
        return self._said_at

    async def wait_answer(self, after: float, pause: float = 1.0) -> float:
        """Wait for a voice and for its end; when it began."""
        clock = SystemClock()
        async with asyncio.timeout(30):
            while not (later := [at for at in self.voiced_at if at > after]) or clock.now() - later[-1] < pause:
                await asyncio.sleep(FRAME_SECONDS)
        return later[0]

    async def close(self) -> None:
        self.over.set()
        await asyncio.gather(self._tasks[1])
        self.connection.close()
        await asyncio.gather(self._tasks[0])


def at_16k(pcm: Pcm) -> Pcm:
    up = StreamResampler(RATE, INTERNAL_RATE)
    return np.concatenate([up.process(pcm), up.flush()])


def at_8k(pcm: Pcm) -> Pcm:
    down = StreamResampler(INTERNAL_RATE, RATE)
    return np.concatenate([down.process(np.ascontiguousarray(pcm, np.int16)), down.flush()])


def words(text: str) -> set[str]:
    return set("".join(c if c.isalnum() else " " for c in text.lower()).split())


def test_a_browser_asks_and_is_answered_and_all_of_it_is_recorded(place: Place, tmp_path: Path) -> None:
    path = tmp_path / "talk.wav"
    question = at_16k(spoken(CAPITAL))  # not while the loop carries a call

    async def scenario() -> tuple[Browser, float]:
        browser = Browser(await websocket_connect(place.url()))
        async with asyncio.timeout(10):
            await browser.started.wait()
        call_id = browser.messages[0]["call_id"]
        assert browser.messages == [{"type": "started", "call_id": call_id}]
        place.board.record(call_id, path)
        await browser.wait_answer(0.0)
        browser.heard.clear()
        ended = await browser.say(question)
        begun = await browser.wait_answer(ended)
        await browser.close()
        return browser, begun - ended

    browser, waited = place.runner.run(scenario())
    record = place.runner.run(place.quiet())
    assert record.line_id == "web"
    assert record.direction == "web"
    assert record.end_reason == "the browser hung up"

    # What was said and answered, and when.
    asked = next(line.text for line in record.words if line.role == "user")
    assert {"capital", "france"} <= words(asked)
    answer = [line.text for line in record.words if line.role == "assistant"][1]
    heard = words(transcribed(at_8k(np.concatenate(browser.heard))))
    assert len(heard & words(answer)) >= len(words(answer)) / 2, (heard, answer)
    (turn,) = record.turns
    assert turn.total == pytest.approx(sum(turn.parts().values()))
    assert waited == pytest.approx(turn.total, abs=0.5)  # the question ends with a little silence of its own

    # The recording: the caller on the left, the assistant on the right.
    async def written() -> None:
        async with asyncio.timeout(10):
            while place.phone.engine is not None and place.phone.engine.recordings:
                await asyncio.sleep(0.05)

    place.runner.run(written())
    with wave.open(str(path), "rb") as file:
        assert (file.getnchannels(), file.getframerate()) == (2, RATE)
        both = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2)
    assert record.ended is not None
    assert record.answered is not None
    assert len(both) / RATE == pytest.approx(record.ended - record.answered, abs=0.5)
    assert {"capital", "france"} <= words(transcribed(both[:, 0].copy()))
    right = words(transcribed(both[:, 1].copy()))
    assert len(right & words(GREETING)) >= 5
    assert len(right & words(answer)) >= len(words(answer)) / 2, (right, answer)


def test_a_second_browser_is_told_that_everybody_is_busy(place: Place) -> None:
    async def scenario() -> None:
        first = Browser(await websocket_connect(place.url()))
        async with asyncio.timeout(10):
            await first.started.wait()
        second = await websocket_connect(place.url())
        while (message := await second.read_message()) is not None:
            assert json.loads(message)["type"] == "ended"
        assert second.close_code == TRY_AGAIN_LATER
        assert second.close_reason == "everybody is busy; try again in 30 s"
        second.close()
        assert len(place.board.active) == 1
        await first.close()
        await place.quiet()

    place.runner.run(scenario())


def test_the_server_ends_a_browsers_call(place: Place) -> None:
    async def scenario() -> None:
        browser = Browser(await websocket_connect(place.url()))
        async with asyncio.timeout(10):
            await browser.started.wait()
            call_id = browser.messages[0]["call_id"]
            place.board._stages.sip.hangup(call_id, reason="the owner hung up")
            await browser.over.wait()
        assert browser.messages[-1] == {"type": "ended", "reason": "the owner hung up"}
        await browser.close()
        assert (await place.quiet()).end_reason == "the owner hung up"

    place.runner.run(scenario())


def test_somebody_we_call_hears_the_greeting(place: Place) -> None:
    async def scenario() -> None:
        assert place.phone.sip is not None
        async with Caller() as caller:
            place.phone.sip.place_call("o1", caller.uri, None)
            theirs = await caller.incoming()
            theirs.ring()
            theirs.answer()
            greeting = await theirs.wait_reply(timeout=15)
            await theirs.hangup()
        assert len(words(transcribed(greeting.pcm)) & words(GREETING)) >= 5
        record = await place.quiet()
        assert (record.direction, record.caller, record.end_reason) == (
            "out",
            caller.uri,
            "the call ended normally",
        )

    place.runner.run(scenario())
