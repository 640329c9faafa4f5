"""SRTP keys in session descriptions (RFC 4568, "SDES").

pjsua makes our ``a=crypto`` lines and chooses among the other side's; both descriptions together say what was agreed
on, and the media engine is given the keys. They travel in the clear inside SIP: they are worth what the signalling's
own encryption is worth.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field

from aiphone.sip.sdp import Media, SdpError, parse

SUITES = ("AES_CM_128_HMAC_SHA1_80", "AES_CM_128_HMAC_SHA1_32")
"""What the media engine has."""

_KEY_AND_SALT = 30
_CRYPTO = re.compile(
    r"(?P<tag>\d{1,9})\s+(?P<suite>[A-Za-z0-9_]{1,40})\s+inline:(?P<key>[A-Za-z0-9+/=]{16,100})(?:\|\S*)?\s*"
)
"""Without session parameters: each of them takes a protection away."""


@dataclass(frozen=True, slots=True)
class Crypto:
    """One usable ``a=crypto`` line."""

    tag: int
    suite: str
    key: bytes = field(repr=False)
    """Master key and salt."""


@dataclass(frozen=True, slots=True)
class SrtpKeys:
    """What both sides agreed on."""

    suite: str
    send: bytes = field(repr=False)
    receive: bytes = field(repr=False)


def cryptos(media: Media) -> list[Crypto]:
    """The lines of a media section that we can use, in order."""
    found: list[Crypto] = []
    for value in media.attributes("crypto"):
        match = _CRYPTO.fullmatch(value)
        if match is None or match["suite"].upper() not in SUITES:
            continue
        try:
            key = base64.b64decode(match["key"], validate=True)
        except binascii.Error:
            continue
        if len(key) == _KEY_AND_SALT:
            found.append(Crypto(int(match["tag"]), match["suite"].upper(), key))
    return found


def agreed(ours: str, theirs: str) -> SrtpKeys | None:
    """The keys of two descriptions, one of which answers the other; None for plain RTP.

    The answer repeats the tag of the line that it takes (section 5.1.2).
    """
    try:
        sections = zip(parse(ours).media, parse(theirs).media, strict=False)
    except SdpError:
        return None
    for mine, yours in sections:
        if mine.kind != "audio" or mine.port == 0 or yours.port == 0:
            continue
        offered = {(one.tag, one.suite): one for one in cryptos(yours)}
        for one in cryptos(mine):
            other = offered.get((one.tag, one.suite))
            if other is not None:
                return SrtpKeys(one.suite, one.key, other.key)
    return None
