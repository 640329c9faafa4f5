"""What the store keeps, as immutable values; and what it answers when something is not there or has changed.

Times are wall clock, seconds since 1970; durations are seconds. No value carries a password.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from aiphone.actions import targets_of
from aiphone.errors import StorageError
from aiphone.persona import Persona, Sampling
from aiphone.spoken_word import SpokenWord

DEFAULT_PERSONA = "default"
"""Name of the persona that always exists."""


class NotFoundError(StorageError):
    """There is no record of that name or number."""


class DuplicateError(StorageError):
    """A record of that name exists."""


class VersionError(StorageError):
    """Someone else changed the record since it was read."""


@dataclass(frozen=True, slots=True)
class SipClient:
    """An account with a PBX. Its password is asked for with ``Store.sip_password`` and nowhere else."""

    client_id: str
    username: str
    server_ip: str
    server_port: int = 5060
    display_name: str = ""
    auto_answer: bool = True
    greeting: str = ""
    """First words of a call; empty for the persona's."""
    transport: str = "udp"
    """``"udp"``, ``"tcp"`` or ``"tls"``."""
    auth_username: str = ""
    """User name of the digest authentication; empty for ``username``."""
    proxy: str = ""
    persona: str = ""
    """Who answers; empty for the default persona."""
    enabled: bool = True
    srtp: str = "off"
    """SRTP (RFC 3711, RFC 4568) on this line: ``"off"``, ``"optional"`` or ``"mandatory"``."""
    started: bool = False
    """Whether the owner started it: it starts again with the server. Set by ``Store.set_started`` alone."""
    version: int = 1
    """Raised with every change by an owner; what an ETag is made of."""


@dataclass(frozen=True, slots=True)
class PersonaRecord:
    """A persona as its owner edits it: every field of ``Persona`` and ``Sampling``, flat."""

    name: str
    """Key of the record; what a SIP client names in ``persona``."""
    bot_name: str = Persona().name
    """What the assistant calls itself."""
    caller_name: str = Persona().caller_name
    prompt: str = Persona().prompt
    greeting: str = Persona().greeting
    greeting_again: str = Persona().greeting_again
    remember: bool = Persona().remember
    language: str = Persona().language
    vocabulary: str = Persona().vocabulary
    voice: str = Persona().voice
    speed: float = Persona().speed
    temperature: float = Sampling().temperature
    top_k: int = Sampling().top_k
    top_p: float = Sampling().top_p
    min_p: float = Sampling().min_p
    seed: int = Sampling().seed
    max_tokens: int = Sampling().max_tokens
    stop: tuple[str, ...] = Persona().stop
    patience: float = Persona().patience
    patience_floor: float = Persona().patience_floor
    patience_ceiling: float = Persona().patience_ceiling
    interrupt_after: float = Persona().interrupt_after
    filler: str = Persona().filler
    filler_after: float = Persona().filler_after
    think_limit: float = Persona().think_limit
    idle_after: float = Persona().idle_after
    idle_limit: int = Persona().idle_limit
    idle_prompt: str = Persona().idle_prompt
    goodbye: str = Persona().goodbye
    apology: str = Persona().apology
    wake_command: str = Persona().wake_command
    heard_ok: str = Persona().heard_ok
    actions: tuple[str, ...] = Persona().actions
    transfers: tuple[str, ...] = ()
    """To whom the assistant may transfer, each as ``"sales = sip:sales@example.com"``."""
    connecting: str = Persona().connecting
    nobody_there: str = Persona().nobody_there
    max_call_seconds: float = Persona().max_call_seconds
    """Seconds after which a call is ended with the goodbye; 0 is never."""
    version: int = 1
    """1 until an owner changes the record; raised with every change."""

    def __post_init__(self) -> None:
        # JSON has lists only; two records are the same whichever of the two they came with.
        for name in ("actions", "transfers", "stop"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    @classmethod
    def of(cls, name: str, persona: Persona) -> PersonaRecord:
        """The record of a persona."""
        sampling = persona.sampling
        return cls(
            name=name,
            bot_name=persona.name,
            transfers=tuple(f"{target} = {uri}" for target, uri in persona.transfers),
            **{field_name: getattr(persona, field_name) for field_name in _SAME},
            **{field_name: getattr(sampling, field_name) for field_name in Sampling.__dataclass_fields__},
        )

    def persona(self) -> Persona:
        """The persona that a call is answered by. Raises ``ConfigError`` for transfers that make no sense."""
        return Persona(
            name=self.bot_name,
            transfers=targets_of(self.transfers),
            sampling=Sampling(**{name: getattr(self, name) for name in Sampling.__dataclass_fields__}),
            **{name: getattr(self, name) for name in _SAME},
        )


_SAME = tuple(name for name in Persona.__dataclass_fields__ if name not in ("name", "sampling", "transfers"))
"""Fields that a persona and its record have under one name."""


@dataclass(frozen=True, slots=True)
class CallRow:
    """A call."""

    id: int
    line_id: str
    caller: str
    """URI of the caller."""
    caller_name: str
    called: str
    direction: str
    """``"in"``, ``"out"`` or ``"web"``."""
    started: float
    answered: float | None = None
    ended: float | None = None
    """None while the call goes on."""
    end_code: int = 0
    """Last SIP status; 0 while the call goes on, or when the server stopped in the middle of it."""
    end_reason: str = ""
    recording: str = ""
    """File of the recording, relative to the directory of the database or absolute; empty for none."""
    media: dict[str, Any] = field(default_factory=dict)
    """The last media statistics, as they were handed in."""


@dataclass(frozen=True, slots=True)
class TurnRow:
    """An answer that was heard, and what it took to get there."""

    call_id: int
    number: int
    """From 1, within the call."""
    at: float
    """t0: when the caller's last voice arrived."""
    caller_text: str
    assistant_text: str
    interrupted: bool
    parts: dict[str, float]
    """Seconds that each part added; they sum up to ``total``."""
    total: float


@dataclass(frozen=True, slots=True)
class WordsRow:
    """A line of a conversation."""

    call_id: int
    number: int
    """From 1, within the call."""
    role: str
    """``"user"`` or ``"assistant"``."""
    text: str
    at: float
    """Of a caller's line, when the voice had ended; of the assistant's, when its words began."""
    interrupted: bool = False
    spoken: tuple[SpokenWord, ...] = ()
    """A caller's words one by one, as they were recognised; times are seconds from ``at``, negative before it."""


@dataclass(frozen=True, slots=True)
class CallFilter:
    """Which calls to list; every condition that is given must hold."""

    caller: str = ""
    """Part of the caller's URI or name; case does not matter (in parts of one or two characters, that of ASCII)."""
    line: str = ""
    """``line_id``, exactly."""
    text: str = ""
    """Words that all occur in the conversation or the caller's URI and name; the last may be a beginning. A number of
    three digits and more may be any part of the caller's, too."""
    since: float | None = None
    """Started at this time or later."""
    until: float | None = None
    """Started before this time."""


@dataclass(frozen=True, slots=True)
class CallPage:
    """Calls, the latest first."""

    calls: tuple[CallRow, ...]
    next_before: int | None
    """What to give as ``before`` for the next page; None when this is the last."""


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Of a set of durations, in seconds (nearest rank)."""

    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True)
class LatencyPoint:
    """Latency of the turns of one stretch of time."""

    at: float
    """Beginning of the stretch."""
    turns: int
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True)
class LatencySummary:
    """Latency of the turns since some time. Percentiles of very many turns are those of an even sample."""

    turns: int
    interrupted: int
    """How many of the answers the caller talked over."""
    total: Percentiles | None
    """None when there were no turns."""
    parts: dict[str, Percentiles]
    points: tuple[LatencyPoint, ...]
    """Over time; stretches without a turn are left out."""


@dataclass(frozen=True, slots=True)
class HourCount:
    """Calls that started within one hour."""

    at: float
    """Beginning of the hour (UTC)."""
    calls: int
    answered: int
    seconds: float
    """Length of the answered calls together; calls that go on count nothing."""


@dataclass(frozen=True, slots=True)
class AuditRow:
    """Who did what."""

    id: int
    at: float
    actor: str
    action: str
    target: str
    detail: str


@dataclass(frozen=True, slots=True)
class Retention:
    """Days to keep things; 0 is for ever. What hangs on a call goes with the call."""

    calls: float = 0.0
    transcripts: float = 0.0
    recordings: float = 0.0


@dataclass(frozen=True, slots=True)
class Removed:
    """What was removed."""

    calls: int = 0
    transcripts: int = 0
    recordings: int = 0
