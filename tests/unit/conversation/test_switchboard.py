"""Calls from INVITE to BYE, with stages that write down what they were asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from stand_ins import SOCKETS, STREAM, Bench

from aiphone import events as ev
from aiphone.conversation.facts import Fact, WordsSaid
from aiphone.conversation.switchboard import RETRY_AFTER_SECONDS, Switchboard
from aiphone.errors import MediaError
from aiphone.persona import Persona

LOUD = np.full(320, 8000, np.int16)

PERSONA = Persona(greeting="Hello.", idle_after=0.0)


class Exchange(Bench):
    def __init__(self, max_calls: int = 2) -> None:
        super().__init__()
        self.closed: list[ev.RtpSockets] = []
        self.facts: list[Fact] = []
        self.board = Switchboard(
            self.stages,
            max_calls=max_calls,
            persona_for=lambda line: PERSONA,
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
