"""What the assistant does besides talking: after its words were heard, when it may, and not otherwise."""

from __future__ import annotations

from dataclasses import replace

import pytest
from simulator import CALL, STEADY, Simulator

from aiphone import events as ev
from aiphone.conversation import commands as cmd
from aiphone.conversation.transitions import State

WANTED = "Sales, please."
URI = "sip:sales@192.0.2.7"
MAY = replace(
    STEADY, actions=("hang up", "transfer", "press", "hold"), transfers=(("sales", URI),), idle_prompt="Still there?"
)


def asked(answer: str, persona=MAY) -> Simulator:
    simulator = Simulator(persona, answers={WANTED: answer})
    simulator.confirm(0.0)
    simulator.caller(2.0, WANTED, 1.0)
    return simulator


def progress(simulator: Simulator, when: float, code: int, *, final: bool) -> None:
    simulator.at(when, ev.TransferProgress(CALL, code, "", final, when))


def heard_at(simulator: Simulator) -> float:
    """When the last words of the assistant had been played."""
    return simulator.log[-1].at


def test_a_transfer_is_done_when_its_words_have_been_heard() -> None:
    simulator = asked("I will connect you. [transfer sales]")
    simulator.run(4.5)
    assert simulator.state is State.SPEAKING
    assert simulator.done == []
    simulator.run(8.0)
    assert simulator.done == [(heard_at(simulator), cmd.Transfer("sales", URI))]
    assert simulator.said[-1] == ("assistant", "I will connect you.")
    assert simulator.state is State.TRANSFERRING
    # The model is to know of it later; what is spoken and kept never has it.
    assert simulator.conversation.history[-1].content == "I will connect you. [transfer sales]"
    progress(simulator, 9.0, 100, final=False)
    simulator.caller(9.5, "Hello?", 0.5)
    progress(simulator, 12.0, 200, final=True)
    simulator.run(12.5)
    assert simulator.state is State.ENDED
    assert len(simulator.log) == 3


def test_what_the_model_may_do_is_in_its_instructions() -> None:
    simulator = asked("Yes.")
    simulator.run(6.0)
    assert "[transfer sales]" in simulator.prompts[0][0]
    assert URI not in simulator.prompts[0][0]


@pytest.mark.parametrize("end", [486, 0])
def test_after_a_transfer_that_failed_the_conversation_goes_on(end: int) -> None:
    simulator = asked("I will connect you. [transfer sales]")
    if end:
        progress(simulator, 9.0, end, final=True)
    simulator.run(8.0 if end else 100.0)
    simulator.caller(103.0, "Then tell me the time.", 1.0)
    simulator.run(112.0)
    assert simulator.said[-3:] == [
        ("assistant", "I am sorry, nobody answers there."),
        ("user", "Then tell me the time."),
        ("assistant", "You said Then tell me the time."),
    ]
    assert simulator.prompts[-1][-2] == "I will connect you. [transfer sales] I am sorry, nobody answers there."


def test_a_caller_who_interrupts_is_not_transferred() -> None:
    simulator = asked("I will connect you with our sales department right now. [transfer sales]")
    simulator.caller(4.5, "Stop, not them.", 1.0)
    simulator.run(20.0)
    assert simulator.done == []
    assert ("user", "Stop, not them.") in simulator.said
    assert not any("[" in message.content for message in simulator.conversation.history)


def test_nor_is_one_who_still_speaks_when_the_words_end() -> None:
    simulator = asked("Yes. [transfer sales]", replace(MAY, interrupt_after=5.0))
    simulator.caller(3.8, "No, wait a moment, please.", 2.0)
    simulator.run(12.0)
    assert simulator.done == []
    assert ("user", "No, wait a moment, please.") in simulator.said


def test_a_sound_of_agreement_does_not_stop_a_transfer() -> None:
    simulator = asked("I will connect you with our sales department right now. [transfer sales]")
    simulator.caller(4.5, "Yeah.", 0.4)
    simulator.run(20.0)
    assert [command for _, command in simulator.done] == [cmd.Transfer("sales", URI)]


def test_hanging_up() -> None:
    simulator = asked("Thank you for calling. [hang up] And more that nobody hears.")
    simulator.run(4.5)
    assert simulator.hung_up == ""
    simulator.run(9.0)
    assert simulator.hung_up == "the assistant hung up"
    assert simulator.said[-1] == ("assistant", "Thank you for calling.")
    assert simulator.state is State.ENDED


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("[transfer sales]", "One moment, I will connect you."),
        (" [hang up]", "Goodbye."),
        ("[press 1]", "One moment."),
        ("[hold]", "One moment."),
    ],
)
def test_an_action_without_words_is_announced(answer: str, words: str) -> None:
    simulator = asked(answer)
    simulator.run(7.0)
    assert simulator.said[-1] == ("assistant", words)
    assert simulator.done or simulator.hung_up


def test_keys_are_pressed_and_the_conversation_goes_on() -> None:
    simulator = asked("I press it. [press 12#]")
    simulator.run(9.0)
    assert [command for _, command in simulator.done] == [cmd.SendDigits("12#")]
    assert simulator.state is State.LISTENING


def test_a_caller_on_hold_is_taken_back() -> None:
    simulator = asked("Please wait. [hold]")
    simulator.run(10.0)
    assert simulator.state is State.HOLDING
    simulator.caller(12.0, "Nobody hears this.", 1.0)
    simulator.run(32.0)
    assert [command for _, command in simulator.done] == [cmd.Hold(), cmd.Resume()]
    assert simulator.said[-1] == ("assistant", "Still there?")
    assert simulator.state is State.LISTENING


@pytest.mark.parametrize(
    "persona",
    [STEADY, replace(MAY, actions=("hang up",)), replace(MAY, transfers=(("support", URI),))],
    ids=["nothing", "another", "elsewhere"],
)
def test_what_is_not_allowed_is_not_done_whatever_the_model_writes(persona) -> None:
    simulator = asked("I will connect you. [transfer sales]", persona)
    simulator.run(10.0)
    assert simulator.done == []
    assert simulator.said[-1] == ("assistant", "I will connect you.")
    assert simulator.conversation.history[-1].content == "I will connect you."
    assert simulator.state is State.LISTENING


def test_an_answer_that_is_nothing_but_what_is_not_allowed_is_none() -> None:
    simulator = asked("[hang up]", STEADY)
    simulator.run(12.0)
    assert simulator.hung_up == ""
    assert simulator.said[-1] == ("assistant", STEADY.apology)


def test_an_action_that_was_cut_off_is_neither_spoken_nor_done() -> None:
    simulator = asked("I will connect you. [transfer sal")
    simulator.run(10.0)
    assert simulator.done == []
    assert simulator.said[-1] == ("assistant", "I will connect you.")
