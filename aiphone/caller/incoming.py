"""A call that comes to us: ringing, answering, refusing (RFC 3261 section 13.3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from aiphone.caller.call import Call, CallState
from aiphone.caller.dialog import Dialog
from aiphone.caller.endpoint import Endpoint
from aiphone.caller.media import MediaThread, RtpSession
from aiphone.caller.messages import Request
from aiphone.caller.transactions import ServerTransaction
from aiphone.clock import Clock


class IncomingCall(Call):
    """A call from somebody, ringing at first."""

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
        invite: Request,
        transaction: ServerTransaction,
    ) -> None:
        super().__init__(endpoint, dialog, session, media, clock, codecs=codecs, on_ended=on_ended)
        self._server = transaction
        self._arrive(invite, transaction)

    async def give_up(self) -> None:
        """Refuse the call: 480."""
        self.reject(480)

    def _arrive(self, invite: Request, transaction: ServerTransaction) -> None:
        self.invited_at = self._clock.now()
        self.state = CallState.RINGING
        self._unacknowledged.append(transaction)
        transaction.on_abandoned = lambda: self._end("no ack")
        self.dialog.accept(invite)
        self.requests.append(invite)
        self.remote_sdp = invite.body
        transaction.respond(invite.response(100))

    def ring(self, status: int = 180, *, body: bytes = b"") -> None:
        """A provisional answer; with a body it is early media."""
        self._respond_to_invite(status, "", body, ())
        self.ringing_at = self._clock.now()

    def answer(self, *, body: bytes | None = None, headers: Sequence[tuple[str, str]] = ()) -> None:
        """200 OK. ``body`` replaces our description. Without a common codec the call is refused with 488."""
        if body is None:
            body = self.answer_to(self.remote_sdp) if self.remote_sdp else self.describe()
        if body is None:
            self.reject(488)
            return
        self.local_sdp = body
        self.state = CallState.ANSWERED
        self._respond_to_invite(200, "", body, headers)
        self.answered_at = self._clock.now()
        self._use_remote(self.remote_sdp)
        if not self._answered.done():
            self._answered.set_result(None)

    def reject(self, status: int = 486, reason: str = "", *, headers: Sequence[tuple[str, str]] = ()) -> None:
        """Refuse the call, or redirect it (3xx with a Contact header)."""
        self._respond_to_invite(status, reason, b"", headers)
        self._end("failed")

    def cancelled(self) -> None:
        """The CANCEL of the other side arrived."""
        if self.state is CallState.RINGING:
            self._respond_to_invite(487, "", b"", ())
            self._end("cancelled")

    def _respond_to_invite(self, status: int, reason: str, body: bytes, headers: Sequence[tuple[str, str]]) -> None:
        response = self._server.request.response(status, reason, to_tag=self.dialog.local_tag)
        if status < 300:
            response.add("Contact", self.dialog.contact)
        for name, value in headers:
            response.add(name, value)
        self._attach(response, body)
        self.status = status
        self._server.respond(response)
