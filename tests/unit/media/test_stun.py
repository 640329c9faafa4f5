"""The STUN client against a server that says what the test wants."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from aioice import stun

from aiphone.clock import SystemClock
from aiphone.errors import NetworkError
from aiphone.media.ports import RtpPortPool
from aiphone.media.stun import StunClient

Answer = Callable[[stun.Message, tuple[str, int]], list[bytes]]


def success(request: stun.Message, mapped: tuple[str, int]) -> bytes:
    answer = stun.Message(stun.Method.BINDING, stun.Class.RESPONSE, request.transaction_id)
    answer.attributes["XOR-MAPPED-ADDRESS"] = mapped
    return bytes(answer)


@contextmanager
def server(answer: Answer) -> Iterator[str]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))

        def run() -> None:
            while (received := sock.recvfrom(2048))[0] != b"stop":
                for reply in answer(stun.parse_message(received[0]), received[1]):
                    sock.sendto(reply, received[1])

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield f"127.0.0.1:{sock.getsockname()[1]}"
        finally:
            sock.sendto(b"stop", sock.getsockname())
            thread.join()


def test_our_address_as_the_server_sees_it() -> None:
    with server(lambda request, source: [success(request, ("198.51.100.7", 40_000))]) as where:
        assert StunClient(where, SystemClock()).public_address() == "198.51.100.7"


def test_answers_to_other_requests_and_rubbish_are_passed_over() -> None:
    other = stun.Message(stun.Method.BINDING, stun.Class.REQUEST)

    def answer(request: stun.Message, source: tuple[str, int]) -> list[bytes]:
        return [b"\0" * 30, b"", success(other, ("192.0.2.1", 1)), success(request, ("198.51.100.7", 2))]

    with server(answer) as where:
        assert StunClient(where, SystemClock()).public_address() == "198.51.100.7"


def test_a_lost_request_is_sent_again() -> None:
    seen: list[bytes] = []

    def answer(request: stun.Message, source: tuple[str, int]) -> list[bytes]:
        seen.append(request.transaction_id)
        return [success(request, source)] if len(seen) == 2 else []

    with server(answer) as where:
        StunClient(where, SystemClock()).public_address()
    assert len(set(seen)) == 1


def test_a_server_that_is_silent_or_unknown_is_an_error_with_the_cure() -> None:
    with server(lambda request, source: []) as where, pytest.raises(NetworkError, match=r"does not answer.*--stun"):
        StunClient(where, SystemClock()).public_address()
    with pytest.raises(NetworkError, match=r"cannot be found.*--stun"):
        StunClient("stun.invalid:x", SystemClock())


def test_ports_of_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """On loopback there is no NAT, and nobody is asked."""
    with server(lambda request, source: []) as where:
        pool = RtpPortPool("127.0.0.1", 20_000, 29_999, StunClient(where, SystemClock()))
        sockets = pool.open()
        assert pool.public_ports(sockets) == (sockets.port, sockets.port + 1)
        pool.close(sockets)
        pool = RtpPortPool("0.0.0.0", 20_000, 29_999, StunClient(where, SystemClock()))
        sockets = pool.open()
        assert pool.public_ports(sockets) == (sockets.port, sockets.port + 1)
        pool.close(sockets)
    with server(lambda request, source: [success(request, ("198.51.100.7", source[1] + 1000))]) as where:
        pool = RtpPortPool("0.0.0.0", 20_000, 29_999, StunClient(where, SystemClock()))
        sockets = pool.open()
        assert pool.public_ports(sockets) == (sockets.port + 1000, sockets.port + 1001)
        pool.close(sockets)
