"""A telephone in Python: the independent peer of tests, the doctor and every benchmark.

    async with Caller() as caller:
        call = await caller.call("sip:ai@127.0.0.1:5060")
        asked_at = await call.play("question.wav")
        reply = await call.wait_reply()
        print(reply.latency)
        await call.hangup()

It shares no SIP or RTP code with the server. Event loop's thread only, apart from the media thread it starts. For
timings that mean something, give it a process of its own (``python -m aiphone.caller``), so that its packets are
not stamped while another thread holds the interpreter.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from types import TracebackType

from aiphone.caller import digest
from aiphone.caller.call import Call, CallFailedError, Edit
from aiphone.caller.dialog import ALLOW, Dialog
from aiphone.caller.endpoint import Endpoint, new_token
from aiphone.caller.incoming import IncomingCall
from aiphone.caller.media import MediaThread, RtpOptions, RtpSession
from aiphone.caller.messages import Request, Response, SipUri, join_host_port
from aiphone.caller.outgoing import CallOptions, OutgoingCall
from aiphone.caller.scenario import Scenario
from aiphone.caller.transactions import ServerTransaction, Timers
from aiphone.caller.transport import Address, resolve
from aiphone.clock import Clock, SystemClock

logger = logging.getLogger(__name__)

REMEMBERED_CALLS = 64
"""Ended calls that still answer requests of their dialogs."""


class Caller:
    """A SIP user agent with one address. See the module for an example.

    ``host`` must be an address of this machine, not the wildcard: it is written into messages. ``scenario`` spoils
    outgoing SIP; ``rtp.scenario`` spoils outgoing RTP.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        user: str = "caller",
        display_name: str = "",
        credentials: digest.Credentials | None = None,
        codecs: Sequence[str] = ("PCMU", "PCMA"),
        rtp: RtpOptions | None = None,
        scenario: Scenario | None = None,
        proxy: str = "",
        timers: Timers | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.calls: list[Call] = []
        """Calls that have not ended."""
        self.on_request: Callable[[Request], Response | None] | None = None
        """Answers a request outside any call instead of us, unless it returns None."""
        self.failure: BaseException | None = None
        """What ended the media thread, if it did not end as it should."""
        self._host = host
        self._port = port
        self._user = user
        self._display_name = display_name
        self._credentials = credentials
        self._codecs = codecs
        self._rtp = rtp or RtpOptions()
        self._scenario = scenario
        self._proxy = proxy
        self._timers = timers or Timers()
        self._clock = clock or SystemClock()
        self._incoming: asyncio.Queue[IncomingCall] = asyncio.Queue()
        self._past: list[Call] = []
        self._endpoint: Endpoint | None = None
        self._media: MediaThread | None = None

    async def __aenter__(self) -> Caller:
        endpoint = Endpoint(self._timers, self._clock, self._on_request)
        await endpoint.open(self._host, self._port, self._scenario)
        self._endpoint = endpoint
        self._loop = asyncio.get_running_loop()
        self._media = MediaThread(self._clock, self._media_failed)
        self._media.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(call.hangup(timeout=2.0) for call in list(self.calls)), return_exceptions=True)
        self.endpoint.close()
        await asyncio.get_running_loop().run_in_executor(None, self.media.stop)

    @property
    def endpoint(self) -> Endpoint:
        """The SIP side, for raw messages and the trace of all that was sent and received."""
        if self._endpoint is None:
            raise RuntimeError("use the Caller in an 'async with' block")
        return self._endpoint

    @property
    def media(self) -> MediaThread:
        """The thread that carries RTP."""
        if self._media is None:
            raise RuntimeError("use the Caller in an 'async with' block")
        return self._media

    @property
    def uri(self) -> str:
        """Our own address: who calls it, reaches ``incoming``."""
        return f"sip:{self._user}@{join_host_port(*self.endpoint.local)}"

    async def call(self, uri: str, *, timeout: float = 30.0, options: CallOptions | None = None) -> OutgoingCall:
        """Call and wait for the answer. CallFailedError when it is refused or not answered in time."""
        call = self.invite(uri, options=options)
        await call.wait_answered(timeout)
        return call

    def invite(self, uri: str, *, options: CallOptions | None = None) -> OutgoingCall:
        """Send an INVITE and return at once; ``Call.wait_answered`` waits."""
        call = OutgoingCall(
            self.endpoint,
            self._new_dialog(uri),
            RtpSession(self._host, self._rtp, self._clock),
            self.media,
            self._clock,
            codecs=self._codecs,
            on_ended=self._call_ended,
            credentials=self._credentials,
            options=options or CallOptions(),
        )
        self.calls.append(call)
        call.start()
        return call

    async def incoming(self, timeout: float = 10.0) -> IncomingCall:
        """The next call to us, ringing: ``Call.answer`` or ``Call.reject`` it. TimeoutError when none comes."""
        async with asyncio.timeout(timeout):
            return await self._incoming.get()

    async def options(self, uri: str, timeout: float = 5.0) -> Response:
        """OPTIONS, the ping of SIP."""
        return await self.request("OPTIONS", uri, timeout=timeout)

    async def request(
        self,
        method: str,
        uri: str,
        *,
        body: bytes = b"",
        headers: Sequence[tuple[str, str]] = (),
        edit: Edit | None = None,
        timeout: float = 35.0,
    ) -> Response:
        """Any request outside a call (REGISTER, OPTIONS, MESSAGE ...); a challenge is answered once.

        Returns the final response; CallFailedError when there is none.
        """
        dialog = self._new_dialog(uri)
        response = await self._request_once(dialog, method, body, headers, edit, timeout)
        found = digest.challenge_of(response) if response.status in (401, 407) else None
        if found and self._credentials:
            challenge, header = found
            value = digest.authorization(challenge, self._credentials, method, uri)
            response = await self._request_once(dialog, method, body, [*headers, (header, value)], edit, timeout)
        return response

    def send_raw(self, data: bytes, uri: str) -> None:
        """Send bytes as they are to the host and port of ``uri``."""
        self.endpoint.send(data, self._next_hop(uri))

    async def _request_once(
        self,
        dialog: Dialog,
        method: str,
        body: bytes,
        headers: Sequence[tuple[str, str]],
        edit: Edit | None,
        timeout: float,
    ) -> Response:
        request = dialog.request(method, self.endpoint.new_via())
        for name, value in headers:
            request.add(name, value)
        request.body = body
        if edit:
            edit(request)
        result: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

        def on_response(response: Response) -> None:
            if response.status >= 200 and not result.done():
                result.set_result(response)

        def on_timeout() -> None:
            if not result.done():
                result.set_exception(CallFailedError(408, f"nothing to our {method}"))

        self.endpoint.request(request, dialog.next_hop, on_response, on_timeout)
        try:
            async with asyncio.timeout(timeout):
                return await result
        except TimeoutError:
            raise CallFailedError(408, f"nothing to our {method} within {timeout:g} s") from None

    def _next_hop(self, uri: str) -> Address:
        parsed = SipUri.parse(self._proxy or uri)
        return resolve(parsed.host, parsed.port or 5060)

    def _new_dialog(self, uri: str) -> Dialog:
        display = f'"{self._display_name}" ' if self._display_name else ""
        return Dialog(
            call_id=f"{new_token()}@{self._host}",
            local=f"{display}<{self.uri}>",
            local_tag=new_token(4),
            contact=f"<{self.uri}>",
            remote=f"<{uri}>",
            target=uri,
            next_hop=self._next_hop(uri),
        )

    def _call_ended(self, call: Call) -> None:
        self.calls.remove(call)
        self._past = [*self._past[-REMEMBERED_CALLS + 1 :], call]

    def _on_request(self, request: Request, transaction: ServerTransaction | None, source: Address) -> None:
        if request.method == "CANCEL" and transaction:
            self._on_cancel(request, transaction)
            return
        for call in [*self.calls, *self._past]:
            if call.dialog.belongs(request):
                call.receive(request, transaction)
                return
        if transaction is None:
            return
        response = self.on_request(request) if self.on_request else None
        if response is None and request.to.tag:
            response = request.response(481)
        if response is not None:
            transaction.respond(response)
        elif request.method == "INVITE":
            self._on_invite(request, transaction, source)
        elif request.method in ("OPTIONS", "MESSAGE", "NOTIFY"):
            response = request.response(200, to_tag=new_token(4))
            response.add("Allow", ALLOW)
            transaction.respond(response)
        else:
            response = request.response(405, to_tag=new_token(4))
            response.add("Allow", ALLOW)
            transaction.respond(response)

    def _on_invite(self, invite: Request, transaction: ServerTransaction, source: Address) -> None:
        dialog = Dialog(
            call_id=invite.call_id,
            local=invite.get("To").split(";tag=")[0],
            local_tag=new_token(4),
            contact=f"<{self.uri}>",
            remote=f"<{invite.from_.uri}>",
            target=invite.from_.uri,
            next_hop=source,
        )
        call = IncomingCall(
            self.endpoint,
            dialog,
            RtpSession(self._host, self._rtp, self._clock),
            self.media,
            self._clock,
            codecs=self._codecs,
            on_ended=self._call_ended,
            invite=invite,
            transaction=transaction,
        )
        self.calls.append(call)
        self._incoming.put_nowait(call)

    def _on_cancel(self, cancel: Request, transaction: ServerTransaction) -> None:
        invite = self.endpoint.invite_transaction(cancel)
        transaction.respond(cancel.response(200 if invite else 481, to_tag=new_token(4)))
        for call in list(self.calls):
            if invite and isinstance(call, IncomingCall) and call.requests[0] is invite.request:
                call.cancelled()

    def _media_failed(self, error: BaseException) -> None:
        # On the media thread.
        self.failure = error
        self._loop.call_soon_threadsafe(self._drop_calls)

    def _drop_calls(self) -> None:
        for call in list(self.calls):
            call.fail()
