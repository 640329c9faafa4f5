"""The transaction layer over one transport: finds for each message the transaction it belongs to."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from aiphone.caller.messages import MalformedMessageError, Request, Response, join_host_port, parse
from aiphone.caller.scenario import Scenario
from aiphone.caller.transactions import ClientTransaction, ServerTransaction, State, Timers
from aiphone.caller.transport import Address, Transport, UdpTransport
from aiphone.clock import Clock

logger = logging.getLogger(__name__)

MAGIC_COOKIE = "z9hG4bK"
TRACE_LENGTH = 1000


Key = TypeVar("Key")
Kept = TypeVar("Kept")


class Way(Enum):
    """Which way a message went."""

    SENT = "sent"
    RECEIVED = "received"


@dataclass(frozen=True, slots=True)
class Traced:
    """A message as it was on the wire."""

    at: float
    way: Way
    peer: Address
    data: bytes


def new_token(length: int = 8) -> str:
    """A random tag, branch or Call-ID part."""
    return secrets.token_hex(length)


class Endpoint:
    """Sends and receives SIP. Event loop's thread only.

    ``on_request`` gets each new request with its server transaction, and the ACK for a 2xx with None: that ACK is a
    transaction of its own, to which there is no answer.
    """

    def __init__(
        self,
        timers: Timers,
        clock: Clock,
        on_request: Callable[[Request, ServerTransaction | None, Address], None],
    ) -> None:
        self.trace: deque[Traced] = deque(maxlen=TRACE_LENGTH)
        self._timers = timers
        self._clock = clock
        self._on_request = on_request
        self._clients: dict[tuple[str, str], ClientTransaction] = {}
        self._servers: dict[tuple[str, str, str], ServerTransaction] = {}
        self._transport: Transport | None = None
        self._loop = asyncio.get_running_loop()

    async def open(self, host: str, port: int, scenario: Scenario | None = None) -> None:
        """Bind to an address over UDP; port 0 lets the system choose."""
        self._transport = await UdpTransport.open(host, port, self._receive, scenario)

    def close(self) -> None:
        """Forget all transactions and give the port back."""
        for transaction in [*self._clients.values(), *self._servers.values()]:
            transaction.terminate()
        if self._transport:
            self._transport.close()

    @property
    def transport(self) -> Transport:
        """The open transport."""
        if self._transport is None:
            raise RuntimeError("the SIP endpoint is not open")
        return self._transport

    @property
    def local(self) -> Address:
        """Our own address."""
        return self.transport.local

    @property
    def live_transactions(self) -> int:
        """How many transactions are not terminated."""
        return len(self._clients) + len(self._servers)

    def new_via(self) -> str:
        """A Via value with a branch of its own."""
        host = join_host_port(*self.local)
        return f"SIP/2.0/{self.transport.name} {host};branch={MAGIC_COOKIE}{new_token()};rport"

    def send(self, data: bytes, to: Address) -> None:
        """Send bytes as they are, outside any transaction: the ACK of a 2xx, or a test's own message."""
        self.trace.append(Traced(self._clock.now(), Way.SENT, to, data))
        self.transport.send(data, to)

    def request(
        self,
        request: Request,
        to: Address,
        on_response: Callable[[Response], None],
        on_timeout: Callable[[], None],
    ) -> ClientTransaction:
        """Start a client transaction; the request must have its Via."""
        key = (request.via.branch, request.method)
        transaction = ClientTransaction(
            request,
            lambda data: self.send(data, to),
            self._loop.call_later,
            self._timers,
            reliable=self.transport.reliable,
            on_response=on_response,
            on_timeout=on_timeout,
            on_terminated=lambda: _forget(self._clients, key),
        )
        self._clients[key] = transaction
        transaction.start()
        return transaction

    def invite_transaction(self, cancel: Request) -> ServerTransaction | None:
        """The INVITE that a CANCEL is for (section 9.2)."""
        via = cancel.via
        return self._servers.get((via.branch, _sent_by(via.host, via.port), "INVITE"))

    def _receive(self, data: bytes, source: Address) -> None:
        self.trace.append(Traced(self._clock.now(), Way.RECEIVED, source, data))
        if not data.strip(b"\r\n\0 "):
            return  # a keep-alive
        try:
            message = parse(data)
            if isinstance(message, Response):
                self._receive_response(message)
            else:
                self._receive_request(message, source)
        except MalformedMessageError as error:
            logger.warning("a message from %s:%s was dropped: %s", *source, error)

    def _receive_response(self, response: Response) -> None:
        transaction = self._clients.get((response.via.branch, response.cseq[1]))
        if transaction:
            transaction.receive(response)

    def _receive_request(self, request: Request, source: Address) -> None:
        via = request.via
        sent_by = _sent_by(via.host, via.port)
        if request.method == "ACK":
            invite = self._servers.get((via.branch, sent_by, "INVITE"))
            if invite and invite.state in (State.COMPLETED, State.CONFIRMED):
                invite.acknowledged()
            else:
                self._on_request(request, None, source)
            return
        key = (via.branch, sent_by, request.method)
        known = self._servers.get(key)
        if known:
            known.receive_again()
            return
        _note_source(request, source)
        # RFC 3581: with rport the answer goes back to where the request came from, else to the port of the Via.
        to = source if "rport" in via.parameters else (source[0], via.port or 5060)
        transaction = ServerTransaction(
            request,
            lambda data: self.send(data, to),
            self._loop.call_later,
            self._timers,
            reliable=self.transport.reliable,
            on_terminated=lambda: _forget(self._servers, key),
        )
        self._servers[key] = transaction
        self._on_request(request, transaction, source)


def _forget(table: dict[Key, Kept], key: Key) -> None:
    table.pop(key, None)


def _sent_by(host: str, port: int | None) -> str:
    return f"{host.lower()}:{port or 5060}"


def _note_source(request: Request, source: Address) -> None:
    """Put received and rport into the topmost Via, as the answer must have them."""
    vias = request.get_all("Via")
    parts = [part for part in vias[0].split(";") if part.strip().lower() != "rport"]
    if len(parts) < len(vias[0].split(";")):
        parts.append(f"rport={source[1]}")
    parts.append(f"received={source[0]}")
    request.set("Via", ", ".join([";".join(parts), *vias[1:]]))
