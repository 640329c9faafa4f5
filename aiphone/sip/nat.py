"""Where a peer behind NAT can be reached: not where its Contact says.

A telephone that does not know of the NAT before it writes its private address into Contact, and what we send there
within the call (ACK, BYE, re-INVITE) is lost. RFC 3581 cures that for responses only. What it sends comes from the
address that does reach it, so its Contact is read as having that one.
"""

from __future__ import annotations

import re

from aiphone.sip.addresses import is_private, parse_address, split_host_port
from aiphone.sip.message import head_of, header

_VIA = re.compile(r"^(?:via|v)[ \t]*:([^\r\n]*)", re.IGNORECASE | re.MULTILINE)
_URI = re.compile(
    r"(?P<before>[^<]*<?sips?:(?:[^@>;?\s]*@)?)(?P<host>\[[^\]]*\]|[^:;>?\s,]+)(?P<port>:[0-9]+)?", re.IGNORECASE
)


def mended_contact(message: str, source: str) -> str:
    """The Contact that a message from ``source`` (``host:port``) should have; empty where its own is right.

    A request's is wrong when its sender, and not a proxy, says an address that it does not come from. Of a response
    it is not seen who sent it; there it must be a private address, from one that is not.
    """
    contact = header(message, "Contact")
    found = _URI.match(contact)
    if found is None or header(message, "Record-Route"):
        return ""
    host, port = split_host_port(source)
    told, real = parse_address(found["host"]), parse_address(host)
    if told is None or real is None or told == real or not port or not is_private(told):
        return ""
    if message.startswith("SIP/2.0"):
        if is_private(real) or real.is_loopback:
            return ""
    else:
        vias = _VIA.findall(head_of(message))
        if len(vias) != 1 or "," in vias[0] or parse_address(_sent_by(vias[0])) != told:
            return ""
    where = f"[{host}]:{port}" if real.version == 6 else f"{host}:{port}"
    return f"{found['before']}{where}{contact[found.end() :]}"


def _sent_by(via: str) -> str:
    """The host in a Via (RFC 3261 section 20.42)."""
    words = via.partition(";")[0].split()
    return split_host_port(words[-1])[0] if len(words) > 1 else ""
