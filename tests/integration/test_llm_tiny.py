"""llama.cpp with tiny models of random weights: kinds of models, and faults, that the starter model cannot show."""

import queue
from dataclasses import replace

import numpy as np
import pytest
from tiny_gguf import write_llama, write_mamba

from aiphone.clock import SystemClock
from aiphone.events import ReplyEnded, ReplyText, WorkFailed
from aiphone.inference.llama_cpp_api import LlamaCpp
from aiphone.inference.llm import LanguageModel, SessionSnapshot
from aiphone.inference.llm_backend import BackendOptions, Entry
from aiphone.inference.llm_scheduler import Limits, Scheduler
from aiphone.persona import Message, Persona, Sampling
from aiphone.store.sessions import SavedConversation

pytestmark = pytest.mark.integration

PERSONA = Persona(prompt="You are {name}.", sampling=Sampling(temperature=0, max_tokens=12))
OPTIONS = BackendOptions(threads=1, n_seq_max=8, n_ctx_per_call=512, max_calls=4)


def talk(*texts):
    roles = ["user", "assistant"] * len(texts)
    return [PERSONA.system_message(), *(Message(r, t) for r, t in zip(roles, texts, strict=False))]


class Desk:
    def __init__(self, backend, **limits):
        self.events = []
        self.scheduler = Scheduler(
            backend, post=self.events.append, clock=SystemClock(), limits=Limits(n_ctx_per_call=512, **limits)
        )

    def run(self):
        for _ in range(2000):
            if not self.scheduler.step():
                return
        pytest.fail("the scheduler does not come to rest")

    def ask(self, call_id, generation, *texts):
        self.scheduler.generate(call_id, generation, talk(*texts))
        self.run()
        failed = [e.reason for e in self.events if isinstance(e, WorkFailed)]
        assert not failed
        mine = (e for e in self.events if isinstance(e, ReplyText) and e.call_id == call_id)
        return "".join(e.text for e in mine if e.generation == generation)

    def ended(self, call_id, generation):
        return next(
            e for e in self.events if isinstance(e, ReplyEnded) and (e.call_id, e.generation) == (call_id, generation)
        )

    def held(self, call_id):
        return list(self.scheduler._room.calls[call_id].seq.tokens)


@pytest.fixture(scope="module")
def mamba(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "mamba.gguf"
    write_mamba(path)
    return path


@pytest.fixture
def backend(mamba):
    backend = LlamaCpp(mamba, OPTIONS)
    yield backend
    backend.close()


def fresh(path, *texts):
    """What the model says to a conversation that nothing is remembered of."""
    backend = LlamaCpp(path, OPTIONS)
    desk = Desk(backend)
    desk.scheduler.open("only", PERSONA, None, None)
    said = desk.ask("only", 1, *texts)
    backend.close()
    return said


def test_a_recurrent_model_is_recognised(backend):
    assert not backend.can_cut
    assert not backend.can_shift


def test_a_recurrent_model_forks_its_persona_and_goes_on_with_a_conversation(mamba, backend):
    desk = Desk(backend)
    desk.scheduler.open("c", PERSONA, None, None)
    desk.run()
    first = desk.ask("c", 1, "hello")
    assert first == fresh(mamba, "hello")
    assert desk.ended("c", 1).cached_tokens > 8  # the persona's template, taken whole
    second = desk.ask("c", 2, "hello", first, "and now")
    assert second == fresh(mamba, "hello", first, "and now")


def test_a_recurrent_model_reads_again_after_an_interruption(mamba, backend):
    desk = Desk(backend)
    desk.scheduler.open("c", PERSONA, None, None)
    first = desk.ask("c", 1, "hello")
    heard = first[: max(1, len(first) // 2)].strip() or "a"
    assert desk.ask("c", 2, "hello", heard, "stop") == fresh(mamba, "hello", heard, "stop")
    assert desk.scheduler._room.calls["c"].seq.tokens[: len(desk.held("c"))] == desk.held("c")


def test_a_recurrent_models_callers_do_not_mix(mamba, backend):
    desk = Desk(backend)
    names = ["one", "two", "three", "four"]
    for name in names:
        desk.scheduler.open(name, PERSONA, None, None)
    for name in names:
        desk.scheduler.generate(name, 1, talk(f"I am {name}"))
    desk.run()
    for name in names:
        said = "".join(e.text for e in desk.events if isinstance(e, ReplyText) and e.call_id == name)
        assert said == fresh(mamba, f"I am {name}")


def test_a_recurrent_models_state_is_saved_and_put_back(mamba, backend):
    desk = Desk(backend)
    desk.scheduler.open("c", PERSONA, None, None)
    first = desk.ask("c", 1, "hello")
    desk.scheduler.snapshot("c")
    shot = desk.events[-1]
    assert isinstance(shot, SessionSnapshot)
    assert shot.kv
    saved = SavedConversation((), shot.tokens, shot.kv, shot.fingerprint, shot.template_digest)
    desk.scheduler.open("d", PERSONA, None, saved)
    assert desk.ask("d", 1, "hello", first, "and now") == fresh(mamba, "hello", first, "and now")


def test_a_recurrent_model_with_a_full_share_forgets_the_oldest_turns(backend):
    desk = Desk(backend)
    desk.scheduler.open("c", PERSONA, None, None)
    said = []
    for number in range(8):
        said.append(f"{number}: " + "word " * 15)
        said.append(desk.ask("c", number, *said) or "-")
    assert desk.scheduler._room.calls["c"].dropped > 0
    assert len(desk.held("c")) <= 512


# ---------------------------------------------------------------------------------------------------- isolation


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "llama.gguf"
    write_llama(path)
    return path


def test_logits_in_a_busy_context_are_those_of_a_fresh_one(llama):
    """Keys and values are kept, and attention is computed, in 16 bits: 2**-10 of a value, a few of them added up.

    The weights are 32-bit floats, so that nothing is rounded to 8 bits on the way and the bound is tight: one foreign
    token changes the logits by several times as much.
    """
    crowd, alone = LlamaCpp(llama, OPTIONS), LlamaCpp(llama, OPTIONS)
    desk = Desk(crowd)
    for number in range(4):
        desk.scheduler.open(f"c{number}", PERSONA, None, None)
    for turn in range(3):
        for number in range(4):
            desk.scheduler.generate(f"c{number}", turn, talk(f"caller {number} says {'very ' * turn} little"))
            desk.scheduler.step()
        desk.run()
    for number in range(4):
        seq = desk.scheduler._room.calls[f"c{number}"].seq
        assert crowd.seq_len(seq.seq_id) == len(seq.tokens)
        assert crowd.decode([Entry(seq.seq_id, len(seq.tokens), [65], True)]) == 0
        assert alone.decode([Entry(0, 0, [*seq.tokens, 65], True)]) == 0
        mine, theirs = crowd.logits(0).copy(), alone.logits(0).copy()
        alone.seq_rm(0, 0)
        bound = 4 * 2.0**-10 * np.abs(theirs).max()
        assert np.abs(mine - theirs).max() < bound
        foreign = [*seq.tokens[:-4], seq.tokens[-4] ^ 1, *seq.tokens[-3:], 65]
        assert alone.decode([Entry(0, 0, foreign, True)]) == 0
        assert np.abs(mine - alone.logits(0)).max() > 3 * bound
        alone.seq_rm(0, 0)
        assert mine.argmax() == theirs.argmax()
    crowd.close()
    alone.close()


# ------------------------------------------------------------------------------------------------------- faults


def running(path):
    events = queue.Queue()
    model = LanguageModel(path, post=events.put, clock=SystemClock(), threads=1, max_calls=2)
    model.start()
    model.open("c", PERSONA)
    return model, events


def outcome(events):
    while isinstance(event := events.get(timeout=30), ReplyText):
        pass
    return event


def test_weights_that_are_not_numbers_are_said_to_each_caller(tmp_path):
    write_llama(tmp_path / "bad.gguf", spoil=True)
    model, events = running(tmp_path / "bad.gguf")
    for generation in (1, 2):
        model.generate("c", generation, talk("hello"))
        failed = outcome(events)
        assert isinstance(failed, WorkFailed)
        assert "not numbers" in failed.reason
    model.stop()


@pytest.mark.parametrize("how", ["removed", "replaced", "written over", "cut short"])
def test_a_model_file_that_goes_while_it_is_in_use_changes_nothing(tmp_path, how):
    path = tmp_path / "model.gguf"
    write_llama(path)
    model, events = running(path)
    model.generate("c", 1, talk("hello"))
    assert isinstance(outcome(events), ReplyEnded)
    if how == "removed":
        path.unlink()
    elif how == "written over":
        path.write_bytes(b"\xff" * path.stat().st_size)
    elif how == "cut short":
        with path.open("r+b") as file:
            file.truncate(100)
    else:
        write_llama(tmp_path / "new.gguf", seed=2)
        (tmp_path / "new.gguf").replace(path)
    model.open("d", PERSONA)
    model.generate("d", 1, talk("hello again"))
    assert isinstance(outcome(events), ReplyEnded)
    assert model.status()["ready"]
    model.stop()


def alone(path, name):
    backend = LlamaCpp(path, OPTIONS)
    desk = Desk(backend)
    desk.scheduler.open(name, PERSONA, None, None)
    said = desk.ask(name, 1, f"I am {name}")
    backend.close()
    return said


def outcomes(desk, names):
    """What each caller heard; None for one who was told that it failed."""
    failed = {e.call_id for e in desk.events if isinstance(e, WorkFailed)}
    texts = [(e.call_id, e.text) for e in desk.events if isinstance(e, ReplyText)]
    return {name: None if name in failed else "".join(t for call, t in texts if call == name) for name in names}


def test_a_decode_that_llama_cpp_refuses_ends_one_reply_and_changes_no_other(llama, monkeypatch, caplog):
    backend = LlamaCpp(llama, OPTIONS)
    desk = Desk(backend)
    names = ["one", "two", "three"]
    for name in names:
        desk.scheduler.open(name, PERSONA, None, None)
    desk.run()  # the persona's template
    for name in names:
        desk.scheduler.generate(name, 1, talk(f"I am {name}"))
    for _ in range(4):
        desk.scheduler.step()
    bad = desk.scheduler._room.calls["two"].seq.seq_id
    decode = backend.decode

    def spoiled(entries):
        return decode([replace(e, tokens=[10**6]) if e.seq == bad else e for e in entries])

    with monkeypatch.context() as patched:
        patched.setattr(backend, "decode", spoiled)
        desk.run()
    heard = outcomes(desk, names)
    assert heard == {"one": alone(llama, "one"), "two": None, "three": alone(llama, "three")}
    assert "llama_decode failed" in caplog.text
    desk.events.clear()
    assert desk.ask("two", 2, "I am two") == alone(llama, "two")
    for name in names:
        seq = desk.scheduler._room.calls[name].seq
        assert backend.seq_len(seq.seq_id) == len(seq.tokens)
    backend.close()


def test_a_cache_that_is_fuller_than_the_books_say_costs_time_and_no_words(llama, monkeypatch):
    """Cells that the books know nothing of: llama.cpp finds no slot, and one after the other goes on."""
    backend = LlamaCpp(llama, OPTIONS)
    desk = Desk(backend)
    names = ["one", "two", "three"]
    for name in names:
        desk.scheduler.open(name, PERSONA, None, None)
    desk.run()
    taken = backend.n_seq_max - 1
    room = desk.scheduler._room.pool
    free = backend.n_ctx - room.cells - 50
    for at in range(0, free, backend.n_batch):
        assert backend.decode([Entry(taken, at, [65] * min(backend.n_batch, free - at), False)]) == 0
    decode, codes = backend.decode, []
    monkeypatch.setattr(backend, "decode", lambda entries: codes.append(decode(entries)) or codes[-1])
    for name in names:
        desk.scheduler.generate(name, 1, talk(f"I am {name}"))
    desk.run()
    assert 1 in codes
    assert outcomes(desk, names) == {name: alone(llama, name) for name in names}
    backend.seq_rm(taken, 0)
    desk.events.clear()
    assert desk.ask("three", 2, "I am three") == alone(llama, "three")
    backend.close()
