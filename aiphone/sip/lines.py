"""Accounts on pjsua2: the direct line, and lines that register and come back by themselves.

pjsua's own retry knows one fixed interval and gives up on most refusals, so it is switched off: the desk decides
when to try again (see ``reasons.BackOff``) and says why in plain words. SIP thread only.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pjsua2 as pj

from aiphone.clock import Clock
from aiphone.errors import AiphoneError, NetworkError
from aiphone.events import LineChanged, LineState
from aiphone.sip.addresses import (
    address_of_ours,
    advertised_address,
    host_port,
    is_private,
    is_this_machine,
    parse_address,
    split_host_port,
)
from aiphone.sip.admission import TOKEN, LineDoor
from aiphone.sip.director import guarded
from aiphone.sip.message import retry_after
from aiphone.sip.reasons import BackOff, registration_reason
from aiphone.sip.sdes import SUITES
from aiphone.sip.settings import DIRECT_LINE, CallPolicy, LineConfig, LineStatus, SipSettings
from aiphone.sip.transports import ANY

log = logging.getLogger(__name__)

NewCall = Callable[[Any, int, str, str], None]
"""``CallDesk.incoming``: account, pjsua's call number, message, source."""


class PjAccount(pj.Account):  # type: ignore[misc]
    """pjsua2's account; hands its callbacks to the desk."""

    def __init__(self, desk: LineDesk, line_id: str) -> None:
        pj.Account.__init__(self)
        self.desk = desk
        self.line_id = line_id

    @guarded
    def onIncomingCall(self, prm: Any) -> None:  # noqa: N802 - pjsua2's name
        self.desk.incoming(self, prm.callId, prm.rdata.wholeMsg, prm.rdata.srcAddress)

    @guarded
    def onRegState(self, prm: Any) -> None:  # noqa: N802
        self.desk.registered(self.line_id, prm)


@dataclass(slots=True, eq=False)
class _Line:
    config: LineConfig
    back_off: BackOff
    account: PjAccount | None = None
    transport: int = ANY
    """The account's, as ``LineDesk.way`` has it."""
    state: LineState = LineState.STOPPED
    reason: str = ""
    since: float = 0.0
    retry_at: float | None = None
    refresh_at: float | None = None
    """When to ask whether the server still knows us."""
    servers: set[str] = field(default_factory=set)
    pending: bool = False
    """A REGISTER is on its way."""


@dataclass(slots=True)
class LineDesk:
    """All lines. SIP thread only."""

    settings: SipSettings
    post: Callable[[LineChanged], object]
    clock: Clock
    random: Random
    incoming: NewCall
    way: Callable[[str, str], int]
    """``Transports.towards``."""
    end_calls: Callable[[str], None]
    """Hang up a line's calls."""
    lines: dict[str, _Line] = field(default_factory=dict)
    doors: list[LineDoor] = field(default_factory=list)
    """What admission needs; replaced when a line changes."""
    stopping: bool = False
    _direct: list[PjAccount] = field(default_factory=list)
    _port: int = 0
    _direct_over: dict[int, PjAccount] = field(default_factory=dict)
    """For calls of ours to other machines, by transport."""

    # ------------------------------------------------------------------ the direct line

    def open_direct(self, host: str, port: int) -> None:
        """Make the account that takes everything no line takes; also the one that refuses strangers.

        With a public address there are two of them, as the Contact is a matter of the account.
        """
        self._port = port
        contacts = [""]
        if self.settings.public_address:
            contacts.append(f"<sip:{self.settings.direct_user}@{host_port(self.settings.public_address, port)}>")
        for contact in contacts:
            self._direct.append(self._open_direct(host_port(host, port), contact))

    def _open_direct(self, where: str, contact: str = "", transport: int = ANY) -> PjAccount:
        identity = f"<sip:{self.settings.direct_user}@{where}>"
        config = _account_config(identity, self.settings.direct_policy, self.settings)
        config.sipConfig.contactForced = contact
        config.sipConfig.transportId = transport
        account = PjAccount(self, DIRECT_LINE)
        account.create(config, not contact and transport == ANY)
        return account

    def direct_account(self, source: str) -> PjAccount:
        """The direct account whose Contact suits a peer at ``source``."""
        address = parse_address(source)
        outside = len(self._direct) > 1 and address is not None and not is_this_machine(address)
        if outside and advertised_address(self.settings.public_address, source, "") == "":
            outside = False
        return self._direct[1 if outside else 0]

    def calling_direct(self, remote: str, uri: str) -> PjAccount:
        """The direct account for a call of ours to ``uri`` at ``remote``, over a transport that gets there.

        Raises ``AiphoneError`` where there is no way.
        """
        kind = uri.lower().partition(";transport=")[2][:3]
        transport = self.way(remote, kind or "udp")
        if transport == ANY:
            return self.direct_account(remote)
        if transport not in self._direct_over:
            host = address_of_ours(remote)
            told = advertised_address(self.settings.public_address, remote, host)
            where = host_port(told, self._port)
            contact = f"<sip:{self.settings.direct_user}@{where}>" if told != host else ""
            self._direct_over[transport] = self._open_direct(where, contact, transport)
        return self._direct_over[transport]

    def calling_account(self, line_id: str) -> PjAccount | None:
        """The account of a line that is registered; None when calls cannot be placed from it."""
        line = self.lines.get(line_id)
        return line.account if line is not None and line.state is LineState.REGISTERED else None

    def way_out(self, line_id: str) -> str:
        """Address of the server that a line's calls go through; empty when it is not known."""
        line = self.lines.get(line_id)
        return next(iter(line.servers), line.config.server_ip) if line is not None else ""

    def server_of(self, line_id: str) -> str:
        """Host and port of a line's server, as they stand in a URI; empty for a line that is not there."""
        line = self.lines.get(line_id)
        if line is None:
            return ""
        port = f":{line.config.server_port}" if line.config.server_port != 5060 else ""
        return f"{line.config.server_host}{port}"

    def account_for(self, line_id: str, source: str) -> int:
        """pjsua's number of the account that a call belongs to."""
        line = self.lines.get(line_id)
        if line is not None and line.account is not None:
            return int(line.account.getId())
        return int(self.direct_account(source).getId())

    # ------------------------------------------------------------------ commands

    def add(self, config: LineConfig) -> None:
        """Add a line and register it; a line with the same id is replaced."""
        self.remove(config.line_id)
        line = _Line(config, BackOff(self.random))
        self.lines[config.line_id] = line
        if not config.enabled:
            self._set(line, LineState.STOPPED, "switched off")
            return
        self._register(line)

    def _open_account(self, line: _Line) -> bool:
        """Make the line's account, on the transport that gets to its server; False with the reason shown.

        Again before each attempt: the network may have come up since, or our address may be another one.
        """
        try:
            transport = self.way(line.config.next_hop, line.config.transport)
        except NetworkError as error:
            self._retry(line, 503, str(error), None)
            return False
        except AiphoneError as error:
            self._set(line, LineState.FAILED, str(error))
            return False
        if line.account is not None and line.transport == transport:
            return True
        if line.account is not None:
            self.end_calls(line.config.line_id)
            self._close_account(line)
        account = PjAccount(self, line.config.line_id)
        try:
            account.create(_line_account_config(line.config, self.settings, transport))
        except pj.Error as error:
            reason = (
                "this pjsua2 has no room for another line; make pjsua2 builds one that has"
                if error.status == _TOO_MANY
                else f"pjsua2 refused the account: {error.reason}"
            )
            self._set(line, LineState.FAILED, reason)
            return False
        line.account, line.transport = account, transport
        self._refresh_doors()
        return True

    def _close_account(self, line: _Line) -> None:
        account, line.account = line.account, None
        if account is not None:
            with contextlib.suppress(pj.Error):
                account.shutdown()

    def remove(self, line_id: str) -> None:
        """Unregister a line and forget it."""
        line = self.lines.pop(line_id, None)
        if line is None:
            return
        self._close_account(line)
        self._refresh_doors()
        self._set(line, LineState.STOPPED)

    def tick(self) -> None:
        """Register the lines whose time has come."""
        now = self.clock.now()
        for line in self.lines.values():
            if line.retry_at is not None and now >= line.retry_at:
                self._register(line)
            elif line.refresh_at is not None and now >= line.refresh_at:
                self._refresh(line)

    def unregister_all(self) -> None:
        """Say goodbye to all servers; ``unregistering`` tells when they have answered."""
        self.stopping = True
        for line in self.lines.values():
            line.retry_at = line.refresh_at = None
            if line.account is None or line.state is not LineState.REGISTERED:
                line.pending = False
                continue
            try:
                line.account.setRegistration(False)
                line.pending = True
            except pj.Error:
                line.pending = False

    @property
    def unregistering(self) -> bool:
        """True while a server has not answered."""
        return any(line.pending for line in self.lines.values())

    def close(self) -> None:
        """Delete all accounts; pjsua2 asks for it before it is taken down."""
        for line in self.lines.values():
            self._close_account(line)
            self._set(line, LineState.STOPPED)
        for account in (*self._direct, *self._direct_over.values()):
            account.shutdown()
        self._direct.clear()
        self._direct_over.clear()
        self.doors = []

    # ------------------------------------------------------------------ from pjsua2

    def registered(self, line_id: str, prm: Any) -> None:
        """The outcome of a REGISTER."""
        line = self.lines.get(line_id)
        if line is None:
            return
        line.pending = False
        code, status = int(prm.code), int(prm.status)
        message = str(prm.rdata.wholeMsg)
        if code // 100 == 2 and status == 0:
            source = split_host_port(str(prm.rdata.srcAddress))[0]
            if source and source not in line.servers:
                line.servers.add(source)
                self._refresh_doors()
            line.back_off.reset()
            line.retry_at = None
            on = int(prm.expiration) > 0
            line.refresh_at = self._next_refresh(source) if on else None
            self._set(line, LineState.REGISTERED if on else LineState.STOPPED)
            return
        if self.stopping:
            self._set(line, LineState.STOPPED)
            return
        self._retry(line, code, registration_reason(code, str(prm.reason)), retry_after(message))

    # ------------------------------------------------------------------ inside

    def statuses(self) -> tuple[LineStatus, ...]:
        """All lines, for the status."""
        return tuple(
            LineStatus(
                line_id=line.config.line_id,
                address=f"sip:{line.config.username}@{line.config.server_host}",
                state=line.state,
                reason=line.reason,
                since=line.since,
            )
            for line in self.lines.values()
        )

    def _register(self, line: _Line) -> None:
        line.retry_at = None
        if self.stopping or not self._open_account(line):
            return
        assert line.account is not None
        if line.state is not LineState.FAILED:
            self._set(line, LineState.REGISTERING)
        line.pending = True
        try:
            line.account.setRegistration(True)
        except pj.Error as error:
            line.pending = False
            self._retry(line, 503, f"the REGISTER could not be sent: {error.reason}", None)

    def _next_refresh(self, server: str) -> float | None:
        """When the server at that address is asked again, long before the registration ends; None: not before."""
        address = parse_address(server)
        near = address is not None and (address.is_loopback or is_private(address))
        if not near or self.stopping or self.settings.refresh_seconds <= 0:
            return None
        return self.clock.now() + self.settings.refresh_seconds * self.random.uniform(0.8, 1.0)

    def _refresh(self, line: _Line) -> None:
        line.refresh_at = None
        if self.stopping or line.pending or line.account is None or line.state is not LineState.REGISTERED:
            return
        # When pjsua has a REGISTER of its own under way, its outcome sets the time of the next.
        with contextlib.suppress(pj.Error):
            line.account.setRegistration(True)
            line.pending = True

    def _retry(self, line: _Line, code: int, reason: str, wish: int | None) -> None:
        line.refresh_at = None
        delay = line.back_off.after(code, wish)
        line.retry_at = self.clock.now() + delay
        log.info("line %s: %s; next try in %.0f s", line.config.line_id, reason, delay)
        self._set(line, LineState.FAILED, reason)

    def _set(self, line: _Line, state: LineState, reason: str = "") -> None:
        if (line.state, line.reason) == (state, reason):
            return
        line.state, line.reason, line.since = state, reason, self.clock.now()
        self.post(LineChanged(line.config.line_id, state, reason))

    def _refresh_doors(self) -> None:
        self.doors = [
            LineDoor.of(line.config, line.servers) for line in self.lines.values() if line.account is not None
        ]


_TOO_MANY = 70010
"""``PJ_ETOOMANY``."""


_SRTP = {
    "off": pj.PJMEDIA_SRTP_DISABLED,
    "optional": pj.PJMEDIA_SRTP_OPTIONAL,
    "mandatory": pj.PJMEDIA_SRTP_MANDATORY,
}


def _account_config(identity: str, policy: CallPolicy, settings: SipSettings) -> Any:
    """What all accounts share: no media of pjsua's on the network, no video, no surprises."""
    config = pj.AccountConfig()
    config.idUri = identity
    config.mediaConfig.useLoopMedTp = True
    config.mediaConfig.enableLoopback = False
    config.mediaConfig.streamKaEnabled = False
    config.mediaConfig.lockCodecEnabled = False
    config.videoConfig.autoTransmitOutgoing = False
    config.natConfig.iceEnabled = False
    config.regConfig.registerOnAdd = False
    config.callConfig.timerUse = pj.PJSUA_SIP_TIMER_OPTIONAL
    config.callConfig.timerSessExpiresSec = settings.session_expires
    config.mediaConfig.srtpUse = _SRTP[policy.srtp]
    # That keys only travel over TLS is for whoever sets the line's transport to decide.
    config.mediaConfig.srtpSecureSignaling = 0
    if policy.srtp != "off":
        for suite in SUITES:
            crypto = pj.SrtpCrypto()
            crypto.name = suite
            config.mediaConfig.srtpOpt.cryptos.append(crypto)
        config.mediaConfig.srtpOpt.keyings.append(pj.PJMEDIA_SRTP_KEYING_SDES)
    return config


def _line_account_config(line: LineConfig, settings: SipSettings, transport: int) -> Any:
    config = _account_config(line.identity, line.policy, settings)
    config.regConfig.registrarUri = line.registrar_uri
    config.regConfig.timeoutSec = settings.register_expires
    config.regConfig.retryIntervalSec = 0
    config.regConfig.firstRetryIntervalSec = 0
    config.regConfig.unregWaitMsec = 500
    config.natConfig.udpKaIntervalSec = settings.keep_alive_seconds
    config.sipConfig.transportId = transport
    config.sipConfig.contactUriParams = f";{TOKEN}={line.token}"
    name = line.auth_username or line.username
    config.sipConfig.authCreds.append(pj.AuthCredInfo("digest", "*", name, 0, line.password))
    if line.proxy_uri:
        config.sipConfig.proxies.append(line.proxy_uri)
    return config
