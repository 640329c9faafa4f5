"""The timers of RFC 3261 section 17, in time that the test moves."""

import heapq
from collections.abc import Callable

import pytest

from aiphone.caller.messages import Request, Response, parse
from aiphone.caller.transactions import ClientTransaction, ServerTransaction, State, Timers


class Handle:
    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Time:
    """``call_later`` of an event loop that runs when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Handle, Callable[[], None]]] = []

    def later(self, delay: float, callback: Callable[[], None]) -> Handle:
        handle = Handle()
        heapq.heappush(self._due, (self.now + delay, len(self._due) + id(handle), handle, callback))
        return handle

    def run_until(self, end: float) -> None:
        while self._due and self._due[0][0] <= end:
            self.now, _, handle, callback = heapq.heappop(self._due)
            if not handle.cancelled:
                callback()
        self.now = end

    @property
    def pending(self) -> int:
        return sum(not handle.cancelled for _, _, handle, _ in self._due)


class Client:
    def __init__(self, method: str, *, reliable: bool = False) -> None:
        self.time = Time()
        self.sent: list[tuple[float, bytes]] = []
        self.responses: list[int] = []
        self.timed_out_at: float | None = None
        request = make_request(method)
        self.transaction = ClientTransaction(
            request,
            lambda data: self.sent.append((self.time.now, data)),
            self.time.later,
            Timers(),
            reliable=reliable,
            on_response=lambda r: self.responses.append(r.status),
            on_timeout=self._timeout,
        )
        self.request = request
        self.transaction.start()

    def _timeout(self) -> None:
        self.timed_out_at = self.time.now

    def answer(self, status: int) -> None:
        self.transaction.receive(self.request.response(status, to_tag="t"))

    @property
    def times(self) -> list[float]:
        return [at for at, data in self.sent if not data.startswith(b"ACK")]


class Server:
    def __init__(self, method: str, *, reliable: bool = False) -> None:
        self.time = Time()
        self.sent: list[tuple[float, int]] = []
        self.abandoned_at: float | None = None
        self.request = make_request(method)
        self.transaction = ServerTransaction(
            self.request,
            self._send,
            self.time.later,
            Timers(),
            reliable=reliable,
            on_abandoned=self._abandon,
        )

    def _send(self, data: bytes) -> None:
        message = parse(data)
        assert isinstance(message, Response)
        self.sent.append((self.time.now, message.status))

    def _abandon(self) -> None:
        self.abandoned_at = self.time.now

    def respond(self, status: int) -> None:
        self.transaction.respond(self.request.response(status, to_tag="t"))


def make_request(method: str) -> Request:
    request = Request(method=method, uri="sip:b@host")
    for name, value in (
        ("Via", "SIP/2.0/UDP a;branch=z9hG4bK1"),
        ("From", "<sip:a@a>;tag=1"),
        ("To", "<sip:b@host>"),
        ("Call-ID", "c"),
        ("CSeq", f"3 {method}"),
        ("Route", "<sip:p;lr>"),
    ):
        request.add(name, value)
    return request


def test_invite_is_repeated_with_doubling_pauses_and_given_up_after_32_s() -> None:
    client = Client("INVITE")
    client.time.run_until(100)
    assert client.times == [0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5]
    assert client.timed_out_at == 32
    assert client.transaction.state is State.TERMINATED
    assert client.time.pending == 0


def test_other_requests_are_repeated_at_most_4_s_apart() -> None:
    client = Client("OPTIONS")
    client.time.run_until(100)
    assert client.times == [0, 0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]
    assert client.timed_out_at == 32


def test_a_provisional_answer_stops_the_repetition_of_invite_for_good() -> None:
    client = Client("INVITE")
    client.time.run_until(0.6)
    client.answer(180)
    client.time.run_until(1000)
    assert client.times == [0, 0.5]
    assert client.timed_out_at is None
    assert client.responses == [180]


def test_a_provisional_answer_slows_down_other_requests() -> None:
    client = Client("BYE")
    client.answer(100)
    client.time.run_until(9)
    assert client.times == [0, 0.5, 4.5, 8.5]
    client.time.run_until(40)
    assert client.timed_out_at == 32


def test_a_refusal_is_acknowledged_once_for_each_copy_and_told_once() -> None:
    client = Client("INVITE")
    client.answer(486)
    client.answer(486)
    acks = [parse(data) for _, data in client.sent if data.startswith(b"ACK")]
    assert len(acks) == 2
    assert client.responses == [486]
    ack = acks[0]
    assert isinstance(ack, Request)
    assert (ack.uri, ack.cseq, ack.to.tag) == ("sip:b@host", (3, "ACK"), "t")
    assert ack.via.branch == "z9hG4bK1"
    assert ack.get("Route") == "<sip:p;lr>"
    client.time.run_until(31.9)
    assert client.transaction.state is State.COMPLETED
    client.time.run_until(32)
    assert client.transaction.state is State.TERMINATED


def test_every_copy_of_a_200_to_invite_is_told_for_32_s() -> None:
    client = Client("INVITE")
    client.answer(200)
    client.answer(200)
    client.answer(486)
    assert client.responses == [200, 200]
    assert client.transaction.state is State.ACCEPTED
    client.time.run_until(32)
    assert client.transaction.state is State.TERMINATED


def test_a_final_answer_to_another_request_is_told_once() -> None:
    client = Client("BYE")
    client.answer(200)
    client.answer(200)
    assert client.responses == [200]
    client.time.run_until(5)
    assert client.transaction.state is State.TERMINATED
    assert client.times == [0]


@pytest.mark.parametrize("method", ["INVITE", "OPTIONS"])
def test_nothing_is_repeated_over_a_reliable_transport(method: str) -> None:
    client = Client(method, reliable=True)
    client.time.run_until(31)
    assert client.times == [0]
    client.answer(404)
    client.time.run_until(31)
    assert client.transaction.state is State.TERMINATED


def test_a_refusal_of_invite_is_repeated_until_acknowledged() -> None:
    server = Server("INVITE")
    server.respond(486)
    server.time.run_until(8)
    assert server.sent == [(0, 486), (0.5, 486), (1.5, 486), (3.5, 486), (7.5, 486)]
    server.transaction.acknowledged()
    server.transaction.receive_again()
    server.time.run_until(13)
    assert len(server.sent) == 5
    assert server.transaction.state is State.TERMINATED
    assert server.abandoned_at is None


def test_a_200_is_repeated_over_any_transport_and_abandoned_after_32_s() -> None:
    server = Server("INVITE", reliable=True)
    server.respond(200)
    server.time.run_until(40)
    assert [at for at, _ in server.sent] == [0, 0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]
    assert server.abandoned_at == 32


def test_after_the_ack_copies_of_the_invite_are_absorbed() -> None:
    server = Server("INVITE")
    server.respond(200)
    server.transaction.acknowledged()
    server.transaction.receive_again()
    server.time.run_until(31)
    assert server.sent == [(0, 200)]
    assert server.transaction.state is State.CONFIRMED
    server.time.run_until(32)
    assert server.abandoned_at is None
    assert server.transaction.state is State.TERMINATED


def test_a_request_that_comes_again_gets_the_last_answer_again() -> None:
    server = Server("INVITE")
    server.transaction.receive_again()
    server.respond(100)
    server.respond(180)
    server.transaction.receive_again()
    assert [status for _, status in server.sent] == [100, 180, 180]
    other = Server("OPTIONS")
    other.respond(200)
    other.transaction.receive_again()
    other.respond(500)
    assert [status for _, status in other.sent] == [200, 200]
    other.time.run_until(32)
    assert other.transaction.state is State.TERMINATED
