"""Session descriptions (RFC 8866): reading the other side's, and putting our media into our own.

pjsua2 makes our description and believes that it owns the media. Before it is sent we point its audio line at
the socket of the media engine, leave only what the engine has (``codecs``, comfort noise, telephone-event), and close
every other media line with port 0 (RFC 3264 section 6). The order and number of media lines never change, as offer
and answer are matched by position.

Everything here is pure text in, text or values out. Reading is tolerant: unknown lines are kept or skipped,
wrong numbers count as absent; only what is no description at all, or too large, raises ``SdpError``.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from aiphone.errors import SipError
from aiphone.native import g722

MAX_LENGTH = 16_384
MAX_LINES = 512
MAX_MEDIA = 32


@functools.cache
def codecs() -> dict[str, int]:
    """What the media engine has on this machine, with the static payload types of RFC 3551; ours come in this order.

    G.722 has a clock of 8000 Hz here too, though it is wideband (RFC 3551 section 4.5.2).
    """
    return {"PCMU": 0, "PCMA": 8} | ({"G722": 9} if g722.available() else {})


COMFORT_NOISE = 13
"""Payload type of RFC 3389, with the clock of G.711."""

_LINE = re.compile(r"\r\n|\n|\r")
_DIRECTIONS = ("sendrecv", "sendonly", "recvonly", "inactive")
_OURS = frozenset({"rtcp", "ptime", "maxptime", "rtcp-mux", "rtcp-fb", "rtcp-xr", "ssrc", "candidate",
                   "ice-ufrag", "ice-pwd", "ice-options", "rtpmap", "fmtp"})  # fmt: skip


class SdpError(SipError):
    """A text that cannot be taken for a session description."""


@dataclass(frozen=True, slots=True)
class Line:
    """One ``type=value`` line."""

    type: str
    value: str

    def attribute(self) -> tuple[str, str]:
        """Name and value of an ``a=`` line; the name is empty for other lines."""
        if self.type != "a":
            return "", ""
        name, _, value = self.value.partition(":")
        return name.strip().lower(), value.strip()


@dataclass(frozen=True, slots=True)
class Media:
    """One ``m=`` line and the lines under it."""

    kind: str
    port: int
    """0 when the line is closed, or when its number made no sense."""
    port_text: str
    protocol: str
    formats: tuple[str, ...]
    lines: tuple[Line, ...]

    def attributes(self, name: str) -> list[str]:
        """Values of the attribute ``name``, in order."""
        return [value for key, value in (line.attribute() for line in self.lines) if key == name]


@dataclass(frozen=True, slots=True)
class Session:
    """A description: the lines before the first ``m=``, then the media."""

    lines: tuple[Line, ...]
    media: tuple[Media, ...]

    def text(self) -> str:
        """The description as it is sent."""
        out = [f"{line.type}={line.value}" for line in self.lines]
        for media in self.media:
            formats = " ".join(media.formats)
            out.append(f"m={media.kind} {media.port_text} {media.protocol} {formats}".rstrip())
            out += [f"{line.type}={line.value}" for line in media.lines]
        return "\r\n".join(out) + "\r\n"


@dataclass(frozen=True, slots=True)
class RemoteAudio:
    """What the other side said about its audio."""

    index: int
    """Position of the media line."""
    host: str
    port: int
    rtcp_port: int
    rtcp_mux: bool
    direction: str
    """One of ``sendrecv``, ``sendonly``, ``recvonly``, ``inactive``, as the other side sees it."""
    codecs: tuple[tuple[str, int], ...]
    """Codec names that we know and the payload types they have here, best first."""
    dtmf_payload_type: int | None
    ptime_ms: int
    """Packet time asked for, kept within ``maxptime``; 20 where nothing is said."""
    comfort_noise: bool = False
    """Payload type 13 is there, behind the best codec."""

    @property
    def held(self) -> bool:
        """True when the other side sends an address of zeros, the way of RFC 2543 to put a call on hold."""
        return self.host in ("0.0.0.0", "::", "::0", "")


def parse(text: str) -> Session:
    """Read a description. Raises ``SdpError`` when it is too large or has no ``v=`` line first."""
    if len(text) > MAX_LENGTH:
        raise SdpError(f"session description of {len(text)} characters; at most {MAX_LENGTH} are read")
    raw = [line for line in _LINE.split(text.strip("\r\n \t\x00")) if line]
    if len(raw) > MAX_LINES:
        raise SdpError(f"session description of {len(raw)} lines; at most {MAX_LINES} are read")
    lines = [Line(entry[0], entry[2:].strip()) for entry in raw if len(entry) >= 2 and entry[1] == "="]
    if not lines or lines[0].type != "v":
        raise SdpError("not a session description: it does not begin with v=")
    starts = [i for i, line in enumerate(lines) if line.type == "m"]
    if len(starts) > MAX_MEDIA:
        raise SdpError(f"session description with {len(starts)} media lines; at most {MAX_MEDIA} are read")
    ends = [*starts[1:], len(lines)][: len(starts)]
    first = starts[0] if starts else len(lines)
    media = tuple(_media(lines[a], lines[a + 1 : b]) for a, b in zip(starts, ends, strict=True))
    return Session(tuple(lines[:first]), media)


def _media(line: Line, below: list[Line]) -> Media:
    words = [*line.value.split(), "", "", ""]
    formats = tuple(word for word in words[3:] if word)
    port = _number(words[1].partition("/")[0], 65535)
    return Media(words[0].lower() or "-", port, words[1] or "0", words[2] or "RTP/AVP", formats, tuple(below))


def _number(text: str, limit: int, otherwise: int = 0) -> int:
    text = text.strip()
    if text.isascii() and text.isdigit() and len(text) <= 6 and int(text) <= limit:
        return int(text)
    return otherwise


def _payload_types(media: Media) -> list[tuple[str, int]]:
    """``(NAME, payload type)`` of the formats that the engine knows, CN and telephone-event included, in order."""
    names: dict[int, str] = {number: name for name, number in codecs().items()} | {COMFORT_NOISE: "CN"}
    for value in media.attributes("rtpmap"):
        number, _, encoding = value.partition(" ")
        payload_type = _number(number, 127, -1)
        name, _, rest = encoding.strip().partition("/")
        rate, _, channels = rest.partition("/")
        known = name.upper() in codecs() or name.lower() == "telephone-event"
        known = known or (name.upper() == "CN" and payload_type == COMFORT_NOISE)
        if payload_type >= 0:
            usable = known and rate.strip() == "8000" and channels.strip() in ("", "1")
            names[payload_type] = name.upper() if usable else ""
    found: list[tuple[str, int]] = []
    for entry in media.formats:
        payload_type = _number(entry, 127, -1)
        name = names.get(payload_type, "")
        if name and payload_type not in (number for _, number in found):
            found.append((name, payload_type))
    return found


def _connection(lines: Iterable[Line]) -> str:
    for line in lines:
        words = line.value.split()
        if line.type == "c" and len(words) >= 3:
            return words[2].partition("/")[0]
    return ""


def _direction(lines: Iterable[Line]) -> str:
    for line in lines:
        if line.type == "a" and line.value.strip().lower() in _DIRECTIONS:
            return line.value.strip().lower()
    return ""


def remote_audio(text: str) -> RemoteAudio | None:
    """The first open audio line of the other side's description; None when there is none.

    Raises ``SdpError`` as ``parse`` does.
    """
    session = parse(text)
    for index, media in enumerate(session.media):
        if media.kind != "audio" or media.port == 0:
            continue
        types = _payload_types(media)
        rtcp = (media.attributes("rtcp") or [""])[0].partition(" ")[0]
        ptime = _number((media.attributes("ptime") or [""])[0].partition(".")[0], 200) or 20
        longest = _number((media.attributes("maxptime") or [""])[0].partition(".")[0], 1000)
        dtmf = [number for name, number in types if name == "TELEPHONE-EVENT"]
        names = [name for name, _ in types]
        known = tuple((name, number) for name, number in types if name in codecs())
        return RemoteAudio(
            index=index,
            host=_connection(media.lines) or _connection(session.lines),
            port=media.port,
            rtcp_port=_number(rtcp, 65535) or min(media.port + 1, 65535),
            rtcp_mux=bool(media.attributes("rtcp-mux")),
            direction=_direction(media.lines) or _direction(session.lines) or "sendrecv",
            codecs=known,
            dtmf_payload_type=dtmf[0] if dtmf else None,
            ptime_ms=min(ptime, longest) if longest else ptime,
            comfort_noise="CN" in names[names.index(known[0][0]) :] if known else False,
        )
    return None


def acceptable(text: str) -> bool:
    """True for an offer with open audio in one of our codecs, or for none at all (then the offer is ours)."""
    if not text.strip():
        return True
    try:
        audio = remote_audio(text)
    except SdpError:
        return False
    return audio is not None and bool(audio.codecs)


def media_host(text: str) -> str:
    """Where the other side wants the audio; empty where it says nothing that we understand."""
    try:
        audio = remote_audio(text)
    except SdpError:
        return ""
    return audio.host if audio is not None else ""


def rewrite_local(
    text: str, host: str, port: int, remote: RemoteAudio | None = None, ptime_ms: int = 20, *, rtcp_port: int = 0
) -> str:
    """Our description with its audio at ``host:port`` and nothing but what we have.

    RTCP is at ``rtcp_port``, 0 for ``port + 1``.

    The audio line keeps its place, direction and payload type numbers. When it is closed already it stays so.
    ``remote`` is the offer that this answers, None when this is the offer. An offer has all our codecs and comfort
    noise; an answer has the codec that the offer likes best, and comfort noise where the offer has it too.
    """
    session = parse(text)
    family = "IP6" if ":" in host else "IP4"
    connection = f"IN {family} {host}"
    done = False
    media: list[Media] = []
    for entry in session.media:
        ours = entry.kind == "audio" and entry.port != 0 and not done
        types = _payload_types(entry)
        if ours and any(name in codecs() for name, _ in types):
            mux = remote is not None and remote.rtcp_mux
            types = _our_types(types, remote)
            ports = (port, rtcp_port or port + 1)
            media.append(_our_audio(entry, types, ports, connection, ptime_ms, mux=mux))
            done = True
        else:
            media.append(_closed(entry, connection))
    lines = [_addressed(line, host, family, connection) for line in session.lines]
    return Session(tuple(lines), tuple(media)).text()


def has_comfort_noise(text: str) -> bool:
    """Whether a description's open audio has payload type 13."""
    try:
        audio = remote_audio(text)
    except SdpError:
        return False
    return audio is not None and audio.comfort_noise


def _our_types(types: list[tuple[str, int]], remote: RemoteAudio | None) -> list[tuple[str, int]]:
    ours = [(name, number) for name, number in types if name in codecs()]
    events = [(name, number) for name, number in types if name == "TELEPHONE-EVENT"]
    noise = remote is None or remote.comfort_noise
    if remote is not None:
        best = next((name for name, _ in remote.codecs if name in dict(ours)), "")
        ours = [(name, number) for name, number in ours if best in (name, "")]
        # Its clock is that of G.711 (RFC 3389 section 4); the engine has none for wideband. A negotiator that leaves
        # one codec only (see ``negotiator``) takes the first that it knows: that must not be the noise.
        noise = noise and best == remote.codecs[0][0] and best != "G722"
    return [*ours, *([("CN", COMFORT_NOISE)] if noise else []), *events]


def _addressed(line: Line, host: str, family: str, connection: str) -> Line:
    if line.type == "c":
        return Line("c", connection)
    if line.type == "o":
        words = line.value.split()
        if len(words) == 6:
            return Line("o", " ".join([*words[:3], "IN", family, host]))
    return line


def _our_audio(
    media: Media, types: list[tuple[str, int]], ports: tuple[int, int], connection: str, ptime_ms: int, *, mux: bool
) -> Media:
    port, rtcp_port = ports
    # RFC 8866 section 5: c= and b= come before the attributes.
    kept = [line for line in media.lines if line.type in "ib"]
    # RFC 5761 section 5.1.1: with rtcp-mux agreed on, RTCP has the port of RTP.
    attributes = ["rtcp-mux"] if mux else [f"rtcp:{rtcp_port} {connection}"]
    for name, number in types:
        written = name.lower() if name == "TELEPHONE-EVENT" else name
        attributes.append(f"rtpmap:{number} {written}/8000")
        if name == "TELEPHONE-EVENT":
            attributes.append(f"fmtp:{number} 0-16")
    attributes.append(f"ptime:{ptime_ms}")
    others = [line for line in media.lines if line.type == "a" and line.attribute()[0] not in _OURS]
    lines = [*kept, Line("c", connection), *(Line("a", value) for value in attributes), *others]
    lines.sort(key=lambda line: "icbk".find(line.type) if line.type in "icbk" else 9)
    formats = tuple(str(number) for _, number in types)
    return replace(media, port=port, port_text=str(port), formats=formats, lines=tuple(lines))


def _closed(media: Media, connection: str) -> Media:
    # pjmedia takes a description for invalid when a line has no address, closed or not, and wants the rtpmap of
    # each dynamic payload type.
    maps = tuple(line for line in media.lines if line.attribute()[0] == "rtpmap")
    lines = (Line("c", connection), *maps)
    return replace(media, port=0, port_text="0", formats=media.formats or ("0",), lines=lines)
