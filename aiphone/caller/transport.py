"""How SIP messages travel. UDP so far; a connection-oriented transport has the same face and ``reliable`` set."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Protocol, cast

from aiphone.caller.scenario import Scenario
from aiphone.errors import NetworkError

logger = logging.getLogger(__name__)

Address = tuple[str, int]
Receive = Callable[[bytes, Address], None]


class Transport(Protocol):
    """Event loop's thread only."""

    name: str
    """As in Via: UDP, TCP, TLS."""
    reliable: bool
    local: Address

    def send(self, data: bytes, to: Address) -> None:
        """Send one message."""

    def close(self) -> None:
        """Send and receive no more."""


class UdpTransport(asyncio.DatagramProtocol):
    """SIP over UDP. A scenario, if given, decides about each outgoing datagram."""

    name = "UDP"
    reliable = False

    def __init__(self, receive: Receive, scenario: Scenario | None = None) -> None:
        self.local: Address = ("", 0)
        self._receive = receive
        self._path = scenario.start() if scenario else None
        self._loop = asyncio.get_running_loop()
        self._socket: asyncio.DatagramTransport | None = None

    @classmethod
    async def open(cls, host: str, port: int, receive: Receive, scenario: Scenario | None = None) -> UdpTransport:
        """Bind; port 0 lets the system choose. NetworkError when the address cannot be had."""
        try:
            _, protocol = await asyncio.get_running_loop().create_datagram_endpoint(
                lambda: cls(receive, scenario), local_addr=(host, port)
            )
        except OSError as error:
            raise NetworkError(
                f"cannot use UDP address {host}:{port} for SIP ({error.strerror or error}): choose another port or host"
            ) from error
        return protocol

    def send(self, data: bytes, to: Address) -> None:
        """Send one datagram, or what the scenario makes of it."""
        for delay in self._path.next_packet() if self._path else (0.0,):
            if delay:
                self._loop.call_later(delay, self._send_now, data, to)
            else:
                self._send_now(data, to)

    def close(self) -> None:
        """Send and receive no more."""
        if self._socket:
            self._socket.close()
            self._socket = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        # Not isinstance: asyncio's own datagram transport does not derive from the class in 3.11.
        self._socket = cast(asyncio.DatagramTransport, transport)
        self.local = transport.get_extra_info("sockname")[:2]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Called by asyncio."""
        self._receive(data, addr[:2])

    def error_received(self, exc: Exception) -> None:
        """Called by asyncio, for an ICMP answer: the transaction's own timers will tell."""
        logger.debug("SIP over UDP: %s", exc)

    def _send_now(self, data: bytes, to: Address) -> None:
        if self._socket and not self._socket.is_closing():
            self._socket.sendto(data, to)


def resolve(host: str, port: int) -> Address:
    """A numeric address for a host name. NetworkError when there is none."""
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0][4][:2]  # type: ignore[return-value]
    except OSError as error:
        raise NetworkError(f"the host {host!r} cannot be found ({error.strerror or error}): check its name") from error
