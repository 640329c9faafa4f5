"""SIP transactions (RFC 3261 section 17, with the Accepted state of RFC 6026).

Theory of operation: a transaction does no I/O. It is given a way to send bytes and a way to be called later, and it
reports to its user by callbacks. A client transaction repeats a request until it is answered; a server transaction
repeats an answer until it is acknowledged, or whenever the request comes again. Over a reliable transport nothing is
repeated, and the waiting states are left at once.

In one thing the layers of the RFC are drawn differently: the server transaction itself repeats a 2xx to INVITE until
its user calls ``acknowledged``, which the RFC leaves to the dialog. The messages on the wire are the same.

All of it belongs to the event loop's thread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from aiphone.caller.messages import Request, Response


@dataclass(frozen=True, slots=True)
class Timers:
    """Base values in seconds (RFC 3261, table 4). Tests shrink them; a real peer keeps them."""

    t1: float = 0.5
    t2: float = 4.0
    t4: float = 5.0

    @property
    def give_up(self) -> float:
        """64 * T1: timers B, F, H, J and L."""
        return 64 * self.t1


class Handle(Protocol):
    """A callback that is due and can be taken back."""

    def cancel(self) -> None:
        """Take it back."""


class Later(Protocol):
    """``loop.call_later``, or a test's own time."""

    def __call__(self, delay: float, callback: Callable[[], None], /) -> Handle: ...


class State(Enum):
    """States of both kinds of transaction."""

    CALLING = "calling"
    """A request is being sent; for other methods than INVITE the RFC says Trying."""
    PROCEEDING = "proceeding"
    ACCEPTED = "accepted"
    COMPLETED = "completed"
    CONFIRMED = "confirmed"
    TERMINATED = "terminated"


class _Transaction:
    """Timers that are gone when the transaction is."""

    def __init__(self, later: Later, timers: Timers, on_terminated: Callable[[], None]) -> None:
        self.state = State.CALLING
        self._later = later
        self._timers = timers
        self._on_terminated = on_terminated
        self._repeat: Handle | None = None
        self._end: Handle | None = None

    def terminate(self) -> None:
        """Forget it, whatever its state."""
        if self.state is State.TERMINATED:
            return
        self.state = State.TERMINATED
        self._stop_repeating()
        self._ends_in(None)
        self._on_terminated()

    def _ends_in(self, delay: float | None, callback: Callable[[], None] | None = None) -> None:
        if self._end:
            self._end.cancel()
        self._end = None if delay is None else self._later(delay, callback or self.terminate)

    def _repeats_in(self, delay: float, callback: Callable[[], None]) -> None:
        self._stop_repeating()
        self._repeat = self._later(delay, callback)

    def _stop_repeating(self) -> None:
        if self._repeat:
            self._repeat.cancel()
            self._repeat = None


class ClientTransaction(_Transaction):
    """A request on its way, and the responses to it.

    ``on_response`` gets each provisional response, the first final one, and every copy of a 2xx to INVITE;
    ``on_timeout`` is called when no final response (for INVITE: none at all) came within 64 * T1.
    """

    def __init__(
        self,
        request: Request,
        send: Callable[[bytes], None],
        later: Later,
        timers: Timers,
        *,
        reliable: bool,
        on_response: Callable[[Response], None],
        on_timeout: Callable[[], None],
        on_terminated: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(later, timers, on_terminated)
        self.request = request
        self.sent = 0
        """Times the request has been sent."""
        self._invite = request.method == "INVITE"
        self._data = request.serialise()
        self._send = send
        self._reliable = reliable
        self._on_response = on_response
        self._on_timeout = on_timeout
        self._interval = timers.t1
        self._ack = b""

    def start(self) -> None:
        """Send the request for the first time."""
        self._ends_in(self._timers.give_up, self._give_up)
        self._send_request()

    def receive(self, response: Response) -> None:
        """A response whose branch and method match."""
        if self.state in (State.CALLING, State.PROCEEDING):
            if response.status < 200:
                self._proceed()
            else:
                self._complete(response)
            self._on_response(response)
        elif self.state is State.ACCEPTED and 200 <= response.status < 300:
            self._on_response(response)
        elif self.state is State.COMPLETED and self._ack and response.status >= 300:
            self._send(self._ack)

    def _proceed(self) -> None:
        if self.state is State.CALLING:
            self.state = State.PROCEEDING
            if self._invite:
                # An INVITE that rings may ring as long as it likes; ending it is the user's business.
                self._stop_repeating()
                self._ends_in(None)

    def _complete(self, response: Response) -> None:
        self._stop_repeating()
        if self._invite and response.status < 300:
            self.state = State.ACCEPTED
            self._ends_in(self._timers.give_up)
            return
        self.state = State.COMPLETED
        if self._invite:
            self._ack = acknowledge_failure(self.request, response).serialise()
            self._send(self._ack)
        # Timer D (at least 32 s over UDP) and K: copies of the response are expected for so long.
        wait = self._timers.give_up if self._invite else self._timers.t4
        self._ends_in(0.0 if self._reliable else wait)

    def _send_request(self) -> None:
        self.sent += 1
        self._send(self._data)
        if not self._reliable:
            interval = self._timers.t2 if self.state is State.PROCEEDING else self._interval
            self._repeats_in(interval, self._send_request)
            self._interval = self._interval * 2 if self._invite else min(self._interval * 2, self._timers.t2)

    def _give_up(self) -> None:
        self.terminate()
        self._on_timeout()


class ServerTransaction(_Transaction):
    """A request that came in, and our answer to it.

    ``on_abandoned`` is called when a final answer to INVITE was never acknowledged.
    """

    def __init__(
        self,
        request: Request,
        send: Callable[[bytes], None],
        later: Later,
        timers: Timers,
        *,
        reliable: bool,
        on_abandoned: Callable[[], None] = lambda: None,
        on_terminated: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(later, timers, on_terminated)
        self.state = State.PROCEEDING
        self.request = request
        self.on_abandoned = on_abandoned
        self.sent = 0
        """Times the last answer has been sent."""
        self._invite = request.method == "INVITE"
        self._send = send
        self._reliable = reliable
        self._answer = b""
        self._interval = timers.t1

    def respond(self, response: Response) -> None:
        """Send an answer. After a final one, others are ignored."""
        if self.state is not State.PROCEEDING:
            return
        self._answer = response.serialise()
        self.sent = 0
        if response.status < 200:
            self._send_answer()
        elif not self._invite:
            self.state = State.COMPLETED
            self._send_answer()
            self._ends_in(0.0 if self._reliable else self._timers.give_up)
        else:
            success = response.status < 300
            self.state = State.ACCEPTED if success else State.COMPLETED
            self._ends_in(self._timers.give_up, self._abandon)
            # A 2xx is repeated over any transport: a proxy on the way may have lost it (section 13.3.1.4).
            if success or not self._reliable:
                self._repeat_answer()
            else:
                self._send_answer()

    def receive_again(self) -> None:
        """The same request arrived once more."""
        if self._answer and self.state in (State.PROCEEDING, State.COMPLETED, State.ACCEPTED):
            self._send_answer()

    def acknowledged(self) -> None:
        """The ACK for our final answer to INVITE arrived."""
        self._stop_repeating()
        if self.state is State.ACCEPTED:
            # Copies of the INVITE may still come; they are absorbed until then.
            self.state = State.CONFIRMED
            self._ends_in(self._timers.give_up)
        elif self.state is State.COMPLETED:
            self.state = State.CONFIRMED
            self._ends_in(0.0 if self._reliable else self._timers.t4)

    def _send_answer(self) -> None:
        self.sent += 1
        self._send(self._answer)

    def _repeat_answer(self) -> None:
        self._send_answer()
        self._repeats_in(self._interval, self._repeat_answer)
        self._interval = min(self._interval * 2, self._timers.t2)

    def _abandon(self) -> None:
        self.terminate()
        self.on_abandoned()


def acknowledge_failure(invite: Request, response: Response) -> Request:
    """The ACK that ends an INVITE transaction with a final answer other than 2xx (section 17.1.1.3)."""
    ack = Request(method="ACK", uri=invite.uri)
    ack.add("Via", invite.get_all("Via")[0])
    ack.add("Max-Forwards", "70")
    for value in invite.get_all("Route"):
        ack.add("Route", value)
    ack.add("From", invite.get("From"))
    ack.add("To", response.get("To"))
    ack.add("Call-ID", invite.call_id)
    ack.add("CSeq", f"{invite.cseq[0]} ACK")
    return ack
