"""A call that we make: INVITE, its answers, authentication, ACK and CANCEL (RFC 3261 sections 9.1, 13.2, 22.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aiphone.caller import digest
from aiphone.caller.call import Call, CallState, Edit
from aiphone.caller.dialog import Dialog
from aiphone.caller.endpoint import Endpoint
from aiphone.caller.media import MediaThread, RtpSession
from aiphone.caller.messages import Request, Response
from aiphone.caller.transactions import ClientTransaction
from aiphone.clock import Clock


@dataclass(frozen=True, slots=True)
class CallOptions:
    """What an INVITE of ours says. ``body`` replaces the offer; ``edit`` sees each request before it is sent."""

    body: bytes | None = None
    offer: bool = True
    """False sends an INVITE without an offer: the other side's 200 has it then (RFC 3261 section 13.2.1)."""
    headers: Sequence[tuple[str, str]] = ()
    edit: Edit | None = None
    acknowledge: bool = True
    """False never sends the ACK for the 200, for tests of a peer that is lost in that moment."""


class OutgoingCall(Call):
    """A call to somebody."""

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
        credentials: digest.Credentials | None,
        options: CallOptions,
    ) -> None:
        super().__init__(endpoint, dialog, session, media, clock, codecs=codecs, on_ended=on_ended, edit=options.edit)
        self._options = options
        self._credentials = credentials
        self._client: ClientTransaction | None = None
        self._authorised = False
        self._ack_data = b""

    def start(self) -> None:
        """Send the INVITE."""
        if self._options.body is not None:
            self.local_sdp = self._options.body
        elif self._options.offer:
            self.local_sdp = self.describe()
        self._send_invite([])

    async def give_up(self) -> None:
        """Same as ``cancel``."""
        await self.cancel()

    async def cancel(self) -> None:
        """CANCEL the INVITE and wait for its end (section 9.1); an answered call is hung up."""
        if self.state is CallState.ANSWERED:
            await self.hangup()
        if self.state is CallState.ENDED or self._client is None:
            return
        invite = self._client.request
        cancel = Request(method="CANCEL", uri=invite.uri)
        cancel.add("Via", invite.get_all("Via")[0])
        for name in ("Max-Forwards", "From", "To", "Call-ID"):
            cancel.add(name, invite.get(name))
        for route in invite.get_all("Route"):
            cancel.add("Route", route)
        cancel.add("CSeq", f"{invite.cseq[0]} CANCEL")
        self._endpoint.request(cancel, self.dialog.next_hop, lambda _: None, lambda: None)
        try:
            await self.wait_ended(5.0)
        except TimeoutError:
            self._end("cancelled")

    def _send_invite(self, extra: Sequence[tuple[str, str]]) -> None:
        invite = self.dialog.request("INVITE", self._endpoint.new_via())
        for name, value in [*self._options.headers, *extra]:
            invite.add(name, value)
        self._attach(invite, self.local_sdp)
        if self._options.edit:
            self._options.edit(invite)
        if self.invited_at is None:
            self.invited_at = self._clock.now()
        self._client = self._endpoint.request(
            invite, self.dialog.next_hop, self._on_invite_response, lambda: self._fail(408, "nothing", None)
        )

    def _on_invite_response(self, response: Response) -> None:
        now = self._clock.now()
        if self.state is CallState.ENDED and not (200 <= response.status < 300):
            return
        self.status = response.status
        if response.status < 200:
            self._on_progress(response, now)
        elif response.status < 300:
            self._on_success(response, now)
        elif response.status in (401, 407) and self._credentials and not self._authorised:
            self._authorise(response)
        else:
            self._fail(response.status, response.reason, response)

    def _on_progress(self, response: Response, now: float) -> None:
        self.trying_at = self.trying_at or now
        if response.status > 100:
            self.state = CallState.RINGING
            self.ringing_at = self.ringing_at or now
            if response.body:
                self._use_remote(response.body)

    def _on_success(self, response: Response, now: float) -> None:
        if self._ack_data:
            self._endpoint.send(self._ack_data, self.dialog.next_hop)
            return
        if self.answered_at is not None:
            return
        self.answered_at = now
        self.dialog.establish(response)
        self._use_remote(response.body)
        if self._options.acknowledge:
            self._acknowledge(response)
        if self.state is CallState.ENDED:
            # Our CANCEL came too late: an answered call can only be ended by BYE.
            self._send_bye()
            return
        self.state = CallState.ANSWERED
        if not self._answered.done():
            self._answered.set_result(None)

    def _acknowledge(self, response: Response) -> None:
        ack = self.dialog.request("ACK", self._endpoint.new_via(), cseq=response.cseq[0])
        if not self.local_sdp:
            self.local_sdp = self.answer_to(response.body) or b""
            self._attach(ack, self.local_sdp)
        if self._options.edit:
            self._options.edit(ack)
        self._ack_data = ack.serialise()
        self.ack_at = self._clock.now()  # before it leaves: the other side may be quicker than our next line
        self._endpoint.send(self._ack_data, self.dialog.next_hop)
        self._acknowledged.set()

    def _authorise(self, response: Response) -> None:
        found = digest.challenge_of(response)
        if found is None or self._credentials is None:
            self._fail(response.status, response.reason, response)
            return
        self._authorised = True
        challenge, header = found
        self._send_invite([(header, digest.authorization(challenge, self._credentials, "INVITE", self.dialog.target))])

    def _send_bye(self) -> None:
        bye = self.dialog.request("BYE", self._endpoint.new_via())
        self._endpoint.request(bye, self.dialog.next_hop, lambda _: None, lambda: None)
