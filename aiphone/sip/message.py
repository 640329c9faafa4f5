"""The few things that are read from a SIP request's text, before pjsua2's objects for it exist.

Not a SIP parser: pjsip has checked the message by then. This reads the request line and single headers, never
raises on any text, and copies only bounded strings out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

MAX_FIELD = 1024
"""Longest text taken from a message, in characters."""

_COMPACT = {"from": "f", "to": "t", "call-id": "i", "contact": "m", "via": "v", "content-type": "c"}
_USER = re.compile(r"sips?:(?:([^@>;?\s]*)@)?", re.IGNORECASE)
_SEPARATOR = re.compile(r"\r\n\r\n|\n\n|\r\r")


@dataclass(frozen=True, slots=True)
class Request:
    """An INVITE as far as routing and display need it. Missing parts are empty."""

    uri: str
    user: str
    """User part of the Request-URI, unescaped, without parameters or password."""
    parameters: dict[str, str]
    """Parameters of the Request-URI, names in lower case."""
    caller: str
    """URI in From, without parameters."""
    caller_name: str
    call_id: str


def head_of(message: str) -> str:
    """The part before the body, with folded lines joined (RFC 3261 section 7.3.1)."""
    head = _SEPARATOR.split(message, maxsplit=1)[0]
    return re.sub(r"(?:\r\n|\r|\n)[ \t]+", " ", head)


def body_of(message: str) -> str:
    """The part after the headers; empty without one."""
    parts = _SEPARATOR.split(message, maxsplit=1)
    return parts[1] if len(parts) == 2 else ""


def header(message: str, name: str) -> str:
    """Value of the first header ``name`` (long or compact form); empty when there is none."""
    names = {name.lower(), _COMPACT.get(name.lower(), name.lower())}
    for line in re.split(r"\r\n|\r|\n", head_of(message))[1:]:
        key, colon, value = line.partition(":")
        if colon and key.strip().lower() in names:
            return _clean(value)
    return ""


def retry_after(message: str) -> int | None:
    """Seconds in Retry-After, without its comment and parameters; None when absent or wrong."""
    match = re.match(r"\d{1,9}", header(message, "Retry-After"))
    return int(match.group()) if match else None


def read_request(message: str) -> Request:
    """Read a request; whatever cannot be found is empty."""
    first = re.split(r"\r\n|\r|\n", message, maxsplit=1)[0]
    words = first.split(" ")
    uri = _clean(words[1]) if len(words) >= 2 else ""
    name, caller = name_addr(header(message, "From"))
    return Request(
        uri=uri,
        user=user_of(uri),
        parameters=_parameters(uri),
        caller=caller,
        caller_name=name,
        call_id=header(message, "Call-ID"),
    )


def _clean(text: str) -> str:
    """Bounded, on one line, and free of what cannot be encoded later (undecodable bytes, control codes)."""
    text = text.strip()[:MAX_FIELD].encode("utf-8", "replace").decode()
    return "".join(c if c.isprintable() else " " for c in text)


def user_of(uri: str) -> str:
    """User part of a SIP URI, unescaped, without parameters or password; empty without one."""
    match = _USER.match(uri)
    if match is None or match.group(1) is None:
        return ""
    return _clean(unquote(match.group(1).partition(":")[0]))


def _parameters(uri: str) -> dict[str, str]:
    rest = uri.rpartition("@")[2].partition("?")[0]
    found: dict[str, str] = {}
    for part in rest.split(";")[1:33]:
        key, _, value = part.partition("=")
        found.setdefault(key.strip().lower(), value.strip())
    return found


def name_addr(value: str) -> tuple[str, str]:
    """Display name and URI of a From header (RFC 3261 section 25.1: name-addr or addr-spec)."""
    if value.startswith('"'):
        match = re.match(r'"((?:[^"\\]|\\.)*)"\s*(.*)', value)
        if match is None:
            return "", ""
        name, rest = re.sub(r"\\(.)", r"\1", match.group(1)), match.group(2)
    else:
        name, bracket, _ = value.partition("<")
        name, rest = (name.strip(), value[len(name) :]) if bracket else ("", value)
    inside = re.match(r"<([^>]*)>?", rest)
    uri = inside.group(1) if inside else rest
    return name, uri.partition(";")[0].strip()
