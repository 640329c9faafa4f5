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
from dataclasses import dataclass, field, replace
from itertools import count
from random import Random
from typing import Any

import pjsua2 as pj

from aiphone.clock import Clock
from aiphone.errors import AiphoneError
from aiphone.events import (
    CallConfirmed,
    CallEnded,
    CallProgress,
    DigitReceived,
    Event,
    IncomingCall,
    MediaNegotiated,
    OutgoingCall,
)
from aiphone.sip.addresses import (
    address_of_ours,
    advertised_address,
    callable_host,
    local_address_towards,
    of_other_family,
    split_host_port,
)
from aiphone.sip.admission import Admission, screen
from aiphone.sip.director import operation
from aiphone.sip.identity import Identity, caller_identity, is_scanner, number_of
from aiphone.sip.in_dialog import HANDLED, KEYS, Responder, bye_reason, description_in, info_digit, received
from aiphone.sip.leg import Leg, PjCall
from aiphone.sip.message import Request, body_of, header, name_addr, read_request
from aiphone.sip.negotiator import Negotiator
from aiphone.sip.pjlib import PjLib
from aiphone.sip.pjlog import Allowance
from aiphone.sip.reasons import call_reason, placed_call_reason
from aiphone.sip.sdp import SdpError, acceptable, media_host, remote_audio, rewrite_local
from aiphone.sip.settings import CallPolicy, RtpPorts, SipSettings
from aiphone.sip.streams import negotiated_stream
from aiphone.sip.transfers import Transfers

log = logging.getLogger(__name__)

_ACK_WITHIN = 29.0
"""Seconds. RFC 3261 section 13.3.1.4 repeats a 200 for 32 s. Then pjsip forgets the transaction but not the call, so it
must be told to end it before; and what the record says must not be that no RTP came for 30 s."""


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
    policy: Callable[[str], CallPolicy]
    """What a line, by its id, does with its calls."""
    random: Random
    host_towards: Callable[[str], str]
    """Our address for media with a peer, where it is not the usual one; raises ``NetworkError``."""
    legs: dict[str, Leg] = field(default_factory=dict)
    """Calls that are not ended, by ``call_id``; refused ones included."""
    refused: int = 0
    deferred: list[Callable[[], None]] = field(default_factory=list)
    transfers: Transfers = field(init=False)
    _numbers: count[int] = field(default_factory=lambda: count(1))
    _allowance: Allowance = field(init=False)
    _responder: Responder = field(init=False)
    _negotiator: Negotiator = field(init=False)
    _waiting: list[Leg] = field(default_factory=list)
    """Calls that ring until ``answer_at``."""

    def __post_init__(self) -> None:
        self._allowance = Allowance(self.clock)
        self._responder = Responder(self.library)
        self._negotiator = Negotiator(self.library)
        self.transfers = Transfers(self)

    # ------------------------------------------------------------------ from pjsua2's callbacks

    def at_the_door(self, message: str, source: str) -> Admission:
        """For the gate: what becomes of an INVITE for which pjsua has done nothing yet."""
        admission, _ = self._judge(read_request(message), message, split_host_port(source)[0], 0)
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
        admission, identity = self._judge(request, message, host, counted)
        self._drop_stale(pj_id)
        towards = local_address_towards(host, self.settings.host)
        policy = self.policy(admission.line_id)
        leg = Leg(
            call_id=f"c{next(self._numbers)}",
            line_id=admission.line_id,
            source=host,
            host=advertised_address(self.settings.public_address, host, towards),
            policy=policy,
            account=account,
            answer_at=self.clock.now() + policy.answer_after,
        )
        if admission.code == 0:
            offered = media_host(description_in(message))
            try:
                self._open_media(leg, offered)
            except (AiphoneError, OSError) as error:
                log.warning("call refused, no RTP port: %s", error)
                admission = Admission(admission.line_id, 503, "No RTP Port", retry_after=self.settings.retry_after)
                if of_other_family(offered, host):
                    admission = Admission(admission.line_id, 488, "Not Acceptable Here")
        leg.call = PjCall(account, pj_id, self, leg)
        leg.call.theirs = leg.call.offer = description_in(message)
        self.legs[leg.call_id] = leg
        if admission.code:
            leg.refusal = admission
            self.refused += 1
            self.deferred.append(lambda: self._refuse(leg, admission))
            return
        event = IncomingCall(
            call_id=leg.call_id,
            line_id=leg.line_id,
            caller=identity.uri,
            caller_name=identity.name,
            called=request.uri,
            sip_call_id=request.call_id,
            at=self.clock.now(),
            persona=_persona_for(message, request, policy),
        )
        self.deferred.append(lambda: self._announce(leg, event))

    def local_sdp(self, call: PjCall, ours: str, theirs: str) -> str:
        """Our description with our media in it; empty to leave it alone."""
        leg = call.leg
        if leg.refusal is not None or leg.ended or leg.port == 0:
            return ""
        call.offered = not theirs
        call.theirs = theirs
        call.remote = remote_audio(theirs) if theirs else None
        text = rewrite_local(ours, leg.host, leg.port, call.remote, rtcp_port=leg.rtcp_port)
        call.ours = text.encode("ascii", "replace").decode()
        return call.ours

    def media_changed(self, call: PjCall) -> None:
        """Offer and answer are complete, or failed."""
        # The other side's answer to our offer comes in an event behind this one, or in none that we see.
        call.unsettled = True
        call.offer = ""
        if call.offered:
            self.deferred.append(lambda: self._settle_media(call))
        else:
            self._settle_media(call)

    def request_or_answer(self, call: PjCall, event: Any) -> None:
        """A message came within a dialog; pjsua has not looked at it yet, or only pjsip's offer and answer has.

        Or one of ours has left: the first is our 100, long before our answer.
        """
        if not call.plural and event.type == pj.PJSIP_EVENT_TSX_STATE:
            call.plural = self._negotiator.answer_all(int(event.body.tsxState.tsx.pjTransaction))
        message = received(event)
        if message is None:
            return
        if message.ours:
            if message.method in ("INVITE", "UPDATE"):
                self._take_description(call, message.text)
                self._hold_answered(call.leg, message.code)
        elif message.method == "INFO" and message.fresh:
            digit = info_digit(message.text)
            if digit:
                self.key_pressed(call, digit)
            kind = header(message.text, "Content-Type").lower()
            if not kind.startswith(("application/dtmf-relay", "application/media_control+xml")):
                self._responder.answer(message.rdata, 200 if digit or not kind else 415)
        elif message.fresh and message.method not in HANDLED:
            # pjsip would say 500; some servers ask by OPTIONS whether the call is still there, and hang up at that.
            self._responder.answer(message.rdata, 200 if message.method == "OPTIONS" else 405)

    def key_pressed(self, call: PjCall, digit: str) -> None:
        """A key came in SIP INFO."""
        if digit.upper() in KEYS and not call.leg.ended and call.leg.refusal is None:
            self.post(DigitReceived(call.leg.call_id, digit.upper(), self.clock.now()))

    def state_changed(self, call: PjCall, event: Any) -> None:
        """A dialog moved on."""
        leg = call.leg
        info = call.getInfo()
        state = info.state
        if state == pj.PJSIP_INV_STATE_DISCONNECTED:
            self._dialog_ended(call, info, event)
        elif leg.ended or self.transfers.is_retired(call):
            return
        elif state == pj.PJSIP_INV_STATE_CONFIRMED:
            message = received(event)
            if message is not None:
                self._take_description(call, message.text)
            if call is leg.successor:
                self.deferred.append(lambda: self._succeeded(call, info))
            elif not leg.confirmed:
                leg.confirmed = True
                leg.confirmation = CallConfirmed(leg.call_id, at=self.clock.now())
                # Behind the media: they were settled before, and may wait for the answer's text.
                self.deferred.append(lambda: self._tell_confirmed(leg))
        elif state == pj.PJSIP_INV_STATE_EARLY and leg.placed and call is leg.call:
            self._progressed(leg, int(info.lastStatusCode), str(info.lastReason))

    def _tell_confirmed(self, leg: Leg) -> None:
        event, leg.confirmation = leg.confirmation, None
        if leg.refusal is None and event is not None:
            self.post(event)

    def _progressed(self, leg: Leg, code: int, reason: str) -> None:
        if leg.progress != code:
            leg.progress = code
            self.post(CallProgress(leg.call_id, code, reason, self.clock.now()))

    def redirected(self, call: PjCall, target: str) -> int:
        """Whether to go on to ``target``, one of the addresses in a 3xx (RFC 3261 section 8.1.3.4)."""
        leg = call.leg
        try:
            callable_host(name_addr(target)[1] or target)
        except AiphoneError as error:
            log.info("%s: redirected to somewhere we do not call: %s", leg.call_id, error)
            return int(pj.PJSIP_REDIRECT_REJECT)
        if leg.redirections >= self.settings.redirect_limit:
            leg.verdict = (302, f"redirected more than {self.settings.redirect_limit} times")
            return int(pj.PJSIP_REDIRECT_STOP)
        leg.redirections += 1
        log.info("%s: redirected to %s", leg.call_id, target)
        return int(pj.PJSIP_REDIRECT_ACCEPT_REPLACE)

    def give_up(self, leg: Leg, code: int, reason: str) -> None:
        """End a call that cannot go on, once pjsua2 has returned."""
        self.deferred.append(lambda: self._hang_up(leg, code, reason, None))

    def hang_up_later(self, leg: Leg, code: int, reason: str) -> None:
        """End a call properly, once pjsua2 has returned; ``reason`` is what its record says."""
        leg.verdict = leg.verdict or (code, reason)
        self.deferred.append(lambda: self._hang_up(leg, code, "", None))

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
            policy=self.policy(line_id),
            account=account,
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
            self._open_media(leg)
        except (AiphoneError, OSError) as error:
            log.warning("%s: not placed, no RTP port: %s", call_id, error)
            leg.verdict = (503, "no RTP port is free here")
            self._finish(leg, *leg.verdict)
            return
        leg.call = PjCall(account, pj.INVALID_ID, self, leg)
        try:
            leg.call.makeCall(f"<{uri}>", operation(0))
            if leg.call is not None:
                self._drop_stale(leg.call.getId(), leg)
        except pj.Error as error:
            log.warning("%s: pjsua2 did not place the call to %s: %s", call_id, uri, error.reason)
            leg.verdict = (503, f"the call could not be placed: {error.reason}")
            self._finish(leg, *leg.verdict)

    def _open_media(self, leg: Leg, offered: str = "") -> None:
        """Sockets for a call's media, where its other side can reach them. Raises ``NetworkError``.

        ``offered`` is where the other side wants its media: of that family ours must be.
        """
        if of_other_family(offered, leg.source):
            # The public address is of the family that SIP has here.
            leg.host = address_of_ours(offered)
            leg.sockets = self.ports.open(leg.host)
            leg.port, leg.rtcp_port = leg.sockets.port, leg.sockets.port + 1
            return
        host = self.host_towards(leg.source)
        leg.sockets = self.ports.open(host)
        leg.port = leg.sockets.port
        if host:
            leg.host = advertised_address(self.settings.public_address, leg.source, host)
        leg.rtcp_port = leg.port + 1
        if self.settings.public_address and leg.host == self.settings.public_address:
            leg.port, leg.rtcp_port = self.ports.public_ports(leg.sockets)

    def answer(self, call_id: str, code: int) -> None:
        """Send a response below 300; nothing when the call is gone already. 200 waits until the line has rung."""
        leg = self.legs.get(call_id)
        if leg is None or leg.ended or leg.refusal is not None:
            return
        if code >= 200 and self.clock.now() < leg.answer_at:
            if not leg.answer_wanted:
                leg.answer_wanted = True
                self._waiting.append(leg)
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
        self.transfers.end_all()

    def hold(self, call_id: str, on: bool) -> None:
        """Put the other side on hold, or take it back; ``MediaNegotiated`` follows."""
        leg = self.legs.get(call_id)
        if leg is not None and leg.confirmed:
            leg.hold_wanted = on
            self._send_hold(leg)

    def press(self, call_id: str, digits: str) -> None:
        """Press keys by SIP INFO (``application/dtmf-relay``), one request each."""
        leg = self.legs.get(call_id)
        if leg is None or leg.call is None or not leg.confirmed:
            return
        prm = pj.CallSendDtmfParam()
        prm.method = pj.PJSUA_DTMF_METHOD_SIP_INFO
        prm.digits = digits
        prm.duration = 160
        try:
            leg.call.sendDtmf(prm)
        except pj.Error as error:
            log.warning("%s: the keys were not sent: %s", call_id, error.reason)

    def transfer(self, call_id: str, uri: str) -> None:
        """Blind transfer of the other side to ``uri``."""
        leg = self.legs.get(call_id)
        if leg is not None:
            self.transfers.blind(leg, uri)

    def join(self, call_id: str, other_id: str) -> None:
        """Attended transfer: the other sides of two calls of ours talk with each other."""
        leg, other = self.legs.get(call_id), self.legs.get(other_id)
        if leg is not None and other is not None and other is not leg:
            self.transfers.attended(leg, other)

    # ------------------------------------------------------------------ after each turn of pjsua2

    def run_deferred(self) -> None:
        """What callbacks put off."""
        while self.deferred:
            jobs, self.deferred = self.deferred, []
            for job in jobs:
                job()
        if self._waiting:
            self._answer_waiting()

    def sweep(self) -> None:
        """Find calls that pjsua2 has dropped without a word, so that nothing is owed for ever; give up those of
        ours that nobody answers, and those whose caller vanished before ACK."""
        now = self.clock.now()
        for leg in list(self.legs.values()):
            if leg.call is not None and not leg.call.isActive():
                self._finish(leg, 500, "Dropped")
            elif leg.placed and not leg.confirmed and leg.verdict is None and now >= leg.rings_until:
                self._hang_up(leg, 408, "No Answer", None)
            elif leg.acknowledged_by is not None and not leg.confirmed and now >= leg.acknowledged_by:
                leg.acknowledged_by = None
                leg.verdict = leg.verdict or (408, "the caller never acknowledged our answer (no ACK came)")
                self._hang_up(leg, 408, "No ACK", None)
            elif leg.hold_retry_at is not None and now >= leg.hold_retry_at:
                self._send_hold(leg)
        self.transfers.sweep(now)

    def finish_all(self, code: int, reason: str) -> None:
        """Close the books without the network, at the very end or when pjsua2 failed."""
        for leg in list(self.legs.values()):
            self._finish(leg, code, reason)
        self.transfers.clear()

    @property
    def active(self) -> int:
        """Calls let in and not ended."""
        return sum(1 for leg in self.legs.values() if leg.refusal is None)

    def library_full(self, counted: int = 0) -> bool:
        """Whether pjsua's table has no place for another dialog; ``counted`` of those taken is the new one."""
        # Places are also taken by calls that wait for the answer to their BYE.
        taken = self.library.calls()
        return taken is not None and taken - counted >= self.call_limit - self.reserved

    # ------------------------------------------------------------------ inside

    def _judge(self, request: Request, message: str, host: str, counted: int) -> tuple[Admission, Identity]:
        admission = self.admit(request, host)
        policy = self.policy(admission.line_id)
        identity = caller_identity(message, trusted=admission.trusted and policy.trust_identity)
        if admission.code:
            if is_scanner(message):
                admission = replace(admission, silent=True)
            return admission, identity
        line = admission.line_id
        plain = "application/sdp" in header(message, "Content-Type").lower()
        code, reason = screen(identity, policy)
        if code:
            return Admission(line, code, reason), identity
        if plain and not acceptable(body_of(message)):
            return Admission(line, 488, "Not Acceptable Here"), identity
        # Who takes the place of a caller is not one more; that the place is there is for Replaces to prove.
        extra = not header(message, "Replaces")
        if (self._full(counted) or self._line_full(line, policy)) if extra else self.library_full(counted):
            return Admission(line, 486, "Busy Here", self.settings.retry_after), identity
        return admission, identity

    def _log_refusal(self, source: str, admission: Admission) -> None:
        allowed, missed = self._allowance.take()
        if missed:
            log.info("%d more refused calls", missed)
        if allowed:
            log.info("call from %s refused: %d %s", source, admission.code, admission.reason)

    def _full(self, counted: int) -> bool:
        """Whether another call is too much; ``counted`` is 1 when pjsua's count includes it already."""
        return self.active >= self.max_calls or self.library_full(counted)

    def _line_full(self, line_id: str, policy: CallPolicy) -> bool:
        if policy.max_calls == 0:
            return False
        return sum(leg.line_id == line_id and leg.refusal is None for leg in self.legs.values()) >= policy.max_calls

    def _drop_stale(self, pj_id: int, new: Leg | None = None) -> None:
        for call in self.transfers.stale(pj_id):
            call.thisown = False
            self.transfers.forget(call)
        for leg in list(self.legs.values()):
            for call in leg.dialogs():
                if leg is not new and call.getId() == pj_id:
                    log.warning("%s ended without a word from pjsua2", leg.call_id)
                    call.thisown = False  # its destructor would hang up the new call
                    self._finish(leg, 500, "Dropped")

    def _announce(self, leg: Leg, event: IncomingCall) -> None:
        if leg.ended:
            return
        self._respond(leg, 183 if leg.policy.early_media else 180)
        if not leg.ended:
            leg.announced = True
            self.post(event)

    def _answer_waiting(self) -> None:
        now = self.clock.now()
        for leg in [leg for leg in self._waiting if leg.ended or now >= leg.answer_at]:
            self._waiting.remove(leg)
            if not leg.ended:
                self._respond(leg, 200)

    def _respond(self, leg: Leg, code: int) -> None:
        if leg.call is None:
            return
        try:
            leg.call.answer(operation(code))
        except pj.Error as error:
            log.warning("%s: pjsua2 did not send %d: %s", leg.call_id, code, error.reason)
            self._hang_up(leg, 500, "Internal Error", None)
        else:
            leg.acknowledged_by = self.clock.now() + _ACK_WITHIN if code >= 200 else None

    def _take_description(self, call: PjCall, text: str) -> None:
        """The other side's answer to an offer of ours."""
        theirs = description_in(text)
        if theirs:
            call.theirs = theirs
            try:
                call.remote = remote_audio(theirs)
            except SdpError:
                call.remote = None
            self._settle_media(call)

    def _settle_media(self, call: PjCall) -> None:
        leg = call.leg
        if not call.unsettled or leg.ended or leg.refusal is not None or call not in leg.dialogs():
            return
        call.unsettled = False
        stream = negotiated_stream(call)
        if call is leg.successor:
            call.stream = stream
            return
        if stream is None:
            self.give_up(leg, 488, "Not Acceptable Here")
            return
        if leg.negotiated and stream == call.stream:
            return
        call.stream = stream
        sockets, leg.sockets = leg.sockets, None
        leg.negotiated = True
        self.post(MediaNegotiated(leg.call_id, stream, sockets))

    def _send_hold(self, leg: Leg) -> None:
        leg.hold_retry_at = None
        if leg.call is None or leg.hold_wanted is None:
            return
        prm = operation(0)
        try:
            if leg.hold_wanted:
                leg.call.setHold(prm)
            else:
                prm.opt.flag = pj.PJSUA_CALL_UNHOLD
                leg.call.reinvite(prm)
        except pj.Error as error:
            # An offer of either side is under way: once it is settled.
            log.debug("%s: the hold waits: %s", leg.call_id, error.reason)
            leg.hold_retry_at = self.clock.now() + 0.5

    def _hold_answered(self, leg: Leg, code: int) -> None:
        if leg.hold_wanted is None or code < 200:
            return
        if code == 491:
            # RFC 3261 section 14.1: who made the call waits longer, so that the two do not meet again.
            low, high = (2.1, 4.0) if leg.placed else (0.0, 2.0)
            leg.hold_retry_at = self.clock.now() + self.random.uniform(low, high)
        else:
            leg.hold_wanted = None

    def _succeeded(self, call: PjCall, info: Any) -> None:
        if not call.leg.ended and call is call.leg.successor:
            self.transfers.take_over(call, info)

    def _dialog_ended(self, call: PjCall, info: Any, event: Any) -> None:
        leg = call.leg
        self.transfers.forget(call)
        if call is leg.successor:
            leg.successor = None
            if leg.call is None and not leg.ended:
                self._finish(leg, info.lastStatusCode, info.lastReason)
        elif call is leg.call and leg.successor is not None and not leg.ended:
            # The other side does not wait for the outcome of the transfer that it asked for.
            leg.call = None
        elif call is leg.call and not leg.ended:
            message = received(event)
            said = bye_reason(message.text) if message is not None and message.method == "BYE" else ""
            code, reason = int(info.lastStatusCode), str(info.lastReason)
            if leg.verdict is None and said:
                leg.verdict = (code, f"{call_reason(code, reason)}: {said}")
            self._finish(leg, *(leg.verdict or (code, reason)))

    def _refuse(self, leg: Leg, admission: Admission) -> None:
        self._log_refusal(leg.source, admission)
        self._hang_up(leg, admission.code, admission.reason, admission.retry_after)

    def _hang_up(self, leg: Leg, code: int, reason: str, retry_after: int | None) -> None:
        if leg.ended:
            return
        if leg.placed and not leg.confirmed and leg.verdict is None:
            leg.verdict = (code if code in (408, 488, 500) else 487, "")
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        # pjsip puts both into the status line, or into BYE's Reason header (RFC 3326).
        text = "".join(c for c in reason if (c.isascii() and c.isalnum()) or c in " .-_")
        for call in leg.dialogs():
            try:
                call.hangup(operation(code, text, headers))
            except pj.Error as error:
                log.warning("%s: pjsua2 did not hang up: %s", leg.call_id, error.reason)
                self._finish(leg, code or 500, reason)

    def _finish(self, leg: Leg, code: int, reason: str) -> None:
        if leg.ended:
            return
        leg.ended = True
        self.legs.pop(leg.call_id, None)
        leg.call = leg.successor = leg.account = leg.consultation = None
        sockets, leg.sockets = leg.sockets, None
        if sockets is not None:
            self.ports.close(sockets)
        if leg.announced:
            self._tell_confirmed(leg)
            text = leg.verdict[1] if leg.verdict is not None else ""
            text = text or (placed_call_reason if leg.placed else call_reason)(code, reason)
            self.post(CallEnded(leg.call_id, code=code, reason=text, at=self.clock.now()))


def _persona_for(message: str, request: Request, policy: CallPolicy) -> str:
    """The persona of the number that was called: as the provider names it, as it was dialled, as it arrived."""
    uris = [name_addr(header(message, name))[1] for name in ("P-Called-Party-ID", "To")]
    for uri in (*uris, request.uri):
        number = number_of(uri)
        for called, persona in policy.personas:
            if number and number == called:
                return persona
    return ""
