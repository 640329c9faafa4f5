"""What the switchboard tells whoever watches: the store, the event stream of the web page, the transcript file.

Facts are immutable, come on the main thread, in order, and are told when they have happened. A watcher must return
at once and must not raise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiphone.conversation.latency import TurnTimes
from aiphone.conversation.record import CallRecord
from aiphone.events import LineChanged
from aiphone.spoken_word import SpokenWord


@dataclass(frozen=True, slots=True)
class CallFact:
    """Base: something about a call. ``record`` is the call's own, live record; read it now, do not keep it."""

    record: CallRecord


@dataclass(frozen=True, slots=True)
class CallAdmitted(CallFact):
    """An incoming call was let in and is being answered, or a call of ours is being placed."""


@dataclass(frozen=True, slots=True)
class CallAnswered(CallFact):
    """Both sides may speak."""


@dataclass(frozen=True, slots=True)
class CallerChanged(CallFact):
    """Somebody else is at the other end: the call was transferred; ``record.caller`` is who."""


@dataclass(frozen=True, slots=True)
class StateChanged(CallFact):
    """The conversation went to another state (see ``transitions.State``)."""

    state: str


@dataclass(frozen=True, slots=True)
class Hearing(CallFact):
    """What the caller seems to have said so far; it may still change."""

    text: str


@dataclass(frozen=True, slots=True)
class Speaking(CallFact):
    """The audio of these words was queued for the caller."""

    text: str


@dataclass(frozen=True, slots=True)
class WordsSaid(CallFact):
    """A line of the conversation is final."""

    role: str
    text: str
    at: float
    interrupted: bool
    words: tuple[SpokenWord, ...] = ()
    """A caller's words one by one, with times in seconds from ``at``."""


@dataclass(frozen=True, slots=True)
class TurnTimed(CallFact):
    """The answer to a turn began to be heard; these are its times."""

    times: TurnTimes


@dataclass(frozen=True, slots=True)
class CallOver(CallFact):
    """The call ended and everything of it was given back. ``media`` are its last media statistics, or None."""

    media: Any


Fact = CallFact | LineChanged
Watcher = Callable[[Fact], None]
