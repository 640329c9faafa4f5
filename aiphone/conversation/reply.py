"""One answer on its way: from pieces of text to phrases, to audio, to what was heard.

An answer is cut into phrases; each phrase is synthesised, queued and played in order. While the caller may
still go on speaking the answer is *held*: its first phrase is synthesised, and nothing is played.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from aiphone.events import Pcm
from aiphone.speech.phrases import PhraseCutter


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

    def add_text(self, text: str) -> None:
        """More of the answer was written."""
        self.phrases += [Phrase(phrase) for phrase in self._cutter.feed(text)]

    def finish_text(self) -> None:
        """The answer is written to its end."""
        self.phrases += [Phrase(phrase) for phrase in self._cutter.finish()]
        self.text_complete = True

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

    def queued(self, number: int, start: int, samples: int) -> None:
        """``samples`` of a phrase went to the playout ring, the first at position ``start``."""
        phrase = self.phrases[number]
        if phrase.samples == 0:
            phrase.start = start
        phrase.samples += samples

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
