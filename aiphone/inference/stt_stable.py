"""Which words of an unfinished transcript will stay: those that two in a row agree on.

A transcript of audio that is cut off in mid-word guesses its end. The same audio with half a second more gives
the end anew and the beginning as it was, so the longest beginning common to both is taken as certain ("local
agreement", Liu et al. 2020, "Low-Latency Sequence-to-Sequence Speech Recognition", with n = 2).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from aiphone.events import Pcm

_RECOGNISED_BY = 16_000
"""Samples, one second, that tell whether two pieces of audio begin alike."""


def agreed(before: str, now: str) -> str:
    """The beginning of ``now`` whose words ``before`` has too; case and punctuation do not count."""
    words = now.split()
    count = 0
    for old, new in zip(map(_bare, before.split()), map(_bare, words), strict=False):
        if old != new:
            break
        count += 1
    return " ".join(words[:count])


def same_turn(before: Pcm, now: Pcm) -> bool:
    """Whether ``now`` is ``before`` gone on, by its first second."""
    known = min(len(before), _RECOGNISED_BY)
    return 0 < known <= len(now) and bool(np.array_equal(before[:known], now[:known]))


def _bare(word: str) -> str:
    return "".join(character for character in word.lower() if character.isalnum())


@dataclass(slots=True)
class StablePrefix:
    """A call's last partial transcript, to compare the next one with."""

    _pcm: Pcm = field(default_factory=lambda: np.empty(0, np.int16))
    _text: str = ""

    def add(self, pcm: Pcm, text: str) -> str:
        """The next partial: returns the beginning of ``text`` that is certain."""
        stable = agreed(self._text, text) if same_turn(self._pcm, pcm) else ""
        self._pcm, self._text = pcm, text
        return stable
