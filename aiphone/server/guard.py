"""Which requests are let in at all: the Host check against DNS rebinding, and the Origin check against other sites.

A page of another site can make a browser send requests to this server. It cannot choose the ``Host``, ``Origin`` and
``Sec-Fetch-Site`` headers, and it cannot be opened under a name of ours; these checks rest on that.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from aiphone.errors import ConfigError

_ALWAYS = frozenset({"localhost", "127.0.0.1", "::1"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on ``host``."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def require_password(host: str, *, has_password: bool) -> None:
    """Refuse to listen where others can come without a password. Raises ``ConfigError``."""
    if not is_loopback(host) and not has_password:
        raise ConfigError(
            f"--host {host} lets other machines in and there is no password; set one with: whisper-talk-llama passwd"
        )


@dataclass(slots=True)
class Guard:
    """The checks of one server. Main thread only."""

    host: str
    """What ``--host`` says."""
    allowed: frozenset[str] = frozenset()
    """Further names, from the settings."""

    def allow(self, names: Iterable[str]) -> None:
        """Replace the further names."""
        self.allowed = frozenset(name.lower().rstrip(".") for name in names)

    def host_ok(self, header: str) -> bool:
        """Whether the page may be opened under this ``Host``. A rebound DNS name is never an address, so where the
        server listens on every address, any address is good."""
        name = _host_name(header)
        if name in _ALWAYS or name == self.host.strip("[]").lower() or name in self.allowed:
            return True
        try:
            ip_address(name)
        except ValueError:
            return False
        return _is_any_address(self.host)

    def origin_ok(
        self, method: str, host: str, origin: str | None, fetch_site: str | None, *, socket: bool = False
    ) -> bool:
        """Whether a request comes from our own page, or from no page at all. Reading needs no check (the same-origin
        policy of browsers keeps answers from other sites), but a WebSocket does: that policy does not cover it."""
        if method in SAFE_METHODS and not socket:
            return True
        if fetch_site is not None and fetch_site not in ("same-origin", "none"):
            return False
        if origin is None:
            return True
        return _same_place(origin, host)


def _same_place(origin: str, host: str) -> bool:
    try:
        given = urlsplit(origin)
        port = given.port
    except ValueError:
        return False
    if given.scheme not in ("http", "https") or not given.hostname:
        return False
    default = 443 if given.scheme == "https" else 80
    return (given.hostname.lower(), port or default) == (_host_name(host), _port(host) or default)


def _host_name(header: str) -> str:
    try:
        return (urlsplit(f"//{header}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _port(header: str) -> int | None:
    try:
        return urlsplit(f"//{header}").port
    except ValueError:
        return None


def _is_any_address(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_unspecified
    except ValueError:
        return host == ""
