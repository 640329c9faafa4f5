"""The caller's voice over the assistant's: how long it lasts, what it says, and who goes on.

Two steps. At the first sign of a voice the assistant is turned down; after ``interrupt_after`` of it the answer is
*held*: it falls silent where it is, and can still go on from there. Then it is found out what the voice was:

- A voice that ends soon is transcribed, as soon as it seems to end. A listener's signal, noise or our own words let the
  answer go on, once the voice has been silent for a while (``rest_until``); other words are the caller's turn.
- A voice that goes on is transcribed in part. Words that want the floor end the answer at once; without them it ends
  after ``SURE`` of voice, or ``PATIENT`` when what was understood is no more than a listener's signal.

Pure: times and texts in, decisions out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from aiphone.events import Pcm, VoiceStopped
from aiphone.speech.barge_in import Meaning

DUCK_DB = -12.0
"""Level of the assistant while it is unclear whether the caller interrupts."""

SURE = 1.0
"""Seconds of voice that no signal of a listener lasts."""

PATIENT = 2.0
"""The same for a voice whose words are a listener's, or none: a cough that does not end, laughter."""

REST = 0.5
"""Seconds from the end of a voice that meant nothing until the answer goes on: more words may follow, as in "yeah, but"
or "okay, stop"."""

LEAST_REST = 0.32
"""The same where the silence has become long: pauses between two words are shorter."""

SILENCE = 0.9
"""Seconds from the begin of a voice that means nothing in which the answer should go on."""

DOUBT = 1.5
"""Seconds that the transcript of a voice which has ended is waited for before the answer goes on without it."""


@dataclass(slots=True)
class Overlap:
    """One stretch of talking over each other, from the first voice until it is decided."""

    began: float
    """Arrival of its first voiced frame."""
    held: bool = False
    """The answer is silent, and waits."""
    speaking: bool = True
    """The caller's voice has not stopped."""
    ended: float = 0.0
    """Arrival of the last voiced frame, once it has."""
    stretches: list[Pcm] = field(default_factory=list)
    begins: list[float] = field(default_factory=list)
    """When the first sample of each stretch arrived."""
    meaning: Meaning | None = None
    """Of what was understood so far; None when nothing was transcribed yet."""
    faded: float | None = None
    """Arrival of the last voiced frame before it seemed to end: its transcript was asked for then."""
    judged: bool = False
    """That transcript has come."""

    def stop(self, voice: VoiceStopped) -> None:
        """The voice has stopped."""
        self.speaking, self.ended = False, voice.at
        self.begins.append(voice.begins)
        self.stretches.append(voice.pcm)

    def fade(self, at: float) -> None:
        """It may have stopped."""
        self.faded, self.judged = at, False

    def resume(self) -> None:
        """It is there again."""
        self.speaking = True
        self.faded = None

    def rest_until(self) -> float:
        """When the answer goes on after a voice that meant nothing."""
        return max(self.ended + LEAST_REST, min(self.ended + REST, self.began + SILENCE))

    def sure_at(self) -> float:
        """When a voice that does not stop ends the answer."""
        harmless = self.meaning in (Meaning.NOTHING, Meaning.GO_ON)
        return self.began + (PATIENT if harmless else SURE)
