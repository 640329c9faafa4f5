"""What the SIP side is told at start, and what it says about itself.

Plain values only: this module knows nothing of pjsua2, so that configuration, API and tests can use it alone.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Protocol
from urllib.parse import quote

from aiphone.errors import ConfigError
from aiphone.events import LineState, RtpSockets

DIRECT_LINE = "direct"
"""``line_id`` of the line that answers without any registration."""

Network = IPv4Network | IPv6Network

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,253}[A-Za-z0-9])?|\[?[0-9A-Fa-f:.]{2,45}\]?")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f]")


class RtpPorts(Protocol):
    """Where the sockets for a call's media come from. Both methods are callable from any thread."""

    def open(self) -> RtpSockets:
        """A bound pair of sockets; the caller owns it. Raises ``NetworkError`` when none is left."""
        ...

    def close(self, sockets: RtpSockets) -> None:
        """Close the pair and give its port back."""
        ...


def parse_networks(texts: tuple[str, ...], name: str) -> tuple[Network, ...]:
    """Addresses and CIDR networks as values; ``ConfigError`` names the setting ``name`` and the wrong entry."""
    networks: list[Network] = []
    for text in texts:
        try:
            networks.append(ip_network(text.strip(), strict=False))
        except ValueError as error:
            message = f"{name}: {text!r} is not an address or network; write it like 192.168.1.0/24"
            raise ConfigError(message) from error
    return tuple(networks)


@dataclass(frozen=True, slots=True)
class SipSettings:
    """How the SIP side listens and whom it lets in."""

    host: str = "0.0.0.0"
    """Local IPv4 address for UDP and TCP; ``0.0.0.0`` is all of them."""
    port: int = 5060
    """SIP port for UDP and TCP; 0 takes any free one (``SipAgent.port`` says which)."""
    public_address: str = ""
    """Address that callers outside this machine are told for SIP and RTP (``--public-address``); empty: the
    local address on the way to the caller."""
    user_agent: str = "aiphone"
    max_calls: int = 50
    """Calls at once; more are refused with 486 and Retry-After. The library's own limit may be lower."""
    retry_after: int = 10
    """Seconds in that Retry-After header."""
    direct_line: bool = True
    direct_user: str = "ai"
    """User part of the direct line's address, ``sip:ai@host``; compared without regard to case."""
    direct_networks: tuple[str, ...] = ()
    """Networks (CIDR) that may call the direct line, besides this machine, which always may."""
    register_expires: int = 300
    """Seconds a registration is asked to live (RFC 3261 section 10.2.1.1)."""
    ring_seconds: float = 60.0
    """How long a call that we place may ring before we give it up."""
    poll_seconds: float = 0.010
    """Longest time a command of the main thread waits for the SIP thread."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"SIP port {self.port} is out of range; use 1 to 65535 (--sip-port)")
        if self.max_calls < 1:
            raise ConfigError(f"max-calls is {self.max_calls}; at least one call is needed (--max-calls)")
        if self.public_address and not _HOST.fullmatch(self.public_address):
            raise ConfigError(f"public address {self.public_address!r} is neither a name nor an address")
        if not re.fullmatch(r"[A-Za-z0-9._~+-]{1,64}", self.direct_user):
            raise ConfigError(f"direct line user {self.direct_user!r} must be letters, digits or . _ ~ + -")
        parse_networks(self.direct_networks, "direct-line networks")


@dataclass(frozen=True, slots=True)
class LineConfig:
    """One account at a PBX or provider. Checked when made: nothing in it can break out of a SIP header."""

    line_id: str
    username: str
    password: str = field(repr=False)
    server_ip: str
    """Name or address of the registrar."""
    server_port: int = 5060
    display_name: str = ""
    auto_answer: bool = True
    greeting: str | None = None
    """Replaces the persona's greeting on this line; None keeps it."""
    transport: str = "udp"
    """``udp`` or ``tcp``."""
    auth_username: str = ""
    """Name used for digest authentication where it differs from ``username``."""
    proxy: str = ""
    """Outbound proxy, ``host`` or ``host:port``."""
    persona: str = ""
    """Name of the persona that answers; empty for the default one."""
    enabled: bool = True
    allowed_networks: tuple[str, ...] = ()
    """Networks that may call this line besides its own server (a trunk with several addresses)."""
    token: str = field(default_factory=lambda: secrets.token_hex(8), repr=False, compare=False)
    """Goes out in the Contact that we register and comes back in the Request-URI: it tells the line, and that
    the call came by way of the server, whichever of its addresses it uses."""

    def __post_init__(self) -> None:
        where = f"line {self.line_id!r}"
        for name in ("line_id", "username", "password", "display_name", "auth_username", "proxy"):
            if _UNSAFE.search(getattr(self, name)):
                raise ConfigError(f"{where}: {name} holds a control character")
        if not self.line_id or self.line_id == DIRECT_LINE:
            raise ConfigError(f"{where}: choose another line id")
        if not self.username:
            raise ConfigError(f"{where}: username is missing")
        if not _HOST.fullmatch(self.server_ip):
            raise ConfigError(f"{where}: server {self.server_ip!r} is neither a name nor an address")
        if not 1 <= self.server_port <= 65535:
            raise ConfigError(f"{where}: server port {self.server_port} is out of range; use 1 to 65535")
        if self.transport not in ("udp", "tcp"):
            raise ConfigError(f"{where}: transport {self.transport!r} is not known; use udp or tcp")
        host, _, port = self.proxy.rpartition(":") if ":" in self.proxy else (self.proxy, "", "5060")
        if self.proxy and not (_HOST.fullmatch(host) and port.isdigit() and 1 <= int(port) <= 65535):
            raise ConfigError(f"{where}: proxy {self.proxy!r} must be host or host:port")
        parse_networks(self.allowed_networks, where)

    @property
    def server_host(self) -> str:
        """The server as it stands in a URI (IPv6 in brackets)."""
        bare = self.server_ip.strip("[]")
        return f"[{bare}]" if ":" in bare else bare

    @property
    def uri_parameters(self) -> str:
        """URI parameters that choose the transport."""
        return "" if self.transport == "udp" else f";transport={self.transport}"

    @property
    def identity(self) -> str:
        """Name and address of record, as in From (RFC 3261 section 20.10)."""
        user = quote(self.username, safe="!$&'()*+,;=-_.~")
        address = f"<sip:{user}@{self.server_host}>"
        if not self.display_name:
            return address
        name = self.display_name.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{name}" {address}'

    @property
    def registrar_uri(self) -> str:
        """Where the REGISTER goes."""
        return f"sip:{self.server_host}:{self.server_port}{self.uri_parameters}"

    @property
    def proxy_uri(self) -> str:
        """Loose route to the outbound proxy, empty without one."""
        return f"sip:{self.proxy};lr{self.uri_parameters}" if self.proxy else ""


@dataclass(frozen=True, slots=True)
class LineStatus:
    """One line, for the status page."""

    line_id: str
    address: str
    state: LineState
    reason: str = ""
    since: float = 0.0
    """When it got into this state (monotonic seconds)."""


@dataclass(frozen=True, slots=True)
class SipStatus:
    """The SIP side at one moment."""

    running: bool
    version: str
    """Version of pjproject, empty before the start."""
    call_limit: int
    """Calls the library can hold, asked of the library; 0 before the start."""
    max_calls: int
    """Calls that are let in: the lower of the setting and what the library leaves."""
    active_calls: int
    refused_calls: int
    """Calls refused since the start, for whatever reason."""
    host: str
    port: int
    lines: tuple[LineStatus, ...]
    note: str = ""
    """What an operator should know about the limit; empty when there is nothing to say."""
    failure: str = ""
    """Why the SIP thread died; empty when all is well."""
