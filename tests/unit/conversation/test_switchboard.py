"""Calls from INVITE to BYE, with stages that write down what they were asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stand_ins import SOCKETS, STREAM, Bench

from aiphone import events as ev
from aiphone.conversation.facts import CallerChanged, Fact, WordsSaid
from aiphone.conversation.switchboard import RETRY_AFTER_SECONDS, Switchboard
from aiphone.errors import MediaError, SipError
from aiphone.persona import Persona

LOUD = np.full(320, 8000, np.int16)

PERSONA = Persona(greeting="Hello.", idle_after=0.0)


class Exchange(Bench):
    def __init__(self, max_calls: int = 2) -> None:
        super().__init__()
        self.closed: list[ev.RtpSockets] = []
        self.facts: list[Fact] = []
        self.persona = PERSONA
        self.board = Switchboard(
            self.stages,
            max_calls=max_calls,
            persona_for=lambda line: self.persona,
            close_sockets=self.closed.append,
            watch=self.facts.append,
            persona_named=lambda name: Persona(greeting=f"{name}.", idle_after=0.0),
        )

    def invite(self, call_id: str, caller: str = "sip:ann@127.0.0.1") -> None:
        self.board.dispatch(ev.IncomingCall(call_id, "direct", caller, "", "sip:ai@127.0.0.1", f"id-{call_id}", 0.0))

    def negotiate(self, call_id: str, sockets: ev.RtpSockets | None = SOCKETS) -> None:
        self.board.dispatch(ev.MediaNegotiated(call_id, STREAM, sockets))

    def confirm(self, call_id: str) -> None:
        self.board.dispatch(ev.CallConfirmed(call_id, 0.1))

    def connect(self, call_id: str) -> None:
        self.invite(call_id)
        self.negotiate(call_id)
        self.confirm(call_id)


def test_a_call_is_answered_and_greeted() -> None:
    exchange = Exchange()
    exchange.connect("c1")
    assert exchange.journal.of("sip") == [("sip", "answer", "c1")]
    assert ("tts", "submit", "c1", 1, 0, "Hello.", "") in exchange.journal.lines
    assert [record.call_id for record in exchange.board.active] == ["c1"]
    assert exchange.board.state_of("c1") == "thinking"


def test_the_recogniser_is_told_what_the_persona_expects() -> None:
    exchange = Exchange()
    exchange.persona = replace(PERSONA, language="de", vocabulary="Anna, Berta")
    exchange.connect("c1")
    assert exchange.journal.of("stt") == [
        ("stt", "begin", "c1", ("language", "de"), ("prompt", "Glossary: Anna, Berta."))
    ]


def test_the_called_number_may_ask_for_a_persona() -> None:
    exchange = Exchange()
    exchange.board.dispatch(ev.IncomingCall("c1", "trunk", "sip:ann@h", "", "sip:1@h", "id", 0.0, persona="Sales"))
    exchange.negotiate("c1")
    exchange.confirm("c1")
    assert ("tts", "submit", "c1", 1, 0, "Sales.", "") in exchange.journal.lines


def test_the_ack_may_come_before_the_media() -> None:
    exchange = Exchange()
    exchange.invite("c1")
    exchange.confirm("c1")
    assert exchange.journal.of("tts") == []
    exchange.negotiate("c1")
    assert len(exchange.journal.of("tts")) == 1


def test_a_reinvite_updates_the_stream_and_does_not_greet_again() -> None:
    exchange = Exchange()
    exchange.connect("c1")
    exchange.negotiate("c1", None)
    assert ("media", "update", STREAM) in exchange.journal.lines
    assert len(exchange.journal.of("tts")) == 1


def test_beyond_the_limit_callers_are_told_when_to_try_again() -> None:
    exchange = Exchange(max_calls=1)
    exchange.invite("c1")
    exchange.invite("c2")
    assert exchange.journal.of("sip")[-1] == ("sip", "reject", "c2", 486, "Busy Here", RETRY_AFTER_SECONDS)
    assert len(exchange.board.active) == 1


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_hanging_up_frees_everything_however_far_the_call_was(steps: int) -> None:
    exchange = Exchange()
    for step in (exchange.invite, exchange.negotiate, exchange.confirm)[:steps]:
        step("c1")
    exchange.journal.lines.clear()
    exchange.board.dispatch(ev.CallEnded("c1", 200, "Normal", 1.0))
    freed = [line[:2] for line in exchange.journal.lines]
    assert ("stt", "release") in freed
    assert ("llm", "close_call") in freed
    assert ("tts", "release") in freed
    if steps > 1:
        assert freed.index(("listener", "detach")) < freed.index(("media", "close"))
    assert exchange.timers.pending == []
    assert exchange.board.active == []
    assert exchange.board.recent[-1].end_reason == "Normal"


def test_media_for_a_call_that_is_gone_is_closed() -> None:
    exchange = Exchange()
    exchange.negotiate("c9")
    assert exchange.closed == [SOCKETS]


def test_a_full_engine_ends_the_call() -> None:
    exchange = Exchange()
    exchange.engine.fails = True
    exchange.invite("c1")
    exchange.negotiate("c1")
    assert exchange.journal.of("sip")[-1] == ("sip", "hangup", "c1", 500, "media not available")
    assert exchange.closed == [SOCKETS]


def test_long_answers_wait_for_room_and_stop_at_once() -> None:
    exchange = Exchange()
    exchange.connect("c1")
    media = exchange.engine.calls["c1"]
    exchange.board.dispatch(ev.SpeechChunk("c1", 1, 0, np.full(40_000, 8000, np.int16), True, 0.1))
    assert media.queued == 16_000
    media.play(10_000)
    exchange.timers.advance(0.25)
    assert media.queued == 16_000
    exchange.board.dispatch(ev.VoiceStarted("c1", exchange.clock.now()))
    exchange.timers.advance(0.3)
    assert media.queued == 0
    exchange.timers.advance(5.0)
    assert media.queued == 0, "audio that waited for room came back after the stop"


def test_events_of_one_call_never_reach_another() -> None:
    exchange = Exchange()
    exchange.connect("c1")
    exchange.connect("c2")
    exchange.journal.lines.clear()
    exchange.board.dispatch(ev.SpeechChunk("c1", 1, 0, LOUD, True, 0.1))
    assert exchange.engine.calls["c1"].queued == 320
    assert exchange.engine.calls["c2"].queued == 0


def test_a_returning_caller_keeps_the_conversation() -> None:
    exchange = Exchange()
    exchange.connect("c1")
    exchange.board.dispatch(ev.SpeechChunk("c1", 1, 0, LOUD, True, 0.1))
    exchange.engine.calls["c1"].play(320)
    exchange.board.dispatch(ev.PlayoutDrained("c1", 320, 1.0))
    exchange.board.dispatch(ev.VoiceStarted("c1", 2.0))
    exchange.board.dispatch(ev.VoiceStopped("c1", 3.0, np.ones(320, np.int16)))
    exchange.board.dispatch(ev.Transcribed("c1", 2, "What is my name?", 0.1, 0.0))
    generate = exchange.journal.of("llm")[-1]
    assert [message.content for message in generate[4]][1:] == ["I am Ann.", "Hello Ann.", "What is my name?"]


def test_shutting_down_says_goodbye_to_all_and_takes_no_more() -> None:
    exchange = Exchange()
    exchange.connect("c1")
    exchange.board.hang_up_all()
    assert exchange.journal.of("sip")[-1][:3] == ("sip", "hangup", "c1")
    exchange.invite("c2")
    assert exchange.journal.of("sip")[-1][:4] == ("sip", "reject", "c2", 486)


def test_words_reach_the_transcript_with_their_call() -> None:
    exchange = Exchange()
    exchange.connect("c1")
    exchange.board.dispatch(ev.SpeechChunk("c1", 1, 0, LOUD, True, 0.1))
    exchange.engine.calls["c1"].play(320)
    exchange.board.dispatch(ev.PlayoutDrained("c1", 320, 1.0))
    said = [fact for fact in exchange.facts if isinstance(fact, WordsSaid)]
    assert [(fact.record.call_id, fact.role, fact.text) for fact in said] == [("c1", "assistant", "Hello.")]


def test_watchers_are_told_a_call_from_its_begin_to_its_end() -> None:
    exchange = Exchange()
    exchange.connect("c1")
    exchange.board.dispatch(ev.SpeechChunk("c1", 1, 0, LOUD, True, 0.1))
    exchange.board.dispatch(ev.CallEnded("c1", 200, "Normal", 1.0))
    kinds = [type(fact).__name__ for fact in exchange.facts]
    assert kinds[:2] == ["CallAdmitted", "CallAnswered"]
    assert "Speaking" in kinds
    assert kinds[-1] == "CallOver"


def test_lines_are_known_by_their_last_state() -> None:
    exchange = Exchange()
    exchange.board.dispatch(ev.LineChanged("front", ev.LineState.REGISTERED))
    assert exchange.board.lines["front"].state is ev.LineState.REGISTERED


def test_a_call_that_we_place_takes_the_same_way_without_being_answered() -> None:
    exchange = Exchange()
    exchange.board.dispatch(ev.OutgoingCall("o1", "direct", "sip:ann@192.0.2.7", 0.0))
    exchange.board.dispatch(ev.CallProgress("o1", 180, "Ringing", 0.1))
    assert exchange.journal.of("sip") == []
    (record,) = exchange.board.active
    assert (record.caller, record.direction) == ("sip:ann@192.0.2.7", "out")
    exchange.negotiate("o1")
    exchange.confirm("o1")
    assert ("tts", "submit", "o1", 1, 0, "Hello.", "") in exchange.journal.lines
    exchange.board.dispatch(ev.CallEnded("o1", 200, "over", 5.0))
    assert exchange.board.active == []


def test_a_call_that_we_place_beyond_the_limit_is_given_up() -> None:
    exchange = Exchange(max_calls=1)
    exchange.invite("c1")
    exchange.board.dispatch(ev.OutgoingCall("o1", "direct", "sip:ann@192.0.2.7", 0.0))
    assert exchange.journal.of("sip")[-1] == ("sip", "hangup", "o1", ("reason", "Busy"))
    exchange.board.dispatch(ev.CallEnded("o1", 487, "given up", 1.0))
    assert [record.call_id for record in exchange.board.active] == ["c1"]


def test_a_call_is_recorded_once_it_has_media() -> None:
    exchange = Exchange()
    exchange.invite("c1")
    with pytest.raises(MediaError, match="c1 has no media"):
        exchange.board.record("c1", Path("c1.wav"))
    exchange.negotiate("c1")
    exchange.board.record("c1", Path("c1.wav"))
    exchange.board.stop_recording("c1")
    assert exchange.journal.of("media")[-2:] == [("media", "record", Path("c1.wav")), ("media", "stop_recording")]
    with pytest.raises(MediaError, match="no call c9"):
        exchange.board.record("c9", Path("c9.wav"))
    exchange.board.stop_recording("c9")


@pytest.mark.parametrize(("call_id", "direction"), [("c1", "in"), ("o1", "out"), ("w12", "web")])
def test_the_number_of_a_call_says_who_called(call_id: str, direction: str) -> None:
    exchange = Exchange()
    exchange.invite(call_id)
    assert exchange.board.active[0].direction == direction


class Desk(Exchange):
    """A call whose assistant answers a key with what it is told to; its words take no time."""

    def __init__(self, answer: str, stream: ev.RtpStream = STREAM) -> None:
        super().__init__()
        targets = (("sales", "sip:sales@192.0.2.7"),)
        persona = Persona(
            greeting="", idle_after=0.0, actions=("transfer", "press", "hold", "hang up"), transfers=targets
        )
        self.board = Switchboard(
            self.stages,
            max_calls=2,
            persona_for=lambda line: persona,
            close_sockets=self.closed.append,
            watch=self.facts.append,
        )
        self.invite("c1")
        self.board.dispatch(ev.MediaNegotiated("c1", stream, SOCKETS))
        self.confirm("c1")
        self.say(answer)

    def say(self, answer: str) -> None:
        self.board.dispatch(ev.DigitReceived("c1", "#", self.clock.now()))
        self.timers.advance(0.0)
        generation = self.journal.of("llm")[-1][3]
        self.board.dispatch(ev.ReplyText("c1", generation, answer, self.clock.now()))
        self.board.dispatch(ev.ReplyEnded("c1", generation, "stop", 1, 0, 1, 0.1, 0.1))
        self.board.dispatch(ev.SpeechChunk("c1", generation, 0, LOUD, True, 0.1))
        media = self.engine.calls["c1"]
        media.play(media.queued)
        self.board.dispatch(ev.PlayoutDrained("c1", media.played, self.clock.now()))

    def progress(self, code: int) -> None:
        self.board.dispatch(ev.TransferProgress("c1", code, "", final=code >= 200, at=1.0))

    def end(self) -> str:
        self.board.dispatch(ev.CallEnded("c1", 200, "transferred", 2.0))
        return self.board.recent[-1].end_reason

    @property
    def asked(self) -> tuple[object, ...]:
        return self.journal.of("sip")[-1][1:]


def test_a_transfer_is_in_the_record() -> None:
    desk = Desk("Gladly. [transfer sales]")
    assert desk.asked == ("transfer", "c1", "sip:sales@192.0.2.7")
    desk.progress(100)
    assert desk.board.state_of("c1") == "transferring"
    desk.progress(200)
    assert desk.end() == "transferred to sales"


def test_a_caller_who_hangs_up_before_the_transfer_is_known_to_have_worked() -> None:
    assert Desk("Gladly. [transfer sales]").end() == "being transferred to sales"


def test_a_transfer_that_failed_is_not_in_the_record() -> None:
    desk = Desk("Gladly. [transfer sales]")
    desk.progress(486)
    assert desk.journal.of("tts")[-1][5] == "nobody answers there."
    assert desk.end() == "transferred"


def test_a_transfer_that_sip_does_not_take_has_failed() -> None:
    desk = Desk("Yes.")

    def refuse(call_id: str, uri: str) -> None:
        raise SipError("that is no address")

    desk.stages.sip.transfer = refuse  # type: ignore[method-assign]
    desk.say("Gladly. [transfer sales]")
    assert desk.board.state_of("c1") == "transferring"
    desk.timers.advance(0.0)
    assert desk.journal.of("tts")[-1][5] == "nobody answers there."


def test_keys_go_out_as_rtp_or_as_info() -> None:
    desk = Desk("Yes. [press 12#]")
    assert ("media", "send_digits", "12#") in desk.journal.lines
    desk = Desk("Yes. [press 12#]", replace(STREAM, dtmf_payload_type=None))
    assert desk.asked == ("send_info_digits", "c1", "12#")


def test_hold_ends_by_itself() -> None:
    desk = Desk("Wait. [hold]")
    assert desk.asked == ("hold", "c1")
    desk.timers.advance(20.0)
    assert desk.asked == ("resume", "c1")


def test_hanging_up_is_in_the_record() -> None:
    desk = Desk("Bye. [hang up]")
    assert desk.asked == ("hangup", "c1", ("reason", "the assistant hung up"))
    assert desk.end() == "the assistant hung up"


def test_the_model_is_given_the_grammar_of_its_persona_only() -> None:
    named = dict(Desk("Yes.").journal.of("llm")[-1][5:])
    assert '"transfer " ("sales")' in named["grammar"]
    assert Persona().grammar() is None


def test_a_call_that_goes_on_with_somebody_else_shows_who() -> None:
    exchange = Exchange()
    exchange.connect("c1")
    exchange.board.dispatch(ev.CallMoved("c1", "sip:bob@127.0.0.1", "id-2", 1.0))
    assert exchange.board.active[0].caller == "sip:bob@127.0.0.1"
    assert isinstance(exchange.facts[-1], CallerChanged)
    exchange.board.dispatch(ev.CallMoved("c1", "", "id-3", 1.0))
    assert exchange.board.active[0].caller == "sip:bob@127.0.0.1"
