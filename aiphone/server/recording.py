"""``GET /api/calls/{call}/recording``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tornado.web

from aiphone.errors import AiphoneError
from aiphone.server.api import Api, ApiError
from aiphone.server.calls_api import find_call
from aiphone.server.openapi import Operation
from aiphone.server.schema import Invalid
from aiphone.server.table_handler import TableHandler


class RecordingHandler(TableHandler, tornado.web.StaticFileHandler):
    """A call's audio. Ranges and conditions are tornado's; which file it is, and that it is ours, is checked here."""

    def initialize(self, operations: dict[str, Operation]) -> None:  # type: ignore[override]
        TableHandler.initialize(self, operations)
        assert self.api is not None
        tornado.web.StaticFileHandler.initialize(self, str(self.api.recordings))

    async def get(self, call: str, include_body: bool = True) -> None:
        """``GET /api/calls/{call}/recording``."""
        assert self.api is not None
        try:
            self.checked(self._operations["GET"], {"call": call})
            name = await self._name(self.api, call)
        except (ApiError, Invalid, AiphoneError) as error:
            self.fail(error)
            return
        await super().get(name, include_body)

    async def head(self, call: str) -> None:
        """Its headers alone."""
        await self.get(call, include_body=False)

    async def _refused(self, **_: str) -> None:
        self.refuse_method()

    post = put = patch = delete = options = _refused

    async def _name(self, api: Api, call: str) -> str:
        row = await api.run(api.store.call, find_call(api, call))
        if not row.recording:
            raise ApiError(404, f"call {row.id} was not recorded")
        root = api.recordings.resolve()
        path = Path(api.store.path.parent, row.recording).resolve()
        if not path.is_relative_to(root) or not path.is_file():
            raise ApiError(404, f"the recording of call {row.id} is not there any more")
        return path.relative_to(root).as_posix()

    def set_extra_headers(self, path: str) -> None:  # noqa: ARG002 - the name is tornado's
        """It is private, and does not change."""
        self.set_header("Content-Type", "audio/wav")
        self.set_header("Cache-Control", "private, no-cache")

    def compute_etag(self) -> str | None:
        """From size and time: hashing an hour of audio would stop the loop."""
        assert self.absolute_path is not None
        stat = Path(self.absolute_path).stat()
        return f'"{stat.st_size:x}-{stat.st_mtime_ns:x}"'

    def write_error(self, status_code: int, **named: Any) -> None:
        """Errors of tornado's, in the one format."""
        TableHandler.write_error(self, status_code, **named)
