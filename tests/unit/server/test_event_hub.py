from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from api_stand_in import ApiCase, live_call
from tornado.testing import gen_test
from tornado.websocket import websocket_connect

from aiphone.clock import ManualClock
from aiphone.conversation import facts as f
from aiphone.conversation.latency import TurnTimes
from aiphone.conversation.record import CallRecord
from aiphone.events import LineChanged, LineState
from aiphone.server.event_hub import QUEUE_BYTES, TOO_SLOW, EventHub
from aiphone.server.feed import EventFeed
from aiphone.server.http import HttpServer
from aiphone.server.metrics import Metrics


class Timers:
    """Calls back when a test says so."""

    def __init__(self) -> None:
        self.waiting: list[tuple[float, Callable[[], None]]] = []

    def call_later(self, delay: float, callback: Callable[[], None], /) -> None:
        self.waiting.append((delay, callback))

    def run(self, longest: float = 0.1) -> None:
        """Call back all that waits no longer than this."""
        due = [callback for delay, callback in self.waiting if delay <= longest]
        self.waiting = [entry for entry in self.waiting if entry[0] > longest]
        for callback in due:
            callback()


class Reader:
    """A watcher that takes frames apart."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.writes = 0
        self.stuck = False
        self.closed: int | None = None

    def busy(self) -> bool:
        return self.stuck

    def send(self, frames: bytes) -> None:
        self.writes += 1
        while frames:
            assert frames[0] == 0x81
            size, head = frames[1], 2
            if size == 126:
                size, head = int.from_bytes(frames[2:4]), 4
            elif size == 127:
                size, head = int.from_bytes(frames[2:10]), 10
            self.messages.append(json.loads(frames[head : head + size]))
            frames = frames[head + size :]

    def drop(self, code: int, reason: str) -> None:
        self.closed = code

    @property
    def types(self) -> list[str]:
        return [message["type"] for message in self.messages]


def make(levels: Any = None, kept: int = 100) -> tuple[EventHub, Timers]:
    timers = Timers()
    return EventHub(timers, first_id=1000, levels=levels, kept=kept), timers


def test_a_burst_is_one_write_in_order_with_rising_ids() -> None:
    hub, timers = make()
    reader = Reader()
    hub.subscribe(reader, None)
    for number in range(3):
        hub.publish("words", text="é" * number * 200)
    timers.run()
    assert reader.writes == 1
    assert reader.types == ["hello", "words", "words", "words"]
    assert [message["id"] for message in reader.messages] == [1000, 1001, 1002, 1003]


def test_who_comes_back_gets_what_was_missed() -> None:
    hub, timers = make()
    for number in range(5):
        hub.publish("state", number=number)
    reader = Reader()
    hub.subscribe(reader, 1003)
    timers.run()
    assert [message["number"] for message in reader.messages] == [3, 4]


def test_who_missed_more_than_is_kept_is_told_to_start_anew() -> None:
    hub, timers = make(kept=3)
    for number in range(5):
        hub.publish("state", number=number)
    for after, types in ((1001, ["reset"]), (1002, ["state"] * 3), (9999, ["reset"]), (5, ["reset"])):
        reader = Reader()
        hub.subscribe(reader, after)
        timers.run()
        assert reader.types == types, after
    assert reader.messages[0]["last"] == 1005


def test_a_slow_reader_waits_is_dropped_when_its_queue_is_full_and_may_resume() -> None:
    hub, timers = make(kept=1000)
    slow, quick = Reader(), Reader()
    for reader in (slow, quick):
        hub.subscribe(reader, None)
    timers.run()
    slow.stuck = True
    text = "x" * 50_000
    while slow.closed is None:
        hub.publish("words", text=text)
        timers.run()
        assert hub.last < 1100
    assert slow.closed == TOO_SLOW
    assert quick.closed is None
    assert hub.watchers == 1
    assert len(quick.messages) * 50_000 > QUEUE_BYTES
    again = Reader()
    hub.subscribe(again, quick.messages[-2]["id"])
    timers.run()
    assert again.types == ["words"]


def test_levels_come_in_one_message_only_while_somebody_watches() -> None:
    asked = []

    def levels() -> list[tuple[str, float, float]]:
        asked.append(1)
        return [("c1", -20.04, -100.0), ("c2", -30.0, -40.0)]

    hub, timers = make(levels)
    reader = Reader()
    hub.subscribe(reader, None)
    timers.run(1.0)
    timers.run()
    assert reader.messages[-1]["calls"][0] == {"call_id": "c1", "in": -20.0, "out": -100.0}
    reader.stuck = True
    timers.run(1.0)
    reader.stuck = False
    timers.run()
    assert reader.types.count("levels") == 1
    hub.unsubscribe(reader)
    timers.run(1.0)
    before = len(asked)
    timers.run(1.0)
    assert len(asked) == before
    assert timers.waiting == []


def test_facts_become_events_and_figures() -> None:
    hub, timers = make()
    reader = Reader()
    hub.subscribe(reader, None)
    feed = EventFeed(
        hub, clock=ManualClock(50.0), wall=lambda: 1_700_000_000.0, store_id={"c1": 7}.get, direction=lambda _: "in"
    )
    metrics = Metrics(lambda: {"ready": True, "media": {"calls": 3}})
    record = CallRecord("c1", "direct", "sip:bob@example.org", "<b>", "sip:ai", "id@x", 40.0, 41.0, 49.0, 200, "bye")
    times = TurnTimes(42.0, 42.5, 42.5, 42.6, 42.7, 42.8, 42.9)
    for fact in (
        LineChanged("a", LineState.FAILED, "wrong password (403)"),
        f.CallAdmitted(record),
        f.CallAnswered(record),
        f.CallerChanged(record),
        f.StateChanged(record, "listening"),
        f.Hearing(record, "hel"),
        f.Speaking(record, "hi"),
        f.WordsSaid(record, "user", "hello", 45.0, False),
        f.TurnTimed(record, times),
        f.CallOver(record, None),
    ):
        feed(fact)
        metrics(fact)
    timers.run()
    by_type = {message["type"]: message for message in reader.messages}
    assert list(by_type) == [
        "hello", "registration", "ringing", "answered", "moved", "state", "hearing", "speaking", "words", "turn",
        "ended",
    ]  # fmt: skip
    assert by_type["registration"]["reason"] == "wrong password (403)"
    assert (by_type["ringing"]["call"], by_type["ringing"]["at"]) == (7, 1_700_000_000.0 - 10)
    assert by_type["words"]["at"] == 1_700_000_000.0 - 5
    assert by_type["turn"]["total"] == 0.9
    assert by_type["ended"]["code"] == 200
    text = metrics.text().decode()
    assert 'aiphone_calls_total{code="200"} 1.0' in text
    assert 'aiphone_turn_part_seconds_bucket{le="0.5",part="patience"} 1.0' in text
    assert 'aiphone_line_registered{line="a"} 0.0' in text
    assert "aiphone_media_calls 3.0" in text


class TestSocket(ApiCase):
    def url(self, query: str = "") -> str:
        return f"ws://127.0.0.1:{self.get_http_port()}/api/events{query}"

    @gen_test
    async def test_events_come_over_a_websocket_and_are_resumed(self) -> None:
        socket = await websocket_connect(self.url())
        assert json.loads(str(await socket.read_message()))["type"] == "hello"
        self.api.hub.publish("words", text="hello <b>", call_id="c1", call=1)
        first = json.loads(str(await socket.read_message()))
        assert first["text"] == "hello <b>"
        socket.close()
        self.api.hub.publish("words", text="missed", call_id="c1", call=1)
        again = await websocket_connect(self.url(f"?after={first['id']}"))
        assert json.loads(str(await again.read_message()))["text"] == "missed"
        again.close()

    @gen_test
    async def test_watchers_are_told_when_the_server_stops(self) -> None:
        server = HttpServer(self._app, "127.0.0.1", 0)
        server.start()
        socket = await websocket_connect(f"ws://127.0.0.1:{server.port}/api/events")
        await socket.read_message()
        await server.stop()
        assert await socket.read_message() is None
        assert socket.close_code == 1001
        socket.close()
        assert self.api.hub.watchers == 0

    @gen_test
    async def test_levels_of_live_calls(self) -> None:
        self.control.live = [live_call("c1", 1)]
        socket = await websocket_connect(self.url())
        await socket.read_message()
        levels = json.loads(str(await socket.read_message()))
        assert levels["calls"] == [{"call_id": "c1", "in": -30.0, "out": -100.0}]
        socket.close()

    def test_it_says_what_is_wrong_with_the_request(self) -> None:
        self.error(self.call("GET", "/api/events"), 426)
        assert self.error(self.call("GET", "/api/events?after=x"), 422)["fields"][0]["field"] == "after"

    @gen_test(timeout=20)
    async def test_fifty_calls_and_twenty_watchers_cost_little(self) -> None:
        """Time on the processor, which others' work does not change; what the watchers need to drain is in it too."""
        import asyncio

        reader_tasks = []
        for _ in range(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.get_http_port())
            writer.write(
                b"GET /api/events HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
            await reader.readuntil(b"\r\n\r\n")
            reader_tasks.append((reader, writer))
        self.control.live = [live_call(f"c{number}", number) for number in range(50)]

        async def drain(reader: asyncio.StreamReader) -> int:
            size = 0
            while data := await reader.read(1 << 20):
                size += len(data)
            return size

        tasks = [asyncio.create_task(drain(reader)) for reader, _ in reader_tasks]
        begin, cpu = time.monotonic(), time.process_time()
        sent = 0
        while time.monotonic() - begin < 1.0:
            # Five events a second for each call, and not all at once.
            for _ in range(10):
                number = sent % 50
                self.api.hub.publish("hearing", call_id=f"c{number}", call=number, text="what is said so far " * 3)
                sent += 1
            await asyncio.sleep(0.04)
        share = (time.process_time() - cpu) / (time.monotonic() - begin)
        for _, writer in reader_tasks:
            writer.close()
        sizes = await asyncio.gather(*tasks)
        assert self.api.hub.dropped == 0
        assert min(sizes) > sent * 100
        assert share < 0.1
