"""``GET /api/events``: a connection to the event hub."""

from __future__ import annotations

from typing import Any

import tornado.ioloop
import tornado.iostream

from aiphone.server.api import ApiError
from aiphone.server.event_hub import TOO_SLOW
from aiphone.server.guarded import GuardedSocket
from aiphone.server.schema import Invalid
from aiphone.server.table_handler import TableHandler

SIGN_IN_AGAIN = 4001
"""Close code for somebody who is not signed in (any more)."""
STILL_ALLOWED_SECONDS = 10.0
"""How often it is asked whether a connection's session or token is still good."""


class EventsHandler(TableHandler, GuardedSocket):
    """``GET /api/events``: a watcher of the hub."""

    is_socket = True
    _guarding: tornado.ioloop.PeriodicCallback | None = None

    def check_origin(self, origin: str) -> bool:
        """Compared before, in ``prepare``, with default ports filled in."""
        return self.guard.origin_ok("GET", self.request.headers.get("Host", ""), origin, None, socket=True)

    async def get(self, *args: Any, **kwargs: Any) -> None:
        """Check the query, then become a WebSocket."""
        try:
            self._after = self.checked(self._operations["GET"], {}).query["after"]
        except (ApiError, Invalid) as error:
            self.fail(error)
            return
        await GuardedSocket.get(self, *args, **kwargs)

    async def _refused(self, **_: str) -> None:
        self.refuse_method()

    post = put = patch = delete = head = options = _refused

    def needed_role(self) -> str:
        """A browser cannot see why a handshake failed, so a WebSocket is opened first and told by its close code."""
        return "" if self.request.headers.get("Upgrade", "").lower() == "websocket" else super().needed_role()

    def open(self, *args: str, **kwargs: str) -> None:  # noqa: ARG002 - the names are tornado's
        """Watch."""
        assert self.api is not None
        if not self.actor.may("read"):
            self.drop(SIGN_IN_AGAIN, "sign in first")
            return
        self.set_nodelay(True)
        self.api.hub.subscribe(self, self._after)
        self._guarding = tornado.ioloop.PeriodicCallback(self._still_allowed, 1000 * STILL_ALLOWED_SECONDS)
        self._guarding.start()

    def _still_allowed(self) -> None:
        """A session may end, or a token be deleted, while its connection lives."""
        assert self.api is not None
        if not self.api.auth.who(self.session_cookie(), self.bearer()).may("read"):
            self.api.hub.unsubscribe(self)
            self.drop(SIGN_IN_AGAIN, "sign in again")

    def on_message(self, message: str | bytes) -> None:
        """There is nothing to say here."""

    def on_close(self) -> None:
        """Watch no more."""
        if self._guarding is not None:
            self._guarding.stop()
        if self.api is not None:
            self.api.hub.unsubscribe(self)

    # ------------------------------------------------------------------------------- the hub's Watcher

    def busy(self) -> bool:
        """See ``event_hub.Watcher``."""
        stream = self._stream()
        return stream is not None and stream.writing()

    def send(self, frames: bytes) -> None:
        """See ``event_hub.Watcher``. The frames are finished, so they go straight to the connection."""
        stream = self._stream()
        if stream is None:
            return
        try:
            stream.write(frames).add_done_callback(lambda future: future.cancelled() or future.exception())
        except tornado.iostream.StreamClosedError:
            return

    def drop(self, code: int, reason: str) -> None:
        """See ``event_hub.Watcher``. A slow reader would not see a close frame for long: the connection goes soon."""
        self.close(code, reason)
        stream = self._stream()
        if code == TOO_SLOW and stream is not None:
            tornado.ioloop.IOLoop.current().call_later(1.0, stream.close)

    def _stream(self) -> tornado.iostream.IOStream | None:
        stream = getattr(self.ws_connection, "stream", None)
        return None if stream is None or stream.closed() else stream
