"""The sockets that SIP goes over: those of the start, and more of them when a line's server is on another machine.

With ``SipSettings.reach_out`` nothing but ``host``, this machine's loopback, is listened on at first. What reaches a
server elsewhere cannot be sent from there, so the first line that needs one opens UDP and TCP on our address
towards it, at the same port. They stay open until the end: other lines and calls may use them.

SIP thread only.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import ssl
from pathlib import Path
from typing import Any

import pjsua2 as pj

from aiphone.errors import NetworkError, SipError
from aiphone.sip.addresses import EVERYWHERE, address_of_ours, host_port, is_loopback, parse_address
from aiphone.sip.settings import SipSettings

log = logging.getLogger(__name__)

ANY = -1
"""``PJSUA_INVALID_ID``: pjsip chooses the transport."""

_NAMES = {pj.PJSIP_TRANSPORT_UDP: "UDP", pj.PJSIP_TRANSPORT_TCP: "TCP", pj.PJSIP_TRANSPORT_TLS: "TLS"}
_KINDS = {"udp": pj.PJSIP_TRANSPORT_UDP, "tcp": pj.PJSIP_TRANSPORT_TCP, "tls": pj.PJSIP_TRANSPORT_TLS}

_TLS_TIMEOUT_MS = 10_000
"""For a handshake: who opens a connection and says nothing does not keep it."""
_NO_TLS_TRANSPORT = 171060
"""``PJSIP_EUNSUPTRANSPORT``."""
_NO_TLS = 70012
"""``PJ_ENOTSUP``."""
_TOO_MANY = 70010
"""``PJ_ETOOMANY``: pjsua has places for eight transports."""
_WAITING = 1024
"""Connections that may wait to be accepted; the system has a limit of its own."""
_ERRNO_START = 120_000
"""``PJ_ERRNO_START_SYS``: pjlib's codes for the operating system's."""


class Transports:
    """Opens them and knows them. SIP thread only."""

    def __init__(self, endpoint: Any, settings: SipSettings) -> None:
        self._endpoint = endpoint
        self._settings = settings
        self._open: dict[tuple[str, int], int] = {}
        self.port = 0
        """For UDP and TCP, at every address."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where we listen, in the order of opening."""
        return tuple(dict.fromkeys(host for host, _ in self._open))

    def open(self) -> None:
        """Listen for UDP and TCP, and for TLS if that is asked for. Raises ``NetworkError`` or ``SipError``."""
        host = self._settings.host
        attempts = 5 if self._settings.port == 0 else 1
        for attempt in range(attempts):
            udp = self._create(host, pj.PJSIP_TRANSPORT_UDP, self._settings.port)
            self.port = self._bound(udp)[1]
            try:
                self._create(host, pj.PJSIP_TRANSPORT_TCP, self.port)
            except NetworkError:
                if attempt + 1 == attempts:
                    raise
                self._endpoint.transportClose(self._open.pop((host, pj.PJSIP_TRANSPORT_UDP)))
                continue
            break
        if self._settings.tls.port:
            self._create(host, pj.PJSIP_TRANSPORT_TLS, self._settings.tls.port)
        if self._settings.both_families:
            self._open_other_family()

    def _open_other_family(self) -> None:
        ports = {pj.PJSIP_TRANSPORT_UDP: self.port, pj.PJSIP_TRANSPORT_TCP: self.port}
        if self._settings.tls.port:
            ports[pj.PJSIP_TRANSPORT_TLS] = self._settings.tls.port
        try:
            for kind, port in ports.items():
                self._create("::", kind, port)
        except NetworkError as error:
            log.warning("no calls over IPv6: %s", error)

    def towards(self, remote: str, transport: str) -> int:
        """pjsua's number of the transport (``udp``, ``tcp``, ``tls``) to ``remote``, opened if need be.

        ``ANY`` where pjsip may choose among those of the start.

        Raises ``NetworkError`` (no way there, port in use at that address) or ``SipError`` (no TLS in this build).
        """
        kind = _KINDS[transport]
        host = self.host_towards(remote) if self._settings.reach_out else ""
        if not host:
            if kind == pj.PJSIP_TRANSPORT_TLS:
                self._listen(self._settings.host, kind)
            return ANY
        return self._listen(host, kind)

    def host_towards(self, remote: str) -> str:
        """Our address for a peer that ``host`` does not reach; empty for one that it does."""
        if self._settings.both_families:
            address = parse_address(remote)
            return address_of_ours(remote) if address is not None and address.version == 6 else ""
        if not self._settings.reach_out or is_loopback(remote):
            return ""
        host = address_of_ours(remote)
        return "" if is_loopback(host) else host

    def _listen(self, host: str, kind: int) -> int:
        if kind == pj.PJSIP_TRANSPORT_TLS:
            if (host, kind) not in self._open:
                self._create(host, kind, self._settings.tls.port)
            return self._open[host, kind]
        if (host, kind) not in self._open:
            log.info("listening on %s as well, for lines whose server is elsewhere", host_port(host, self.port))
        for one in (pj.PJSIP_TRANSPORT_UDP, pj.PJSIP_TRANSPORT_TCP):
            if (host, one) not in self._open:
                self._create(host, one, self.port)
        return self._open[host, kind]

    def _create(self, host: str, kind: int, port: int) -> int:
        config = pj.TransportConfig()
        config.port = port
        if host not in ("", *EVERYWHERE):
            config.boundAddress = host
        if kind == pj.PJSIP_TRANSPORT_TLS:
            self._secure(config)
        try:
            family = pj.PJSIP_TRANSPORT_IPV6 if ":" in host else 0
            number = int(self._endpoint.transportCreate(kind | family, config))
        except pj.Error as error:
            raise _network_error(error.status, str(error.reason), _NAMES[kind], host, port) from None
        self._open[host, kind] = number
        if kind != pj.PJSIP_TRANSPORT_UDP:
            _deepen(*self._bound(number))
        return number

    def _bound(self, number: int) -> tuple[str, int]:
        """Address and port of a transport; pjsua2 writes IPv6 without brackets here."""
        host, _, port = str(self._endpoint.transportGetInfo(number).localName).rpartition(":")
        return host.strip("[]"), int(port)

    def _secure(self, config: Any) -> None:
        tls = self._settings.tls
        config.tlsConfig.certFile = tls.certificate
        config.tlsConfig.privKeyFile = tls.key or tls.certificate
        config.tlsConfig.CaListFile = tls.authorities or system_authorities()
        config.tlsConfig.verifyServer = tls.verify
        config.tlsConfig.verifyClient = config.tlsConfig.requireClientCert = tls.require_client
        config.tlsConfig.msecTimeout = _TLS_TIMEOUT_MS


def _deepen(host: str, port: int) -> None:
    """Let more connections wait on a listening socket of pjsip's, which asks for a queue of five.

    What comes while that is full is dropped by the system, and tried again by the other side after a second. Linux
    takes ``listen`` a second time as a new length; the socket is found among our descriptors, as pjsua2 hides it.
    """
    with contextlib.suppress(OSError):
        for path in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError), _duplicate(int(path.name)) as one:
                if not one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    continue
                # On every address the socket has none of its own, and pjsip tells one.
                if one.family not in (socket.AF_INET, socket.AF_INET6):
                    continue
                bound, at = one.getsockname()[:2]
                if at == port and bound in (host, *EVERYWHERE):
                    one.listen(_WAITING)


def _duplicate(descriptor: int) -> socket.socket:
    """A socket of our own for a descriptor; raises ``OSError`` for one that is no socket, and leaves nothing open."""
    copy = os.dup(descriptor)
    try:
        return socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        raise


def system_authorities() -> str:
    """The file with the certificates of the authorities that this system believes; empty when there is none."""
    paths = ssl.get_default_verify_paths()
    for name in (paths.cafile, paths.openssl_cafile, "/etc/ssl/certs/ca-certificates.crt"):
        if name and Path(name).is_file():
            return str(name)
    return ""


def _network_error(status: int, reason: str, kind: str, host: str, port: int) -> NetworkError | SipError:
    code = status - _ERRNO_START
    if kind == "TLS" and status in (_NO_TLS, _NO_TLS_TRANSPORT):
        return SipError("this pjsua2 was built without TLS; make pjsua2 builds one that has it")
    if status == _TOO_MANY:
        return NetworkError(
            f"pjsua2 has no place for another address ({host}); give --sip-host 0.0.0.0 for all of them"
        )
    if code == errno.EADDRINUSE:
        return NetworkError(
            f"SIP port {port} ({kind}) is in use by another program; stop it, or choose another with --sip-port"
        )
    if code == errno.EADDRNOTAVAIL:
        return NetworkError(f"{host} is not an address of this machine; choose one with --sip-host")
    if code == errno.EACCES:
        return NetworkError(f"SIP port {port} ({kind}) needs rights we do not have; choose one with --sip-port")
    return NetworkError(f"SIP port {port} ({kind}) at {host} could not be opened: {reason}")
