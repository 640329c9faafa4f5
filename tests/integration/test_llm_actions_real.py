"""The grammar of actions, with the real model: whatever it writes can be carried out or spoken."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from aiphone.actions import ActionFilter, grammar
from aiphone.clock import SystemClock
from aiphone.events import Event, ReplyEnded, ReplyText
from aiphone.inference.llm import LanguageModel
from aiphone.persona import Message, Persona, Sampling

pytestmark = pytest.mark.integration

MAY = Persona(
    prompt="You answer the telephone of a shop. Answer in one short sentence.",
    sampling=Sampling(temperature=0, max_tokens=40),
    actions=("hang up", "transfer", "press", "hold"),
    transfers=(("sales", "sip:sales@192.0.2.7"), ("the front desk", "sip:100@192.0.2.7")),
)
WILD = Sampling(temperature=3.0, top_k=0, top_p=1.0, min_p=0.0, max_tokens=16)
"""Anything at all, so that only the grammar keeps it in order."""


class Desk:
    def __init__(self, path: Path) -> None:
        self.events: queue.Queue[Event] = queue.Queue()
        self.model = LanguageModel(path, post=self.events.put, clock=SystemClock(), threads=2, max_calls=2)
        self.model.start()

    def ask(self, persona: Persona, text: str, rules: str | None) -> str:
        self.model.open("c", persona)
        self.model.generate("c", 1, [persona.system_message(), Message("user", text)], grammar=rules)
        said = ""
        while not isinstance(event := self.events.get(timeout=60), ReplyEnded):
            assert isinstance(event, ReplyText), event
            said += event.text
        self.model.close_call("c")
        return said


@pytest.fixture(scope="module")
def desk(model_file: Callable[[str], Path]) -> Iterator[Desk]:
    desk = Desk(model_file("SmolLM2-135M-Instruct.Q4_1.gguf"))
    yield desk
    desk.model.stop()


def parted(text: str) -> tuple[str, ActionFilter]:
    parts = ActionFilter()
    spoken = parts.feed(text)
    return spoken + parts.finish(), parts


def test_whatever_it_writes_under_the_grammar_parses(desk: Desk) -> None:
    rounds = int(os.environ.get("AIPHONE_TEST_ROUNDS", "3"))
    for seed in range(rounds):
        text = desk.ask(replace(MAY, sampling=replace(WILD, seed=seed)), "Write a list [1], [2].", MAY.grammar())
        spoken, parts = parted(text)
        assert not set("[]") & set(spoken), text
        assert parts.action is None or MAY.may(parts.action), text


@pytest.mark.parametrize("action", ["[hang up]", "[transfer the front desk]", "[press 12*#]", "[hold]"])
def test_every_action_fits_the_grammar(desk: Desk, action: str) -> None:
    # The words are fixed and an action is demanded; which one is left to the rules of the persona itself.
    kind = action.strip("[]").split()[0]
    allowed = next(one for one in MAY.actions if one.startswith(kind))
    rules = grammar([allowed], {"the front desk": "sip:100@192.0.2.7"})
    forced = rules.replace('root ::= words ("[" action "]")?', 'root ::= "Yes. [" action "]"')
    assert forced != rules
    spoken, parts = parted(desk.ask(MAY, "Please do it now.", forced))
    assert spoken == "Yes. "
    assert parts.action is not None
    assert parts.action.kind == allowed
    assert MAY.may(parts.action)
