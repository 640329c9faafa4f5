"""SIP messages (RFC 3261 section 7): read tolerantly, written exactly.

A test peer must understand whatever a correct server may send and still be able to send what no correct client
would. So headers are kept as they are, in order, as text; nothing is checked that is not needed to route a message;
and every part of a message may be replaced before it is sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from aiphone.errors import SipError

COMPACT_NAMES = {
    "b": "Referred-By",
    "c": "Content-Type",
    "e": "Content-Encoding",
    "f": "From",
    "i": "Call-ID",
    "k": "Supported",
    "l": "Content-Length",
    "m": "Contact",
    "o": "Event",
    "r": "Refer-To",
    "s": "Subject",
    "t": "To",
    "u": "Allow-Events",
    "v": "Via",
    "x": "Session-Expires",
}

REASONS = {
    100: "Trying",
    180: "Ringing",
    181: "Call Is Being Forwarded",
    183: "Session Progress",
    200: "OK",
    202: "Accepted",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    407: "Proxy Authentication Required",
    408: "Request Timeout",
    480: "Temporarily Unavailable",
    481: "Call/Transaction Does Not Exist",
    486: "Busy Here",
    487: "Request Terminated",
    488: "Not Acceptable Here",
    491: "Request Pending",
    500: "Server Internal Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    603: "Decline",
}


class MalformedMessageError(SipError):
    """Bytes that are no SIP message, or a header that says nothing usable."""


def canonical(name: str) -> str:
    """A header name as it is compared: long form, lower case."""
    name = name.strip().lower()
    return COMPACT_NAMES.get(name, name).lower()


def split_outside_quotes(text: str, separator: str) -> list[str]:
    """Cut at ``separator`` wherever it stands neither in quotes nor in angle brackets."""
    parts: list[str] = []
    current: list[str] = []
    quoted = escaped = False
    depth = 0
    for character in text:
        if escaped:
            escaped = False
        elif quoted and character == "\\":
            escaped = True
        elif character == '"':
            quoted = not quoted
        elif not quoted and character == "<":
            depth += 1
        elif not quoted and character == ">":
            depth = max(0, depth - 1)
        elif character == separator and not quoted and depth == 0:
            parts.append("".join(current).strip())
            current = []
            continue
        current.append(character)
    parts.append("".join(current).strip())
    return [part for part in parts if part]


def parse_parameters(parts: Iterable[str]) -> dict[str, str]:
    """``a=1``, ``b`` to ``{"a": "1", "b": ""}``; names in lower case, quotes removed."""
    parameters: dict[str, str] = {}
    for part in parts:
        name, _, value = part.partition("=")
        parameters[name.strip().lower()] = unquote(value.strip())
    return parameters


def unquote(text: str) -> str:
    """The content of a quoted string, or the text itself."""
    if len(text) >= 2 and text[0] == text[-1] == '"':
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    return text


@dataclass(slots=True)
class Message:
    """What requests and responses share."""

    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""

    def get(self, name: str, default: str = "") -> str:
        """The first header of this name, in either form."""
        return next(self._values(name), default)

    def get_all(self, name: str) -> list[str]:
        """All headers of this name; lists on one line are taken apart."""
        return [part for value in self._values(name) for part in split_outside_quotes(value, ",")]

    def add(self, name: str, value: str) -> None:
        """Append a header."""
        self.headers.append((name, value))

    def set(self, name: str, value: str) -> None:
        """Replace all headers of this name by one, at the place of the first."""
        wanted = canonical(name)
        at = next((i for i, (n, _) in enumerate(self.headers) if canonical(n) == wanted), len(self.headers))
        self.remove(name)
        self.headers.insert(at, (name, value))

    def remove(self, name: str) -> None:
        """Take out all headers of this name."""
        wanted = canonical(name)
        self.headers = [(n, v) for n, v in self.headers if canonical(n) != wanted]

    def serialise(self) -> bytes:
        """The bytes for the wire; Content-Length is added when it is not set."""
        lines = [self._start_line(), *(f"{name}: {value}" for name, value in self.headers)]
        if not self.get("Content-Length"):
            lines.append(f"Content-Length: {len(self.body)}")
        return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape") + self.body

    @property
    def call_id(self) -> str:
        """The Call-ID."""
        return self.get("Call-ID")

    @property
    def cseq(self) -> tuple[int, str]:
        """Number and method of CSeq; (0, "") when it makes no sense."""
        number, _, method = self.get("CSeq").strip().partition(" ")
        return (int(number), method.strip().upper()) if number.isascii() and number.isdigit() else (0, "")

    @property
    def from_(self) -> NameAddress:
        """Who sent the request."""
        return NameAddress.parse(self.get("From"))

    @property
    def to(self) -> NameAddress:
        """Whom the request is for."""
        return NameAddress.parse(self.get("To"))

    @property
    def via(self) -> Via:
        """The topmost Via."""
        vias = self.get_all("Via")
        if not vias:
            raise MalformedMessageError(f"the message {self._start_line()!r} has no Via header")
        return Via.parse(vias[0])

    def _values(self, name: str) -> Iterator[str]:
        wanted = canonical(name)
        return (value for n, value in self.headers if canonical(n) == wanted)

    def _start_line(self) -> str:
        raise NotImplementedError


@dataclass(slots=True)
class Request(Message):
    """A request: method and Request-URI."""

    method: str = ""
    uri: str = ""

    def _start_line(self) -> str:
        return f"{self.method} {self.uri} SIP/2.0"

    def response(self, status: int, reason: str = "", *, to_tag: str = "") -> Response:
        """A response to this request with the headers that RFC 3261 section 8.2.6 has copied."""
        response = Response(status=status, reason=reason or REASONS.get(status, "Unknown"))
        for name in ("Via", "Record-Route") if 100 < status < 300 else ("Via",):
            for value in self._values(name):
                response.add(name, value)
        response.add("From", self.get("From"))
        to = self.get("To")
        if to_tag and not self.to.tag:
            to += f";tag={to_tag}"
        response.add("To", to)
        response.add("Call-ID", self.call_id)
        response.add("CSeq", self.get("CSeq"))
        return response


@dataclass(slots=True)
class Response(Message):
    """A response: status code and reason phrase."""

    status: int = 0
    reason: str = ""

    def _start_line(self) -> str:
        return f"SIP/2.0 {self.status} {self.reason}"


@dataclass(frozen=True, slots=True)
class SipUri:
    """``scheme:user@host:port;parameters``; what follows a question mark is dropped."""

    scheme: str
    user: str
    host: str
    port: int | None
    parameters: dict[str, str]

    @classmethod
    def parse(cls, text: str) -> SipUri:
        """MalformedMessageError when there is no host."""
        match = re.match(r"(?i)(sips?|tel):(.*)$", text.strip())
        if not match:
            raise MalformedMessageError(f"{text!r} is not a SIP address: write it like sip:name@host:5060")
        rest = match[2].split("?", 1)[0]
        user, at, host_part = rest.rpartition("@")
        first, *parameters = host_part.split(";")
        host, port = split_host_port(first)
        if not host:
            raise MalformedMessageError(f"{text!r} names no host: write it like sip:name@host:5060")
        return cls(match[1].lower(), user if at else "", host, port, parse_parameters(parameters))


def split_host_port(text: str) -> tuple[str, int | None]:
    """``host``, ``host:port`` or ``[v6]:port``, without the brackets; no port gives None."""
    match = re.match(r"\s*(?:\[([^\]]*)\]|([^:\s]*))\s*(?::\s*(\d+))?", text)
    if not match:
        return "", None
    return match[1] or match[2] or "", int(match[3]) if match[3] else None


def join_host_port(host: str, port: int) -> str:
    """The reverse, with brackets around IPv6."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class NameAddress:
    """``"Display" <uri>;parameters`` of From, To, Contact, Route."""

    display: str
    uri: str
    parameters: dict[str, str]

    @classmethod
    def parse(cls, text: str) -> NameAddress:
        """Never fails; what is not there is empty."""
        match = re.match(r'\s*((?:"(?:[^"\\]|\\.)*"|[^<"])*)<([^>]*)>(.*)$', text, re.DOTALL)
        if match:
            parameters = parse_parameters(split_outside_quotes(match[3], ";"))
            return cls(unquote(match[1].strip()), match[2].strip(), parameters)
        first, *rest = split_outside_quotes(text, ";") or [""]
        return cls("", first, parse_parameters(rest))

    @property
    def tag(self) -> str:
        """The tag parameter, or nothing."""
        return self.parameters.get("tag", "")


@dataclass(frozen=True, slots=True)
class Via:
    """One Via value: transport, the sender's address, parameters."""

    transport: str
    host: str
    port: int | None
    parameters: dict[str, str]

    @classmethod
    def parse(cls, text: str) -> Via:
        """MalformedMessageError when it cannot be told where an answer should go."""
        match = re.match(r"\s*SIP\s*/\s*2\.0\s*/\s*(\w+)\s+([^;]+)(.*)$", text, re.IGNORECASE | re.DOTALL)
        if not match:
            raise MalformedMessageError(f"the Via header {text!r} cannot be understood")
        host, port = split_host_port(match[2])
        return cls(match[1].upper(), host, port, parse_parameters(split_outside_quotes(match[3], ";")))

    @property
    def branch(self) -> str:
        """The transaction's name."""
        return self.parameters.get("branch", "")


def parse(data: bytes) -> Request | Response:
    """One datagram to one message.

    Lenient: bare line feeds, folded lines, empty lines before the start line, a missing or too long Content-Length,
    and bytes that are not UTF-8 (kept by surrogateescape) are accepted. MalformedMessageError for anything else.
    """
    data = data.lstrip(b"\r\n")
    match = re.search(rb"\r?\n\r?\n", data)
    head, body = (data[: match.start()], data[match.end() :]) if match else (data, b"")
    lines = re.split(r"\r?\n", head.decode("utf-8", "surrogateescape").rstrip("\r\n"))
    message = _parse_start_line(lines[0])
    for line in lines[1:]:
        if line[:1] in (" ", "\t") and message.headers:
            name, value = message.headers[-1]
            message.headers[-1] = (name, f"{value} {line.strip()}")
        else:
            name, colon, value = line.partition(":")
            if colon:
                message.headers.append((name.strip(), value.strip()))
    length = message.get("Content-Length")
    message.body = body[: int(length)] if length.isascii() and length.isdigit() else body
    return message


def _parse_start_line(line: str) -> Request | Response:
    response = re.match(r"SIP/2\.0\s+(\d{3})(?:\s+(.*))?$", line, re.IGNORECASE)
    if response:
        return Response(status=int(response[1]), reason=(response[2] or "").strip())
    request = re.match(r"([A-Za-z0-9\-.!%*_+`'~]+)\s+(\S+)\s+SIP/2\.0\s*$", line, re.IGNORECASE)
    if request:
        return Request(method=request[1].upper(), uri=request[2])
    raise MalformedMessageError(f"{line[:80]!r} does not begin a SIP message")
