"""Session descriptions (RFC 8866) and the offer/answer rules (RFC 3264) for one audio stream of G.711.

``parse`` reads what any peer may send and ``describe`` writes what a plain phone would; odd offers are written by
hand in the tests and passed to the caller as text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

STATIC_NAMES = {0: "PCMU", 8: "PCMA", 9: "G722", 13: "CN", 18: "G729"}
"""Payload types that need no rtpmap (RFC 3551 section 6)."""

PAYLOAD_TYPES = {"PCMU": 0, "PCMA": 8}
TELEPHONE_EVENT = "TELEPHONE-EVENT"


class Direction(Enum):
    """Who sends, seen from the side that wrote the description."""

    SENDRECV = "sendrecv"
    SENDONLY = "sendonly"
    RECVONLY = "recvonly"
    INACTIVE = "inactive"

    @property
    def sends(self) -> bool:
        """The writer sends."""
        return self in (Direction.SENDRECV, Direction.SENDONLY)

    @property
    def receives(self) -> bool:
        """The writer wants to receive."""
        return self in (Direction.SENDRECV, Direction.RECVONLY)

    @property
    def mirrored(self) -> Direction:
        """The most that the other side may answer (RFC 3264 section 6.1)."""
        mirror = {Direction.SENDONLY: Direction.RECVONLY, Direction.RECVONLY: Direction.SENDONLY}
        return mirror.get(self, self)


@dataclass(slots=True)
class Media:
    """One m= section."""

    kind: str
    port: int
    protocol: str
    formats: list[str]
    host: str
    direction: Direction = Direction.SENDRECV
    names: dict[int, tuple[str, int]] = field(default_factory=dict)
    """Payload type to encoding name in upper case and clock rate."""
    ptime: int | None = None
    attributes: list[str] = field(default_factory=list)

    def payload_type(self, name: str) -> int | None:
        """The first payload type of this name at 8 kHz."""
        for text in self.formats:
            if text.isascii() and text.isdigit() and self.names.get(int(text)) == (name, 8000):
                return int(text)
        return None

    def codec(self, supported: Sequence[str]) -> tuple[str, int] | None:
        """The first codec, in the writer's order of preference, that is also in ``supported``."""
        for text in self.formats:
            if text.isascii() and text.isdigit():
                name, rate = self.names.get(int(text), ("", 0))
                if rate == 8000 and name in supported:
                    return name, int(text)
        return None


def parse(text: str | bytes) -> list[Media]:
    """All m= sections; lines that make no sense are passed over."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    session_host, session_direction = "", Direction.SENDRECV
    sections: list[Media] = []
    for line in text.splitlines():
        kind, _, value = line.strip().partition("=")
        value = value.strip()
        if kind == "m":
            words = value.split()
            if len(words) >= 3 and words[1].split("/")[0].isdigit():
                media = Media(
                    words[0],
                    int(words[1].split("/")[0]),
                    words[2],
                    words[3:],
                    session_host,
                    session_direction,
                )
                _name_static_types(media)
                sections.append(media)
        elif kind == "c" and len(value.split()) >= 3:
            host = value.split()[2].split("/")[0]
            if sections:
                sections[-1].host = host
            else:
                session_host = host
        elif kind == "a":
            direction = next((d for d in Direction if d.value == value), None)
            if sections:
                _read_attribute(sections[-1], value, direction)
            elif direction:
                session_direction = direction
    return sections


def audio(text: str | bytes) -> Media | None:
    """The first audio section over RTP that is not refused (port 0)."""
    return next((m for m in parse(text) if m.kind == "audio" and m.port and m.protocol.startswith("RTP/")), None)


def describe(
    host: str,
    port: int,
    codecs: Sequence[tuple[str, int]] = (("PCMU", 0), ("PCMA", 8)),
    *,
    telephone_event: int | None = 101,
    direction: Direction = Direction.SENDRECV,
    ptime: int = 20,
    session: int = 1,
    version: int = 1,
) -> bytes:
    """A description of one G.711 audio stream. ``codecs`` are names with payload types, in order of preference."""
    family = "IP6" if ":" in host else "IP4"
    formats = [str(payload_type) for _, payload_type in codecs]
    lines = [
        "v=0",
        f"o=- {session} {version} IN {family} {host}",
        "s=-",
        f"c=IN {family} {host}",
        "t=0 0",
    ]
    names = [f"a=rtpmap:{payload_type} {name}/8000" for name, payload_type in codecs]
    if telephone_event is not None:
        formats.append(str(telephone_event))
        names += [f"a=rtpmap:{telephone_event} telephone-event/8000", f"a=fmtp:{telephone_event} 0-15"]
    lines += [
        f"m=audio {port} RTP/AVP {' '.join(formats)}",
        *names,
        f"a=ptime:{ptime}",
        f"a={direction.value}",
    ]
    return "\r\n".join([*lines, ""]).encode()


def answer(offer: str | bytes, host: str, port: int, supported: Sequence[str], *, version: int = 1) -> bytes | None:
    """The answer of a plain phone: first audio section taken, all others refused; None when no codec is common."""
    sections = parse(offer)
    chosen = audio(offer)
    codec = chosen.codec(supported) if chosen else None
    if chosen is None or codec is None:
        return None
    ours = describe(
        host,
        port,
        [codec],
        telephone_event=chosen.payload_type(TELEPHONE_EVENT),
        direction=chosen.direction.mirrored,
        version=version,
    )
    head, _, stream = ours.partition(b"m=")
    parts = [head]
    for media in sections:
        if media.kind == chosen.kind and media.port == chosen.port and stream:
            parts.append(b"m=" + stream)
            stream = b""
        else:
            formats = " ".join(media.formats) or "0"
            parts.append(f"m={media.kind} 0 {media.protocol} {formats}\r\n".encode())
    return b"".join(parts)


def _name_static_types(media: Media) -> None:
    for text in media.formats:
        if text.isascii() and text.isdigit() and int(text) in STATIC_NAMES:
            media.names[int(text)] = (STATIC_NAMES[int(text)], 8000)


def _read_attribute(media: Media, value: str, direction: Direction | None) -> None:
    media.attributes.append(value)
    name, _, rest = value.partition(":")
    words = rest.split()
    if direction:
        media.direction = direction
    elif name == "rtpmap" and len(words) >= 2 and words[0].isdigit():
        encoding, _, rate = words[1].partition("/")
        rate = rate.split("/")[0]
        media.names[int(words[0])] = (encoding.upper(), int(rate) if rate.isdigit() else 0)
    elif name == "ptime" and words and words[0].isdigit():
        media.ptime = int(words[0])
