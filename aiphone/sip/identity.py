"""Who calls: the identity that a call is shown under, and whether a line wants to hear from them.

A provider that is trusted asserts the caller in P-Asserted-Identity (RFC 3325) or, older, in Remote-Party-ID;
everybody else only claims one in From. Pure text in, values out; nothing here raises.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from aiphone.sip.message import header, name_addr, user_of

_ANONYMOUS_HOST = re.compile(r"@anonymous\.invalid(?:[:;>]|$)", re.IGNORECASE)
_TEL = re.compile(r"tel:([+0-9().*#-]+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller."""

    uri: str
    """Without parameters."""
    name: str
    anonymous: bool
    """The caller asked not to be shown (RFC 3323), or nobody knows who it is."""


def caller_identity(message: str, *, trusted: bool) -> Identity:
    """The caller of an INVITE: asserted when its sender is ``trusted`` to do so, else claimed."""
    name, uri = name_addr(header(message, "From"))
    anonymous = bool(_ANONYMOUS_HOST.search(uri)) or user_of(uri).lower() == "anonymous"
    if not trusted:
        return Identity(uri, name, anonymous)
    asserted = header(message, "P-Asserted-Identity") or header(message, "Remote-Party-ID")
    private = "id" in re.split(r"[;,\s]+", header(message, "Privacy").lower())
    private = private or bool(re.search(r"privacy=(?:full|uri|name)", asserted, re.IGNORECASE))
    if asserted:
        asserted_name, asserted_uri = name_addr(asserted)
        if asserted_uri:
            uri, name, anonymous = asserted_uri, asserted_name or name, False
    return Identity(uri, name, anonymous or private)


def number_of(uri: str) -> str:
    """What people would call the number: the user part of a SIP URI, or a tel URI's digits."""
    found = _TEL.match(uri)
    return found[1] if found else user_of(uri)


def listed(uri: str, patterns: Iterable[str]) -> bool:
    """Whether a caller is on a list of patterns: ``+49*``, ``*@spam.example``, ``1000``; without regard to case."""
    whole = re.sub(r"^(?:sips?|tel):", "", uri.lower()).partition(";")[0]
    number = number_of(uri).lower()
    return any(fnmatchcase(text, pattern.lower()) for pattern in patterns for text in (number, whole))


SCANNERS = re.compile(
    r"friendly-scanner|sipvicious|sipcli|sip-scan|sundayddr|pplsip|vaxsipuseragent|sivus|gulp|smap|warvox|iwar\b",
    re.IGNORECASE,
)
"""User-Agent of programs that look for telephones to abuse; whoever answers one is asked again and again."""


def is_scanner(message: str) -> bool:
    """Whether a request says itself that it comes from a scanner."""
    return bool(SCANNERS.search(header(message, "User-Agent")))
