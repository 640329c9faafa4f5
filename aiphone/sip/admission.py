"""Who may call which line: a pure decision, made before anything is spent on a call.

A call reaches a registered line when its Request-URI carries the token of the Contact that we registered, or
when it names the line's user and comes from the line's server (or a network that is allowed on it). Anything
else can only be for the direct line, and strangers learn nothing: they get 403 whatever they dialled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from aiphone.sip.addresses import Address, is_this_machine, parse_address
from aiphone.sip.identity import Identity, listed
from aiphone.sip.message import Request
from aiphone.sip.settings import DIRECT_LINE, CallPolicy, LineConfig, Network, SipSettings, parse_networks

UNATTENDED_SECONDS = 15.0
"""How long a line without auto-answer rings, so that somebody else in its group can pick up; then we do."""

TOKEN = "aiphone"
"""URI parameter that carries ``LineConfig.token``."""


@dataclass(frozen=True, slots=True)
class Admission:
    """Where a call goes, or why it does not. ``code`` 0 lets it in."""

    line_id: str
    code: int = 0
    reason: str = ""
    retry_after: int | None = None
    trusted: bool = False
    """The call came by way of the line's server: what it asserts about the caller holds."""
    silent: bool = False
    """Not even a refusal is sent."""


@dataclass(frozen=True, slots=True)
class LineDoor:
    """What admission knows about one registered line."""

    config: LineConfig
    servers: frozenset[str]
    """Addresses from which the server has answered our REGISTER."""
    networks: tuple[Network, ...]

    @classmethod
    def of(cls, config: LineConfig, servers: Iterable[str] = ()) -> LineDoor:
        """The door of a line; ``servers`` are what its registrar answered from."""
        known = {host for host in (*servers, config.server_ip.strip("[]")) if parse_address(host)}
        networks = parse_networks(config.allowed_networks, f"line {config.line_id!r}")
        return cls(config, frozenset(known), networks)


class Doorman:
    """Decides on calls. SIP thread only."""

    def __init__(self, settings: SipSettings, is_local: Callable[[Address], bool] = is_this_machine) -> None:
        self._settings = settings
        self._is_local = is_local
        self._direct_networks = parse_networks(settings.direct_networks, "direct-line networks")

    def admit(self, request: Request, source: str, doors: Sequence[LineDoor]) -> Admission:
        """Where a call from the IP address ``source`` goes. Load is not its business."""
        token = request.parameters.get(TOKEN)
        for door in doors:
            if token and token == door.config.token:
                return Admission(door.config.line_id, trusted=True)
        address = parse_address(source)
        if address is None:
            return Admission(DIRECT_LINE, 403, "Forbidden")
        named = [door for door in doors if door.config.username == request.user]
        for door in named:
            if str(address) in door.servers:
                return Admission(door.config.line_id, trusted=True)
        for door in named:
            if _inside(address, door.networks):
                return Admission(door.config.line_id, trusted=True)
        welcome = _inside(address, self._direct_networks) or self._is_local(address)
        if not self._settings.direct_line or not welcome:
            return Admission(DIRECT_LINE, 403, "Forbidden", silent=self._settings.strangers == "ignore")
        if request.user.lower() != self._settings.direct_user.lower():
            return Admission(DIRECT_LINE, 404, "Not Found")
        return Admission(DIRECT_LINE)

    def policy(self, line_id: str, doors: Sequence[LineDoor]) -> CallPolicy:
        """What the line does with its calls."""
        for door in doors:
            if door.config.line_id == line_id:
                policy = door.config.policy
                if not door.config.auto_answer and policy.answer_after == 0.0:
                    return replace(policy, answer_after=UNATTENDED_SECONDS)
                return policy
        return self._settings.direct_policy


def screen(identity: Identity, policy: CallPolicy) -> tuple[int, str]:
    """Whether a line wants this caller: ``(0, "")``, or the status that refuses the call.

    A caller who is hidden cannot be on a list of those who may call.
    """
    if identity.anonymous and not policy.anonymous:
        return 433, "Anonymity Disallowed"
    if listed(identity.uri, policy.deny):
        return 603, "Decline"
    if policy.allow and (identity.anonymous or not listed(identity.uri, policy.allow)):
        return 603, "Decline"
    return 0, ""


def _inside(address: Address, networks: Iterable[Network]) -> bool:
    return any(address.version == network.version and address in network for network in networks)
