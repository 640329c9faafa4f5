"""A call in its dialog, from either side: its signalling, on top of what it does with sound (``leg``).

    OutgoingCall:  INVITING -> RINGING -> ANSWERED -> ENDED
    IncomingCall:  RINGING -> ANSWERED -> ENDED

Everything the other side may do in a dialog is answered as a plain phone would; ``on_request`` may answer otherwise,
and ``edit`` may change any request before it is sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from enum import Enum

from aiphone.caller import sdp
from aiphone.caller.dialog import Dialog
from aiphone.caller.endpoint import Endpoint
from aiphone.caller.leg import Leg
from aiphone.caller.media import MediaThread, RtpSession
from aiphone.caller.messages import Request, Response
from aiphone.caller.transactions import ServerTransaction
from aiphone.caller.transport import Address, resolve
from aiphone.clock import Clock
from aiphone.errors import SipError

Edit = Callable[[Request], None]
TELEPHONE_EVENT_TYPE = 101


class CallState(Enum):
    """Where a call stands."""

    INVITING = "inviting"
    RINGING = "ringing"
    ANSWERED = "answered"
    ENDED = "ended"


class CallFailedError(SipError):
    """A request was answered with a failure, or not at all. ``status`` is 408 in the latter case."""

    def __init__(self, status: int, reason: str, response: Response | None = None) -> None:
        super().__init__(f"the other side answered {status} {reason}")
        self.status = status
        self.reason = reason
        self.response = response


class Call(Leg):
    """A call. Event loop's thread only. Times are seconds on the monotonic clock, None until it happened."""

    def __init__(
        self,
        endpoint: Endpoint,
        dialog: Dialog,
        session: RtpSession,
        media: MediaThread,
        clock: Clock,
        *,
        codecs: Sequence[str],
        on_ended: Callable[[Call], None],
        edit: Edit | None = None,
    ) -> None:
        super().__init__(session, media, clock)
        self.dialog = dialog
        self.state = CallState.INVITING
        self.invited_at: float | None = None
        """When the INVITE was sent (outgoing) or arrived (incoming)."""
        self.trying_at: float | None = None
        self.ringing_at: float | None = None
        self.answered_at: float | None = None
        """When the 200 arrived or was sent."""
        self.ack_at: float | None = None
        """When the ACK was sent or arrived."""
        self.ended_at: float | None = None
        self.status = 0
        """Last status of the INVITE."""
        self.end_reason = ""
        """``"hangup"``, ``"remote"`` (they said BYE), ``"failed"``, ``"cancelled"``, ``"died"`` or ``"no ack"``."""
        self.remote_sdp = b""
        self.local_sdp = b""
        self.requests: list[Request] = []
        """In-dialog requests that came in, the ACK included."""
        self.on_request: Callable[[Request], Response | None] | None = None
        """Answers an in-dialog request instead of us, unless it returns None."""
        self._endpoint = endpoint
        self._codecs = tuple(codecs)
        self._edit = edit
        self._on_ended = on_ended
        self._answered: asyncio.Future[None] = self._loop.create_future()
        self._ended = asyncio.Event()
        self._acknowledged = asyncio.Event()
        self._unacknowledged: list[ServerTransaction] = []
        self._pending_reinvite = False
        self._version = 1

    # ------------------------------------------------------------------ state

    async def wait_answered(self, timeout: float = 30.0) -> None:
        """Until the call is answered. CallFailedError when it is refused, or not answered in time (then given up)."""
        try:
            async with asyncio.timeout(timeout):
                await asyncio.shield(self._answered)
        except TimeoutError:
            await self.give_up()
            raise CallFailedError(408, f"nothing final to the INVITE within {timeout:g} s") from None

    async def give_up(self) -> None:
        """End a call that is not answered yet, in the way of its side."""
        raise NotImplementedError

    async def wait_acknowledged(self, timeout: float = 5.0) -> None:
        """Until the ACK is sent or has come. TimeoutError otherwise."""
        async with asyncio.timeout(timeout):
            await self._acknowledged.wait()

    async def wait_ended(self, timeout: float = 30.0) -> str:
        """Until the call is over; returns ``end_reason``. TimeoutError when it goes on."""
        async with asyncio.timeout(timeout):
            await self._ended.wait()
        return self.end_reason

    # ------------------------------------------------------------------ in the call

    async def request(
        self,
        method: str,
        *,
        body: bytes = b"",
        headers: Sequence[tuple[str, str]] = (),
        timeout: float = 35.0,
    ) -> Response:
        """Send any request in the dialog and return its final response. CallFailedError when none comes."""
        request = self.dialog.request(method, self._endpoint.new_via())
        for name, value in headers:
            request.add(name, value)
        if body and not request.get("Content-Type"):
            self._attach(request, body)
        else:
            request.body = body
        if self._edit:
            self._edit(request)
        result: asyncio.Future[Response] = self._loop.create_future()

        def on_response(response: Response) -> None:
            if method == "INVITE" and 200 <= response.status < 300:
                ack = self.dialog.request("ACK", self._endpoint.new_via(), cseq=request.cseq[0])
                self._endpoint.send(ack.serialise(), self.dialog.next_hop)
            if response.status >= 200 and not result.done():
                result.set_result(response)

        def on_timeout() -> None:
            if not result.done():
                result.set_exception(CallFailedError(408, f"nothing to our {method}"))

        self._endpoint.request(request, self.dialog.next_hop, on_response, on_timeout)
        async with asyncio.timeout(timeout):
            return await result

    async def reinvite(self, body: bytes | None = None, *, direction: sdp.Direction | None = None) -> Response:
        """Offer anew: our description with another direction (hold is SENDONLY), or any body."""
        self._version += 1
        if body is None:
            body = self.describe(direction or sdp.Direction.SENDRECV)
        self._pending_reinvite = True
        try:
            response = await self.request("INVITE", body=body)
        finally:
            self._pending_reinvite = False
        if 200 <= response.status < 300:
            self.local_sdp = body
            self.dialog.refresh(response)
            self._use_remote(response.body)
        return response

    async def hangup(self, timeout: float = 5.0) -> None:
        """End the call by BYE (or CANCEL, when it is not answered yet) and wait for the answer."""
        if self.state is CallState.ENDED:
            return
        if self.state is not CallState.ANSWERED:
            await self.give_up()
            return
        try:
            bye = asyncio.ensure_future(self.request("BYE", timeout=timeout))
            self._end("hangup")
            await bye
        except (TimeoutError, CallFailedError):
            return  # the other side is gone; so are we

    def die(self) -> None:
        """Vanish without BYE: no RTP, and no answer to anything any more."""
        self._end("died")

    def fail(self) -> None:
        """The media thread is gone: without it there is no call."""
        self._end("failed")

    def receive(self, request: Request, transaction: ServerTransaction | None) -> None:
        """An in-dialog request."""
        if self.end_reason == "died":
            if transaction:
                transaction.terminate()
            return
        self.requests.append(request)
        self.dialog.remote_cseq = max(self.dialog.remote_cseq, request.cseq[0])
        if request.method == "ACK":
            self._on_ack(request)
            return
        if transaction is None:
            return
        response = self.on_request(request) if self.on_request else None
        if response is None:
            response = self._reaction(request)
        if request.method == "INVITE":
            self._unacknowledged.append(transaction)
        transaction.respond(response)
        if request.method == "BYE":
            self._end("remote")

    def _reaction(self, request: Request) -> Response:
        tag = self.dialog.local_tag
        if self.state is CallState.ENDED and request.method != "BYE":
            return request.response(481, to_tag=tag)
        if request.method in ("INVITE", "UPDATE"):
            return self._renegotiate(request)
        if request.method == "REFER":
            return request.response(202, to_tag=tag)
        if request.method in ("BYE", "INFO", "OPTIONS", "NOTIFY", "MESSAGE"):
            return request.response(200, to_tag=tag)
        return request.response(501, to_tag=tag)

    def _renegotiate(self, request: Request) -> Response:
        tag = self.dialog.local_tag
        if self._pending_reinvite:
            return request.response(491, to_tag=tag)
        self._version += 1
        body = self.answer_to(request.body) if request.body else self.describe()
        if body is None:
            return request.response(488, to_tag=tag)
        self.dialog.refresh(request)
        response = request.response(200, to_tag=tag)
        response.add("Contact", self.dialog.contact)
        if request.body or request.method == "INVITE":
            self.local_sdp = body
            self._attach(response, body)
        if request.body:
            self._use_remote(request.body)
        return response

    def _on_ack(self, ack: Request) -> None:
        for invite in [i for i in self._unacknowledged if i.request.cseq[0] == ack.cseq[0]]:
            invite.acknowledged()
            self._unacknowledged.remove(invite)
        self.ack_at = self.ack_at or self._clock.now()
        self._acknowledged.set()
        if ack.body:
            self._use_remote(ack.body)

    # ------------------------------------------------------------------ descriptions

    def describe(self, direction: sdp.Direction = sdp.Direction.SENDRECV) -> bytes:
        """Our own description, as an offer."""
        return sdp.describe(
            self._endpoint.local[0],
            self.session.port,
            [(name, sdp.PAYLOAD_TYPES[name]) for name in self._codecs],
            telephone_event=TELEPHONE_EVENT_TYPE,
            direction=direction,
            version=self._version,
        )

    def answer_to(self, offer: bytes) -> bytes | None:
        """Our answer to an offer; None when no codec is common."""
        return sdp.answer(offer, self._endpoint.local[0], self.session.port, self._codecs, version=self._version)

    def _use_remote(self, body: bytes) -> None:
        """Send to where the other side wants to hear us, in its first codec."""
        theirs = sdp.audio(body) if body else None
        codec = theirs.codec(self._codecs) if theirs else None
        if body:
            self.remote_sdp = body
        if theirs is None or codec is None:
            return
        ours = sdp.audio(self.local_sdp) if self.local_sdp else None
        names = {pt: name for pt, (name, _) in (ours or theirs).names.items()}
        remote: Address = resolve(theirs.host, theirs.port)
        event_type = theirs.payload_type(sdp.TELEPHONE_EVENT)
        # An address of zeros is how holding was written before RFC 3264.
        wanted = theirs.direction.receives and theirs.host not in ("0.0.0.0", "::")
        self.session.configure(remote if wanted else None, codec[0], codec[1], event_type, names)

    def _attach(self, message: Request | Response, body: bytes) -> None:
        message.body = body
        if body and not message.get("Content-Type"):
            message.add("Content-Type", "application/sdp")

    # ------------------------------------------------------------------ the end

    def _fail(self, status: int, reason: str, response: Response | None) -> None:
        self.status = status
        cancelled = status == 487
        if not self._answered.done():
            self._answered.set_exception(CallFailedError(status, reason, response))
            self._answered.exception()  # whoever waits gets it; nobody has to
        self._end("cancelled" if cancelled else "failed")

    def _end(self, reason: str) -> None:
        if self.state is CallState.ENDED:
            return
        self.state = CallState.ENDED
        self.end_reason = reason
        self.ended_at = self._clock.now()
        if not self._answered.done():
            self._answered.set_exception(CallFailedError(self.status or 487, reason))
            self._answered.exception()
        self._close_media()
        self._ended.set()
        self._on_ended(self)
