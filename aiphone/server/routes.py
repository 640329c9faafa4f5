"""The handlers, made from the table of operations."""

from __future__ import annotations

import re
from collections import defaultdict
from types import ModuleType
from typing import Any

import tornado.web

from aiphone.errors import AiphoneError
from aiphone.server import calls_api, clients_api, entry_api, personas_api, system_api
from aiphone.server.api import Answer, ApiError, Handler
from aiphone.server.event_socket import EventsHandler
from aiphone.server.openapi import OPERATIONS, Operation
from aiphone.server.recording import RecordingHandler
from aiphone.server.schema import Invalid
from aiphone.server.table_handler import TableHandler

_MODULES: tuple[ModuleType, ...] = (calls_api, clients_api, entry_api, personas_api, system_api)
_OWN = {"get_recording", "watch_events"}
"""Operations with a handler of their own kind."""


def rules() -> list[tuple[str, type[tornado.web.RequestHandler], dict[str, Any]]]:
    """A rule for each path of the API."""
    by_path: dict[str, dict[str, Operation]] = defaultdict(dict)
    for operation in OPERATIONS:
        by_path[operation.path][operation.method.upper()] = operation
    return [
        (_pattern(path), _handler_class(operations), {"operations": operations}) for path, operations in by_path.items()
    ]


def _pattern(path: str) -> str:
    return re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(path))


def _handler_class(operations: dict[str, Operation]) -> type[tornado.web.RequestHandler]:
    name = next(iter(operations.values())).name
    if name == "get_recording":
        return RecordingHandler
    return EventsHandler if name == "watch_events" else OperationHandler


def handlers() -> dict[str, Handler]:
    """The function of each operation, by its name. Raises ``AttributeError`` for one that nobody wrote."""
    found: dict[str, Handler] = {}
    for operation in OPERATIONS:
        if operation.name not in _OWN:
            module = next((m for m in _MODULES if hasattr(m, operation.name)), None)
            if module is None:
                raise AttributeError(f"operation {operation.name} has no handler")
            found[operation.name] = getattr(module, operation.name)
    return found


_HANDLERS = handlers()


class OperationHandler(TableHandler):
    """An operation that is a function."""

    async def _serve(self, **path: str) -> None:
        operation = self._operations.get(self.request.method or "")
        if operation is None:
            self.refuse_method()
            return
        assert self.api is not None
        try:
            answer = await _HANDLERS[operation.name](self.api, self.checked(operation, path))
        except (ApiError, Invalid, AiphoneError) as error:
            self.fail(error)
            return
        self._send(answer)

    get = post = put = patch = delete = head = options = _serve

    def _send(self, answer: Answer) -> None:
        self.set_status(answer.status)
        for name, value in answer.headers.items():
            self.set_header(name, value)
        if answer.cookie is not None:
            self.set_session(answer.cookie)
        if isinstance(answer.body, bytes):
            self.set_header("Content-Type", answer.content_type)
            self.finish(answer.body)
        elif answer.body is None:
            self.finish()
        else:
            self.write_json(answer.body)

    def compute_etag(self) -> str | None:
        """None: an ETag is a version here, not a hash."""
        return None
