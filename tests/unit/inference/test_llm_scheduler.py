import itertools
from dataclasses import replace

import pytest
from fake_llama import REPLY_TOKENS, FakeLlama, whole_reply

from aiphone.events import ReplyEnded, ReplyText, WorkFailed
from aiphone.inference.llm_scheduler import Limits, Scheduler
from aiphone.inference.llm_work import SessionSnapshot
from aiphone.persona import Message, Persona, Sampling
from aiphone.store.sessions import SavedConversation

PERSONA = Persona(prompt="You are {name}.", sampling=Sampling(temperature=0, max_tokens=40))


class Desk:
    """A scheduler, its model, and what it posted."""

    def __init__(self, limits=None, **model):
        self.model = FakeLlama(**model)
        self.events = []
        self.scheduler = Scheduler(
            self.model,
            post=self.events.append,
            clock=self.model.clock,
            limits=limits or Limits(n_ctx_per_call=800),
        )

    def __getattr__(self, name):
        return getattr(self.scheduler, name)

    def open(self, call_id, persona=PERSONA, restore=None):
        self.scheduler.open(call_id, persona, None, restore)

    def call(self, call_id):
        return self.scheduler._room.calls[call_id]

    def run(self, steps=1000):
        for _ in range(steps):
            if not self.scheduler.step():
                return
        pytest.fail("the scheduler does not come to rest")

    def text(self, call_id, generation=1):
        mine = (e for e in self.events if isinstance(e, ReplyText) and e.call_id == call_id)
        return "".join(e.text for e in mine if e.generation == generation)

    def ended(self, call_id, generation=1):
        mine = [e for e in self.events if isinstance(e, ReplyEnded) and e.call_id == call_id]
        return next((e for e in mine if e.generation == generation), None)

    def failed(self, call_id):
        return [e.reason for e in self.events if isinstance(e, WorkFailed) and e.call_id == call_id]

    def ask(self, call_id, *texts, generation=1, **more):
        self.scheduler.generate(call_id, generation, talk(*texts), **more)
        job = self.call(call_id).job
        return list(job.tokens) if job else []


def talk(*texts):
    """A conversation: the system message, then user and assistant in turn."""
    roles = ["user", "assistant"] * len(texts)
    turns = [Message(role, text) for role, text in zip(roles, texts, strict=False)]
    return [PERSONA.system_message(), *turns]


def test_a_reply_ends_before_a_text_of_the_persona():
    desk = Desk()
    desk.open("c1")
    whole = whole_reply(desk.ask("c1", "hello"))
    desk.scheduler.cancel("c1", 1)
    stop = whole[len(whole) // 2 :][:4]
    desk.open("c1", replace(PERSONA, stop=(stop,)))
    desk.ask("c1", "hello", generation=2)
    desk.run()
    assert desk.text("c1", 2) == whole[: whole.index(stop)]
    assert desk.ended("c1", 2).reason == "stop"


def test_a_reply_comes_in_pieces_and_ends_once():
    desk = Desk()
    desk.open("c1")
    prompt = desk.ask("c1", "hello")
    desk.run()
    assert desk.text("c1") == whole_reply(prompt)
    assert len([e for e in desk.events if isinstance(e, ReplyText)]) == REPLY_TOKENS
    ended = desk.ended("c1")
    assert ended.reason == "stop"
    assert ended.prompt_tokens == len(prompt)
    assert ended.reply_tokens == REPLY_TOKENS
    assert 0 < ended.seconds_to_first < ended.seconds
    assert not desk.model.samplers


def test_the_persona_is_read_once_and_forked():
    desk = Desk()
    desk.open("c1")
    desk.run()
    before = len(desk.model.cells)
    desk.open("c2")
    prompt = desk.ask("c1", "hello")
    desk.ask("c2", "hullo")
    desk.run()
    assert before > 20
    assert desk.ended("c1").cached_tokens == before
    assert desk.ended("c2").cached_tokens == before
    assert desk.text("c1") == whole_reply(prompt)
    assert len(desk.model.cells) <= before + 2 * (len(prompt) - before + REPLY_TOKENS)


def test_a_request_waits_for_the_template_that_is_being_read():
    desk = Desk()
    desk.open("c1")
    prompt = desk.ask("c1", "hello")
    desk.run()
    assert desk.ended("c1").cached_tokens > 20
    read = sum(len(e.tokens) for batch in desk.model.batches for e in batch)
    assert read == len(prompt) + REPLY_TOKENS


def test_the_next_turn_reads_only_what_is_new():
    desk = Desk()
    desk.open("c1")
    first = desk.ask("c1", "hello")
    desk.run()
    prompt = desk.ask("c1", "hello", desk.text("c1"), "and now?", generation=2)
    desk.run()
    assert desk.ended("c1", 2).cached_tokens == len(first) + REPLY_TOKENS
    assert desk.text("c1", 2) == whole_reply(prompt)


def test_an_interruption_cuts_the_cache_to_what_was_heard():
    desk = Desk()
    desk.open("c1")
    first = desk.ask("c1", "hello")
    desk.run()
    prompt = desk.ask("c1", "hello", desk.text("c1")[:5], "stop it", generation=2)
    desk.run()
    assert desk.ended("c1", 2).cached_tokens == len(first) + 5
    assert desk.text("c1", 2) == whole_reply(prompt)


def test_a_guess_is_extended_corrected_and_promoted():
    desk = Desk()
    desk.open("c1")
    desk.run()
    desk.ask("c1", "what is the", speculative=True)
    desk.step()
    desk.ask("c1", "what is the cap of", generation=2, speculative=True)
    desk.step()
    prompt = desk.ask("c1", "what is the capital", generation=3, speculative=True)
    desk.promote("c1", 3)
    desk.run()
    assert desk.text("c1", 3) == whole_reply(prompt)
    assert desk.ended("c1", 1) is None
    assert desk.ended("c1", 2) is None
    assert desk.ended("c1", 3).cached_tokens >= len(prompt) - len("ital<|im_end|>\n assistant\n")


def test_many_calls_share_a_batch_and_do_not_mix():
    desk = Desk()
    prompts = {}
    for number in range(5):
        desk.open(f"c{number}")
        prompts[f"c{number}"] = desk.ask(f"c{number}", f"my number is {number}")
    desk.run()
    assert all(desk.text(call) == whole_reply(prompt) for call, prompt in prompts.items())
    assert max(len(batch) for batch in desk.model.batches) == 5


def test_a_long_prompt_is_read_in_chunks_beside_those_who_speak():
    desk = Desk(Limits(n_ctx_per_call=1500, gap_budget=0.02, idle_budget=0.05), n_ctx=4000, n_batch=64)
    desk.open("speaks")
    desk.open("reads")
    desk.run()
    desk.ask("speaks", "hi")
    while not desk.text("speaks"):
        desk.step()
    desk.ask("reads", "x" * 1000)
    times = []
    while desk.ended("speaks") is None:
        desk.step()
        times.append(desk.model.clock.now())
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert max(gaps) <= 0.02 + 2.5 * desk.model.token_seconds
    desk.run()
    assert desk.ended("reads").reason == "stop"


def test_a_short_question_overtakes_a_long_prompt():
    desk = Desk(Limits(n_ctx_per_call=1500, gap_budget=0.02, idle_budget=0.02), n_ctx=4000)
    for call in ("long", "short"):
        desk.open(call)
    desk.run()
    desk.ask("long", "x" * 1000)
    desk.step()
    desk.ask("short", "hi")
    desk.run()
    order = [e.call_id for e in desk.events if isinstance(e, ReplyEnded)]
    assert order == ["short", "long"]


def test_cancel_takes_effect_with_the_next_step():
    desk = Desk()
    desk.open("c1")
    desk.ask("c1", "hello")
    while not desk.text("c1"):
        desk.step()
    so_far = desk.text("c1")
    desk.cancel("c1", 1)
    assert not desk.step()
    assert desk.text("c1") == so_far
    assert desk.ended("c1") is None
    assert not desk.model.samplers


def test_cancelling_an_older_generation_leaves_the_newer_alone():
    desk = Desk()
    desk.open("c1")
    desk.ask("c1", "hello", generation=5)
    desk.cancel("c1", 4)
    desk.run()
    assert desk.ended("c1", 5) is not None


def test_hanging_up_gives_everything_back():
    desk = Desk()
    desk.open("c1")
    desk.ask("c1", "hello")
    desk.step()
    desk.close_call("c1")
    desk.close_call("c1")
    desk.run()
    assert desk.status()["calls"] == 0
    assert desk.status()["sequences_free"] == desk.model.n_seq_max - 1  # the persona's template stays
    assert len(desk.model.cells) == desk.status()["cells_used"]


def test_length_and_overflow():
    desk = Desk()
    desk.open("short", Persona(prompt="You are {name}.", sampling=Sampling(max_tokens=3)))
    desk.ask("short", "hello")
    desk.run()
    assert desk.ended("short").reason == "length"
    assert desk.ended("short").reply_tokens == 3
    tight = Desk(Limits(n_ctx_per_call=100), n_ctx=400)
    tight.open("c1", Persona(prompt="x" * 20, sampling=Sampling(max_tokens=1000)))
    tight.ask("c1", "y" * 17)
    tight.run()
    assert tight.ended("c1").reason in ("overflow", "stop")


@pytest.mark.parametrize("can_shift", [True, False])
def test_the_oldest_turns_go_and_the_persona_stays(can_shift):
    desk = Desk(Limits(n_ctx_per_call=400), can_shift=can_shift)
    desk.open("c1")
    turns, cached = [], []
    for number in range(12):
        turns.append(f"this is question number {number}")
        prompt = desk.ask("c1", *turns, generation=number)
        desk.run()
        assert desk.text("c1", number) == whole_reply(prompt)
        assert bytes(t for t in prompt if t < 256).startswith(b"system\nYou are LLaMA.")
        cached.append(desk.ended("c1", number).cached_tokens)
        turns.append(desk.text("c1", number))
    dropped = desk.call("c1").dropped
    assert dropped > 0
    assert desk.call("c1").seq is not None
    first_drop = next(i for i in range(2, 12) if cached[i] < cached[i - 1])
    if can_shift:
        assert cached[first_drop] > 100  # moved up, not read again
    else:
        assert cached[first_drop] < 60


def test_a_question_too_long_for_the_share_is_refused_with_the_reason():
    desk = Desk(Limits(n_ctx_per_call=200))
    desk.open("c1")
    desk.ask("c1", "x" * 500)
    assert "room for" in desk.failed("c1")[0]
    assert not desk.model.samplers


def test_a_model_that_cannot_cut_reads_again():
    desk = Desk(can_cut=False, can_shift=False)
    desk.open("c1")
    first = desk.ask("c1", "hello")
    desk.run()
    assert desk.text("c1") == whole_reply(first)
    assert desk.ended("c1").cached_tokens > 20  # the whole template can be forked
    same = desk.ask("c1", "hello", desk.text("c1"), "more", generation=2)
    desk.run()
    assert desk.ended("c1", 2).cached_tokens == len(first) + REPLY_TOKENS
    other = desk.ask("c1", "hello", "cut", "more", generation=3)
    desk.run()
    assert desk.text("c1", 2) == whole_reply(same)
    assert desk.text("c1", 3) == whole_reply(other)


def test_idle_callers_give_way_and_are_read_again():
    desk = Desk(Limits(n_ctx_per_call=200), n_ctx=300)
    prompts = {}
    for call in ("a", "b", "c"):
        desk.open(call)
        prompts[call] = desk.ask(call, call * 80)
        desk.run()
        assert desk.text(call) == whole_reply(prompts[call])
    again = desk.ask("a", "a" * 80, desk.text("a"), "?", generation=2)
    desk.run()
    assert desk.text("a", 2) == whole_reply(again)
    assert desk.ended("a", 2).cached_tokens < 60
    assert len(desk.model.cells) <= 300


def test_more_calls_than_sequences_take_turns():
    desk = Desk(n_seq_max=3)
    prompts = {}
    for number in range(6):
        desk.open(f"c{number}")
        prompts[f"c{number}"] = desk.ask(f"c{number}", f"number {number}")
    desk.run()
    assert all(desk.text(call) == whole_reply(prompt) for call, prompt in prompts.items())


def test_a_guess_gives_way_loses_nothing_and_goes_on():
    desk = Desk(Limits(n_ctx_per_call=200), n_ctx=250)
    desk.open("guess")
    desk.open("real")
    guessed = desk.ask("guess", "g" * 80, speculative=True)
    while not desk.text("guess"):
        desk.step()
    real = desk.ask("real", "r" * 80)
    while desk.ended("real") is None:
        desk.step()
    assert desk.ended("guess") is None
    desk.run()
    assert desk.ended("guess") is None  # it takes no idle caller's cache
    desk.promote("guess", 1)
    desk.run()
    assert desk.text("guess") == whole_reply(guessed)
    assert desk.text("real") == whole_reply(real)


def test_who_waits_too_long_is_told():
    desk = Desk(Limits(n_ctx_per_call=200, max_wait=3.0), n_ctx=200)
    desk.open("a")
    desk.open("b")
    desk.run()
    desk.ask("a", "a" * 80)
    desk.step()
    desk.ask("b", "b" * 80)
    desk.step()
    desk.model.clock.advance(4.0)
    desk.step()
    assert "no room" in desk.failed("b")[0]
    desk.run()
    assert desk.ended("a") is not None


def test_who_waits_for_a_template_that_is_being_read_does_not_wait_for_room():
    desk = Desk(Limits(n_ctx_per_call=800, max_wait=1.0), n_batch=8)
    desk.open("a")
    desk.ask("a", "hi")
    desk.step()
    desk.model.clock.advance(4.0)
    desk.run()
    assert not desk.failed("a")
    assert desk.ended("a")


def test_a_full_queue_refuses_and_guesses_go_first():
    desk = Desk(Limits(n_ctx_per_call=200, max_queue=2), n_ctx=200)
    for call in "abcd":
        desk.open(call)
    desk.ask("a", "hi", speculative=True)
    desk.ask("b", "hi")
    desk.ask("c", "hi")
    assert desk.failed("a")
    desk.ask("d", "hi")
    assert "waiting" in desk.failed("d")[0]
    desk.run()
    assert desk.ended("b")
    assert desk.ended("c")


def test_values_that_are_not_numbers_end_one_reply_only():
    desk = Desk()
    desk.open("a")
    desk.open("b")
    desk.run()
    desk.ask("a", "hello")
    prompt = desk.ask("b", "hello you")
    while not desk.text("a"):
        desk.step()
    desk.model.not_numbers.add(desk.call("a").seq.seq_id)
    desk.run()
    assert "not numbers" in desk.failed("a")[0]
    assert desk.text("b") == whole_reply(prompt)
    desk.model.not_numbers.clear()
    again = desk.ask("a", "hello", generation=2)
    desk.run()
    assert desk.text("a", 2) == whole_reply(again)


def test_a_decode_that_fails_hurts_only_who_caused_it(caplog):
    desk = Desk()
    for call in "ab":
        desk.open(call)
    desk.run()
    desk.ask("a", "poison!")
    prompt = desk.ask("b", "hello you")
    desk.model.fail = lambda entries: (
        -3 if any(b"poison" in bytes(t for t in e.tokens if t < 256) for e in entries) else 0
    )
    desk.run()
    assert "-3" in desk.failed("a")[0]
    assert desk.text("b") == whole_reply(prompt)
    assert "llama_decode failed" in caplog.text


def test_no_slot_although_the_books_say_so():
    desk = Desk()
    for call in "abc":
        desk.open(call)
    first = desk.ask("c", "idle")
    desk.run()
    prompts = {call: desk.ask(call, f"hello from {call}", generation=2) for call in "ab"}
    left = [3]

    def refuse(entries):
        left[0] -= 1
        return 1 if left[0] >= 0 else 0

    desk.model.fail = refuse
    desk.run()
    assert all(desk.text(call, 2) == whole_reply(prompt) for call, prompt in prompts.items())
    assert desk.text("c") == whole_reply(first)


def test_a_context_that_never_has_room_is_said():
    desk = Desk()
    desk.open("a")
    desk.ask("a", "hello")
    desk.model.fail = lambda entries: 1
    for _ in range(5):
        desk.step()
    assert not desk.step()
    assert "full" in desk.failed("a")[0]


def test_a_conversation_that_never_has_room_is_said_though_its_template_always_has():
    """What is taken from others for it, a template above all, comes back as soon as there is room again."""
    desk = Desk()
    for call in "ab":
        desk.open(call)
    desk.run()
    desk.ask("a", "hello")
    refused = lambda entries: any(desk.call("a").seq and e.seq == desk.call("a").seq.seq_id for e in entries)  # noqa: E731
    desk.model.fail = lambda entries: int(refused(entries))
    desk.run(100)
    assert "full" in desk.failed("a")[0]
    prompt = desk.ask("b", "hello")
    desk.run()
    assert desk.text("b") == whole_reply(prompt)


def test_a_bad_grammar_and_an_unknown_call_are_said():
    desk = Desk()
    desk.open("a")
    desk.ask("a", "hello", grammar="bad")
    assert "grammar" in desk.failed("a")[0]
    desk.generate("nobody", 1, talk("x"))
    assert "not open" in desk.failed("nobody")[0]


def test_after_a_failure_of_everything_it_goes_on():
    desk = Desk()
    desk.open("a")
    desk.ask("a", "hello")
    desk.step()
    desk.fail_all("it broke")
    assert desk.failed("a") == ["it broke"]
    prompt = desk.ask("a", "hello", generation=2)
    desk.run()
    assert desk.text("a", 2) == whole_reply(prompt)


# --------------------------------------------------------------------------- sessions


def stored(desk, call_id):
    desk.snapshot(call_id)
    snapshot = next(e for e in reversed(desk.events) if isinstance(e, SessionSnapshot))
    return SavedConversation(
        messages=(),
        tokens=snapshot.tokens,
        kv=snapshot.kv,
        fingerprint=snapshot.fingerprint,
        template_digest=snapshot.template_digest,
    )


def test_a_returning_caller_is_not_read_again():
    desk = Desk()
    desk.open("c1")
    first = desk.ask("c1", "a long story")
    desk.run()
    saved = stored(desk, "c1")
    assert len(saved.tokens) == len(first) + REPLY_TOKENS
    later = Desk()
    later.open("c9", restore=saved)
    prompt = later.ask("c9", "a long story", desk.text("c1"), "it is me again")
    later.run()
    assert later.ended("c9").cached_tokens == len(saved.tokens)
    assert later.text("c9") == whole_reply(prompt)


@pytest.mark.parametrize(
    "change",
    [
        {"fingerprint": "other:f16"},
        {"template_digest": "other"},
        {"kv": None},
        {"kv": b"odd"},
        {"kv": b"\x00\x41"},
        {"tokens": ()},
    ],
)
def test_a_state_that_does_not_fit_is_read_again_from_text(change, caplog):
    caplog.set_level("INFO")
    desk = Desk()
    desk.open("c1")
    desk.ask("c1", "a long story")
    desk.run()
    saved = stored(desk, "c1")
    values = {name: getattr(saved, name) for name in ("messages", "tokens", "kv", "fingerprint", "template_digest")}
    later = Desk()
    later.open("c1", restore=SavedConversation(**{**values, **change}))
    assert "read again from its text" in caplog.text
    prompt = later.ask("c1", "a long story", desk.text("c1"), "it is me again")
    later.run()
    assert later.text("c1") == whole_reply(prompt)


def test_a_snapshot_of_nothing_is_empty():
    desk = Desk()
    desk.open("c1")
    assert stored(desk, "c1").tokens == ()
    assert stored(desk, "nobody").kv is None


def test_restoring_takes_nothing_from_those_who_speak():
    desk = Desk(Limits(n_ctx_per_call=200), n_ctx=200)
    desk.open("a")
    prompt = desk.ask("a", "a" * 80)
    while not desk.text("a"):
        desk.step()
    saved = SavedConversation(
        messages=(),
        tokens=tuple(range(150)),
        kv=bytes(300),
        fingerprint="fake:f16",
        template_digest=desk.scheduler._format.digest,
    )
    desk.open("b", restore=saved)
    desk.run()
    assert desk.text("a") == whole_reply(prompt)


def test_a_template_that_cannot_be_read_is_done_without():
    desk = Desk()
    desk.open("a")
    left = [2]

    def fail(entries):
        left[0] -= 1
        return -1 if left[0] >= 0 else 0

    desk.model.fail = fail
    desk.run()
    prompt = desk.ask("a", "hello")
    desk.run()
    assert desk.text("a") == whole_reply(prompt)
    assert desk.ended("a").cached_tokens == 0
