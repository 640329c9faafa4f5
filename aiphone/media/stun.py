"""Our address and ports as others see them, from a STUN server (RFC 5389 section 10.2.2: binding requests).

Messages are those of ``aioice``; the requests go out of the very sockets whose mapping is asked for, before a call uses
them. A NAT that maps each destination differently (symmetric) makes the answer useless, and symmetric RTP (RFC 4961)
at the other side necessary, as without STUN.
"""

from __future__ import annotations

import logging
import os
import select
import socket
from collections.abc import Sequence

from aioice import stun

from aiphone.clock import Clock
from aiphone.errors import NetworkError

log = logging.getLogger(__name__)

PORT = 3478
_TRIES = (0.1, 0.2, 0.4)
"""Seconds to wait after each request."""
_REST = 60.0
"""Seconds without a request after a server that did not answer: calls are not to wait for it one by one."""
_LARGEST = 2048

Address = tuple[str, int]


class StunClient:
    """Asks one server. Any thread, one at a time."""

    def __init__(self, server: str, clock: Clock) -> None:
        """``server`` is ``host`` or ``host:port``. NetworkError when its name is not known."""
        host, _, port = server.partition(":")
        self.server = server
        self._clock = clock
        self._rest_until = clock.now()
        try:
            found = socket.getaddrinfo(host, int(port or PORT), socket.AF_INET, socket.SOCK_DGRAM)
        except (OSError, ValueError) as error:
            raise NetworkError(f"the STUN server {server!r} cannot be found ({error}); check --stun") from None
        self._address: Address = found[0][4][:2]  # type: ignore[assignment]

    def public_address(self) -> str:
        """This machine's address as the server sees it. NetworkError when it does not answer."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.setblocking(False)
            probe.bind(("", 0))
            (found,) = self._ask([probe])
        if found is None:
            raise NetworkError(f"the STUN server {self.server} does not answer; check --stun")
        return found[0]

    def public_ports(self, rtp_fd: int, rtcp_fd: int) -> tuple[int, int] | None:
        """Ports that others see for a pair of sockets; None when they are not known.

        Takes up to 0.7 s, and that once a minute at most.
        """
        if self._clock.now() < self._rest_until:
            return None
        with (
            socket.socket(fileno=os.dup(rtp_fd)) as rtp,
            socket.socket(fileno=os.dup(rtcp_fd)) as rtcp,
        ):
            if rtp.family != socket.AF_INET or rtp.getsockname()[0].startswith("127."):
                return None
            found = self._ask([rtp, rtcp])
        if found[0] is None or found[1] is None:
            self._rest_until = self._clock.now() + _REST
            log.warning("the STUN server %s does not answer; calls are told our own RTP ports meanwhile", self.server)
            return None
        return found[0][1], found[1][1]

    def _ask(self, sockets: Sequence[socket.socket]) -> list[Address | None]:
        requests = [stun.Message(stun.Method.BINDING, stun.Class.REQUEST) for _ in sockets]
        found: list[Address | None] = [None] * len(sockets)
        for wait in _TRIES:
            for one, request, known in zip(sockets, requests, found, strict=True):
                if known is None:
                    try:
                        one.sendto(bytes(request), self._address)
                    except OSError as error:
                        log.info("no way to the STUN server %s: %s", self.server, error)
                        return found
            end = self._clock.now() + wait
            while None in found and (left := end - self._clock.now()) > 0:
                missing = [one for one, known in zip(sockets, found, strict=True) if known is None]
                for one in select.select(missing, [], [], left)[0]:
                    number = sockets.index(one)
                    found[number] = self._read(one, requests[number].transaction_id)
            if None not in found:
                break
        return found

    def _read(self, one: socket.socket, transaction: bytes) -> Address | None:
        try:
            data, source = one.recvfrom(_LARGEST)
            if source[:2] != self._address:
                return None
            answer = stun.parse_message(data)
        except (OSError, ValueError):
            return None
        if answer.transaction_id != transaction or answer.message_class is not stun.Class.RESPONSE:
            return None
        mapped = answer.attributes.get("XOR-MAPPED-ADDRESS") or answer.attributes.get("MAPPED-ADDRESS")
        return (str(mapped[0]), int(mapped[1])) if mapped else None
