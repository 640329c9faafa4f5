"""The conversation's rules: illegal events, stale generations, and thousands of random event sequences."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulator import CALL, Simulator, Stages

from aiphone import events as ev
from aiphone.conversation import commands as cmd
from aiphone.conversation.machine import DUCK_DB, Conversation
from aiphone.conversation.transitions import TABLE, State, mermaid
from aiphone.persona import Message, Persona

PCM = np.ones(1600, np.int16)

ROUNDS = int(os.environ.get("AIPHONE_TEST_ROUNDS", "300"))
"""Random conversations; a few thousand find what these do not."""


def asked(simulator: Simulator) -> Simulator:
    simulator.confirm(0.0)
    simulator.caller(2.0, "Hello there.", 1.0)
    return simulator


def snapshot(conversation: Conversation) -> tuple[object, ...]:
    return (
        conversation.state,
        conversation.generation,
        tuple(conversation.history),
        tuple(conversation._timers.items()),
        conversation._reply,
    )


EVENTS = [
    ev.CallConfirmed(CALL, 0.0),
    ev.VoiceStarted(CALL, 0.0),
    ev.VoiceStopped(CALL, 0.0, PCM),
    ev.PlayoutStarted(CALL, 0, 0.0),
    ev.PlayoutDrained(CALL, 0, 0.0),
    ev.VoiceContinues(CALL, 0.0, PCM),
    ev.VoiceFaded(CALL, 0.0, PCM),
    ev.DigitReceived(CALL, "5", 0.0),
    ev.MediaTimedOut(CALL, 30.0),
    ev.CallEnded(CALL, 200, "", 0.0),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
@pytest.mark.parametrize("until", [0.0, 0.05, 1.5, 2.5, 3.2, 3.9, 4.5, 9.0])
def test_an_illegal_event_changes_nothing_and_is_counted(event: ev.Event, until: float) -> None:
    simulator = asked(Simulator())
    simulator.run(until)
    conversation = simulator.conversation
    if (conversation.state, type(event)) in TABLE:
        return
    before, ignored = snapshot(conversation), conversation.ignored
    assert conversation.handle(event, until, 0) == []
    assert snapshot(conversation) == before
    assert conversation.ignored == ignored + 1


def test_work_of_an_older_generation_is_dropped() -> None:
    simulator = asked(Simulator())
    simulator.run(3.2)
    assert simulator.state is State.PAUSING
    stale = simulator.conversation.generation - 1
    for event in (
        ev.Transcribed(CALL, stale, "stale", 0.1, 0.0),
        ev.PartialTranscript(CALL, stale, "stale", "stale", 0.1),
        ev.TurnEndEstimated(CALL, stale, 1.0, 0.1),
        ev.TurnEndByWords(CALL, stale, 1.0),
        ev.ReplyText(CALL, stale, "stale", 0.1),
        ev.SpeechChunk(CALL, stale, 0, PCM, True, 0.1),
        ev.WorkFailed(CALL, stale, ev.Stage.GENERATE, "stale"),
    ):
        assert simulator.conversation.handle(event, 3.2, 0) == []
    simulator.run(9.0)
    assert ("user", "stale") not in simulator.said


def test_nothing_speculative_is_audible_or_remembered() -> None:
    persona = Persona(greeting="", idle_after=0, patience=2.0, patience_floor=2.0, patience_ceiling=2.0)
    simulator = Simulator(persona=persona)
    simulator.confirm(0.0)
    simulator.caller(1.0, "Hello there.", 1.0)
    simulator.run(3.9)
    assert simulator.prompts, "the answer was not prepared ahead"
    assert simulator.said == []
    assert simulator.silent
    simulator.run(4.1)
    assert simulator.said == [("user", "Hello there.")]
    assert not simulator.silent


def test_who_goes_on_before_anything_of_the_answer_left_takes_the_turn_back() -> None:
    """The audio is queued and the words are in the history, but no packet is out."""
    conversation = Conversation(CALL, Persona(greeting="", idle_after=0))
    conversation.handle(ev.CallConfirmed(CALL, 0.0), 0.0, 0)
    conversation.handle(ev.VoiceStarted(CALL, 1.0), 1.0, 0)
    conversation.handle(ev.VoiceStopped(CALL, 2.0, PCM), 2.1, 0)
    number = conversation.generation
    conversation.handle(ev.Transcribed(CALL, number, "Where can I park", 0.1, 0.0), 2.2, 0)
    conversation.handle(ev.ReplyText(CALL, number, "Here.", 2.3), 2.3, 0)
    conversation.handle(ev.ReplyEnded(CALL, number, "stop", 10, 0, 10, 0.05, 0.1), 2.3, 0)
    conversation.handle(ev.SpeechChunk(CALL, number, 0, np.full(8000, 8000, np.int16), True, 0.1), 2.4, 0)
    over = conversation.handle(ev.TimerFired(CALL, "patience", conversation._timers["patience"]), 3.2, 0)
    assert conversation.state is State.SPEAKING
    assert [message.content for message in conversation.history] == ["Where can I park"]
    on = conversation.handle(ev.VoiceStarted(CALL, 3.15), 3.21, 0)
    assert conversation.state is State.HEARING
    assert cmd.StopPlayout() in on
    assert conversation.history == []
    again = conversation.handle(ev.VoiceStopped(CALL, 4.0, PCM), 4.1, 0)
    whole = next(command for command in again if isinstance(command, cmd.Transcribe))
    assert whole.pcm.size > 2 * PCM.size
    assert not [command for command in [*over, *on, *again] if isinstance(command, cmd.Said)]


def test_late_words_that_hang_in_the_air_leave_the_caller_the_floor() -> None:
    persona = Persona(greeting="", idle_after=0, patience=0.7, patience_ceiling=1.5, filler="")
    simulator = Simulator(persona, Stages(transcribe=0.7, turn_end=0.9, partial=0.0))
    simulator.confirm(0.0)
    simulator.caller(2.0, "I would like a pizza and", 1.0)
    simulator.run(3.75)
    assert simulator.state is State.THINKING
    simulator.run(3.9)
    assert simulator.state is State.PAUSING
    simulator.run(9.0)
    assert simulator.turns[0].parts()["patience"] == pytest.approx(1.5)


def test_what_the_caller_said_is_recorded_when_the_call_ends_before_the_answer() -> None:
    simulator = asked(Simulator(stages=Stages(first_token=9.0)))
    simulator.run(5.0)
    assert ("user", "Hello there.") not in simulator.said
    simulator.deliver(ev.CallEnded(CALL, 200, "", 5.0))
    assert simulator.said[-1] == ("user", "Hello there.")


def test_the_assistant_is_ducked_before_it_is_stopped() -> None:
    simulator = asked(Simulator(answers={"Hello there.": "A long answer that takes its time to be spoken, really."}))
    simulator.caller(5.0, "Stop.", 1.0)
    simulator.run(5.1)
    assert simulator.gains == [DUCK_DB]
    assert simulator.stopped == []
    simulator.run(6.0)
    assert simulator.gains == [DUCK_DB, 0.0]
    assert simulator.stopped == [pytest.approx(5.0 + Persona().interrupt_after)]


def test_a_word_over_the_answer_is_shown_as_heard_only_when_it_is_a_turn() -> None:
    story = "A long answer that takes its time to be spoken, really."
    simulator = asked(Simulator(answers={"Hello there.": story}))
    simulator.caller(5.0, "Yeah.", 0.4)
    simulator.run(20.0)
    assert simulator.said[-1] == ("assistant", story)
    assert simulator.stopped == [pytest.approx(5.0 + Persona().interrupt_after)]
    assert [message.content for message in simulator.conversation.history] == ["Hello there.", story]


def test_a_voice_over_the_answer_that_cannot_be_transcribed_lets_it_go_on() -> None:
    story = "A long answer that takes its time to be spoken, really."
    simulator = asked(Simulator(answers={"Hello there.": story}))
    simulator.caller(5.0, "Stop.", 0.4)
    simulator.run(4.9)
    simulator.stages.fail = "transcribe"
    simulator.run(20.0)
    assert simulator.said[-1] == ("assistant", story)


def test_a_voice_over_the_answer_that_is_transcribed_too_late_lets_it_go_on() -> None:
    story = "A long answer that takes its time to be spoken, really."
    simulator = asked(Simulator(answers={"Hello there.": story}))
    simulator.caller(5.0, "Stop.", 0.4)
    simulator.run(4.9)
    simulator.stages.transcribe = 30.0
    simulator.run(20.0)
    assert simulator.said[-1] == ("assistant", story)


def test_a_transcript_that_was_dropped_on_a_busy_machine_is_asked_for_when_the_pause_is_certain() -> None:
    said = []
    for busy in (False, True):
        simulator = asked(Simulator(stages=Stages(fade=0.05, busy=busy)))
        simulator.run(9.0)
        said.append(simulator.said)
    assert ("user", "Hello there.") in said[0]
    assert said[0] == said[1]


def test_a_short_voice_over_the_answer_is_decoded_once() -> None:
    simulator = asked(Simulator(answers={"Hello there.": "A long answer that takes its time to be spoken, really."}))
    simulator.caller(5.0, "Stop.", 0.4)
    simulator.run(5.6)
    *before, over_the_answer = simulator.decoded_once
    assert over_the_answer
    assert not any(before)


def test_a_partial_transcript_that_comes_after_the_voice_leaves_the_decision_to_the_whole_one() -> None:
    persona = Persona(greeting="Hello.", idle_after=10.0, think_limit=15.0)
    simulator = Simulator(persona)
    simulator.confirm(0.0)
    simulator.caller(10.5, "Hello.", 0.625)
    simulator.run(20.0)
    assert ("user", "Hello.") in simulator.said
    assert simulator.state is State.LISTENING


def test_the_filler_is_said_once_and_its_failure_is_none() -> None:
    persona = Persona(greeting="Hello.", idle_after=0.0, filler_after=1.0)
    simulator = Simulator(persona, Stages(first_token=4.0, fail="speak"))
    simulator.confirm(0.0)
    simulator.caller(2.0, "Hello there, my dear friend.", 1.0)
    simulator.run(5.5)
    simulator.stages.fail = ""
    simulator.run(20.0)
    assert simulator.said[-1] == ("assistant", "You said Hello there, my dear friend.")
    assert ("assistant", "One moment.") not in simulator.said


def test_neighbouring_messages_of_one_role_are_joined_for_the_model() -> None:
    conversation = Conversation(CALL, Persona(greeting="", idle_after=0), [Message("user", "One.")])
    conversation.handle(ev.CallConfirmed(CALL, 0.0), 0.0, 0)
    conversation.handle(ev.VoiceStarted(CALL, 1.0), 1.0, 0)
    conversation.handle(ev.VoiceStopped(CALL, 2.0, PCM), 2.1, 0)
    out = conversation.handle(ev.Transcribed(CALL, conversation.generation, "Two.", 0.1, 0.0), 2.2, 0)
    generate = next(command for command in out if isinstance(command, cmd.Generate))
    assert [message.role for message in generate.messages] == ["system", "user"]
    assert generate.messages[-1].content == "One. Two."


def test_the_model_is_never_shown_an_assistant_who_speaks_first() -> None:
    simulator = asked(Simulator())
    simulator.run(9.0)
    assert simulator.said[0] == ("assistant", "Hello.")
    assert [prompt[1] for prompt in simulator.prompts] == ["Hello there."]


def test_an_answer_begins_without_the_silence_of_the_voice() -> None:
    simulator = Simulator()
    simulator.confirm(0.0)
    simulator.run(0.0)
    pcm = np.concatenate([np.zeros(1600, np.int16), np.full(3200, 8000, np.int16)])
    out = simulator.conversation.handle(ev.SpeechChunk(CALL, 1, 0, pcm, True, 0.1), 0.1, 0)
    play = next(command for command in out if isinstance(command, cmd.Play))
    assert play.pcm.size == ev.FRAME_SAMPLES + 3200
    assert play.text == "Hello."


def test_the_picture_names_every_state() -> None:
    picture = mermaid(TABLE.values())
    assert all(state.value in picture for state in State)


def test_the_table_names_only_actions_that_exist() -> None:
    assert all(callable(getattr(Conversation, "_" + row.action, None)) for row in TABLE.values())


# --------------------------------------------------------------------------------------- random sequences

steps = st.one_of(
    st.tuples(
        st.just("voice"),
        st.floats(0.05, 3.0),
        st.sampled_from(["Hello.", "And then?", "", "Yeah.", "I would like", "You said hello."]),
    ),
    st.tuples(st.just("keys"), st.just(0.0), st.sampled_from(["1", "4 2 #", "5 5 5"])),
    st.tuples(st.just("turn_end"), st.floats(-1.0, 1.0), st.just("")),
    st.tuples(st.just("by_words"), st.floats(-1.0, 1.0), st.just("")),
    st.tuples(st.just("wait"), st.floats(0.0, 8.0), st.just("")),
    st.tuples(st.just("fail"), st.just(0.0), st.sampled_from(["", "transcribe", "generate", "speak"])),
    st.tuples(st.just("slow"), st.floats(0.0, 4.0), st.sampled_from(["transcribe", "first_token", "speak"])),
)


@settings(max_examples=ROUNDS, deadline=None)
@given(
    st.lists(steps, max_size=12),
    st.floats(0.1, 2.0),
    st.sampled_from([0.0, 0.05, 0.1]),
    st.floats(0.0, 1.0),
    st.booleans(),
)
def test_random_conversations_keep_the_rules(
    script: list[tuple[str, float, str]], patience: float, fade: float, closure: float, busy: bool
) -> None:
    persona = Persona(greeting="Hello.", idle_after=10.0, patience=patience, think_limit=15.0)
    simulator = Simulator(persona, Stages(fade=fade, closure=closure, busy=busy))
    simulator.confirm(0.0)
    now = 0.5
    for kind, amount, what in script:
        if kind == "voice":
            simulator.caller(now, what, amount)
            now += amount + 0.3
        elif kind == "keys":
            simulator.keys(now, what)
        elif kind in ("turn_end", "by_words"):
            simulator.run(now)
            setattr(simulator.stages, kind, amount)
        elif kind == "wait":
            now += amount
        elif kind == "fail":
            simulator.run(now)
            simulator.stages.fail = what
        else:
            simulator.run(now)
            setattr(simulator.stages, what, amount)
    simulator.run(now)
    simulator.stages.fail = ""
    simulator.run(now + 400.0)
    # Never stuck: left alone, the assistant asks, says goodbye and hangs up.
    assert simulator.hung_up
    assert simulator.state is State.ENDED
    # The history is what the model said, each line once and in order; our own phrases are not in it.
    own = {"Hello.", persona.idle_prompt, persona.goodbye, persona.apology, persona.filler}
    whole = [line.text for line in simulator.log if line.role == "assistant"]
    spoken = [text for text in whole if not any(phrase.startswith(text) for phrase in own)]
    kept = [message.content for message in simulator.conversation.history if message.role == "assistant"]
    assert spoken == kept
    # And what the caller said is in both, once.
    assert [text for role, text in simulator.said if role == "user"] == [
        message.content for message in simulator.conversation.history if message.role == "user"
    ]
    for turn in simulator.turns:
        assert sum(turn.parts().values()) == pytest.approx(turn.total)
        assert turn.total >= min(patience, persona.patience_floor) - 1e-9


def test_a_hang_up_in_any_state_ends_and_cancels() -> None:
    for until in np.arange(0.0, 8.0, 0.11):
        simulator = asked(Simulator())
        simulator.run(float(until))
        generation = simulator.conversation.generation
        out = simulator.conversation.handle(ev.CallEnded(CALL, 200, "", until), float(until), 0)
        assert simulator.state is State.ENDED
        assert cmd.CancelWork(generation) in out


def test_the_picture_in_the_architecture_page_is_drawn_from_the_table() -> None:
    page = (Path(__file__).parents[3] / "ARCHITECTURE.md").read_text()
    assert mermaid(TABLE.values()) in page, "run: python -m aiphone.conversation.transitions"
