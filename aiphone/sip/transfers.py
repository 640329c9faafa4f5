"""Transfers (RFC 5589), both ways: we send the other side on, or are sent on, or somebody takes its place.

However a call is transferred, it stays the same call for the rest of the program: its number, its RTP port and its
conversation go on, and ``CallMoved`` tells that another person is at the other end. Being sent on means calling a
number that the other side chose, at our cost, so ``CallPolicy.transfers`` must allow it.

SIP thread only.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any

import pjsua2 as pj

from aiphone.errors import SipError
from aiphone.events import CallMoved, MediaNegotiated, TransferProgress
from aiphone.sip.addresses import callable_host
from aiphone.sip.director import operation
from aiphone.sip.leg import Leg, PjCall
from aiphone.sip.message import name_addr

if TYPE_CHECKING:
    from aiphone.sip.calls import CallDesk

log = logging.getLogger(__name__)

RING_SECONDS = 60.0
"""How long we ring whom we were sent to."""

LINGER_SECONDS = 4.0
"""How long the other side has to end the dialog that was transferred, before we do."""

_REFER_TO = re.compile(r"<?(?P<uri>[^<>?\s]{1,256})(?:\?(?P<headers>[^<>\s]{0,1024}))?>?(?:;.*)?", re.DOTALL)
_ALLOWED_HEADERS = re.compile(r"(?:Replaces|Require|Referred-By|X-[A-Za-z0-9-]+|User-to-User)=", re.IGNORECASE)


def refer_target(text: str) -> str:
    """The URI in Refer-To, without its headers. Raises ``SipError`` when we would not call it.

    Headers in the URI go into our INVITE: only those that a transfer needs are let through.
    """
    found = _REFER_TO.fullmatch(text.strip())
    if found is None:
        raise SipError("the Refer-To is no address")
    for part in (found["headers"] or "").split("&"):
        if part and not _ALLOWED_HEADERS.match(part):
            raise SipError(f"the Refer-To asks for the header {part.partition('=')[0][:40]!r}")
    uri = re.sub(r";method=INVITE", "", found["uri"], flags=re.IGNORECASE)
    callable_host(uri)
    return uri


class Transfers:
    """The transfers of a desk's calls. SIP thread only."""

    def __init__(self, desk: CallDesk) -> None:
        self._desk = desk
        self._retired: list[PjCall] = []

    # ------------------------------------------------------------------ we send the other side on

    def blind(self, leg: Leg, uri: str) -> None:
        """REFER the other side to ``uri``; ``TransferProgress`` tells what becomes of it."""
        self._refer(leg, lambda call: call.xfer(f"<{uri}>", pj.CallOpParam(True)))

    def attended(self, leg: Leg, other: Leg) -> None:
        """REFER the other side to whom we talk with in ``other``, in our place."""
        target = other.call
        if target is None or not other.confirmed:
            self._tell(leg, 481, "the second call is not there", final=True)
            return
        leg.consultation = other
        self._refer(leg, lambda call: call.xferReplaces(target, pj.CallOpParam(True)))

    def _refer(self, leg: Leg, send: Any) -> None:
        if leg.call is None or not leg.confirmed or leg.transferring:
            self._tell(leg, 491, "the call cannot be transferred now", final=True)
            return
        leg.transferring = True
        try:
            send(leg.call)
        except pj.Error as error:
            log.warning("%s: pjsua2 did not send REFER: %s", leg.call_id, error.reason)
            leg.transferring = False
            self._tell(leg, 500, str(error.reason), final=True)

    def progressed(self, call: PjCall, code: int, reason: str, final: bool) -> None:
        """A NOTIFY of the other side's progress, or its refusal of our REFER."""
        leg = call.leg
        final = final or code >= 200
        if not leg.transferring or leg.ended:
            return
        self._tell(leg, code, reason, final=final)
        if final:
            leg.transferring = False
            done, leg.consultation = [leg, leg.consultation], None
            for one in done:
                if one is not None and 200 <= code < 300:
                    self._desk.hang_up_later(one, 200, "transferred")

    def _tell(self, leg: Leg, code: int, reason: str, *, final: bool) -> None:
        self._desk.post(TransferProgress(leg.call_id, code, reason, final, self._desk.clock.now()))

    # ------------------------------------------------------------------ we are sent on

    def requested(self, call: PjCall, prm: Any) -> None:
        """A REFER within a call. With a code from 300 in ``prm`` pjsua refuses it; else it makes the new call."""
        leg = call.leg
        try:
            uri = refer_target(str(prm.dstUri))
        except SipError as error:
            log.info("%s: a transfer was refused: %s", leg.call_id, error)
            prm.statusCode = 400
            return
        if not leg.policy.transfers:
            prm.statusCode = 603
        elif leg.call is not call or leg.successor is not None or not leg.confirmed or leg.transferring:
            prm.statusCode = 491
        elif self._desk.library_full():
            prm.statusCode = 486
        else:
            log.info("%s: is being transferred to %s", leg.call_id, uri)
            prm.newCall = self._succeed(leg)

    def to_be_replaced(self, call: PjCall, prm: Any) -> None:
        """An INVITE with Replaces (RFC 3891) that fits one of our calls; the gate has admitted its sender."""
        leg = call.leg
        if leg.call is not call or leg.successor is not None or not leg.confirmed or leg.ended:
            prm.statusCode, prm.reason = 486, "Busy Here"
            return
        log.info("%s: somebody else takes over", leg.call_id)
        prm.newCall = self._succeed(leg)

    def _succeed(self, leg: Leg) -> PjCall:
        leg.successor = PjCall(leg.account, pj.INVALID_ID, self._desk, leg)
        leg.rings_until = self._desk.clock.now() + RING_SECONDS
        return leg.successor

    # ------------------------------------------------------------------ the successor

    def take_over(self, call: PjCall, info: Any) -> None:
        """The successor is answered: it is the call from now on. ``info`` is pjsua2's, about it."""
        leg = call.leg
        remote, sip_call_id = name_addr(str(info.remoteUri))[1], str(info.callIdString)
        old, leg.call, leg.successor = leg.call, call, None
        now = self._desk.clock.now()
        if old is not None:
            old.retired_at = now
            self._retired.append(old)
        self._desk.post(CallMoved(leg.call_id, remote, sip_call_id, now))
        if call.stream is not None:
            self._desk.post(MediaNegotiated(leg.call_id, call.stream, None))

    def is_retired(self, call: PjCall) -> bool:
        """Whether another dialog has taken the place of this one."""
        return call in self._retired

    def forget(self, call: PjCall) -> None:
        """A retired dialog has ended."""
        if call in self._retired:
            self._retired.remove(call)

    def sweep(self, now: float) -> None:
        """End dialogs that were transferred and that the other side forgot; give up successors nobody answers."""
        for call in list(self._retired):
            if not call.isActive():
                self._retired.remove(call)
            elif now >= call.retired_at + LINGER_SECONDS:
                call.retired_at = now
                _end(call)
        for leg in list(self._desk.legs.values()):
            if leg.successor is not None and now >= leg.rings_until:
                leg.rings_until = now + RING_SECONDS
                _end(leg.successor)

    def stale(self, pj_id: int) -> list[PjCall]:
        """Retired dialogs with this number in pjsua's table."""
        return [call for call in self._retired if call.getId() == pj_id]

    def end_all(self) -> None:
        """BYE to whoever is left."""
        for call in list(self._retired):
            _end(call)

    def clear(self) -> None:
        """Let go of everything, at the very end."""
        self._retired.clear()


def _end(call: PjCall) -> None:
    try:
        call.hangup(operation(200))
    except pj.Error as error:
        log.debug("a transferred dialog could not be ended: %s", error.reason)
