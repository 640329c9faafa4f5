"""What comes within a dialog and pjsua leaves to us: keys in SIP INFO, the reason in BYE, answers with a description.

Bodies are read here; the rest is how to get at pjsip's messages from pjsua2's events. pjsua answers INFO with
``application/dtmf-relay`` by itself and tells us; every other INFO it leaves unanswered, and pjsip would say 500.
"""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass
from typing import Any

import pjsua2 as pj

from aiphone.sip.message import body_of, header
from aiphone.sip.pjlib import PjLib

KEYS = "0123456789*#ABCD"
"""What can be pressed, at the index of its RFC 4733 event."""

HANDLED = frozenset(
    {"INVITE", "ACK", "BYE", "CANCEL", "UPDATE", "PRACK", "INFO", "REFER", "NOTIFY", "SUBSCRIBE", "MESSAGE"}
)
"""Methods that pjsip or pjsua answers within a dialog."""

_REASON_TEXT = re.compile(r'text\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;,\s]+))', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Received:
    """A message that came within a dialog."""

    method: str
    """Of a request, or of the request that this answers."""
    ours: bool
    """It answers a request of ours."""
    code: int
    text: str
    fresh: bool
    """It is a request that nobody has answered yet."""
    rdata: Any
    """pjsip's message, for ``Responder``; valid only within the callback."""


def received(event: Any) -> Received | None:
    """The message that an event of pjsua2 carries; None when it carries none."""
    body = event.body
    if event.type == pj.PJSIP_EVENT_RX_MSG:
        rdata = body.rxMsg.rdata
        text = str(rdata.wholeMsg)
        return Received(text.partition(" ")[0], False, 0, text, False, rdata.pjRxData)
    if event.type != pj.PJSIP_EVENT_TSX_STATE or body.tsxState.type != pj.PJSIP_EVENT_RX_MSG:
        return None
    change = body.tsxState
    tsx = change.tsx
    ours = tsx.role == pj.PJSIP_ROLE_UAC
    fresh = not ours and tsx.state == pj.PJSIP_TSX_STATE_TRYING
    rdata = change.src.rdata
    return Received(str(tsx.method), ours, int(tsx.statusCode), str(rdata.wholeMsg), fresh, rdata.pjRxData)


def description_in(text: str) -> str:
    """The session description in a message; empty when it has none."""
    return body_of(text) if "application/sdp" in header(text, "Content-Type").lower() else ""


def info_digit(text: str) -> str:
    """The key in an INFO with ``application/dtmf``; empty when it holds none.

    A draft that never became an RFC, and is sent all the same: the body is the key, or the number of its event.
    """
    if not header(text, "Content-Type").lower().startswith("application/dtmf"):
        return ""
    value = body_of(text).strip().rpartition("=")[2].strip().upper()
    if value in ("10", "11"):
        value = KEYS[int(value)]
    return value if len(value) == 1 and value in KEYS else ""


def bye_reason(text: str) -> str:
    """What the other side says about the end of a call in Reason (RFC 3326); empty when it says nothing."""
    value = header(text, "Reason")
    found = _REASON_TEXT.search(value)
    if found:
        return re.sub(r"\\(.)", r"\1", found[1] or found[2] or "")[:100]
    cause = re.search(r"cause\s*=\s*(\d{1,3})", value)
    return f"{value.partition(';')[0].strip()} cause {cause[1]}" if cause else ""


class Responder:
    """Answers a request in a dialog where pjsua2 has no function for it. SIP thread only."""

    def __init__(self, library: PjLib) -> None:
        self._dialog_of = library.function("pjsip_rdata_get_dlg")
        self._respond = library.function("pjsip_dlg_respond")
        if self._dialog_of is not None and self._respond is not None:
            self._dialog_of.argtypes, self._dialog_of.restype = [ctypes.c_void_p], ctypes.c_void_p
            self._respond.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, *[ctypes.c_void_p] * 3]
            self._respond.restype = ctypes.c_int

    def answer(self, rdata: Any, code: int) -> bool:
        """Send a final answer, within the callback that brought the request. False when this build does not let us."""
        if self._dialog_of is None or self._respond is None or rdata is None:
            return False
        dialog = self._dialog_of(int(rdata))
        return dialog is not None and self._respond(dialog, int(rdata), code, None, None, None) == 0
