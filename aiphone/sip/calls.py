"""Calls on pjsua2: from the INVITE to the end, exactly one ``CallEnded`` for every ``IncomingCall``.

Rules of this module:

- Everything runs on the SIP thread. Callbacks copy plain values and post events.
- Within pjsua2's callbacks no call is answered, refused or hung up: pjsua is in the middle of building it, and a
  hang-up there loses its headers. Such work is put into ``deferred`` and done when pjsua2 has returned.
- A ``PjCall`` is let go the moment its call has ended, in the callback that says so. pjsua gives the place to
  the next call soon after, and the destructor of a ``Call`` hangs up whatever it finds in its place. For the
  same reason nothing here may be part of a reference cycle: no garbage collector, no other thread.
- Who owns the sockets: this module from ``ports.open()`` until the first ``MediaNegotiated`` is posted, then
  whoever takes that event.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pjsua2 as pj

from aiphone.clock import Clock
from aiphone.errors import AiphoneError
from aiphone.events import (
    CallConfirmed,
    CallEnded,
    CallProgress,
    Event,
    IncomingCall,
    MediaNegotiated,
    OutgoingCall,
    RtpSockets,
    RtpStream,
)
from aiphone.sip.addresses import advertised_address, local_address_towards, split_host_port
from aiphone.sip.admission import Admission
from aiphone.sip.director import guarded, operation
from aiphone.sip.message import Request, body_of, header, read_request
from aiphone.sip.pjlib import PjLib
from aiphone.sip.pjlog import Allowance
from aiphone.sip.reasons import call_reason, placed_call_reason
from aiphone.sip.sdp import RemoteAudio, acceptable, remote_audio, rewrite_local
from aiphone.sip.settings import RtpPorts, SipSettings
from aiphone.sip.streams import negotiated_stream

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Leg:
    """One call of ours and what pjsua2 has for it."""

    call_id: str
    line_id: str
    source: str
    """IP address that the INVITE came from; of a call that we place, where it goes."""
    host: str
    """Our address in SDP."""
    call: PjCall | None = None
    refusal: Admission | None = None
    sockets: RtpSockets | None = None
    """Owned here until they are handed over."""
    port: int = 0
    announced: bool = False
    """``IncomingCall`` or ``OutgoingCall`` is posted, so ``CallEnded`` is owed."""
    placed: bool = False
    """The call is ours."""
    rings_until: float = 0.0
    """When we give up a call of ours."""
    progress: int = 0
    """Last provisional answer to a call of ours."""
    verdict: tuple[int, str] | None = None
    """Why we gave up a call of ours: the status of our CANCEL would tell nothing."""
    negotiated: bool = False
    confirmed: bool = False
    ended: bool = False
    remote: RemoteAudio | None = None
    stream: RtpStream | None = None


class PjCall(pj.Call):  # type: ignore[misc]
    """pjsua2's call; hands its callbacks to the desk."""

    def __init__(self, account: Any, pj_id: int, desk: CallDesk, leg: Leg) -> None:
        pj.Call.__init__(self, account, pj_id)
        self.desk = desk
        self.leg = leg

    def failed(self) -> None:
        """A callback of ours failed: end the call instead of leaving it half alive."""
        self.desk.give_up(self.leg, 500, "Internal Error")

    @guarded
    def onCallState(self, prm: Any) -> None:  # noqa: ARG002, N802 - pjsua2's signature
        self.desk.state_changed(self.leg)

    @guarded
    def onCallSdpCreated(self, prm: Any) -> None:  # noqa: N802
        text = self.desk.local_sdp(self.leg, prm.sdp.wholeSdp, prm.remSdp.wholeSdp)
        if text:
            prm.sdp.wholeSdp = text

    @guarded
    def onCallRxOffer(self, prm: Any) -> None:  # noqa: N802
        # pjsip would say 500 to a re-INVITE without a codec in common.
        if not acceptable(prm.offer.wholeSdp):
            prm.statusCode = 488

    @guarded
    def onCallMediaState(self, prm: Any) -> None:  # noqa: ARG002, N802
        self.desk.media_changed(self.leg)


@dataclass(slots=True)
class CallDesk:
    """All calls. SIP thread only."""

    settings: SipSettings
    ports: RtpPorts
    post: Callable[[Event], object]
    clock: Clock
    library: PjLib
    call_limit: int
    max_calls: int
    reserved: int
    """Places of pjsua's table that are kept free."""
    admit: Callable[[Request, str], Admission]
    legs: dict[str, Leg] = field(default_factory=dict)
    """Calls that are not ended, by ``call_id``; refused ones included."""
    refused: int = 0
    deferred: list[Callable[[], None]] = field(default_factory=list)
    _numbers: count[int] = field(default_factory=lambda: count(1))
    _allowance: Allowance = field(init=False)

    def __post_init__(self) -> None:
        self._allowance = Allowance(self.clock)

    # ------------------------------------------------------------------ from pjsua2's callbacks

    def at_the_door(self, message: str, source: str) -> Admission:
        """For the gate: what becomes of an INVITE for which pjsua has done nothing yet."""
        admission = self._judge(read_request(message), message, split_host_port(source)[0], 0)
        if admission.code:
            self.refused += 1
            self._log_refusal(source, admission)
        return admission

    def incoming(self, account: Any, pj_id: int, message: str, source: str) -> None:
        """An INVITE that pjsip found in order. ``source`` is ``host:port``."""
        request = read_request(message)
        host = split_host_port(source)[0]
        # pjsua counts a call with an offer after this callback, one without before it.
        counted = 0 if body_of(message).strip() else 1
        admission = self._judge(request, message, host, counted)
        self._drop_stale(pj_id)
        towards = local_address_towards(host, self.settings.host)
        leg = Leg(
            call_id=f"c{next(self._numbers)}",
            line_id=admission.line_id,
            source=host,
            host=advertised_address(self.settings.public_address, host, towards),
        )
        if admission.code == 0:
            try:
                leg.sockets = self.ports.open()
                leg.port = leg.sockets.port
            except (AiphoneError, OSError) as error:
                log.warning("call refused, no RTP port: %s", error)
                admission = Admission(admission.line_id, 503, "No RTP Port", retry_after=self.settings.retry_after)
        leg.call = PjCall(account, pj_id, self, leg)
        self.legs[leg.call_id] = leg
        if admission.code:
            leg.refusal = admission
            self.refused += 1
            self.deferred.append(lambda: self._refuse(leg, admission))
            return
        event = IncomingCall(
            call_id=leg.call_id,
            line_id=leg.line_id,
            caller=request.caller,
            caller_name=request.caller_name,
            called=request.uri,
            sip_call_id=request.call_id,
            at=self.clock.now(),
        )
        self.deferred.append(lambda: self._announce(leg, event))

    def local_sdp(self, leg: Leg, ours: str, theirs: str) -> str:
        """Our description with our media in it; empty to leave it alone."""
        if leg.refusal is not None or leg.ended or leg.port == 0:
            return ""
        leg.remote = remote_audio(theirs) if theirs else None
        text = rewrite_local(ours, leg.host, leg.port)
        return text.encode("ascii", "replace").decode()

    def media_changed(self, leg: Leg) -> None:
        """Offer and answer are complete, or failed."""
        if leg.ended or leg.refusal is not None or leg.call is None:
            return
        stream = negotiated_stream(leg.call, leg.remote, leg.stream)
        if stream is None:
            self.give_up(leg, 488, "Not Acceptable Here")
            return
        if leg.negotiated and stream == leg.stream:
            return
        leg.stream = stream
        sockets, leg.sockets = leg.sockets, None
        leg.negotiated = True
        self.post(MediaNegotiated(leg.call_id, stream, sockets))

    def state_changed(self, leg: Leg) -> None:
        """The INVITE session moved on."""
        if leg.ended or leg.call is None:
            return
        info = leg.call.getInfo()
        if info.state == pj.PJSIP_INV_STATE_CONFIRMED and not leg.confirmed:
            leg.confirmed = True
            if leg.refusal is None:
                self.post(CallConfirmed(leg.call_id, at=self.clock.now()))
        elif info.state == pj.PJSIP_INV_STATE_EARLY and leg.placed and leg.progress != info.lastStatusCode:
            leg.progress = info.lastStatusCode
            self.post(CallProgress(leg.call_id, leg.progress, str(info.lastReason), self.clock.now()))
        elif info.state == pj.PJSIP_INV_STATE_DISCONNECTED:
            self._finish(leg, *(leg.verdict or (info.lastStatusCode, info.lastReason)))

    def give_up(self, leg: Leg, code: int, reason: str) -> None:
        """End a call that cannot go on, once pjsua2 has returned."""
        self.deferred.append(lambda: self._hang_up(leg, code, reason, None))

    # ------------------------------------------------------------------ commands

    def place(self, call_id: str, uri: str, line_id: str, account: Any, host: str) -> None:
        """Call ``uri`` from an account of pjsua2; with None the call ends at once, as the line is not there.

        ``host`` is where the INVITE goes to, as far as it is known.
        """
        if call_id in self.legs:
            log.error("%s is in use already; the call to %s was not placed", call_id, uri)
            return
        towards = local_address_towards(host, self.settings.host)
        leg = Leg(
            call_id=call_id,
            line_id=line_id,
            source=host,
            host=advertised_address(self.settings.public_address, host, towards),
            announced=True,
            placed=True,
            rings_until=self.clock.now() + self.settings.ring_seconds,
        )
        full = self._full(0)
        self.legs[call_id] = leg
        self.post(OutgoingCall(call_id, line_id=line_id, called=uri, at=self.clock.now()))
        if account is None:
            leg.verdict = (503, f"the line {line_id} is not registered")
        elif full:
            leg.verdict = (503, "all our lines are busy")
        if leg.verdict is not None:
            self._finish(leg, *leg.verdict)
            return
        try:
            leg.sockets = self.ports.open()
            leg.port = leg.sockets.port
        except (AiphoneError, OSError) as error:
            log.warning("%s: not placed, no RTP port: %s", call_id, error)
            leg.verdict = (503, "no RTP port is free here")
            self._finish(leg, *leg.verdict)
            return
        leg.call = PjCall(account, pj.INVALID_ID, self, leg)
        try:
            leg.call.makeCall(uri, operation(0))
            if leg.call is not None:
                self._drop_stale(leg.call.getId(), leg)
        except pj.Error as error:
            log.warning("%s: pjsua2 did not place the call to %s: %s", call_id, uri, error.reason)
            leg.verdict = (503, f"the call could not be placed: {error.reason}")
            self._finish(leg, *leg.verdict)

    def answer(self, call_id: str, code: int) -> None:
        """Send a response below 300; nothing when the call is gone already."""
        leg = self.legs.get(call_id)
        if leg is None or leg.ended or leg.refusal is not None:
            return
        self._respond(leg, code)

    def end(self, call_id: str, code: int, reason: str, retry_after: int | None = None) -> None:
        """Refuse, or say BYE, whichever the call needs; nothing when it is gone already."""
        leg = self.legs.get(call_id)
        if leg is not None:
            self._hang_up(leg, code, reason, retry_after)

    def end_line(self, line_id: str) -> None:
        """Hang up every call of a line."""
        for leg in [leg for leg in self.legs.values() if leg.line_id == line_id]:
            self._hang_up(leg, 503, "Line Removed", None)

    def end_all(self) -> None:
        """BYE, or 503, to everyone."""
        for leg in list(self.legs.values()):
            self._hang_up(leg, 503, "Shutting Down", None)

    # ------------------------------------------------------------------ after each turn of pjsua2

    def run_deferred(self) -> None:
        """What callbacks put off."""
        while self.deferred:
            jobs, self.deferred = self.deferred, []
            for job in jobs:
                job()

    def sweep(self) -> None:
        """Find calls that pjsua2 has dropped without a word, so that nothing is owed for ever; give up those of
        ours that nobody answers."""
        now = self.clock.now()
        for leg in list(self.legs.values()):
            if leg.call is not None and not leg.call.isActive():
                self._finish(leg, 500, "Dropped")
            elif leg.placed and not leg.confirmed and leg.verdict is None and now >= leg.rings_until:
                self._hang_up(leg, 408, "No Answer", None)

    def finish_all(self, code: int, reason: str) -> None:
        """Close the books without the network, at the very end or when pjsua2 failed."""
        for leg in list(self.legs.values()):
            self._finish(leg, code, reason)

    @property
    def active(self) -> int:
        """Calls let in and not ended."""
        return sum(1 for leg in self.legs.values() if leg.refusal is None)

    # ------------------------------------------------------------------ inside

    def _judge(self, request: Request, message: str, host: str, counted: int) -> Admission:
        admission = self.admit(request, host)
        if admission.code:
            return admission
        plain = "application/sdp" in header(message, "Content-Type").lower()
        if plain and not acceptable(body_of(message)):
            return Admission(admission.line_id, 488, "Not Acceptable Here")
        if self._full(counted):
            return Admission(admission.line_id, 486, "Busy Here", self.settings.retry_after)
        return admission

    def _log_refusal(self, source: str, admission: Admission) -> None:
        allowed, missed = self._allowance.take()
        if missed:
            log.info("%d more refused calls", missed)
        if allowed:
            log.info("call from %s refused: %d %s", source, admission.code, admission.reason)

    def _full(self, counted: int) -> bool:
        """Whether another call is too much; ``counted`` is 1 when pjsua's count includes it already."""
        if self.active >= self.max_calls:
            return True
        # Places are also taken by calls that wait for the answer to their BYE.
        taken = self.library.calls()
        return taken is not None and taken - counted >= self.call_limit - self.reserved

    def _drop_stale(self, pj_id: int, new: Leg | None = None) -> None:
        for leg in list(self.legs.values()):
            if leg is not new and leg.call is not None and leg.call.getId() == pj_id:
                log.warning("%s ended without a word from pjsua2", leg.call_id)
                leg.call.thisown = False  # its destructor would hang up the new call
                self._finish(leg, 500, "Dropped")

    def _announce(self, leg: Leg, event: IncomingCall) -> None:
        if leg.ended:
            return
        self._respond(leg, 180)
        if not leg.ended:
            leg.announced = True
            self.post(event)

    def _respond(self, leg: Leg, code: int) -> None:
        if leg.call is None:
            return
        try:
            leg.call.answer(operation(code))
        except pj.Error as error:
            log.warning("%s: pjsua2 did not send %d: %s", leg.call_id, code, error.reason)
            self._hang_up(leg, 500, "Internal Error", None)

    def _refuse(self, leg: Leg, admission: Admission) -> None:
        self._log_refusal(leg.source, admission)
        self._hang_up(leg, admission.code, admission.reason, admission.retry_after)

    def _hang_up(self, leg: Leg, code: int, reason: str, retry_after: int | None) -> None:
        if leg.ended or leg.call is None:
            return
        if leg.placed and not leg.confirmed and leg.verdict is None:
            leg.verdict = (code if code in (408, 488, 500) else 487, "")
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        # pjsip puts both into the status line, or into BYE's Reason header (RFC 3326).
        text = "".join(c for c in reason if (c.isascii() and c.isalnum()) or c in " .-_")
        try:
            leg.call.hangup(operation(code, text, headers))
        except pj.Error as error:
            log.warning("%s: pjsua2 did not hang up: %s", leg.call_id, error.reason)
            self._finish(leg, code or 500, reason)

    def _finish(self, leg: Leg, code: int, reason: str) -> None:
        if leg.ended:
            return
        leg.ended = True
        self.legs.pop(leg.call_id, None)
        leg.call = None
        sockets, leg.sockets = leg.sockets, None
        if sockets is not None:
            self.ports.close(sockets)
        if leg.announced:
            text = leg.verdict[1] if leg.verdict is not None else ""
            text = text or (placed_call_reason if leg.placed else call_reason)(code, reason)
            self.post(CallEnded(leg.call_id, code=code, reason=text, at=self.clock.now()))
