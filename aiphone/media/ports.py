"""RTP port pairs (RFC 3550 section 11: RTP on an even port, RTCP on the next)."""

from __future__ import annotations

import errno
import os
import random
import socket
import threading

from aiphone.errors import NetworkError
from aiphone.events import RtpSockets
from aiphone.media.stun import StunClient

_RECEIVE_BUFFER = 262_144
"""Bytes: several seconds of packets, for a media thread that the machine keeps waiting."""


class RtpPortPool:
    """Opens pairs of UDP sockets out of a range of ports. Any thread.

    The pool keeps no list of what is in use: the system knows, and whoever holds ``RtpSockets`` closes them. The
    search starts at a random pair and goes round, so that a port is not used again right after a call, when
    packets of that call may still be on their way.
    """

    def __init__(self, host: str, first: int, last: int, stun: StunClient | None = None) -> None:
        """``host`` is a numeric address of this machine; the range includes both ends. NetworkError.

        ``stun`` knows which ports others see.
        """
        self._stun = stun
        self._host, self._first, self._last = host, first, last
        start = first + first % 2
        self._pairs = (last + 1 - start) // 2
        if not 0 < first <= last < 65536 or self._pairs < 1:
            raise NetworkError(f"The RTP port range {first}-{last} holds no even/odd pair; give a wider one.")
        self._start = start
        try:
            socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)
        except socket.gaierror:
            raise NetworkError(f"{host!r} is not a numeric IP address; give one of this machine's.") from None
        self._lock = threading.Lock()
        self._next = random.randrange(self._pairs)

    def open(self, host: str = "") -> RtpSockets:
        """A pair bound to ``host``, a numeric address (empty: the pool's own). Any thread.

        NetworkError when every pair is in use, or the address is not ours.
        """
        host = host or self._host
        for _ in range(self._pairs):
            with self._lock:
                port = self._start + 2 * self._next
                self._next = (self._next + 1) % self._pairs
            try:
                return self._bind(host, port)
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL:
                    raise NetworkError(
                        f"{host} is not an address of this machine; choose another one for RTP."
                    ) from error
                if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                    raise NetworkError(f"No RTP socket could be opened on {host}:{port}: {error.strerror}.") from error
        raise NetworkError(f"All RTP ports of {host}:{self._first}-{self._last} are in use; give a wider range.")

    def _bind(self, host: str, port: int) -> RtpSockets:
        with self._socket(host, port) as rtp, self._socket(host, port + 1) as rtcp:
            return RtpSockets(rtp.detach(), rtcp.detach(), port)

    def _socket(self, host: str, port: int) -> socket.socket:
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
            sock.bind((host, port))
        except OSError:
            sock.close()
            raise
        return sock

    def public_ports(self, sockets: RtpSockets) -> tuple[int, int]:
        """Ports for RTP and RTCP that those out there see. Any thread; with STUN it may wait for the server."""
        found = self._stun.public_ports(sockets.rtp_fd, sockets.rtcp_fd) if self._stun is not None else None
        return found or (sockets.port, sockets.port + 1)

    def close(self, sockets: RtpSockets) -> None:
        """Close a pair that no call wants (a call that the engine has taken closes its own). Any thread."""
        os.close(sockets.rtp_fd)
        os.close(sockets.rtcp_fd)
