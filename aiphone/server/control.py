"""What the API needs of the running phone. The console command implements it; tests have a fake.

All methods are called on the main thread and return at once, except those marked *executor*: they are called on a
worker thread and may take their time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from aiphone.store.records import SipClient

LineStateName = Literal["stopped", "registering", "registered", "failed"]


@dataclass(frozen=True, slots=True)
class LineStatus:
    """Where a line's registration stands."""

    state: LineStateName
    reason: str = ""
    """Why, in plain words; empty when all is well."""
    since: float | None = None
    """When it came into this state, Unix time."""


@dataclass(frozen=True, slots=True)
class LiveCall:
    """A call that is going on."""

    call_id: str
    """Its name while it lives, as in events."""
    id: int | None
    """Its number in the store; None until it is there."""
    line_id: str
    caller: str
    caller_name: str
    called: str
    direction: Literal["in", "out", "web"]
    state: str
    started: float
    """Unix time."""
    answered: float | None
    seconds: float
    level_in: float
    """dBFS, from -100."""
    level_out: float
    last_turn: float | None
    """Seconds the caller waited for the last answer."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model that has a name."""

    name: str
    role: str
    """``whisper``, ``llm``, ``voice``, ``vad``, ...: the catalogue's word."""
    size: int
    """Bytes."""
    installed: bool
    chosen: bool
    """It is used after the next start, unless a flag names another."""
    starter: bool
    licence: str
    good_for: str
    in_use: bool = False
    """Calls use it now."""


@dataclass(frozen=True, slots=True)
class SessionEntry:
    """A caller who is remembered."""

    key: str
    updated: float
    messages: int
    tokens: int
    bytes: int


class Control(Protocol):
    """The phone, as the API drives it."""

    def start_line(self, client: SipClient, password: str) -> None:
        """Register the line, or keep it so when it is. Raises ``SipError`` when that cannot even be tried."""
        ...

    def stop_line(self, client_id: str) -> None:
        """Unregister; nothing happens when it is not started."""
        ...

    def line_state(self, client_id: str) -> LineStatus:
        """``stopped`` for a line it does not know."""
        ...

    def active_calls(self) -> list[LiveCall]:
        """The calls going on, oldest first."""
        ...

    def hang_up(self, call_id: str) -> bool:
        """End a call by its live ``call_id``; False when there is none (any more)."""
        ...

    def place_call(self, uri: str, line_id: str, message: str = "") -> str:
        """Call ``uri``, or a number at the line's server, from a line; its live ``call_id``. Raises ``SipError``.

        An answering machine gets ``message`` after its beep, when there is one; a person gets the conversation.
        """
        ...

    def models(self) -> list[ModelInfo]:
        """All models that have a name. *executor*"""
        ...

    def pull_model(self, name: str, on_progress: Callable[[int, int], None]) -> None:
        """Download a model; ``on_progress(done, total)`` in bytes. Raises ``ModelError``. *executor*"""
        ...

    def choose_model(self, name: str) -> bool:
        """Use this model; True when that begins with the next start. Raises ``ModelError``. *executor*"""
        ...

    def sessions(self) -> list[SessionEntry]:
        """Who is remembered, the latest first; empty without a session file. *executor*"""
        ...

    def session(self, key: str) -> dict[str, Any] | None:
        """``{"key", "updated", "messages": [{"role", "content"}], "tokens"}``, or None. *executor*"""
        ...

    def forget_session(self, key: str) -> bool:
        """Remove it for good; False when there is none. *executor*"""
        ...

    def forget_caller(self, caller: str) -> int:
        """Remove what is remembered of a caller (a URI) on all lines; how many sessions that were. *executor*"""
        ...

    def personas_changed(self) -> None:
        """Personas or lines in the store were changed: read them again before the next call."""
        ...

    def settings_changed(self) -> None:
        """Settings in the store were changed."""
        ...

    def status(self) -> dict[str, Any]:
        """Body of ``GET /api/status``; has at least ``ready``, ``version``, ``warnings``."""
        ...
