"""The HTTP side: the status API, health checks and the web page.

Everything here runs on the main thread. Errors have one format: ``{"error": {"status": 404, "message": "..."}}``.
"""

from __future__ import annotations

import errno
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tornado.httpserver
import tornado.web

from aiphone.errors import NetworkError

Status = Callable[[], dict[str, Any]]
"""Produces the body of ``GET /api/status``."""

_CONTENT_SECURITY_POLICY = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"


class _Handler(tornado.web.RequestHandler):
    """What all answers have in common."""

    def set_default_headers(self) -> None:
        """Headers that keep a browser from doing more with an answer than it should."""
        self.set_header("Server", "aiphone")
        self.set_header("Content-Security-Policy", _CONTENT_SECURITY_POLICY)
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("Cache-Control", "no-store")

    def write_json(self, body: dict[str, Any]) -> None:
        """Finish with a JSON body."""
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.finish(json.dumps(body, ensure_ascii=False))

    def write_error(self, status_code: int, **_: Any) -> None:
        """The one error format."""
        self.write_json({"error": {"status": status_code, "message": self._reason}})


class _StatusHandler(_Handler):
    def initialize(self, status: Status) -> None:
        self._status = status

    def get(self) -> None:
        self.write_json(self._status())


class _HealthHandler(_Handler):
    """``/healthz``: the main thread answers. ``/readyz``: calls are taken."""

    def initialize(self, status: Status, *, ready_only: bool) -> None:
        self._status = status
        self._ready_only = ready_only

    def get(self) -> None:
        ready = not self._ready_only or bool(self._status()["ready"])
        self.set_status(200 if ready else 503)
        self.write_json({"ok": ready})


class _NotFoundHandler(_Handler):
    def prepare(self) -> None:
        self.send_error(404, reason=f"there is nothing at {self.request.path[:200]}")


class _PageHandler(tornado.web.StaticFileHandler):
    """The web page's files."""

    def set_extra_headers(self, path: str) -> None:  # noqa: ARG002 - the name is tornado's
        """Revalidate always: the files change with the version, and an ETag makes that cheap."""
        self.set_header("Server", "aiphone")
        self.set_header("Content-Security-Policy", _CONTENT_SECURITY_POLICY)
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Cache-Control", "no-cache")


def make_application(status: Status, web_root: Path) -> tornado.web.Application:
    """The routes."""
    return tornado.web.Application(
        [
            (r"/api/status", _StatusHandler, {"status": status}),
            (r"/healthz", _HealthHandler, {"status": status, "ready_only": False}),
            (r"/readyz", _HealthHandler, {"status": status, "ready_only": True}),
            (r"/api/.*", _NotFoundHandler),
            (r"/(.*)", _PageHandler, {"path": str(web_root), "default_filename": "index.html"}),
        ],
        log_function=lambda handler: None,  # noqa: ARG005 - a line for each poll of the page is noise
        default_handler_class=_NotFoundHandler,
    )


class HttpServer:
    """Listens for HTTP. Main thread only."""

    def __init__(self, application: tornado.web.Application, host: str, port: int) -> None:
        """Bind the socket. Raises ``NetworkError`` for a port in use or an address that is not this machine's."""
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            self._socket = socket.create_server((host, port), family=family)
        except OSError as error:
            raise NetworkError(_explain(error, host, port)) from None
        self._socket.setblocking(False)
        self._server = tornado.httpserver.HTTPServer(application, max_body_size=1 << 20, max_header_size=16 << 10)
        self.port: int = self._socket.getsockname()[1]
        """The port that was bound; differs from the one asked for when that was 0."""

    def start(self) -> None:
        """Accept connections from now on."""
        self._server.add_socket(self._socket)

    async def stop(self) -> None:
        """Stop accepting and close what is open."""
        self._server.stop()
        await self._server.close_all_connections()


def _explain(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use by another program; choose another with -hp, as in -hp {port + 1}"
    if error.errno == errno.EACCES:
        return f"port {port} needs more rights than this user has; choose one above 1023 with -hp"
    return f"{host}:{port} cannot be listened on ({error.strerror or error}); check --host and -hp"
