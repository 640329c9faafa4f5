"""The HTTP API with a real store and a phone that is none."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tornado.httpclient import HTTPResponse
from tornado.testing import AsyncHTTPTestCase
from tornado.web import Application

from aiphone.clock import ManualClock
from aiphone.errors import ModelError, SipError
from aiphone.server.api import Api
from aiphone.server.auth import Auth
from aiphone.server.control import LineStatus, LiveCall, ModelInfo, SessionEntry
from aiphone.server.event_hub import EventHub
from aiphone.server.guard import Guard
from aiphone.server.http import make_application
from aiphone.server.metrics import Metrics
from aiphone.store.records import SipClient
from aiphone.store.store import Store

WEB = Path(__file__).parents[1] / "web"
WALL = 1_700_000_000.0


class FakeControl:
    """Remembers what it was told, and answers from what a test put in."""

    def __init__(self) -> None:
        self.lines: dict[str, LineStatus] = {}
        self.started: list[tuple[SipClient, str]] = []
        self.live: list[LiveCall] = []
        self.hung_up: list[str] = []
        self.placed: list[tuple[str, ...]] = []
        self.remembered: dict[str, dict[str, Any]] = {}
        self.changes: list[str] = []
        self.pull: Callable[[Callable[[int, int], None]], None] = lambda on_progress: on_progress(100, 100)
        self.catalogue = [
            ModelInfo("tiny.en", "whisper", 100, True, True, True, "MIT", "a first call", in_use=True),
            ModelInfo("base", "whisper", 200, False, False, False, "MIT", "accuracy"),
        ]

    def start_line(self, client: SipClient, password: str) -> None:
        if client.username == "refused":
            raise SipError("line 'x': transport 'udp' is not available; restart")
        self.started.append((client, password))
        self.lines[client.client_id] = LineStatus("registering", "", WALL)

    def stop_line(self, client_id: str) -> None:
        self.lines.pop(client_id, None)

    def line_state(self, client_id: str) -> LineStatus:
        return self.lines.get(client_id, LineStatus("stopped"))

    def active_calls(self) -> list[LiveCall]:
        return list(self.live)

    def hang_up(self, call_id: str) -> bool:
        if not any(call.call_id == call_id for call in self.live):
            return False
        self.hung_up.append(call_id)
        self.live = [call for call in self.live if call.call_id != call_id]
        return True

    def place_call(self, uri: str, line_id: str, message: str = "") -> str:
        if line_id not in self.lines:
            raise SipError(f"the line '{line_id}' is not registered: start it first")
        self.placed.append((uri, line_id, message) if message else (uri, line_id))
        return "c77"

    def models(self) -> list[ModelInfo]:
        return self.catalogue

    def pull_model(self, name: str, on_progress: Callable[[int, int], None]) -> None:
        self.pull(on_progress)

    def choose_model(self, name: str) -> bool:
        if name == "broken":
            raise ModelError("broken is damaged: pull it again")
        return True

    def sessions(self) -> list[SessionEntry]:
        return [SessionEntry(key, WALL, len(s["messages"]), s["tokens"], 100) for key, s in self.remembered.items()]

    def session(self, key: str) -> dict[str, Any] | None:
        return self.remembered.get(key)

    def forget_session(self, key: str) -> bool:
        return self.remembered.pop(key, None) is not None

    def forget_caller(self, caller: str) -> int:
        keys = [key for key in self.remembered if key.endswith("/" + caller)]
        return sum(self.forget_session(key) for key in keys)

    def personas_changed(self) -> None:
        self.changes.append("personas")

    def settings_changed(self) -> None:
        self.changes.append("settings")

    def status(self) -> dict[str, Any]:
        return {"ready": True, "version": "1", "warnings": [], "max_calls": 8, "media": {"calls": len(self.live)}}


def live_call(call_id: str, number: int | None) -> LiveCall:
    return LiveCall(
        call_id=call_id, id=number, line_id="direct", caller="sip:bob@example.org", caller_name="Bob",
        called="sip:ai@127.0.0.1", direction="in", state="listening", started=WALL, answered=WALL + 1, seconds=5.0,
        level_in=-30.0, level_out=-100.0, last_turn=0.8,
    )  # fmt: skip


def make_api(directory: Path, timers: asyncio.AbstractEventLoop, clock: ManualClock, host: str = "127.0.0.1") -> Api:
    """An API over a new store in ``directory``."""
    (directory / "recordings").mkdir()
    store = Store(directory / "aiphone.db", directory / "aiphone.key", lambda: WALL)
    control = FakeControl()
    hub = EventHub(
        timers,
        first_id=1000,
        levels=lambda: [(call.call_id, call.level_in, call.level_out) for call in control.live],
    )
    return Api(
        store=store,
        control=control,
        hub=hub,
        auth=Auth(store, clock),
        guard=Guard(host),
        metrics=Metrics(control.status),
        recordings=directory / "recordings",
        wall=lambda: WALL,
    )


class ApiCase(AsyncHTTPTestCase):
    """A test of the API over HTTP."""

    host = "127.0.0.1"

    def get_app(self) -> Application:
        self.directory = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.directory)
        self.clock = ManualClock(100.0)
        self.api = make_api(self.directory, self.io_loop.asyncio_loop, self.clock, self.host)
        self.addCleanup(self.api.store.close)
        self.control: FakeControl = self.api.control  # type: ignore[assignment]
        return make_application(self.control.status, WEB, api=self.api, extra=self.extra())

    def extra(self) -> list[Any]:
        return []

    def call(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None, **more: Any
    ) -> HTTPResponse:
        """One request; ``body`` is sent as JSON."""
        data = None if body is None else json.dumps(body)
        given = {"Content-Type": "application/json"} if body is not None else {}
        return self.fetch(
            path, method=method, body=data, headers=given | (headers or {}), allow_nonstandard_methods=True, **more
        )

    def json(self, method: str, path: str, body: object = None, **more: Any) -> Any:
        """The answer's JSON; fails when it is an error."""
        response = self.call(method, path, body, **more)
        assert response.code < 300, response.body
        return json.loads(response.body) if response.body else None

    def error(self, response: HTTPResponse, status: int) -> dict[str, Any]:
        """What the answer says is wrong; fails when it is no such error."""
        assert response.code == status, (response.code, response.body)
        error: dict[str, Any] = json.loads(response.body)["error"]
        assert error["status"] == status
        assert error["message"]
        return error
