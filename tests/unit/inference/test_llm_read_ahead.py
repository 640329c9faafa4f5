"""What is read while the caller still speaks: free for everybody else, and no word comes of it."""

import pytest
from test_llm_scheduler import Desk, talk

from aiphone.inference.llm_scheduler import Limits


def read(desk):
    return desk.status()["tokens_read"]


def test_the_request_reads_only_what_was_not_known_yet():
    desk = Desk()
    desk.open("c")
    desk.run()
    desk.read_ahead("c", 1, talk("what is the capital of"))
    desk.run()
    assert desk.events == []
    assert not desk.model.samplers
    held = bytes(token for token in desk.call("c").seq.tokens if token < 256)
    assert held.endswith(b"what is the capital of ")
    before = read(desk)
    prompt = desk.ask("c", "what is the capital of france")
    desk.run()
    assert read(desk) - before == len(prompt) - len(desk.model.tokenize("")) - desk.ended("c").cached_tokens
    assert desk.ended("c").prompt_tokens - desk.ended("c").cached_tokens < 30
    assert desk.text("c")


def test_growing_step_by_step_reads_each_word_once():
    desk = Desk()
    desk.open("c")
    desk.run()
    before = read(desk)
    for known in ("one", "one two", "one two three"):
        desk.read_ahead("c", 1, talk(known))
        desk.run()
    assert read(desk) - before == len(desk.call("c").seq.tokens) - len(desk.call("c").template.tokens)
    again = read(desk)
    desk.read_ahead("c", 1, talk("one two three"))
    desk.run()
    assert read(desk) == again


def test_what_was_misheard_is_rolled_back_to_what_both_have_in_common():
    desk, fresh = Desk(), Desk()
    for one in (desk, fresh):
        one.open("c")
        one.run()
    desk.read_ahead("c", 1, talk("I want to by a"))
    desk.run()
    for one in (desk, fresh):
        one.ask("c", "I want to buy a boat")
        one.run()
    assert desk.text("c") == fresh.text("c")
    assert desk.model.held(desk.call("c").seq.seq_id) == fresh.model.held(fresh.call("c").seq.seq_id)
    assert desk.ended("c").cached_tokens > fresh.ended("c").cached_tokens


def test_it_comes_after_everything_else():
    desk = Desk(n_batch=20)
    for call in ("ahead", "guess", "real"):
        desk.open(call)
    desk.run()
    desk.model.batches.clear()
    desk.read_ahead("ahead", 1, talk("long " * 20))
    desk.ask("guess", "guess " * 10, speculative=True)
    desk.ask("real", "real " * 10)
    desk.step()
    order = [entry.seq for batch in desk.model.batches for entry in batch]
    assert order[0] == desk.call("real").seq.seq_id
    desk.run()
    assert desk.ended("real")
    assert desk.ended("guess")
    assert desk.call("ahead").job is None
    seen = [e.seq for batch in desk.model.batches for e in batch]
    assert seen.index(desk.call("ahead").seq.seq_id) > seen.index(desk.call("guess").seq.seq_id)


def test_it_is_given_up_first_and_the_conversation_stays():
    desk = Desk(n_ctx=300, n_seq_max=4, limits=Limits(n_ctx_per_call=250, max_templates=1))
    desk.open("a")
    desk.open("b")
    desk.ask("a", "hello")
    desk.run()
    turn = len(desk.call("a").seq.tokens)
    desk.read_ahead("a", 2, talk("hello", desk.text("a"), "word " * 20))
    desk.step()
    assert desk.call("a").job.ahead
    assert len(desk.call("a").seq.tokens) > turn
    desk.ask("b", "question " * 10)
    desk.run()
    assert desk.ended("b")
    assert desk.call("a").job is None
    assert desk.call("a").seq is not None
    assert len(desk.call("a").seq.tokens) <= turn


def test_it_never_stands_in_the_way_of_a_reply():
    desk = Desk(limits=Limits(n_ctx_per_call=800, max_queue=1))
    desk.open("c")
    desk.open("d")
    desk.ask("c", "hello")
    desk.read_ahead("c", 2, talk("hello", "and"))  # a reply is under way
    assert not desk.call("c").job.ahead
    desk.read_ahead("d", 1, talk("hm"))
    desk.open("e")
    desk.run()
    desk.read_ahead("d", 1, talk("hm, so"))
    desk.ask("e", "hi")  # what is read ahead takes no place in the queue
    desk.run()
    assert desk.ended("c")
    assert desk.ended("e")
    assert not desk.failed("d")


@pytest.mark.parametrize("end", ["cancel", "close_call", "fail_all"])
def test_its_end_is_silent(end):
    desk = Desk()
    desk.open("c")
    desk.read_ahead("c", 3, talk("word " * 50))
    desk.step()
    if end == "cancel":
        desk.cancel("c", 3)
    elif end == "close_call":
        desk.close_call("c")
    else:
        desk.fail_all("everything")
    desk.run()
    assert desk.events == []
    desk.model.fail = lambda entries: -1
    desk.open("d")
    desk.read_ahead("d", 1, talk("word"))
    for _ in range(10):
        desk.step()
    assert desk.events == []


def test_too_long_or_unknown_is_ignored():
    desk = Desk(limits=Limits(n_ctx_per_call=100))
    desk.open("c")
    desk.read_ahead("c", 1, talk("word " * 80))
    desk.read_ahead("nobody", 1, talk("word"))
    desk.read_ahead("c", 1, [])
    desk.run()
    assert desk.events == []
    assert desk.call("c").job is None


def test_a_model_that_cannot_cut_takes_no_guesses():
    desk = Desk(can_cut=False, can_shift=False)
    desk.open("c")
    desk.run()
    desk.read_ahead("c", 1, talk("word"))
    assert desk.call("c").job is None


def test_a_promoted_guess_reads_nothing_again():
    desk = Desk()
    desk.open("c")
    desk.run()
    prompt = desk.ask("c", "a question", speculative=True)
    for _ in range(4):
        desk.step()
    said, tokens = desk.text("c"), read(desk)
    assert said
    desk.promote("c", 1)
    desk.run()
    assert read(desk) == tokens
    assert desk.text("c").startswith(said)
    assert desk.ended("c").prompt_tokens == len(prompt)


def test_eight_callers_at_once_read_the_persona_once_and_their_own_words_once():
    desk = Desk(n_seq_max=12)
    names = [f"c{number}" for number in range(8)]
    for name in names:
        desk.open(name)
    desk.run()
    before, shared = read(desk), len(desk.call("c0").template.tokens)
    prompts = [desk.ask(name, f"question {name}") for name in names]
    desk.run()
    assert read(desk) - before == sum(len(prompt) - shared for prompt in prompts)
