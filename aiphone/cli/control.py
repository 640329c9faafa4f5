"""The phone as the HTTP API drives it: implements ``server.control.Control``."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

from aiphone import events as ev
from aiphone.cli.assembly import Phone
from aiphone.conversation.record import CallRecord
from aiphone.errors import AiphoneError, SipError
from aiphone.models.store import ModelStore
from aiphone.persona import Persona
from aiphone.server.control import LineStatus, LiveCall, ModelInfo, SessionEntry
from aiphone.sip.settings import CallPolicy, LineConfig
from aiphone.store.records import DEFAULT_PERSONA, NotFoundError, SipClient
from aiphone.store.store import Store

log = logging.getLogger(__name__)

SILENT_DBFS = -100.0

CHOSEN = {"whisper": "chosen_whisper", "llm": "chosen_llm", "voice": "chosen_voice"}
"""Setting in the store that holds the model an owner chose, by role."""


class PhoneControl:
    """Main thread only, except what ``Control`` marks *executor*."""

    def __init__(
        self,
        phone: Phone,
        store: Store,
        wall: Callable[[], float],
        number_of: Callable[[str], int | None],
        status: Callable[[], dict[str, Any]],
    ) -> None:
        """``number_of`` says a live call's number in the store; ``status`` is the body of ``GET /api/status``."""
        self._phone = phone
        self._store = store
        self._wall = wall
        self._number_of = number_of
        self._status = status
        self._models = ModelStore(Path(phone.settings.models_dir))
        self._outgoing = itertools.count(1)
        self._line_since: dict[str, float] = {}
        self._persona_of: dict[str, Persona] = {}
        self._refused: dict[str, str] = {}
        """Lines that could not be started when the server was, and why."""
        self.record_calls = False
        self.personas_changed()
        self.settings_changed()

    # ------------------------------------------------------------------------------------------------ lines

    def start_line(self, client: SipClient, password: str) -> None:
        """See ``Control``."""
        line = line_of(client, password)
        if self._phone.sip is None:
            raise SipError("the server is still starting; try again in a moment")
        self._refused.pop(client.client_id, None)
        self.watch(ev.LineChanged(client.client_id, ev.LineState.REGISTERING))
        self._phone.sip.add_line(line)

    def stop_line(self, client_id: str) -> None:
        """See ``Control``."""
        self._refused.pop(client_id, None)
        if self._phone.sip is not None:
            self._phone.sip.remove_line(client_id)

    def line_state(self, client_id: str) -> LineStatus:
        """See ``Control``."""
        board = self._phone.switchboard
        if client_id in self._refused:
            return LineStatus("failed", self._refused[client_id], self._line_since.get(client_id))
        known = board.lines.get(client_id) if board is not None else None
        if known is None:
            return LineStatus("stopped")
        return LineStatus(known.state.value, known.reason, self._line_since.get(client_id))

    def watch(self, fact: object) -> None:
        """Notes when lines change."""
        if isinstance(fact, ev.LineChanged):
            self._line_since[fact.line_id] = self._wall()

    def start_stored_lines(self) -> None:
        """Register every line that was started when the server last ran; one that cannot be is shown as failed.

        Raises ``StorageError`` when the store cannot be read.
        """
        for client in self._store.sip_clients():
            if not (client.started and client.enabled):
                continue
            try:
                self.start_line(client, self._store.sip_password(client.client_id))
            except AiphoneError as error:
                log.error("the line '%s' could not be started: %s", client.client_id, error)
                self._refused[client.client_id] = str(error)
                self._line_since[client.client_id] = self._wall()

    # ------------------------------------------------------------------------------------------------ calls

    def active_calls(self) -> list[LiveCall]:
        """See ``Control``."""
        board = self._phone.switchboard
        return [] if board is None else [self._live(record) for record in board.active]

    def _live(self, record: CallRecord) -> LiveCall:
        assert self._phone.switchboard is not None
        now, wall = self._phone.clock.now(), self._wall()
        media = self._phone.switchboard.media_of(record.call_id)
        return LiveCall(
            call_id=record.call_id,
            id=self._number_of(record.call_id),
            line_id=record.line_id,
            caller=record.caller,
            caller_name=record.caller_name,
            called=record.called,
            direction=cast(Literal["in", "out", "web"], record.direction),
            state=self._phone.switchboard.state_of(record.call_id),
            started=wall - (now - record.started),
            answered=None if record.answered is None else wall - (now - record.answered),
            seconds=now - record.started,
            level_in=SILENT_DBFS if media is None else max(SILENT_DBFS, media.level_in_dbfs),
            level_out=SILENT_DBFS if media is None else max(SILENT_DBFS, media.level_out_dbfs),
            last_turn=record.turns[-1].total if record.turns else None,
        )

    def levels(self) -> list[tuple[str, float, float]]:
        """Live id, level of the caller and of the assistant (dBFS) of every call that has media."""
        return [(call.call_id, call.level_in, call.level_out) for call in self.active_calls() if call.answered]

    def hang_up(self, call_id: str) -> bool:
        """See ``Control``."""
        board = self._phone.switchboard
        return board is not None and board.hang_up(call_id)

    def place_call(self, uri: str, line_id: str, message: str = "") -> str:
        """See ``Control``."""
        if self._phone.sip is None:
            raise SipError("the server is still starting; try again in a moment")
        if line_id not in ("", "direct") and self.line_state(line_id).state != "registered":
            raise SipError(f"the line '{line_id}' is not registered: start it first")
        configured = {"", "direct", *(line.client_id for line in self._phone.settings.lines)}
        if line_id not in configured:
            uri = callable_uri(uri, self._store.sip_client(line_id))
        call_id = f"o{next(self._outgoing)}"
        self._phone.sip.place_call(call_id, uri, line_id or None)
        if message.strip() and self._phone.switchboard is not None:
            # The call's first event comes through the mailbox, on this thread: after this.
            self._phone.switchboard.leave_message(call_id, message.strip())
        return call_id

    # ----------------------------------------------------------------------------------------------- models

    def models(self) -> list[ModelInfo]:
        """See ``Control``."""
        settings = self._phone.settings
        used = {"whisper": settings.model_whisper, "llm": settings.model_llama, "voice": settings.voice}
        chosen = {role: self._store.setting(key) or used[role] for role, key in CHOSEN.items()}
        return [
            ModelInfo(
                name=model.name,
                role=model.role,
                size=model.size,
                installed=self._models.is_installed(model),
                chosen=chosen.get(model.role, model.name if model.starter else "") == model.name,
                starter=model.starter,
                licence=model.licence,
                good_for=model.good_for,
                in_use=used.get(model.role, model.name if model.starter else "") == model.name,
            )
            for model in self._models.catalogue
        ]

    def pull_model(self, name: str, on_progress: Callable[[int, int], None]) -> None:
        """See ``Control``."""
        self._models.pull(name, _Progress(on_progress))

    def choose_model(self, name: str) -> bool:
        """See ``Control``."""
        model = self._models.catalogue.get(name)
        key = CHOSEN.get(model.role)
        if key is None:
            return False
        self._store.set_setting(key, name)
        return True

    # --------------------------------------------------------------------------------------------- sessions

    def sessions(self) -> list[SessionEntry]:
        """See ``Control``."""
        store = self._phone.session_store
        if store is None:
            return []
        infos = sorted(store.list(), key=lambda info: -info.updated)
        return [SessionEntry(info.key, info.updated, info.messages, info.tokens, info.bytes) for info in infos]

    def session(self, key: str) -> dict[str, Any] | None:
        """See ``Control``."""
        store = self._phone.session_store
        saved = store.load(key) if store is not None else None
        if saved is None:
            return None
        return {
            "key": key,
            "updated": saved.updated,
            "messages": [{"role": message.role, "content": message.content} for message in saved.messages],
            "tokens": len(saved.tokens),
        }

    def forget_session(self, key: str) -> bool:
        """See ``Control``."""
        if self._phone.session_store is None or self._phone.sessions is None:
            return False
        self._phone.sessions.discard(key)
        return self._phone.session_store.forget(key)

    def forget_caller(self, caller: str) -> int:
        """See ``Control``."""
        return sum(self.forget_session(entry.key) for entry in self.sessions() if entry.key.partition(":")[2] == caller)

    # --------------------------------------------------------------------------------- personas and settings

    def persona_for(self, line_id: str) -> Persona:
        """Who answers a line: its own persona and greeting, or the default ones."""
        return self._persona_of.get(line_id) or self._phone.by_line.get(line_id) or self._default

    def persona_named(self, name: str) -> Persona:
        """Who has this name, for a called number that has a persona of its own; the default one when nobody has."""
        return self._persona(name)

    def personas_changed(self) -> None:
        """See ``Control``."""
        self._default = self._persona(DEFAULT_PERSONA)
        self._persona_of = {}
        for client in self._store.sip_clients():
            persona = self._persona(client.persona or DEFAULT_PERSONA)
            if client.greeting:
                persona = replace(persona, greeting=client.greeting)
            self._persona_of[client.client_id] = persona
        others = (self._persona(record.name) for record in self._store.personas())
        self._phone.prepare_speech((self._default, *self._persona_of.values(), *others))

    def _persona(self, name: str) -> Persona:
        try:
            record = self._store.persona(name)
        except NotFoundError:
            record = self._store.persona(DEFAULT_PERSONA)
        if record.name == DEFAULT_PERSONA and record.version == 1:
            # Nobody edited it: the flags and the configuration file say who answers.
            return self._phone.persona
        return record.persona()

    def settings_changed(self) -> None:
        """See ``Control``."""
        self.record_calls = bool(self._store.setting("record_calls", default=False))

    def status(self) -> dict[str, Any]:
        """See ``Control``."""
        return self._status()


def line_of(client: SipClient, password: str) -> LineConfig:
    """A stored client as the SIP side takes it. Raises ``ConfigError`` for values that break out of a header."""
    return LineConfig(
        line_id=client.client_id,
        username=client.username,
        password=password,
        server_ip=client.server_ip,
        server_port=client.server_port,
        display_name=client.display_name,
        auto_answer=client.auto_answer,
        greeting=client.greeting or None,
        transport=client.transport,
        auth_username=client.auth_username,
        proxy=client.proxy,
        persona=client.persona,
        policy=CallPolicy(srtp=client.srtp),
    )


def callable_uri(text: str, client: SipClient) -> str:
    """What was typed as a SIP URI: a number, or a name, is one at the line's server."""
    if re.match(r"sips?:", text, re.IGNORECASE):
        return text
    if "@" in text:
        return f"sip:{text}"
    host = f"[{client.server_ip}]" if ":" in client.server_ip else client.server_ip
    port = "" if client.server_port == 5060 else f":{client.server_port}"
    transport = "" if client.transport == "udp" else f";transport={client.transport}"
    return f"sip:{text}@{host}{port}{transport}"


class _Progress:
    """Passes a download's progress on."""

    def __init__(self, tell: Callable[[int, int], None]) -> None:
        self._tell = tell
        self._total = 0

    def start(self, title: str, total: int, done: int = 0) -> None:  # noqa: ARG002 - one model has one title
        """A transfer begins."""
        self._total = total
        self._tell(done, total)

    def update(self, done: int) -> None:
        """Bytes came."""
        self._tell(done, self._total)

    def finish(self, note: str = "") -> None:  # noqa: ARG002 - the API says how it ended
        """It is over."""
        self._tell(self._total, self._total)

    def say(self, text: str) -> None:
        """Not about bytes."""
