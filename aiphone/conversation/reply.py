"""One answer on its way: from pieces of text to phrases, to audio, to what was heard.

An answer is cut into phrases; each phrase is synthesised, queued and played in order. While the caller may
still go on speaking the answer is *held*: its first phrase is synthesised, and nothing is played.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from aiphone.actions import Action, ActionFilter
from aiphone.events import FRAME_SAMPLES, INTERNAL_RATE, Pcm
from aiphone.speech.phrases import PhraseCutter

_BACK = INTERNAL_RATE * 2 // 5
"""Samples (0.4 s) within which a place between words is looked for, to go on from after a hold."""

_AUDIBLE = 328
"""Samples above this (-40 dBFS) are sound, for cutting the silence before an answer."""


@dataclass(slots=True)
class Phrase:
    """A stretch of an answer that is synthesised in one go."""

    text: str
    asked: bool = False
    """Synthesis was requested."""
    complete: bool = False
    """All of its audio has arrived (or it failed and has none)."""
    start: int = 0
    """Playout position of its first sample, once it has been queued."""
    samples: int = 0
    """How many of its samples were queued."""
    pcm: list[Pcm] = field(default_factory=list, repr=False)
    """Those, to go on from the middle after a hold."""


@dataclass(slots=True)
class Reply:
    """An answer of one generation."""

    generation: int
    held: bool
    canned: bool = False
    """Words that no model wrote: a greeting, a question whether anyone is there. The model is not shown them."""
    phrases: list[Phrase] = field(default_factory=list)
    text_complete: bool = False
    waiting: list[tuple[int, Pcm]] = field(default_factory=list)
    """Audio that may not be played yet: phrase number and samples."""
    _cutter: PhraseCutter = field(default_factory=PhraseCutter)
    _filter: ActionFilter = field(default_factory=ActionFilter)

    def add_text(self, text: str) -> None:
        """More of the answer was written; an action in it is no part of what is spoken."""
        self.phrases += [Phrase(phrase) for phrase in self._cutter.feed(self._filter.feed(text))]

    def finish_text(self) -> None:
        """The answer is written to its end."""
        texts = [*self._cutter.feed(self._filter.finish()), *self._cutter.finish()]
        self.phrases += [Phrase(phrase) for phrase in texts]
        self.text_complete = True

    @property
    def action(self) -> Action | None:
        """What the answer ends with; whether it may be done is not looked at here."""
        return self._filter.action

    def confirm(self, text: str) -> None:
        """Give an answer that is only an action its words."""
        self.phrases.append(Phrase(text))

    def to_synthesise(self) -> list[tuple[int, str]]:
        """Phrases to ask for now, each once: while held the first alone, then all."""
        wanted = []
        for number, phrase in enumerate(self.phrases):
            if self.held and number > 0:
                break
            if not phrase.asked:
                phrase.asked = True
                wanted.append((number, phrase.text))
        return wanted

    def queued(self, number: int, start: int, pcm: Pcm) -> None:
        """``pcm`` of a phrase went to the playout ring, its first sample at position ``start``."""
        phrase = self.phrases[number]
        if phrase.samples == 0:
            phrase.start = start
        phrase.samples += pcm.size
        phrase.pcm.append(pcm)

    @property
    def end(self) -> int:
        """Position after the last sample that was queued."""
        return max((phrase.start + phrase.samples for phrase in self.phrases if phrase.samples), default=0)

    def play_again(self, played: int) -> list[Pcm]:
        """What had been queued and was not heard by position ``played``, from a place between words on.

        It is taken to be queued again at ``played``.
        """
        rest: list[Pcm] = []
        end = played
        for phrase in self.phrases:
            heard = max(0, played - phrase.start)
            if phrase.samples == 0 or heard >= phrase.samples:
                continue
            whole = np.concatenate(phrase.pcm)
            first = _between_words(whole, heard)
            phrase.start = end - first
            rest.append(whole[first:])
            end += phrase.samples - first
        return rest

    @property
    def exhausted(self) -> bool:
        """True when nothing more will be queued."""
        return self.text_complete and not self.waiting and all(phrase.complete for phrase in self.phrases)

    @property
    def audible(self) -> bool:
        """True when any of it was queued for playing."""
        return any(phrase.samples for phrase in self.phrases)

    def text(self) -> str:
        """All of it."""
        return " ".join(phrase.text for phrase in self.phrases)

    def heard(self, played: int) -> str:
        """The words whose audio had left by playout position ``played``, to the word.

        Within a phrase the words are taken to be as long as their letters; a word counts when all of it was heard.
        """
        words: list[str] = []
        for phrase in self.phrases:
            if phrase.samples == 0:
                break
            if phrase.complete and played >= phrase.start + phrase.samples:
                words += phrase.text.split()
                continue
            # A phrase whose end has not been synthesised yet is longer than what was queued; its words are then
            # taken to be spread over the known part, which errs on the side of words that were heard.
            share = max(0, played - phrase.start) / phrase.samples
            letters = sum(len(word) + 1 for word in phrase.text.split())
            used = 0
            for word in phrase.text.split():
                used += len(word) + 1
                if used > share * letters:
                    break
                words.append(word)
            break
        return " ".join(words)


def without_lead(pcm: Pcm) -> Pcm:
    """Without the silence that a voice begins with: the caller would wait for it.

    A frame of 20 ms before the first sound stays, so that its onset is whole.
    """
    loud = np.flatnonzero(np.abs(pcm.astype(np.int32)) > _AUDIBLE)
    return pcm[max(0, int(loud[0]) - FRAME_SAMPLES) :] if loud.size else pcm[:0]


def _between_words(pcm: Pcm, position: int) -> int:
    """The quietest 20 ms a little before ``position``: where a speaker who was interrupted would begin again."""
    frames = min(position, _BACK) // FRAME_SAMPLES
    if frames == 0:
        return 0 if position < FRAME_SAMPLES else position
    first = position - frames * FRAME_SAMPLES
    power = np.square(pcm[first:position].reshape(frames, FRAME_SAMPLES).astype(np.float32)).sum(axis=1)
    return position - (int(power[::-1].argmin()) + 1) * FRAME_SAMPLES  # the latest, where several are as quiet
