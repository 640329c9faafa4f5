"""Who is remembered is greeted as one, when the persona says so."""

import numpy as np
import pytest
from stand_ins import SOCKETS, STREAM, Bench

from aiphone import events as ev
from aiphone.conversation import commands as cmd
from aiphone.conversation.machine import Conversation
from aiphone.conversation.switchboard import Switchboard
from aiphone.persona import Message, Persona

HISTORY = [Message("user", "I am Ann."), Message("assistant", "Hello Ann.")]


@pytest.mark.parametrize(
    ("again", "history", "said"),
    [
        ("Welcome back, {name} speaking.", HISTORY, "Welcome back, Lu speaking."),
        ("Welcome back, {name} speaking.", [], "Hello."),
        ("", HISTORY, "Hello."),
    ],
)
def test_the_greeting_of_a_returning_caller(again, history, said):
    conversation = Conversation("c", Persona(name="Lu", greeting="Hello.", greeting_again=again), history)
    commands = conversation.handle(ev.CallConfirmed("c", 0.0), 0.0, 0)
    spoken = " ".join(command.text for command in commands if isinstance(command, cmd.Speak))
    assert spoken == said


@pytest.mark.parametrize("remember", [True, False])
def test_a_persona_that_does_not_remember_neither_asks_nor_keeps(remember):
    bench = Bench()
    board = Switchboard(
        bench.stages,
        max_calls=1,
        persona_for=lambda line: Persona(greeting="", idle_after=0.0, remember=remember),
        close_sockets=lambda sockets: None,
        watch=lambda fact: None,
    )
    board.dispatch(ev.IncomingCall("c", "direct", "sip:ann@127.0.0.1", "", "sip:ai@127.0.0.1", "id", 0.0))
    board.dispatch(ev.MediaNegotiated("c", STREAM, SOCKETS))
    board.dispatch(ev.CallConfirmed("c", 0.1))
    board.dispatch(ev.VoiceStarted("c", 2.0))
    board.dispatch(ev.VoiceStopped("c", 3.0, np.ones(320, np.int16)))
    board.dispatch(ev.Transcribed("c", 1, "What is my name?", 0.1, 0.0))
    prompt = next(line for line in bench.journal.of("llm") if line[1] == "generate")[4]
    assert ("I am Ann." in [message.content for message in prompt]) is remember
    bench.stages.clock.advance(5.0)
    bench.timers.advance(0.0)
    board.dispatch(ev.ReplyText("c", 1, "Ann.", 8.0))
    board.dispatch(ev.ReplyEnded("c", 1, "stop", 1, 0, 1, 0.1, 0.1))
    board.dispatch(ev.SpeechChunk("c", 1, 0, np.full(320, 8000, np.int16), True, 0.1))
    bench.engine.calls["c"].play(320)
    board.dispatch(ev.PlayoutDrained("c", 320, 9.0))
    assert bool(bench.journal.of("memory")) is remember
