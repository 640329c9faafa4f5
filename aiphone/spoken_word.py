"""A word of a transcript. Apart from the events, so that the store needs no numpy."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SpokenWord:
    """A word of a transcript, as it is written there."""

    text: str
    start: float
    """Seconds from the start of the transcribed audio, to about a tenth; in a record, from the line's ``at``."""
    end: float
    probability: float
    """How sure the recogniser is, 0 to 1."""
