"""The time of a turn, in parts that add up to it.

t0 is the arrival of the RTP packet with the caller's last voiced 20 ms, t1 the sending of the first audible
packet (above -45 dBFS) of the answer. Stages overlap, because work begins before the turn is known to be over.
Each part is therefore what the stage *added*: the time from the moment everything before it was done until it
was done itself, and nothing when it was done before. So a transcript that was ready within the patience costs
0, and the sum is t1 - t0 exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

PARTS = ("patience", "transcript", "first_token", "first_phrase", "first_audio", "playout")
"""The parts of a turn in their order."""


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
