"""A handler that is described in the table of operations: checks the request, turns errors into answers."""

from __future__ import annotations

import json
import re
from typing import Any

from aiphone.errors import AiphoneError, ModelError, NetworkError, SipError
from aiphone.server.api import ApiError, Request
from aiphone.server.guarded import Guarded
from aiphone.server.openapi import PATH_FIELDS, Operation, path_names
from aiphone.server.schema import Invalid, Problem, check_query
from aiphone.store.records import DuplicateError, NotFoundError, VersionError

_STATUS: tuple[tuple[type[AiphoneError], int], ...] = (
    (NotFoundError, 404),
    (DuplicateError, 409),
    (VersionError, 412),
    (SipError, 409),
    (ModelError, 409),
    (NetworkError, 409),
)
"""What an error of the phone is in HTTP; others are 503: the disk is full, a file cannot be read."""


class TableHandler(Guarded):
    """A handler that is described in the table."""

    def initialize(self, operations: dict[str, Operation]) -> None:
        self._operations = operations

    def needed_role(self) -> str:
        operation = self._operations.get(self.request.method or "")
        return operation.role if operation is not None else "read"

    def write_error(self, status_code: int, **named: Any) -> None:
        if status_code == 405:
            self.refuse_method()
        else:
            super().write_error(status_code, **named)

    def refuse_method(self) -> None:
        """405, with what would be right."""
        allowed = ", ".join(self._operations)
        self.refuse(405, f"{self.request.path[:200]} takes {allowed} only", headers={"Allow": allowed})

    def checked(self, operation: Operation, path: dict[str, str]) -> Request:
        """The request, when it fits the operation's schemas. Raises ``Invalid`` or ``ApiError``."""
        for name in path_names(operation.path):
            PATH_FIELDS[name].check(path[name])
        query = check_query(operation.query, _texts(self.request.query_arguments))
        body = self._body(operation)
        return Request(
            actor=self.actor,
            path=path,
            query=query,
            body=body,
            if_match=self._if_match() if operation.etag else None,
            address=self.request.remote_ip or "",
            cookie=self.session_cookie() or "",
        )

    def _body(self, operation: Operation) -> dict[str, Any]:
        raw = self.request.body
        content_type = self.request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if raw and content_type != "application/json":
            # A form of another site can send other types without asking, but not this one.
            raise ApiError(415, "the body is not JSON; send it with Content-Type: application/json")
        if operation.body is None:
            return {}
        return operation.body.check(_json(raw), partial=operation.partial)

    def _if_match(self) -> int | None:
        given = self.request.headers.get("If-Match")
        if given is None or given.strip() == "*":
            return None
        match = re.fullmatch(r'"([0-9]{1,15})"', given.strip())
        if match is None:
            raise ApiError(412, f"the version {given[:40]} is not known here; send the ETag that was read")
        return int(match[1])

    def fail(self, error: Exception) -> None:
        """Finish with the answer for an error."""
        match error:
            case ApiError():
                self.refuse(error.status, error.message, fields=error.fields, headers=error.headers)
            case Invalid():
                self.refuse(422, _sentence(error.problems), fields=error.problems)
            case AiphoneError():
                self.refuse(next((status for kind, status in _STATUS if isinstance(error, kind)), 503), str(error))


def _json(raw: bytes) -> Any:
    def no_constant(text: str) -> Any:
        raise ValueError(f"{text} is no JSON")

    try:
        return json.loads(raw, parse_constant=no_constant)
    except (ValueError, RecursionError):
        raise ApiError(400, 'the body is not JSON; send an object, as in {"name": "value"}') from None


def _texts(arguments: dict[str, list[bytes]]) -> dict[str, list[str]]:
    try:
        return {name: [value.decode("utf-8") for value in values] for name, values in arguments.items()}
    except UnicodeDecodeError:
        raise ApiError(400, "the query is not UTF-8") from None


def _sentence(problems: tuple[Problem, ...]) -> str:
    first = problems[0]
    rest = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{first.field} {first.problem}; it takes {first.expected}{rest}"
