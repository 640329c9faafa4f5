"""What a conversation asks for: plain values that the conductor carries out.

The conversation never touches a socket, a model or a clock; it returns these.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from aiphone.conversation.latency import TurnTimes
from aiphone.events import Pcm, Urgency
from aiphone.persona import Message
from aiphone.spoken_word import SpokenWord


@dataclass(frozen=True, slots=True)
class Transcribe:
    """Turn the caller's audio into text."""

    generation: int
    pcm: Pcm = field(repr=False, compare=False)
    urgency: Urgency = Urgency.FINAL
    """After an early one ``Insist`` follows, when the pause is certain."""


@dataclass(frozen=True, slots=True)
class Insist:
    """The transcript that was asked for early is needed: where it was not begun, it is asked for now."""

    generation: int
    pcm: Pcm = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class EstimateTurnEnd:
    """Ask the voice whether the turn is over."""

    generation: int
    pcm: Pcm = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class ReadAhead:
    """Let the model read what is known of a question that goes on; nothing comes of it but time saved."""

    generation: int
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Generate:
    """Write the answer to ``messages`` (the whole conversation, the caller's turn last)."""

    generation: int
    messages: tuple[Message, ...]
    speculative: bool
    """True while the caller may still go on: others go first, and nothing of it is heard yet."""


@dataclass(frozen=True, slots=True)
class Promote:
    """The speculative answer of this generation is wanted after all."""

    generation: int


@dataclass(frozen=True, slots=True)
class Speak:
    """Synthesise a phrase."""

    generation: int
    phrase: int
    text: str


@dataclass(frozen=True, slots=True)
class Play:
    """Queue audio for the caller."""

    pcm: Pcm = field(repr=False, compare=False)
    text: str = ""
    """The words that begin with this audio; empty when it goes on with earlier ones."""


@dataclass(frozen=True, slots=True)
class StopPlayout:
    """Drop everything queued, at once and with a short fade."""


@dataclass(frozen=True, slots=True)
class SetGain:
    """Change the level of what is played, in dB; 0 is unchanged."""

    db: float


@dataclass(frozen=True, slots=True)
class EchoHeard:
    """Our own words came back and were taken for the caller's voice: the gate is too low."""


@dataclass(frozen=True, slots=True)
class CancelWork:
    """Give up everything of this generation in every stage."""

    generation: int


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Fire ``TimerFired(name, serial)`` at the time ``at``; replaces a timer of the same name."""

    name: str
    serial: int
    at: float


@dataclass(frozen=True, slots=True)
class CancelTimer:
    """Forget the timer."""

    name: str


@dataclass(frozen=True, slots=True)
class HangUp:
    """End the call."""

    reason: str


@dataclass(frozen=True, slots=True)
class Transfer:
    """Send the caller on; ``TransferProgress`` tells what becomes of it."""

    name: str
    """The target's name, for people."""
    uri: str


@dataclass(frozen=True, slots=True)
class SendDigits:
    """Press keys."""

    digits: str


@dataclass(frozen=True, slots=True)
class Hold:
    """Put the caller on hold."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Take the caller back from hold."""


@dataclass(frozen=True, slots=True)
class Said:
    """Somebody's words became part of the conversation."""

    role: str
    """``"user"`` or ``"assistant"``."""
    text: str
    at: float
    """When a caller's voice had ended; when the assistant's words began."""
    interrupted: bool = False
    words: tuple[SpokenWord, ...] = ()
    """A caller's words one by one, with times in seconds from ``at``: negative, for they were said before it."""


@dataclass(frozen=True, slots=True)
class TurnMeasured:
    """The first audible packet of an answer has left; these are the turn's times."""

    times: TurnTimes


@dataclass(frozen=True, slots=True)
class InteractionDone:
    """A turn and its answer are complete and in the history: the moment to save the session."""

    history: tuple[Message, ...]


Command = (
    Transcribe
    | Insist
    | EstimateTurnEnd
    | ReadAhead
    | Generate
    | Promote
    | Speak
    | Play
    | StopPlayout
    | SetGain
    | EchoHeard
    | CancelWork
    | SetTimer
    | CancelTimer
    | HangUp
    | Transfer
    | SendDigits
    | Hold
    | Resume
    | Said
    | TurnMeasured
    | InteractionDone
)
