"""IP addresses: reading them, knowing our own, and choosing the one that a caller is told."""

from __future__ import annotations

import re
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from aiphone.errors import NetworkError, SipError

Address = IPv4Address | IPv6Address

_CALLABLE = re.compile(
    r"sip:(?:[A-Za-z0-9\-_.!~*'()&=+$,;/%]{1,128}@)?"
    r"(?P<host>[A-Za-z0-9](?:[A-Za-z0-9.-]{0,253}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])(?::(?P<port>[0-9]{1,5}))?"
    r"(?:;transport=(?:udp|tcp|tls))?(?:;user=phone)?",
    re.ASCII | re.IGNORECASE,
)


def parse_address(text: str) -> Address | None:
    """An IP address, with IPv4-mapped IPv6 as IPv4; None for anything else."""
    try:
        address = ip_address(text.strip("[]").partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


EVERYWHERE = ("0.0.0.0", "::")
"""Every address of this machine, in either family."""


def in_uri(host: str) -> str:
    """A host as it stands in a URI: IPv6 addresses have brackets (RFC 3986 section 3.2.2)."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def host_port(host: str, port: int) -> str:
    """``"1.2.3.4:5060"`` or ``"[::1]:5060"``."""
    return f"{in_uri(host)}:{port}"


def split_host_port(text: str) -> tuple[str, int]:
    """``"1.2.3.4:5060"`` or ``"[::1]:5060"`` in parts; port 0 where there is none."""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.lstrip(":")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    else:
        host, port = text, ""
    return host, int(port) if port.isdigit() and len(port) <= 5 else 0


_NUMBER = re.compile(r"[+0-9A-Za-z*#_.-]{1,64}", re.ASCII)


def complete_uri(text: str, server: str) -> str:
    """A SIP URI as it is; a bare number or name at ``server``, the line's (as it stands in a URI).

    Raises ``SipError`` for what is neither, and for a number without a line that could say where it is.
    """
    if ":" in text or "@" in text:
        callable_host(text)
        return text
    if not _NUMBER.fullmatch(text):
        raise SipError(f"{text[:80]!r} is no number that can be called")
    if not server:
        raise SipError(f"{text!r} is a number, and there is no line to call it from; write sip:{text}@its.address")
    return f"sip:{text.replace('#', '%23')}@{server}"


def callable_host(uri: str) -> str:
    """The host of a SIP URI that we may call (RFC 3261 section 19.1). Raises ``SipError`` for what is none.

    Strict, as the text goes into a request as it is: no headers, no quotes, nothing but printable ASCII.
    """
    found = _CALLABLE.fullmatch(uri)
    if found is None or len(uri) > 256 or not 0 < int(found["port"] or 5060) < 65536:
        raise SipError(f"{uri[:80]!r} is no address that can be called; write it like sip:1000@192.168.1.10")
    return found["host"].strip("[]")


_PRIVATE = tuple(
    ip_network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16", "fc00::/7")
)
"""Networks that are many (RFC 1918, 6598, 3927, 4193)."""


def is_private(address: Address) -> bool:
    """True for an address in a network that anybody may have, and that is not reached from outside."""
    return any(address in network for network in _PRIVATE)


def is_this_machine(address: Address) -> bool:
    """True for loopback and for every address of this machine's interfaces.

    Whether an address is ours is what ``bind`` knows: no list of interfaces to keep up to date.
    """
    if address.is_loopback:
        return True
    if address.is_unspecified or address.is_multicast:
        return False
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True


def local_address_towards(remote: str, otherwise: str) -> str:
    """Our address on the way to ``remote``, by the routing table (no packet is sent); else ``otherwise``."""
    address = parse_address(remote)
    if address is None or address.is_unspecified:
        return otherwise
    try:
        return _on_the_way_to(address)
    except OSError:
        return otherwise


def of_other_family(offered: str, source: str) -> bool:
    """True when media are offered at an IPv6 address by a peer with an IPv4 one, or the other way round (RFC 6157).

    An address of zeros is no place for media.
    """
    address, peer = parse_address(offered), parse_address(source)
    if address is None or peer is None or address.is_unspecified:
        return False
    return address.version != peer.version


_ANYWHERE = IPv4Address("192.0.2.1")
"""Of a network that nobody has (RFC 5737): the way there is the default route."""


def address_of_ours(remote: str) -> str:
    """Our address on the way to ``remote``; for a name, which is not looked up here, on the IPv4 default route.

    Raises ``NetworkError`` where there is no way.
    """
    address = parse_address(remote)
    try:
        return _on_the_way_to(address or _ANYWHERE)
    except OSError as error:
        reason = error.strerror or str(error)
        raise NetworkError(f"this machine has no way to {remote} ({reason}); check its network") from None


def _on_the_way_to(address: Address) -> str:
    """Our address by the routing table; no packet is sent. Raises ``OSError`` where there is no way."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((str(address), 9))
        return str(probe.getsockname()[0])


def is_loopback(host: str) -> bool:
    """True for what is this machine whatever its network: 127.0.0.0/8, ::1 and ``localhost``."""
    address = parse_address(host)
    return address.is_loopback if address is not None else host.lower() == "localhost"


def advertised_address(public: str, remote: str, towards: str) -> str:
    """The address for our Contact and SDP towards ``remote``.

    ``public`` is for callers out there; who calls from this machine or from a private network, while ours is a
    public address, reaches us at ``towards`` (our address on the way to them) and often not at the other.
    """
    address = parse_address(remote)
    if not public or address is None or address.is_loopback or remote == towards:
        return towards
    ours = parse_address(public)
    if address.is_private and ours is not None and not ours.is_private:
        return towards
    return public
