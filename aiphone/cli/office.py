"""The owner's side of a server: the store, the history, the event stream, the API and the web page, put together."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from aiphone.cli.assembly import Phone
from aiphone.cli.control import CHOSEN, PhoneControl
from aiphone.cli.history import History
from aiphone.config import Settings
from aiphone.conversation.facts import CallAnswered, CallOver, Fact
from aiphone.conversation.record import direction_of
from aiphone.errors import AiphoneError, MediaError, StorageError
from aiphone.server.api import Api
from aiphone.server.assets import web_root
from aiphone.server.auth import Auth
from aiphone.server.event_hub import EventHub
from aiphone.server.feed import EventFeed
from aiphone.server.guard import Guard, require_password
from aiphone.server.http import HttpServer, make_application, tls_context
from aiphone.server.metrics import Metrics
from aiphone.server.talk import TalkHandler
from aiphone.store.store import DATABASE, KEY, Store

log = logging.getLogger(__name__)

RECORDINGS = "recordings"
"""Directory of recordings, below the data directory."""


def open_store(settings: Settings) -> Store:
    """The store in the data directory. Raises ``StorageError``."""
    directory = Path(settings.data_dir)
    return Store(directory / DATABASE, directory / KEY)


def with_chosen_models(settings: Settings, store: Store) -> Settings:
    """The models an owner chose on the web page, where no flag names another."""
    default = Settings()
    chosen = {role: store.setting(key) for role, key in CHOSEN.items()}
    names = {"whisper": "model_whisper", "llm": "model_llama", "voice": "voice"}
    changes = {
        name: chosen[role]
        for role, name in names.items()
        if chosen[role] and getattr(settings, name) == getattr(default, name)
    }
    return replace(settings, **changes) if changes else settings


class Office:
    """Everything between the store and the browser. Main thread only."""

    def __init__(self, settings: Settings, phone: Phone, store: Store, status: Callable[[], dict[str, Any]]) -> None:
        """Bind the port and begin to watch; ``start`` accepts connections.

        Raises ``NetworkError`` for a port in use, ``ConfigError`` for a ``--host`` that needs a password.
        """
        loop = asyncio.get_running_loop()
        wall = time.time
        self.store = store
        self._phone = phone
        self._recordings = Path(settings.data_dir) / RECORDINGS
        self._recorded: dict[str, str] = {}
        auth = Auth(store, phone.clock)
        require_password(settings.host, has_password=auth.password_required)
        guard = Guard(settings.host)
        guard.allow(store.setting("allowed_hosts") or ())
        self.history = History(store, phone.clock, wall, direction=lambda record: record.direction)
        self.control = PhoneControl(phone, store, wall, self.history.number_of, status)
        hub = EventHub(loop, first_id=int(wall() * 1000), levels=self.control.levels)
        feed = EventFeed(hub, clock=phone.clock, wall=wall, store_id=self.history.number_of, direction=direction_of)
        metrics = Metrics(status)
        # The history numbers a call before anybody else speaks of it.
        phone.watchers += [self.history.watch, self.control.watch, self._record, feed, metrics]
        phone.persona_for = self.control.persona_for
        phone.persona_named = self.control.persona_named
        api = Api(
            store=store,
            control=self.control,
            hub=hub,
            auth=auth,
            guard=guard,
            metrics=metrics,
            recordings=self._recordings,
            wall=wall,
        )
        talk = (r"/api/talk", TalkHandler, {"bridge": lambda: phone.talk}, "operate")
        tls = None
        if settings.tls_cert:
            tls = tls_context(Path(settings.tls_cert), Path(settings.tls_key or settings.tls_cert))
        self.secure = tls is not None
        self.http = HttpServer(
            make_application(status, web_root(), api=api, extra=[talk]), settings.host, settings.http_port, tls
        )

    def start(self) -> None:
        """Accept connections."""
        self.http.start()

    def calls_are_taken(self) -> None:
        """The phone runs: register what was registered when the server last ran."""
        self.control.personas_changed()
        try:
            self.control.start_stored_lines()
        except AiphoneError as error:
            log.error("a line could not be started: %s", error)

    def _record(self, fact: Fact) -> None:
        if isinstance(fact, CallOver):
            # Once more: the end of a call in the store is written without it. It also removes the recording of a
            # caller who was forgotten during the call.
            name = self._recorded.pop(fact.record.call_id, None)
            if name is not None:
                self.history.recorded(fact.record.call_id, name)
            return
        if not isinstance(fact, CallAnswered) or not self.control.record_calls:
            return
        call_id = fact.record.call_id
        number = self.history.number_of(call_id)
        board = self._phone.switchboard
        if number is None or board is None:
            return
        path = self._recordings / f"{number}.wav"
        try:
            self._recordings.mkdir(mode=0o700, exist_ok=True)
            board.record(call_id, path)
        except (StorageError, MediaError, OSError) as error:
            log.error("%s is not recorded: %s", call_id, error)
            return
        self._recorded[call_id] = f"{RECORDINGS}/{path.name}"
        self.history.recorded(call_id, self._recorded[call_id])

    async def stop(self) -> None:
        """Close the page, write what waits, close the store."""
        await self.http.stop()
        await asyncio.get_running_loop().run_in_executor(None, self.history.close)
        self.store.close()
