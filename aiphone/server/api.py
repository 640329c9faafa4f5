"""What all operations of the API share: the checked request, the answer, errors, and the parts of the phone."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from aiphone.errors import StorageError
from aiphone.server.auth import Actor, Auth
from aiphone.server.control import Control
from aiphone.server.event_hub import EventHub
from aiphone.server.guard import Guard
from aiphone.server.metrics import Metrics
from aiphone.server.schema import Problem
from aiphone.store.store import Store

log = logging.getLogger(__name__)

T = TypeVar("T")


class ApiError(Exception):
    """Ends a request with an error answer. ``message`` is one sentence that names the thing and the cure."""

    def __init__(
        self, status: int, message: str, *, fields: Sequence[Problem] = (), headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.fields = tuple(fields)
        self.headers = dict(headers or {})


@dataclass(frozen=True, slots=True)
class Request:
    """A request that was let in and fits the operation's schemas."""

    actor: Actor
    path: dict[str, str]
    query: dict[str, Any]
    body: dict[str, Any]
    if_match: int | None = None
    """Version that must still be the stored one; None does not matter."""
    address: str = ""
    cookie: str = ""
    """The session's, when there is one."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What to answer. ``body`` is JSON, or bytes of ``content_type``; None is nothing."""

    body: dict[str, Any] | bytes | None = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json; charset=utf-8"
    cookie: str | None = None
    """A session's cookie to set; empty to remove it."""


@dataclass(slots=True)
class Pull:
    """A model's download."""

    state: str = "pulling"
    done: int = 0
    total: int = 0
    error: str = ""
    task: asyncio.Task[None] | None = None

    def as_json(self) -> dict[str, Any]:
        """As the API shows it."""
        return {"state": self.state, "done": self.done, "total": self.total, "error": self.error}


@dataclass(slots=True)
class Api:
    """The parts of the phone behind the API. Main thread only; the store is used on executor threads."""

    store: Store
    control: Control
    hub: EventHub
    auth: Auth
    guard: Guard
    metrics: Metrics
    recordings: Path
    """Directory below which all recordings are; relative names in the store begin at the database's directory."""
    wall: Callable[[], float]
    pulls: dict[str, Pull] = field(default_factory=dict)
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while SIP clients change, so that a line is what the store says at the end."""
    pulling: asyncio.Lock = field(default_factory=asyncio.Lock)
    """One download at a time."""
    hashing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """One password at a time: each needs 64 MB for a moment."""

    async def run(self, function: Callable[..., T], *args: Any, **named: Any) -> T:
        """Call something that may take more than a few milliseconds, on an executor thread."""
        return await asyncio.get_running_loop().run_in_executor(None, functools.partial(function, *args, **named))

    async def audit(self, request: Request, action: str, target: str, detail: str = "") -> None:
        """Note who did what. It was done, so a full disk costs the note and not the answer."""
        try:
            await self.run(self.store.audit, request.actor.name, action, target, detail)
        except StorageError as error:
            log.error("not in the audit log: %s %s %s: %s", request.actor.name, action, target, error)


Handler = Callable[[Api, Request], Awaitable[Answer]]
"""Carries out one operation."""


def etag(version: int) -> dict[str, str]:
    """The header that names a version."""
    return {"ETag": f'"{version}"'}
