"""The checks that every request passes before anything else looks at it.

``Guarded`` is mixed into every handler, those for files and WebSockets included: Host, then who asks, then whether it
comes from our own page, then whether the role is enough.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping, Sequence
from typing import Any

import tornado.web
import tornado.websocket

from aiphone.server.api import Api
from aiphone.server.auth import NOBODY, SESSION_SECONDS, Actor
from aiphone.server.guard import SAFE_METHODS, Guard
from aiphone.server.schema import Problem

COOKIE = "aiphone_session"
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = {
    "Server": "aiphone",
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
}
"""Headers that keep a browser from doing more with an answer than it should."""


class Guarded(tornado.web.RequestHandler):
    """What all handlers have in common. ``application.settings`` has ``guard``, and ``api`` once there is one."""

    role: str = ""
    """What one must be allowed; empty: anybody may."""
    is_socket = False
    actor: Actor = NOBODY

    @property
    def guard(self) -> Guard:
        """The server's checks."""
        guard: Guard = self.application.settings["guard"]
        return guard

    @property
    def api(self) -> Api | None:
        """The parts of the phone."""
        api: Api | None = self.application.settings["api"]
        return api

    def set_default_headers(self) -> None:
        """See ``_HEADERS``."""
        for name, value in _HEADERS.items():
            self.set_header(name, value)
        self.set_header("Cache-Control", "no-store")

    def prepare(self) -> None:
        """Let the request in, or answer why not."""
        request = self.request
        if not self.guard.host_ok(request.headers.get("Host", "")):
            self.refuse(403, "this server is not known under that name; add it to allowed_hosts in the settings")
            return
        if self.api is not None:
            self.actor = self.api.auth.who(self.session_cookie(), self.bearer())
        origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site")
        method = request.method or ""
        host = request.headers.get("Host", "")
        if not self.guard.origin_ok(method, host, origin, site, socket=self.is_socket):
            self.refuse(403, "requests that a page of another site makes are not taken")
            return
        if self.api is None:
            return
        role = self.needed_role()
        if role and self.actor is NOBODY:
            self.refuse(401, "sign in first, or send a token", headers={"WWW-Authenticate": "Bearer"})
        elif not self._csrf_ok(method):
            self.refuse(403, "the X-CSRF-Token header is missing or wrong; GET /api/session says what it must be")
        elif role and not self.actor.may(role):
            self.refuse(403, f"this needs the role '{role}', and yours is '{self.actor.role}'")

    def needed_role(self) -> str:
        """What this request needs."""
        return self.role

    def session_cookie(self) -> str | None:
        """Value of the session's cookie."""
        morsel = self.request.cookies.get(COOKIE)
        return morsel.value if morsel is not None else None

    def bearer(self) -> str | None:
        """The token of the Authorization header."""
        scheme, _, token = self.request.headers.get("Authorization", "").partition(" ")
        return token.strip() if scheme.lower() == "bearer" else None

    def _csrf_ok(self, method: str) -> bool:
        if not self.actor.csrf or method in SAFE_METHODS:
            return True
        return hmac.compare_digest(self.request.headers.get("X-CSRF-Token", "").encode(), self.actor.csrf.encode())

    # ------------------------------------------------------------------------------------------ answers

    def set_session(self, cookie: str) -> None:
        """Set the session's cookie, or remove it when it is empty."""
        secure = self.request.protocol == "https"
        age = int(SESSION_SECONDS) if cookie else 0
        self.set_cookie(COOKIE, cookie, httponly=True, samesite="Strict", secure=secure, max_age=age, path="/")

    def refuse(
        self, status: int, message: str, *, fields: Sequence[Problem] = (), headers: Mapping[str, str] | None = None
    ) -> None:
        """Finish with the one error format."""
        self.clear()
        self.set_status(status)
        for name, value in (headers or {}).items():
            self.set_header(name, value)
        error: dict[str, Any] = {"status": status, "message": message}
        if fields:
            error["fields"] = [problem.as_json() for problem in fields]
        self.write_json({"error": error})

    def write_json(self, body: Mapping[str, Any]) -> None:
        """Finish with a JSON body."""
        self.set_header("Content-Type", "application/json; charset=utf-8")
        text = json.dumps(body, ensure_ascii=False, allow_nan=False)
        self.finish(text.encode("utf-8", "replace"))

    def write_error(self, status_code: int, **_: Any) -> None:
        """What tornado found wrong, in the one error format."""
        self.refuse(status_code, self._reason)


class GuardedSocket(Guarded, tornado.websocket.WebSocketHandler):
    """A WebSocket behind the checks."""

    is_socket = True

    async def get(self, *args: Any, **kwargs: Any) -> None:
        """Become a WebSocket."""
        if self.request.headers.get("Upgrade", "").lower() != "websocket":
            self.refuse(426, "this is for WebSockets", headers={"Upgrade": "websocket", "Connection": "Upgrade"})
            return
        await super().get(*args, **kwargs)


def protect(handler: type[tornado.web.RequestHandler], role: str) -> type[tornado.web.RequestHandler]:
    """A handler of another module, behind the same checks as all others."""
    base = GuardedSocket if issubclass(handler, tornado.websocket.WebSocketHandler) else Guarded
    return type(f"Guarded{handler.__name__}", (base, handler), {"role": role, "__doc__": handler.__doc__})
