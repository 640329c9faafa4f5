"""pjsua2 itself: brought up, kept going and taken down by the one thread that may touch it.

The order is what pjsip asks for. Up: create, log writer and limits, media without a clock, codecs, transports,
start, accounts. Down: calls, registrations, accounts, then the library without any more network, and the
endpoint object last, all on this thread and with no reference left behind.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import ssl
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pjsua2 as pj

from aiphone.clock import Clock
from aiphone.errors import AiphoneError, NetworkError, SipError
from aiphone.events import Event, LineChanged
from aiphone.sip.addresses import callable_host, complete_uri, split_host_port
from aiphone.sip.admission import Admission, Doorman
from aiphone.sip.call_limit import RESERVED, limit_note, usable_calls
from aiphone.sip.calls import CallDesk
from aiphone.sip.director import guarded
from aiphone.sip.gate import Gate
from aiphone.sip.lines import LineDesk, PjAccount
from aiphone.sip.message import Request, read_request
from aiphone.sip.pjlib import PjLib
from aiphone.sip.pjlog import LogFilter, pj_level
from aiphone.sip.sdp import CODECS
from aiphone.sip.settings import DIRECT_LINE, CallPolicy, LineConfig, RtpPorts, SipSettings, SipStatus

log = logging.getLogger(__name__)
pjsip_log = logging.getLogger("aiphone.sip.pjsip")

LIMIT_UNKNOWN = 4
"""pjproject's default, for a build that hides the function that tells."""

_CLOCK_RATE = 8000
_FRAME_MS = 20
_FRAME_BYTES = _CLOCK_RATE * _FRAME_MS // 1000 * 2
_BRIDGE_FREES_AT_ONCE = (2, 16)
"""From this version on a port without a clock is freed when its call ends."""

_TLS_TIMEOUT_MS = 10_000
"""For a handshake: who opens a connection and says nothing does not keep it."""
_NO_TLS_TRANSPORT = 171060
"""``PJSIP_EUNSUPTRANSPORT``."""
_NO_TLS = 70012
"""``PJ_ENOTSUP``."""
_ERRNO_START = 120_000
"""``PJ_ERRNO_START_SYS``: pjlib's codes for the operating system's."""


class PjEndpoint(pj.Endpoint):  # type: ignore[misc]
    """pjsua2's endpoint; lets us choose the account of an INVITE."""

    stack: Stack | None = None

    @guarded
    def onSelectAccount(self, prm: Any) -> None:  # noqa: N802 - pjsua2's name
        if self.stack is not None:
            prm.accountIndex = self.stack.select_account(prm.rdata.wholeMsg, prm.rdata.srcAddress)


class PjLog(pj.LogWriter):  # type: ignore[misc]
    """pjsua2's log writer; it belongs to the endpoint once it is set."""

    def __init__(self, take: Callable[[int, str], None]) -> None:
        pj.LogWriter.__init__(self)
        self.take = take

    @guarded
    def write(self, entry: Any) -> None:
        self.take(entry.level, entry.msg)


class Stack:
    """SIP thread only, from ``open`` to ``close``."""

    def __init__(
        self,
        settings: SipSettings,
        ports: RtpPorts,
        post: Callable[[Event | LineChanged], object],
        clock: Clock,
        random: Random,
    ) -> None:
        self._settings = settings
        self._ports = ports
        self._post = post
        self._clock = clock
        self._random = random
        self._doorman = Doorman(settings)
        self._endpoint: PjEndpoint | None = None
        self._library = PjLib(pj)
        self._next_sweep = 0.0
        self._turn_bridge = False
        self._has_tls = False
        self._gate: Gate | None = None
        self._reserved = 0
        self.port = 0
        self.version = ""
        self.call_limit = 0
        self.calls: CallDesk
        self.lines: LineDesk

    # ------------------------------------------------------------------ up

    def open(self) -> None:
        """Bring pjsua2 up. Raises ``NetworkError`` (port, address) or ``SipError``; then call ``close``."""
        self._library.quiet()
        endpoint = PjEndpoint()
        self._endpoint = endpoint
        try:
            endpoint.libCreate()
            endpoint.libInit(self._config())
            self.version = str(endpoint.libVersion().full)
            limit = self._library.max_calls()
            if limit is None:
                log.warning("this pjsua2 does not tell its call limit; taking it to be %d", LIMIT_UNKNOWN)
            self.call_limit = limit if limit is not None else LIMIT_UNKNOWN
            if not self._library.stop_bridge_clock():
                endpoint.audDevManager().setNoDev()
            numbers = endpoint.libVersion()
            self._turn_bridge = (int(numbers.major), int(numbers.minor)) < _BRIDGE_FREES_AT_ONCE
            _choose_codecs(endpoint)
            self.port = self._open_transports(endpoint)
            if self._settings.tls.port:
                self._open_tls(self._settings.tls.port)
            endpoint.libStart()
            self._open_desks()
            endpoint.stack = self
        except pj.Error as error:
            raise SipError(f"pjsua2 did not start: {error.reason} ({error.title})") from None

    def _config(self) -> Any:
        config = pj.EpConfig()
        config.uaConfig.threadCnt = 0
        config.uaConfig.mainThreadOnly = True
        # More than any build has: pjsua takes its own maximum then, which max_calls() reads back.
        config.uaConfig.maxCalls = 1 << 20
        config.uaConfig.natTypeInSdp = 0
        config.uaConfig.userAgent = self._settings.user_agent
        config.logConfig.level = pj_level(pjsip_log)
        # With a writer in place this is the writer's level; nothing goes to the console.
        config.logConfig.consoleLevel = config.logConfig.level
        config.logConfig.msgLogging = int(pjsip_log.isEnabledFor(logging.DEBUG))
        config.logConfig.decor = 0
        writer = PjLog(LogFilter(pjsip_log, self._clock).take)
        config.logConfig.writer = writer
        writer.__disown__()  # the endpoint deletes it
        config.medConfig.hasIoqueue = False
        config.medConfig.threadCnt = 0
        config.medConfig.clockRate = _CLOCK_RATE
        config.medConfig.sndClockRate = _CLOCK_RATE
        config.medConfig.audioFramePtime = _FRAME_MS
        config.medConfig.ecTailLen = 0
        config.medConfig.noVad = True
        return config

    def _open_transports(self, endpoint: PjEndpoint) -> int:
        attempts = 5 if self._settings.port == 0 else 1
        for attempt in range(attempts):
            udp = self._transport(endpoint, pj.PJSIP_TRANSPORT_UDP, self._settings.port)
            port = split_host_port(str(endpoint.transportGetInfo(udp).localName))[1]
            try:
                self._transport(endpoint, pj.PJSIP_TRANSPORT_TCP, port)
            except NetworkError:
                if attempt + 1 == attempts:
                    raise
                endpoint.transportClose(udp)
                continue
            return port
        raise NetworkError("no free SIP port was found")

    def _open_tls(self, port: int) -> None:
        """Listen for TLS on a port; on any, when it is only for lines that register with TLS."""
        if self._has_tls:
            return
        assert self._endpoint is not None
        tls = self._settings.tls
        config = pj.TransportConfig()
        config.port = port
        if self._settings.host not in ("", "0.0.0.0"):
            config.boundAddress = self._settings.host
        config.tlsConfig.certFile = tls.certificate
        config.tlsConfig.privKeyFile = tls.key or tls.certificate
        config.tlsConfig.CaListFile = tls.authorities or system_authorities()
        config.tlsConfig.verifyServer = tls.verify
        config.tlsConfig.verifyClient = config.tlsConfig.requireClientCert = tls.require_client
        config.tlsConfig.msecTimeout = _TLS_TIMEOUT_MS
        try:
            self._endpoint.transportCreate(pj.PJSIP_TRANSPORT_TLS, config)
        except pj.Error as error:
            if error.status in (_NO_TLS, _NO_TLS_TRANSPORT):
                raise SipError("this pjsua2 was built without TLS; make pjsua2 builds one that has it") from None
            raise _network_error(error.status, str(error.reason), "TLS", self._settings.host, port) from None
        self._has_tls = True

    def add_line(self, line: LineConfig) -> None:
        """Add a line and register it."""
        if line.transport == "tls" and line.enabled:
            try:
                self._open_tls(0)
            except AiphoneError as error:
                self.lines.fail(line, str(error))
                return
        self.lines.add(line)

    def _transport(self, endpoint: PjEndpoint, kind: int, port: int) -> int:
        config = pj.TransportConfig()
        config.port = port
        if self._settings.host not in ("", "0.0.0.0"):
            config.boundAddress = self._settings.host
        try:
            return int(endpoint.transportCreate(kind, config))
        except pj.Error as error:
            name = "UDP" if kind == pj.PJSIP_TRANSPORT_UDP else "TCP"
            raise _network_error(error.status, str(error.reason), name, self._settings.host, port) from None

    def _open_desks(self) -> None:
        self.calls = CallDesk(
            settings=self._settings,
            ports=self._ports,
            post=self._post,
            clock=self._clock,
            library=self._library,
            call_limit=self.call_limit,
            max_calls=self._settings.max_calls,
            reserved=0,
            admit=self._admit,
            policy=self._policy,
            random=self._random,
        )
        self.lines = LineDesk(
            settings=self._settings,
            post=self._post,
            clock=self._clock,
            random=self._random,
            incoming=self.calls.incoming,
        )
        host = self._settings.host if self._settings.host != "0.0.0.0" else "127.0.0.1"
        self.lines.open_direct(host, self.port)
        self._gate = Gate(pj, self._library, self.calls.at_the_door, self._clock)
        self._reserved = 0 if self._gate.install() else RESERVED
        self.calls.reserved = self._reserved
        self.calls.max_calls = usable_calls(self.call_limit, self._settings.max_calls, self._reserved)

    # ------------------------------------------------------------------ running

    def turn(self, wait: float) -> None:
        """Let pjsua2 work for up to ``wait`` seconds, then do what its callbacks put off."""
        assert self._endpoint is not None
        self._endpoint.libHandleEvents(max(0, round(wait * 1000)))
        self.calls.run_deferred()
        now = self._clock.now()
        if now >= self._next_sweep:
            self._next_sweep = now + 0.5
            self.lines.tick()
            self.calls.sweep()
            if self._turn_bridge:
                self._library.turn_bridge(_FRAME_BYTES)

    def select_account(self, message: str, source: str) -> int:
        """The account for a request (pjsua2 asks before it makes a call)."""
        host = split_host_port(source)[0]
        admission = self._admit(read_request(message), host)
        return self.lines.account_for(admission.line_id, host)

    def place_call(self, call_id: str, uri: str, line_id: str | None) -> None:
        """Call somebody from a line, or without one. The URI was checked before."""
        if line_id is None or line_id == DIRECT_LINE:
            host = callable_host(uri)
            account: PjAccount | None = self.lines.direct_account(host)
        else:
            account = self.lines.calling_account(line_id)
            uri = complete_uri(uri, self.lines.server_of(line_id) or "line.invalid")
            host = self.lines.way_out(line_id) or callable_host(uri)
        self.calls.place(call_id, uri, line_id or DIRECT_LINE, account, host)

    def _admit(self, request: Request, source: str) -> Admission:
        return self._doorman.admit(request, source, self.lines.doors)

    def _policy(self, line_id: str) -> CallPolicy:
        return self._doorman.policy(line_id, self.lines.doors)

    def status(self) -> SipStatus:
        """A snapshot."""
        return SipStatus(
            running=True,
            version=self.version,
            call_limit=self.call_limit,
            max_calls=self.calls.max_calls,
            active_calls=self.calls.active,
            refused_calls=self.calls.refused,
            host=self._settings.host,
            port=self.port,
            lines=self.lines.statuses(),
            note=limit_note(self.call_limit, self._settings.max_calls, self._reserved),
        )

    # ------------------------------------------------------------------ down

    def farewell(self, seconds: float) -> None:
        """BYE to all callers and unregister all lines; wait for the answers up to ``seconds``."""
        deadline = self._clock.now() + seconds
        self.calls.end_all()
        self.lines.unregister_all()
        self.turn(0.0)
        while (self.lines.unregistering or self._busy()) and self._clock.now() < deadline:
            self.turn(0.01)

    def _busy(self) -> bool:
        return bool(self._library.calls())

    def close(self) -> None:
        """Take pjsua2 down. Always, also after a failed ``open``; never raises."""
        endpoint, self._endpoint = self._endpoint, None
        if endpoint is None:
            return
        endpoint.stack = None
        if self._gate is not None:
            self._gate.remove()
        if hasattr(self, "calls"):
            self.calls.finish_all(503, "Shutting Down")
            self.calls.deferred.clear()
            with contextlib.suppress(pj.Error):
                self.lines.close()
            del self.calls, self.lines
        with contextlib.suppress(pj.Error):
            endpoint.libDestroy(pj.PJSUA_DESTROY_NO_NETWORK)
        self._gate = None


def system_authorities() -> str:
    """The file with the certificates of the authorities that this system believes; empty when there is none."""
    paths = ssl.get_default_verify_paths()
    for name in (paths.cafile, paths.openssl_cafile, "/etc/ssl/certs/ca-certificates.crt"):
        if name and Path(name).is_file():
            return str(name)
    return ""


def _choose_codecs(endpoint: PjEndpoint) -> None:
    for codec in endpoint.codecEnum2():
        name = str(codec.codecId).partition("/")[0].upper()
        priority = 255 - CODECS[name] if name in CODECS else 0
        endpoint.codecSetPriority(codec.codecId, priority)


def _network_error(status: int, reason: str, kind: str, host: str, port: int) -> NetworkError:
    code = status - _ERRNO_START
    if code == errno.EADDRINUSE:
        return NetworkError(
            f"SIP port {port} ({kind}) is in use by another program; stop it, or choose another with --sip-port"
        )
    if code == errno.EADDRNOTAVAIL:
        return NetworkError(f"{host} is not an address of this machine; choose one with --sip-host")
    if code == errno.EACCES:
        return NetworkError(f"SIP port {port} ({kind}) needs rights we do not have; choose one with --sip-port")
    return NetworkError(f"SIP port {port} ({kind}) at {host} could not be opened: {reason}")
