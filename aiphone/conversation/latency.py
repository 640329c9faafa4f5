"""The time of a turn, in parts that add up to it.

t0 is the arrival of the RTP packet with the caller's last voiced 20 ms, t1 the sending of the first audible
packet (above -45 dBFS) of the answer. Stages overlap, because work begins before the turn is known to be over.
Each part is therefore what the stage *added*: the time from the moment everything before it was done until it
was done itself, and nothing when it was done before. So a transcript that was ready within the patience costs
0, and the sum is t1 - t0 exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, field

PARTS = ("patience", "transcript", "first_token", "first_phrase", "first_audio", "playout")
"""The parts of a turn in their order."""


@dataclass(frozen=True, slots=True)
class OwnTimes:
    """Seconds that each stage worked for the answer, whether or not somebody waited for it; 0 when it did not."""

    transcript: float = 0.0
    """The last transcription of the turn, without queueing."""
    first_token: float = 0.0
    """From the request for the answer to its first token."""
    first_phrase: float = 0.0
    """From there to the first phrase."""
    first_audio: float = 0.0
    """From the request for its speech to the first of it."""
    turn_end: float = 0.0
    """The turn-end model; it works beside the others and is no part of ``floor``."""

    @property
    def floor(self) -> float:
        """The stages one after the other: what the answer would take without patience and without working ahead."""
        return self.transcript + self.first_token + self.first_phrase + self.first_audio


@dataclass(frozen=True, slots=True)
class TurnTimes:
    """When each thing happened, in seconds on the monotonic clock."""

    voice_ended: float
    """t0."""
    committed: float
    """The turn was taken to be over."""
    transcribed: float
    first_token: float
    first_phrase: float
    first_audio: float
    sent: float
    """t1."""
    own: OwnTimes = field(default_factory=OwnTimes)

    @property
    def total(self) -> float:
        """t1 - t0 in seconds."""
        return self.sent - self.voice_ended

    def parts(self) -> dict[str, float]:
        """Seconds that each part added, by name, in the order of ``PARTS``."""
        marks = (
            self.committed,
            self.transcribed,
            self.first_token,
            self.first_phrase,
            self.first_audio,
            self.sent,
        )
        done = self.voice_ended
        added = {}
        for name, mark in zip(PARTS, marks, strict=True):
            added[name] = max(0.0, mark - done)
            done = max(done, mark)
        return added


class Stopwatch:
    """Collects the times of one attempt at an answer, in whichever order they come."""

    def __init__(self, voice_ended: float) -> None:
        self.voice_ended = voice_ended
        self._marks: dict[str, float] = {}
        self._own: dict[str, float] = {}
        self.asked = 0.0
        """When the answer was asked for."""

    def mark(self, name: str, now: float) -> None:
        """``name`` (a field of ``TurnTimes``) is done; what was done already stays as it is."""
        self._marks.setdefault(name, now)

    def go_on(self) -> None:
        """The turn is not over after all: when it is will be marked again."""
        self._marks.pop("committed", None)

    def own(self, name: str, seconds: float) -> None:
        """A stage's own time (a field of ``OwnTimes``); the first one counts."""
        self._own.setdefault(name, max(0.0, seconds))

    def first_token(self, now: float) -> None:
        """The answer's text begins."""
        if "first_token" not in self._marks:
            self.mark("first_token", now)
            self.own("first_token", now - self.asked)

    def first_phrase(self, now: float) -> None:
        """The answer's first phrase is complete."""
        if "first_phrase" not in self._marks:
            self.mark("first_phrase", now)
            self.own("first_phrase", now - self._marks.get("first_token", now))

    def times(self, sent: float) -> TurnTimes | None:
        """The turn's times when its first packet left at ``sent``; None while something is missing."""
        marks = self._marks
        if not {"committed", "transcribed", "first_token", "first_phrase", "first_audio"} <= marks.keys():
            return None
        return TurnTimes(voice_ended=self.voice_ended, sent=sent, own=OwnTimes(**self._own), **marks)
