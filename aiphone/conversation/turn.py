"""The caller's turn as it grows: stretches of voice, keys, and what is known about its end.

A turn begins with the caller's first sound after the assistant had the floor and ends when its text is committed to
the history. Each pause within it begins a new attempt; what was found out in an earlier attempt (text, probability)
does not count any more, because more has been said since.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field, replace
from itertools import accumulate

import numpy as np

from aiphone.conversation.latency import Stopwatch
from aiphone.events import INTERNAL_RATE, Pcm
from aiphone.persona import Persona
from aiphone.speech import patience
from aiphone.spoken_word import SpokenWord

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
    begins: list[float] = field(default_factory=list)
    """When the first sample of each stretch arrived."""
    keys: str = ""
    key_at: float = 0.0
    began: float = 0.0
    """Arrival of its first voiced frame."""
    # The present attempt.
    words: str = ""
    known: bool = False
    """``words`` is what was said, all of it."""
    spoken: tuple[SpokenWord, ...] = ()
    """The same word by word, with times from the start of ``audio()``."""
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
        self.words, self.known, self.failed, self.spoken = "", False, False, ()
        self.probability = self.by_words = None

    def press(self, key: str, at: float) -> None:
        """The caller pressed a key."""
        self.keys += key
        self.key_at = at

    def add(self, begins: float, pcm: Pcm) -> None:
        """One more stretch of voice, whose first sample arrived at ``begins``."""
        self.begins.append(begins)
        self.stretches.append(pcm)

    def spoken_from(self, at: float) -> tuple[SpokenWord, ...]:
        """The words with the times at which they were said, in seconds from ``at`` (negative before it)."""
        starts = list(accumulate((len(stretch) + len(_GAP) for stretch in self.stretches[:-1]), initial=0))

        def arrived(seconds: float) -> float:
            number = max(0, bisect_right(starts, seconds * INTERNAL_RATE) - 1)
            return round(self.begins[number] + seconds - starts[number] / INTERNAL_RATE - at, 2)

        return tuple(replace(word, start=arrived(word.start), end=arrived(word.end)) for word in self.spoken)

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
