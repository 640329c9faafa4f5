"""Person or machine: by the length of what is said, and by the beep."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest
from stand_ins import SOCKETS, STREAM, Bench

from aiphone import events as ev
from aiphone.conversation.screening import LONGEST, NO_BEEP, NOBODY, SHORT_AGAIN, SHORT_SILENCE, Answerer, Screening
from aiphone.conversation.switchboard import Switchboard
from aiphone.persona import Persona

CALL = "o1"
PCM = np.zeros(320, np.int16)
SOUNDS = Path("/usr/share/asterisk/sounds/en_US_f_Allison")


def verdict(*heard: tuple[float, float] | float, until: float = 120.0) -> tuple[Answerer | None, float]:
    """Who it is and when that is known, for voices from-to and beeps at a time after the answer."""
    screening = Screening(0.0)
    happened: list[tuple[float, ev.VoiceStarted | ev.VoiceStopped | ev.ToneHeard]] = []
    for one in heard:
        if isinstance(one, float):
            happened.append((one, ev.ToneHeard(CALL, one, 1000.0, 0.4)))
        else:
            happened.append((one[0] + 0.1, ev.VoiceStarted(CALL, one[0])))
            happened.append((one[1] + 0.3, ev.VoiceStopped(CALL, one[1], PCM)))
    for at, event in sorted(happened, key=lambda pair: pair[0]):
        if at >= screening.due:
            break
        found = screening.heard(event)
        if found is not None:
            return found, at
    return screening.expired(screening.due), screening.due


PERSON, MACHINE = Answerer.PERSON, Answerer.MACHINE


def test_a_short_greeting_and_silence_is_a_person() -> None:
    assert verdict((0.3, 0.8)) == (PERSON, 0.8 + SHORT_SILENCE)
    assert verdict((0.5, 1.0), (1.3, 2.0)) == (PERSON, 2.0 + SHORT_SILENCE)


def test_silence_is_a_person() -> None:
    assert verdict() == (PERSON, NOBODY)


def test_a_beep_is_a_machine() -> None:
    assert verdict((0.3, 9.0), 9.8) == (MACHINE, 9.8)
    assert verdict((0.3, 1.0), 1.8) == (MACHINE, 1.8)
    assert verdict(1.0) == (MACHINE, 1.0)


def test_a_long_greeting_without_a_beep_is_a_machine() -> None:
    assert verdict((0.3, 4.0), (4.4, 9.0)) == (MACHINE, 9.0 + NO_BEEP)


def test_who_asks_whether_somebody_is_there_is_a_person() -> None:
    assert verdict((0.3, 4.0), (6.0, 6.5)) == (PERSON, 6.5 + SHORT_AGAIN)


def test_a_machine_that_ends_with_a_short_sentence() -> None:
    assert verdict((0.3, 4.0), (5.5, 6.5), 8.0) == (MACHINE, 8.0)


def test_a_talker_without_an_end_is_a_machine_in_the_end() -> None:
    screening = Screening(0.0)
    screening.heard(ev.VoiceStarted(CALL, 1.0))
    assert screening.expired(LONGEST - 0.1) is None
    assert screening.expired(LONGEST) is MACHINE


def test_ringing_after_the_answer_is_no_beep() -> None:
    screening = Screening(0.0)
    assert screening.heard(ev.ToneHeard(CALL, 1.0, 425.0, 1.0)) is None
    assert screening.heard(ev.ToneHeard(CALL, 1.0, 425.0, 0.3)) is MACHINE


@pytest.mark.parametrize("name", ["vm-intro", "vm-isunavail", "tt-somethingwrong", "vm-leavemsg"])
def test_real_greetings(name: str) -> None:
    """Their lengths, one after the other as machines say them; each ends in a beep."""
    path = SOUNDS / f"{name}.wav"
    if not path.is_file():
        pytest.skip("no recordings here (Debian: asterisk-core-sounds-en-wav)")
    with wave.open(str(path)) as file:
        seconds = file.getnframes() / file.getframerate()
    assert verdict((0.5, 2.5), (2.9, 2.9 + seconds), 3.5 + seconds) == (MACHINE, 3.5 + seconds)


# ------------------------------------------------------------------------------------------- in a call


class Exchange(Bench):
    """One call of ours with a message for a machine, answered."""

    def __init__(self, message: str = "Please call back.") -> None:
        super().__init__()
        self.board = Switchboard(
            self.stages,
            max_calls=1,
            persona_for=lambda line: Persona(greeting="Hello.", idle_after=0.0),
            close_sockets=lambda sockets: None,
            watch=lambda fact: None,
        )
        self.board.leave_message(CALL, message)
        self.board.dispatch(ev.OutgoingCall(CALL, "direct", "sip:bob@host", 0.0))
        self.board.dispatch(ev.MediaNegotiated(CALL, STREAM, SOCKETS))
        self.board.dispatch(ev.CallConfirmed(CALL, self.clock.now()))

    def spoken(self) -> list[str]:
        return [line[5] for line in self.journal.of("tts") if line[1] == "submit"]

    def ended(self) -> str:
        self.board.dispatch(ev.CallEnded(CALL, 200, "the call ended normally", self.clock.now()))
        assert self.timers.pending == []
        return self.board.recent[-1].end_reason


def test_the_message_is_left_after_the_beep_and_the_record_says_so() -> None:
    exchange = Exchange()
    (attached,) = exchange.journal.of("listener")
    assert attached[-1] == ("tones", True)
    exchange.board.dispatch(ev.VoiceStarted(CALL, 0.2))
    exchange.timers.advance(8.0)
    exchange.board.dispatch(ev.VoiceStopped(CALL, 8.0, PCM))
    assert exchange.spoken() == []
    exchange.board.dispatch(ev.ToneHeard(CALL, 9.0, 1000.0, 0.4))
    assert exchange.spoken() == ["Please call back."]
    exchange.board.dispatch(ev.SpeechChunk(CALL, 1, 0, np.full(320, 8000, np.int16), last=True, seconds=0.1))
    exchange.engine.calls[CALL].play(320)
    exchange.board.dispatch(ev.PlayoutDrained(CALL, 320, 9.5))
    assert ("sip", "hangup", CALL, ("reason", "answering machine: message left")) in exchange.journal.lines
    assert exchange.ended() == "answering machine: message left"
    assert [said.text for said in exchange.board.recent[-1].words] == ["Please call back."]


def test_a_machine_that_hangs_up_before_the_end_of_the_message() -> None:
    exchange = Exchange()
    exchange.board.dispatch(ev.ToneHeard(CALL, 1.0, 1000.0, 0.4))
    assert exchange.ended() == "answering machine: it hung up during the message"


def test_a_message_that_cannot_be_spoken_is_not_said_to_be_left() -> None:
    exchange = Exchange()
    exchange.board.dispatch(ev.ToneHeard(CALL, 1.0, 1000.0, 0.4))
    exchange.board.dispatch(ev.WorkFailed(CALL, 1, ev.Stage.SPEAK, "no voice"))
    assert exchange.ended() == "answering machine: the message could not be spoken"


def test_a_person_gets_the_conversation() -> None:
    exchange = Exchange()
    exchange.board.dispatch(ev.VoiceStarted(CALL, 0.2))
    exchange.board.dispatch(ev.VoiceStopped(CALL, 0.7, PCM))
    assert exchange.spoken() == []
    exchange.timers.advance(0.7 + SHORT_SILENCE + 0.01)
    assert exchange.spoken() == ["Hello."]
    exchange.board.dispatch(ev.ToneHeard(CALL, 5.0, 1000.0, 0.4))
    assert exchange.spoken() == ["Hello."]
    assert exchange.ended() == "the call ended normally"


def test_hanging_up_meanwhile_leaves_nothing_behind() -> None:
    exchange = Exchange()
    assert exchange.ended() == "the call ended normally"
