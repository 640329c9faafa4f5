"""The caller's turn as it grows: stretches of voice, keys, and what is known about its end.

A turn begins with the caller's first sound after the assistant had the floor and ends when its text is committed to
the history. Each pause within it begins a new attempt; what was found out in an earlier attempt (text, probability)
does not count any more, because more has been said since.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from aiphone.conversation.latency import Stopwatch
from aiphone.events import INTERNAL_RATE, Pcm
from aiphone.persona import Persona
from aiphone.speech import patience

KEY_PATIENCE = 2.0
"""Seconds after a key in which another one still belongs to the same entry."""

_GAP = np.zeros(INTERNAL_RATE // 5, np.int16)
"""Silence put between the stretches of one turn: long enough to part words."""


def limits_of(persona: Persona) -> patience.Limits:
    """The persona's patience; its usual one goes before the bounds."""
    usual = persona.patience
    return patience.Limits(min(persona.patience_floor, usual), usual, max(persona.patience_ceiling, usual))


@dataclass(slots=True)
class Turn:
    """What the caller has said and pressed so far."""

    stretches: list[Pcm] = field(default_factory=list)
    keys: str = ""
    key_at: float = 0.0
    began: float = 0.0
    """Arrival of its first voiced frame."""
    # The present attempt.
    words: str = ""
    known: bool = False
    """``words`` is what was said, all of it."""
    failed: bool = False
    """It could not be transcribed, or not be answered."""
    probability: float | None = None
    """That the turn is over, by the voice; None while it is not known."""
    by_words: float | None = None
    """The same by the language model, of the words."""
    filled: bool = False
    """The filler was said."""

    def audio(self) -> Pcm:
        """int16 at 16 kHz: all stretches with short gaps."""
        parts = [part for stretch in self.stretches for part in (stretch, _GAP)][:-1]
        return np.concatenate(parts) if parts else np.empty(0, np.int16)

    def new_attempt(self) -> None:
        """The turn has grown, or may yet: what was found out is void."""
        self.words, self.known, self.failed = "", False, False
        self.probability = self.by_words = None

    def press(self, key: str, at: float) -> None:
        """The caller pressed a key."""
        self.keys += key
        self.key_at = at

    @property
    def text(self) -> str:
        """Words and keys, as the model and the record are given them."""
        if not self.keys:
            return self.words
        pressed = "caller pressed " + " ".join(self.keys)
        return f"{self.words} ({pressed})" if self.words else pressed

    @property
    def unfinished(self) -> bool:
        """The words say that more is to come."""
        return patience.ending(self.words) in patience.UNFINISHED

    def over_at(self, limits: patience.Limits, watch: Stopwatch | None) -> float:
        """When the turn is over unless the caller goes on; ``watch`` knows when the last voice ended."""
        over = 0.0
        if watch is not None:
            text = self.words if self.known else None
            over = watch.voice_ended + patience.seconds(limits, self.probability, text, self.by_words)
        if self.keys:
            over = max(over, self.key_at + (0.0 if self.keys.endswith("#") else KEY_PATIENCE))
        return over
