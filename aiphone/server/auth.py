"""Passwords, sessions, tokens and roles. No HTTP here.

The password is kept as an argon2id hash and tokens as SHA-256 (they are random, so a fast hash is enough), both in the
store's private settings. Sessions live in memory: a restart signs everybody out, and so does a new password.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import argon2

from aiphone.clock import Clock
from aiphone.errors import ConfigError

PASSWORD_KEY = "auth.password"
TOKENS_KEY = "auth.tokens"
SHORTEST_PASSWORD = 8
SESSION_SECONDS = 12 * 3600.0
MOST_SESSIONS = 1000
READ_SECONDS = 5.0
"""How soon a password that another process set counts."""
RANK = {"": 0, "read": 1, "operate": 2, "admin": 3}
"""Roles; a higher one may do all that a lower one may."""


class SettingsStore(Protocol):
    """The part of the store that is needed here. Any thread."""

    def setting(self, key: str, default: Any = None) -> Any:
        """Value of a setting."""
        ...

    def set_setting(self, key: str, value: Any) -> None:
        """Keep a setting."""
        ...


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks."""

    role: str
    """``""``, ``read``, ``operate`` or ``admin``."""
    name: str
    """For the audit log."""
    csrf: str = ""
    """What X-CSRF-Token must say; empty when nothing is needed."""

    def may(self, role: str) -> bool:
        """Whether this role is enough for what asks for ``role``."""
        return RANK[self.role] >= RANK[role]


NOBODY = Actor("", "nobody")


@dataclass(slots=True)
class _Session:
    csrf: str
    expires: float


def set_password(store: SettingsStore, password: str) -> None:
    """Keep the hash of a new password; everybody is signed out. Raises ``ConfigError`` for one that is too short."""
    if len(password) < SHORTEST_PASSWORD:
        raise ConfigError(f"the password has {len(password)} characters; choose one of at least {SHORTEST_PASSWORD}")
    store.set_setting(PASSWORD_KEY, argon2.PasswordHasher().hash(password))


def has_password(store: SettingsStore) -> bool:
    """Whether a password is set."""
    return bool(store.setting(PASSWORD_KEY))


class Auth:
    """Knows who may do what. Main thread only, except ``matches``.

    Password and tokens are read again every few seconds: the command that sets the password is another process.
    """

    def __init__(self, store: SettingsStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._hasher = argon2.PasswordHasher()
        self._sessions: dict[str, _Session] = {}
        self._hash = ""
        self._tokens: list[dict[str, Any]] = []
        self._read_at = clock.now()
        self.limit = LoginLimit(clock)
        self._read()

    def _read(self) -> None:
        self._read_at = self._clock.now()
        stored: str = self._store.setting(PASSWORD_KEY) or ""
        if stored != self._hash:
            self._sessions.clear()
        self._hash = stored
        self._tokens = self._store.setting(TOKENS_KEY) or []

    @property
    def password_required(self) -> bool:
        """Whether a password is set; without one everybody who reaches the server is the owner."""
        return bool(self._hash)

    def who(self, cookie: str | None, bearer: str | None) -> Actor:
        """Who has this session cookie or this token. A token that is given must be right."""
        if self._clock.now() - self._read_at >= READ_SECONDS:
            self._read()
        if bearer is not None:
            return self._token_actor(bearer)
        if not self._hash:
            return Actor("admin", "owner")
        session = self._sessions.get(_digest(cookie)) if cookie else None
        if session is None or session.expires <= self._clock.now():
            return NOBODY
        return Actor("admin", "owner", session.csrf)

    def _token_actor(self, bearer: str) -> Actor:
        digest = _digest(bearer)
        for token in self._tokens:
            if hmac.compare_digest(token["digest"], digest):
                return Actor(token["role"], f"token {token['name']}")
        return NOBODY

    def matches(self, password: str) -> bool:
        """Whether this is the password. Any thread; takes tens of milliseconds."""
        try:
            return bool(self._hash) and self._hasher.verify(self._hash, password)
        except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
            return False

    def open_session(self) -> tuple[str, Actor]:
        """A new session: the cookie's value and who it is."""
        now = self._clock.now()
        for old in [key for key, session in self._sessions.items() if session.expires <= now]:
            del self._sessions[old]
        while len(self._sessions) >= MOST_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        cookie, csrf = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        self._sessions[_digest(cookie)] = _Session(csrf, now + SESSION_SECONDS)
        return cookie, Actor("admin", "owner", csrf)

    def close_session(self, cookie: str) -> None:
        """Sign out."""
        self._sessions.pop(_digest(cookie), None)

    # -------------------------------------------------------------------------------------------- tokens

    def tokens(self) -> list[dict[str, Any]]:
        """All tokens, without digests."""
        return [{name: value for name, value in token.items() if name != "digest"} for token in self._tokens]

    def new_token(self, name: str, role: str, created: float) -> tuple[dict[str, Any], Callable[[], None]]:
        """A new token with its secret, and what keeps it (*executor*)."""
        secret = f"aip_{secrets.token_urlsafe(32)}"
        token = {"id": secrets.token_hex(6), "name": name, "role": role, "created": created}
        self._tokens = [*self._tokens, {**token, "digest": _digest(secret)}]
        return {**token, "token": secret}, self._keeper()

    def delete_token(self, token_id: str) -> Callable[[], None] | None:
        """Take a token's validity; what keeps that (*executor*), or None when there is no such token."""
        left = [token for token in self._tokens if token["id"] != token_id]
        if len(left) == len(self._tokens):
            return None
        self._tokens = left
        return self._keeper()

    def _keeper(self) -> Callable[[], None]:
        tokens = self._tokens
        self._read_at = self._clock.now()  # what is in the store is older until this is written
        return lambda: self._store.set_setting(TOKENS_KEY, tokens)


@dataclass(slots=True)
class LoginLimit:
    """How often a password may be tried: a few times a minute from one address, and not without end from many."""

    clock: Clock
    per_address: int = 5
    in_all: int = 50
    seconds: float = 60.0
    _failures: list[tuple[float, str]] = field(default_factory=list)

    def wait(self, address: str) -> float:
        """Seconds until this address may try (again); 0 is now."""
        now = self.clock.now()
        self._failures = [entry for entry in self._failures if entry[0] > now - self.seconds]
        own = [at for at, who in self._failures if who == address]
        waits = [0.0]
        if len(own) >= self.per_address:
            waits.append(own[-self.per_address] + self.seconds - now)
        if len(self._failures) >= self.in_all:
            waits.append(self._failures[-self.in_all][0] + self.seconds - now)
        return max(waits)

    def try_now(self, address: str) -> None:
        """Count an attempt before it is judged, so that many at once count as many."""
        self._failures.append((self.clock.now(), address))

    def succeeded(self, address: str) -> None:
        """Forget the attempts of an address that knew the password."""
        self._failures = [entry for entry in self._failures if entry[1] != address]


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
