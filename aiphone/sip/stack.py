"""pjsua2 itself: brought up, kept going and taken down by the one thread that may touch it.

The order is what pjsip asks for. Up: create, log writer and limits, media without a clock, codecs, transports,
start, accounts. Down: calls, registrations, accounts, then the library without any more network, and the
endpoint object last, all on this thread and with no reference left behind.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from random import Random
from typing import Any

import pjsua2 as pj

from aiphone.clock import Clock
from aiphone.errors import AiphoneError, SipError
from aiphone.events import Event, LineChanged
from aiphone.sip.addresses import callable_host, complete_uri, split_host_port
from aiphone.sip.admission import Admission, Doorman
from aiphone.sip.call_limit import RESERVED, limit_note, usable_calls
from aiphone.sip.calls import CallDesk
from aiphone.sip.director import guarded
from aiphone.sip.gate import Gate
from aiphone.sip.leg import BRIDGE_RATE
from aiphone.sip.lines import LineDesk, PjAccount
from aiphone.sip.mender import Mender
from aiphone.sip.message import Request, read_request
from aiphone.sip.pjlib import PjLib
from aiphone.sip.pjlog import LogFilter, pj_level
from aiphone.sip.sdp import codecs
from aiphone.sip.settings import DIRECT_LINE, CallPolicy, LineConfig, RtpPorts, SipSettings, SipStatus
from aiphone.sip.transports import Transports

log = logging.getLogger(__name__)
pjsip_log = logging.getLogger("aiphone.sip.pjsip")

LIMIT_UNKNOWN = 4
"""pjproject's default, for a build that hides the function that tells."""

_FRAME_MS = 20
_FRAME_BYTES = BRIDGE_RATE * _FRAME_MS // 1000 * 2
_BRIDGE_FREES_AT_ONCE = (2, 16)
"""From this version on a port without a clock is freed when its call ends."""


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
        self._gate: Gate | None = None
        self._mender: Mender | None = None
        self._reserved = 0
        self.port = 0
        self.version = ""
        self.call_limit = 0
        self._transports: Transports
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
            _choose_codecs(endpoint, wide=not self._turn_bridge)
            self._transports = Transports(endpoint, self._settings)
            self._transports.open()
            self.port = self._transports.port
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
        config.medConfig.clockRate = BRIDGE_RATE
        config.medConfig.sndClockRate = BRIDGE_RATE
        config.medConfig.audioFramePtime = _FRAME_MS
        config.medConfig.ecTailLen = 0
        config.medConfig.noVad = True
        return config

    def add_line(self, line: LineConfig) -> None:
        """Add a line and register it."""
        self.lines.add(line)

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
            host_towards=self._transports.host_towards,
        )
        self.lines = LineDesk(
            settings=self._settings,
            post=self._post,
            clock=self._clock,
            random=self._random,
            incoming=self.calls.incoming,
            way=self._transports.towards,
            end_calls=self.calls.end_line,
        )
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._settings.host, self._settings.host)
        self.lines.open_direct(host, self.port)
        self._gate = Gate(pj, self._library, self.calls.at_the_door, self._clock)
        self._reserved = 0 if self._gate.install() else RESERVED
        self._mender = Mender(pj, self._library)
        self._mender.install()
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
            account: PjAccount | None = self._direct_account(host, uri)
        else:
            account = self.lines.calling_account(line_id)
            uri = complete_uri(uri, self.lines.server_of(line_id) or "line.invalid")
            host = self.lines.way_out(line_id) or callable_host(uri)
        self.calls.place(call_id, uri, line_id or DIRECT_LINE, account, host)

    def _direct_account(self, host: str, uri: str) -> PjAccount:
        try:
            return self.lines.calling_direct(host, uri)
        except AiphoneError as error:
            # The call goes the usual way, and ends with what that says.
            log.warning("calling %s: %s", uri, error)
            return self.lines.direct_account(host)

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
            listening=self._transports.addresses,
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
        if self._mender is not None:
            self._mender.remove()
        if hasattr(self, "calls"):
            self.calls.finish_all(503, "Shutting Down")
            self.calls.deferred.clear()
            with contextlib.suppress(pj.Error):
                self.lines.close()
            del self.calls, self.lines, self._transports
        with contextlib.suppress(pj.Error):
            endpoint.libDestroy(pj.PJSUA_DESTROY_NO_NETWORK)
        self._gate = self._mender = None


def _choose_codecs(endpoint: PjEndpoint, *, wide: bool) -> None:
    """Ours in our order; wideband only where ``PjLib.fit_bridge`` may be used."""
    ours = [name for name in codecs() if wide or name != "G722"]
    for codec in endpoint.codecEnum2():
        name = str(codec.codecId).partition("/")[0].upper()
        endpoint.codecSetPriority(codec.codecId, 255 - ours.index(name) if name in ours else 0)
