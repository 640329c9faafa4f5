"""What the SIP side is told at start, and what it says about itself.

Plain values only: this module knows nothing of pjsua2, so that configuration, API and tests can use it alone.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
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

    def open(self, host: str = "") -> RtpSockets:
        """A pair of sockets bound to ``host`` (empty: the usual address); the caller owns it.

        Raises ``NetworkError`` when none is left.
        """
        ...

    def public_ports(self, sockets: RtpSockets) -> tuple[int, int]:
        """Ports for RTP and RTCP that those see who are told our public address."""
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
class CallPolicy:
    """What a line does with calls that come in, and what it lets the other side do."""

    answer_after: float = 0.0
    """Seconds it rings before a call is answered; 0 answers at once."""
    early_media: bool = False
    """Ring with 183 and a session description, so that our media flow before the answer, instead of with 180."""
    max_calls: int = 0
    """Calls of this line at once; more get 486 with Retry-After. 0: only the limit for all lines."""
    allow: tuple[str, ...] = ()
    """When not empty, only callers that match one of these may call: ``+49*``, ``1000``, ``*@office.example``."""
    deny: tuple[str, ...] = ()
    """Callers that match one of these are refused with 603, also when they are allowed above."""
    anonymous: bool = True
    """Take calls from callers who do not show who they are; otherwise 433 (RFC 5079)."""
    trust_identity: bool = True
    """Show callers as P-Asserted-Identity or Remote-Party-ID has them, when the call comes by way of the line's
    server; otherwise as From has them."""
    transfers: bool = True
    """Let the other side transfer us to somebody else (REFER): it makes us call a number of its choice."""
    personas: tuple[tuple[str, str], ...] = ()
    """Called number and the name of the persona that answers it, for lines with several numbers."""
    srtp: str = "off"
    """SRTP with keys in the session description (RFC 4568): ``off``, ``optional`` or ``mandatory``."""

    def check(self, where: str) -> None:
        """Raise ``ConfigError`` for values that make no sense; ``where`` names the line."""
        if not 0.0 <= self.answer_after <= 180.0:
            raise ConfigError(f"{where}: answer_after is {self.answer_after:g}; use 0 to 180 seconds")
        if self.max_calls < 0:
            raise ConfigError(f"{where}: max_calls is {self.max_calls}; use 0 for no limit of its own")
        if self.srtp not in ("off", "optional", "mandatory"):
            raise ConfigError(f"{where}: srtp {self.srtp!r} is not known; use off, optional or mandatory")


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """SIP over TLS (RFC 3261 section 26.2): our certificate, and whom we believe. Files are PEM."""

    port: int = 0
    """Port to listen on, usually 5061; 0: none, TLS is for lines that register with it."""
    certificate: str = ""
    """Our certificate with its chain; without one nobody can call us over TLS. Lines show it to servers that ask."""
    key: str = ""
    """Its private key; empty when it is in the certificate's file."""
    authorities: str = ""
    """Certificates of the authorities that we believe; empty: the system's."""
    verify: bool = True
    """Talk only to servers whose certificate is right, in name too."""
    require_client: bool = False
    """Let in only callers who show a certificate that is right."""

    def check(self) -> None:
        """Raise ``ConfigError`` for files that are not there, or a port without a certificate."""
        if self.port and not self.certificate:
            raise ConfigError("a SIP port for TLS needs a certificate; give --sip-tls-cert")
        for flag, name in (("cert", self.certificate), ("key", self.key), ("ca", self.authorities)):
            if name and not Path(name).is_file():
                raise ConfigError(f"there is no file {name}; check --sip-tls-{flag}")


@dataclass(frozen=True, slots=True)
class SipSettings:
    """How the SIP side listens and whom it lets in."""

    host: str = "0.0.0.0"
    """Local address for UDP and TCP, IPv4 or IPv6; ``0.0.0.0`` is all of IPv4, ``::`` all of IPv6."""
    both_families: bool = False
    """``host`` is ``0.0.0.0``, and every IPv6 address is listened on as well, where this machine has any."""
    reach_out: bool = False
    """``host`` is loopback, and enough until something on another machine is needed: a line's server, or somebody
    we call. Then our address on the way there is listened on as well, at the same port."""
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
    tls: TlsSettings = field(default_factory=TlsSettings)
    direct_policy: CallPolicy = field(default_factory=lambda: CallPolicy(trust_identity=False, transfers=False))
    strangers: str = "refuse"
    """What callers get who may not call and whom we do not know: ``refuse`` (403) or ``ignore`` (nothing)."""
    redirect_limit: int = 3
    """Redirections (3xx) that a call of ours follows; 0 follows none."""
    session_expires: int = 1800
    """Seconds after which a call that nobody refreshed is taken for dead (RFC 4028)."""
    register_expires: int = 300
    """Seconds a registration is asked to live (RFC 3261 section 10.2.1.1)."""
    refresh_seconds: float = 25.0
    """Longest time between two REGISTERs to a server in a private network: a PBX in the office that restarts has
    forgotten us, and nothing says so. Providers do not forget, and count what they are asked; they are asked when the
    registration is about to end. 0: so are all."""
    keep_alive_seconds: int = 15
    """Between packets that keep the way through a NAT open to a line's server over UDP (RFC 5626 section 3.5)."""
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
        self.direct_policy.check("direct line")
        self.tls.check()
        if self.strangers not in ("refuse", "ignore"):
            raise ConfigError(f"strangers is {self.strangers!r}; use refuse or ignore")
        if not 90 <= self.session_expires <= 86_400:
            raise ConfigError(f"session_expires is {self.session_expires}; use 90 to 86400 seconds")


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
    """False rings for a while first, also where ``policy`` does not ask for it (``UNATTENDED_SECONDS``)."""
    greeting: str | None = None
    """Replaces the persona's greeting on this line; None keeps it."""
    transport: str = "udp"
    """``udp``, ``tcp`` or ``tls``."""
    auth_username: str = ""
    """Name used for digest authentication where it differs from ``username``."""
    proxy: str = ""
    """Outbound proxy, ``host`` or ``host:port``."""
    persona: str = ""
    """Name of the persona that answers; empty for the default one."""
    enabled: bool = True
    allowed_networks: tuple[str, ...] = ()
    """Networks that may call this line besides its own server (a trunk with several addresses)."""
    policy: CallPolicy = field(default_factory=CallPolicy)
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
        if self.transport not in ("udp", "tcp", "tls"):
            raise ConfigError(f"{where}: transport {self.transport!r} is not known; use udp, tcp or tls")
        host, port = self._proxy_parts
        if self.proxy and not (_HOST.fullmatch(host) and port.isdigit() and 1 <= int(port) <= 65535):
            raise ConfigError(f"{where}: proxy {self.proxy!r} must be host or host:port")
        parse_networks(self.allowed_networks, where)
        self.policy.check(where)

    @property
    def server_host(self) -> str:
        """The server as it stands in a URI (IPv6 in brackets)."""
        bare = self.server_ip.strip("[]")
        return f"[{bare}]" if ":" in bare else bare

    @property
    def next_hop(self) -> str:
        """Name or address of the machine that requests go to: the outbound proxy, where there is one."""
        return (self._proxy_parts[0] or self.server_ip).strip("[]")

    @property
    def _proxy_parts(self) -> tuple[str, str]:
        host, colon, port = self.proxy.rpartition(":")
        return (host, port) if colon else (self.proxy, "5060")

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
    listening: tuple[str, ...] = ()
    """Addresses that SIP is listened for at, all at ``port``."""
    note: str = ""
    """What an operator should know about the limit; empty when there is nothing to say."""
    failure: str = ""
    """Why the SIP thread died; empty when all is well."""
