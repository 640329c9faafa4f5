"""When each word of a turn was said."""

from __future__ import annotations

import numpy as np
import pytest

from aiphone import events as ev
from aiphone.conversation import commands as cmd
from aiphone.conversation.machine import Conversation
from aiphone.conversation.turn import Turn
from aiphone.persona import Persona

SECOND = np.ones(ev.INTERNAL_RATE, np.int16)
HALF = SECOND[: ev.INTERNAL_RATE // 2]


def word(text: str, start: float, end: float) -> ev.SpokenWord:
    return ev.SpokenWord(text, start, end, 0.9)


def test_a_stretch_begins_as_long_before_its_last_voice_as_it_lasts() -> None:
    assert ev.VoiceStopped("c", 12.0, SECOND, 0.1).begins == pytest.approx(11.1)


def test_words_of_later_stretches_were_said_after_the_real_pause_not_the_short_one_between_them() -> None:
    turn = Turn()
    turn.add(10.0, SECOND)
    turn.add(14.0, HALF)  # in audio() it begins after 1.2 s
    turn.add(20.0, SECOND)  # and this after 1.9 s
    turn.spoken = (word("one", 0.2, 0.9), word("two", 1.3, 1.6), word("three", 2.0, 2.85))
    assert turn.spoken_from(21.0) == (word("one", -10.8, -10.1), word("two", -6.9, -6.6), word("three", -0.9, -0.05))


def test_a_word_that_ends_beyond_the_audio_counts_from_the_last_stretch() -> None:
    turn = Turn()
    turn.add(10.0, SECOND)
    turn.spoken = (word("one", 0.2, 1.4),)
    assert turn.spoken_from(10.0) == (word("one", 0.2, 1.4),)


def test_nothing_recognised_has_no_words() -> None:
    assert Turn().spoken_from(3.0) == ()


def answered(pauses: list[tuple[float, float]], words: tuple[ev.SpokenWord, ...]) -> list[cmd.Command]:
    """A caller who speaks from, until each of ``pauses``, is understood and answered: what is asked for in the end."""
    conversation = Conversation("c", Persona(greeting="", idle_after=0))
    conversation.handle(ev.CallConfirmed("c", 0.0), 0.0, 0)
    for begin, end in pauses:
        conversation.handle(ev.VoiceStarted("c", begin), begin, 0)
        conversation.handle(ev.VoiceStopped("c", end, HALF), end + 0.1, 0)
    number, now = conversation.generation, pauses[-1][1] + 0.2
    conversation.handle(ev.Transcribed("c", number, "One two.", 0.1, 0.0, False, words), now, 0)
    conversation.handle(ev.ReplyText("c", number, "Here.", now), now, 0)
    conversation.handle(ev.ReplyEnded("c", number, "stop", 10, 0, 10, 0.05, 0.1), now, 0)
    loud = np.full(8000, 8000, np.int16)
    conversation.handle(ev.SpeechChunk("c", number, 0, loud, True, 0.1), now, 0)
    conversation.handle(ev.TimerFired("c", "patience", conversation._timers["patience"]), now + 1.0, 0)
    return conversation.handle(ev.PlayoutStarted("c", 0, now + 1.1), now + 1.1, 320)


def test_the_record_has_the_words_of_a_turn_with_the_times_at_which_they_were_said() -> None:
    out = answered([(1.0, 1.5), (4.0, 4.5)], (word("One", 0.1, 0.4), word("two.", 0.8, 1.1)))
    (said,) = (command for command in out if isinstance(command, cmd.Said) and command.role == "user")
    assert said.at == 4.5
    assert said.words == (word("One", -3.4, -3.1), word("two.", -0.4, -0.1))
