"""How probable the model finds the end of the caller's turn: asked after the last word, at no extra decode."""

from __future__ import annotations

import pytest
from fake_llama import END, end_probability, whole_reply
from test_llm_scheduler import Desk

from aiphone.events import ReplyText, TurnEndByWords


def ends(desk, call_id="c1"):
    told = [e for e in desk.events if isinstance(e, TurnEndByWords)]
    return [(e.generation, e.probability) for e in told if e.call_id == call_id]


def up_to_the_last_word(prompt):
    """The prompt without what closes the caller's turn, and without its full stop."""
    text = len(prompt) - len("\nassistant\n") - 2
    while chr(prompt[text - 1]) in ".?!,":
        text -= 1
    return prompt[:text]


END_TOKENS = (END, *sorted(b".?!"))


@pytest.mark.parametrize("text", ["Where can I park", "Where can I park?", "Where can I park..."])
@pytest.mark.parametrize("n_batch", [64, 7])
def test_a_speculative_request_says_how_probable_the_end_of_the_turn_is_after_the_last_word(text, n_batch):
    desk = Desk(n_batch=n_batch)
    desk.open("c1")
    prompt = desk.ask("c1", text, speculative=True)
    desk.run()
    assert up_to_the_last_word(prompt)[-1] == ord("k")
    assert ends(desk) == [(1, end_probability(up_to_the_last_word(prompt), END_TOKENS))]
    assert desk.text("c1") == whole_reply(prompt)


def test_the_end_of_the_turn_costs_no_decode_of_its_own_and_comes_before_the_answer():
    batches = []
    for speculative in (False, True):
        desk = Desk()
        desk.open("c1")
        desk.ask("c1", "Where can I park?", speculative=speculative)
        desk.run()
        batches.append(len(desk.model.batches))
        assert len(ends(desk)) == speculative
    assert batches[0] == batches[1]
    kinds = [type(event) for event in desk.events]
    assert kinds.index(TurnEndByWords) < kinds.index(ReplyText)


def test_the_same_words_again_are_asked_about_again():
    desk = Desk()
    desk.open("c1")
    for generation in (1, 2):
        prompt = desk.ask("c1", "Where can I park?", generation=generation, speculative=True)
        desk.run()
    expected = end_probability(up_to_the_last_word(prompt), END_TOKENS)
    assert ends(desk) == [(1, expected), (2, expected)]
    assert desk.text("c1", 2) == whole_reply(prompt)


def test_a_request_that_loses_its_cells_tells_the_end_once():
    desk = Desk()
    desk.open("c1")
    prompt = desk.ask("c1", "Where can I park?", speculative=True)
    while not ends(desk):
        desk.step()
    desk.scheduler._room.preempt(desk.call("c1"))
    desk.run()
    assert len(ends(desk)) == 1
    assert desk.text("c1") == whole_reply(prompt)


def test_models_without_a_token_that_ends_a_turn_and_plain_requests_tell_nothing():
    desk = Desk(chat_template=None)
    desk.open("c1")
    desk.ask("c1", "Where can I park?", speculative=True)
    desk.run()
    assert ends(desk) == []


def test_an_end_that_is_not_a_number_is_not_told():
    desk = Desk()
    desk.open("c1")
    desk.run()
    desk.model.not_numbers = set(range(8))
    desk.ask("c1", "Where can I park?", speculative=True)
    desk.run()
    assert ends(desk) == []
    assert len(desk.failed("c1")) == 1
