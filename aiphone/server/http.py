"""The HTTP side: the application's routes, and the server that listens.

Everything here runs on the main thread. Errors have one format: ``{"error": {"status": 404, "message": "..."}}``.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tornado.httpserver
import tornado.web

from aiphone.errors import ConfigError, NetworkError
from aiphone.server.api import Api
from aiphone.server.guard import Guard
from aiphone.server.guarded import Guarded, protect
from aiphone.server.routes import rules

Status = Callable[[], dict[str, Any]]
"""Produces the body of ``GET /api/status``."""

Extra = tuple[str, type[tornado.web.RequestHandler], dict[str, Any], str]
"""A handler of another module: path, class, what ``initialize`` takes, and the role it needs."""

MOST_BODY = 256 << 10
"""Bytes of a request's body. The largest that makes sense is a persona with a long prompt."""
BODY_SECONDS = 60.0
"""How long a request's body may take to come."""
MOST_MESSAGE = 64 << 10
"""Bytes of a WebSocket message from a browser."""


class _StatusHandler(Guarded):
    """The status alone, where there is no API."""

    def initialize(self, status: Status) -> None:
        self._status = status

    def get(self) -> None:
        self.write_json(self._status())


class _HealthHandler(Guarded):
    """``/healthz``: the main thread answers. ``/readyz``: calls are taken."""

    def initialize(self, status: Status, *, ready_only: bool) -> None:
        self._status = status
        self._ready_only = ready_only

    def get(self) -> None:
        ready = not self._ready_only or bool(self._status()["ready"])
        self.set_status(200 if ready else 503)
        self.write_json({"ok": ready})


class _NotFoundHandler(Guarded):
    """What nothing else answers."""

    def prepare(self) -> None:
        super().prepare()
        if not self._finished:
            self.refuse(404, f"there is nothing at {self.request.path[:200]}")


class _PageHandler(Guarded, tornado.web.StaticFileHandler):
    """The web page's files. They hold nothing secret: signing in is needed for what they show, not for them."""

    def set_extra_headers(self, path: str) -> None:  # noqa: ARG002 - the name is tornado's
        """Revalidate always: the files change with the version, and an ETag makes that cheap."""
        self.set_header("Cache-Control", "no-cache")


def make_application(
    status: Status,
    web_root: Path,
    *,
    api: Api | None = None,
    guard: Guard | None = None,
    extra: Sequence[Extra] = (),
) -> tornado.web.Application:
    """The routes. Without ``api`` there are the status and the page only; ``guard`` is then loopback's."""
    api_rules: list[Any] = rules() if api is not None else [(r"/api/status", _StatusHandler, {"status": status})]
    return tornado.web.Application(
        [
            *api_rules,
            *((path, protect(handler, role), arguments) for path, handler, arguments, role in extra),
            (r"/healthz", _HealthHandler, {"status": status, "ready_only": False}),
            (r"/readyz", _HealthHandler, {"status": status, "ready_only": True}),
            (r"/api/.*", _NotFoundHandler),
            (r"/(.*)", _PageHandler, {"path": str(web_root), "default_filename": "index.html"}),
        ],
        log_function=lambda handler: None,  # noqa: ARG005 - a line for each poll of the page is noise
        default_handler_class=_NotFoundHandler,
        websocket_max_message_size=MOST_MESSAGE,
        websocket_ping_interval=20,
        api=api,
        guard=api.guard if api is not None else guard or Guard("127.0.0.1"),
    )


def tls_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """For ``HttpServer``. Raises ``ConfigError`` when the files do not fit."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        raise ConfigError(
            f"--tls-cert {certificate} and --tls-key {key} are not a certificate and its key ({error.reason}); "
            "give two PEM files that belong together"
        ) from None
    except OSError as error:
        raise ConfigError(f"--tls-cert {certificate} or --tls-key {key} cannot be read: {error.strerror}") from None
    return context


class HttpServer:
    """Listens for HTTP. Main thread only."""

    def __init__(
        self, application: tornado.web.Application, host: str, port: int, tls: ssl.SSLContext | None = None
    ) -> None:
        """Bind the socket; with ``tls``, speak HTTPS.

        Raises ``NetworkError`` for a port in use or an address that is not this machine's.
        """
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            self._socket = socket.create_server((host, port), family=family)
        except OSError as error:
            raise NetworkError(_explain(error, host, port)) from None
        self._socket.setblocking(False)
        self._api: Api | None = application.settings["api"]
        self._server = tornado.httpserver.HTTPServer(
            application,
            ssl_options=tls,
            max_body_size=MOST_BODY,
            max_header_size=16 << 10,
            body_timeout=BODY_SECONDS,
            idle_connection_timeout=300.0,
        )
        self.port: int = self._socket.getsockname()[1]
        """The port that was bound; differs from the one asked for when that was 0."""

    def start(self) -> None:
        """Accept connections from now on."""
        self._server.add_socket(self._socket)

    async def stop(self) -> None:
        """Stop accepting and close what is open, watchers of events included."""
        self._server.stop()
        if self._api is not None:
            self._api.hub.close()
        await self._server.close_all_connections()


def _explain(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use by another program; choose another with -hp, as in -hp {port + 1}"
    if error.errno == errno.EACCES:
        return f"port {port} needs more rights than this user has; choose one above 1023 with -hp"
    return f"{host}:{port} cannot be listened on ({error.strerror or error}); check --host and -hp"
