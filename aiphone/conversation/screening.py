"""Who has answered a call of ours: a person, or a machine that records what is said after its beep.

Two signs tell. A person says something short and waits ("Smith." "Hello?"); a machine goes on talking. And a beep is a
machine's in any case. While it is not known nothing is said: to a machine it would be lost, and a person expects to be
the first to speak. Who is silent, too, is taken for a person; so is who says something short again after a long
greeting, for that is how people ask whether somebody is there.

No I/O and no clock, like the conversation.
"""

from __future__ import annotations

import enum

from aiphone import events as ev

NOBODY = 5.0
"""Seconds after the answer in which somebody must have said something."""
GREETING = 2.4
"""Longest greeting of a person, in seconds."""
SHORT_SILENCE = 0.9
"""Seconds of silence after a short greeting: somebody waits for us."""
SHORT_AGAIN = 2.0
"""The same after a long one; machines end theirs like that, but have their beep soon."""
NO_BEEP = 4.0
"""Seconds of silence after a long greeting: a machine without a beep records by now."""
NEW_GREETING = 1.2
"""A pause of so many seconds makes what follows another greeting."""
LONGEST = 90.0
"""Seconds after which whatever talks without an end is a machine."""

_RINGBACK = (380.0, 500.0, 0.7)
"""From and to Hz, and seconds: exchanges let it ring with such tones, also after an answer."""


class Answerer(enum.Enum):
    """Who it is."""

    PERSON = "person"
    MACHINE = "machine"
    """... and it records now."""


class Screening:
    """Finds out who has answered. Not thread-safe: one owner (the main thread)."""

    def __init__(self, answered: float) -> None:
        """``answered`` is when, in monotonic seconds."""
        self._limit = answered + LONGEST
        self._began: float | None = None
        self._ended = answered
        self._long = False
        self._verdict = Answerer.PERSON
        self.due = answered + NOBODY
        """When ``expired`` says who it is, unless something is heard before."""

    def heard(self, event: ev.VoiceStarted | ev.VoiceStopped | ev.ToneHeard) -> Answerer | None:
        """Take what was heard; who it is, as soon as that is known."""
        match event:
            case ev.ToneHeard():
                low, high, seconds = _RINGBACK
                ringing = low < event.frequency < high and event.seconds > seconds
                return None if ringing else Answerer.MACHINE
            case ev.VoiceStarted():
                if self._began is None or event.at - self._ended > NEW_GREETING:
                    self._began = event.at
                self._verdict, self.due = Answerer.MACHINE, self._limit
            case ev.VoiceStopped():
                began = self._began if self._began is not None else event.at
                self._ended = event.at
                if event.at - began > GREETING:
                    self._long = True
                    self._verdict, wait = Answerer.MACHINE, NO_BEEP
                else:
                    self._verdict, wait = Answerer.PERSON, SHORT_AGAIN if self._long else SHORT_SILENCE
                self.due = min(event.at + wait, self._limit)
        return None

    def expired(self, now: float) -> Answerer | None:
        """Who it is, when ``due`` has come."""
        return self._verdict if now >= self.due else None
