"""The thread around the scheduler."""

import queue
import threading
from pathlib import Path

import pytest
from fake_llama import FakeLlama, whole_reply

from aiphone.clock import SystemClock
from aiphone.errors import InferenceError, ModelError
from aiphone.events import ReplyEnded, ReplyText, WorkFailed
from aiphone.inference.llm import LanguageModel, SessionSnapshot
from aiphone.inference.llm_backend import BackendOptions
from aiphone.persona import Message, Persona, Sampling

PERSONA = Persona(prompt="You are {name}.", sampling=Sampling(temperature=0))
TALK = [PERSONA.system_message(), Message("user", "hello")]


@pytest.fixture
def desk():
    events = queue.Queue()
    fake = FakeLlama()
    model = LanguageModel(
        Path("fake.gguf"),
        post=events.put,
        clock=SystemClock(),
        threads=1,
        max_calls=4,
        n_ctx_per_call=800,
        make_backend=lambda path, options: fake,
    )
    model.start()
    yield model, fake, events
    model.stop()
    assert fake.closed


def until(events, kind):
    seen = []
    while not seen or not isinstance(seen[-1], kind):
        seen.append(events.get(timeout=5))
    return seen


def test_a_turn(desk):
    model, fake, events = desk
    model.open("c1", PERSONA, "line/caller")
    model.generate("c1", 1, TALK)
    *texts, ended = until(events, ReplyEnded)
    prompt = fake.tokenize(fake.apply_template("", TALK, add_assistant=True))
    assert "".join(event.text for event in texts) == whole_reply(prompt)
    assert all(isinstance(event, ReplyText) for event in texts)
    assert ended.call_id == "c1"


def test_snapshot_then_close(desk):
    model, _, events = desk
    model.open("c1", PERSONA)
    model.generate("c1", 1, TALK)
    until(events, ReplyEnded)
    model.snapshot("c1")
    model.close_call("c1")
    snapshot = until(events, SessionSnapshot)[-1]
    assert len(snapshot.tokens) > 30
    assert snapshot.kv


def test_status_is_told(desk):
    model, _, _events = desk
    assert model.status()["ready"] is True
    assert model.status()["model"] == "fake"
    model.stop()
    assert model.status()["ready"] is False


def test_what_goes_wrong_unforeseen_is_told_to_each_call(desk, caplog):
    model, fake, events = desk

    def explode(entries):
        fake.fail = lambda entries: 0
        raise RuntimeError("boom")

    model.open("c1", PERSONA)
    model.generate("c1", 1, TALK)
    until(events, ReplyEnded)
    fake.fail = explode
    model.generate("c1", 2, [*TALK, Message("user", "more")])
    failed = until(events, WorkFailed)[-1]
    assert failed.generation == 2
    assert "RuntimeError" in failed.reason
    model.generate("c1", 3, TALK)
    assert until(events, ReplyEnded)[-1].generation == 3
    assert "boom" in caplog.text


def test_after_stop_a_request_fails_instead_of_being_lost(desk):
    model, _, events = desk
    model.stop()
    model.generate("c1", 1, TALK)
    assert "not running" in until(events, WorkFailed)[-1].reason
    assert not [thread for thread in threading.enumerate() if thread.name == "llm"]


def make(**changes):
    values = {"post": print, "clock": SystemClock(), "threads": 1, "max_calls": 1}
    return LanguageModel(changes.pop("path", Path("fake.gguf")), **{**values, **changes})


def test_a_model_that_cannot_be_loaded_is_an_error_of_start():
    def refuse(path, options):
        raise ModelError("The language model fake.gguf cannot be loaded (no): download it again.")

    with pytest.raises(ModelError, match="download it again"):
        make(make_backend=refuse).start()


def test_a_surprise_while_loading_is_an_error_of_start(caplog):
    def explode(path, options):
        raise RuntimeError("boom")

    with pytest.raises(InferenceError, match="boom"):
        make(make_backend=explode).start()


def test_settings_that_exclude_each_other():
    with pytest.raises(InferenceError, match="q4_9"):
        make(make_backend=lambda path, options: None, kv_types=("f16", "q4_9"))
    with pytest.raises(InferenceError, match="flash attention"):
        make(make_backend=lambda path, options: None, kv_types=("f16", "q8_0"), flash_attn=False)


@pytest.mark.parametrize(
    ("given", "flash"),
    [
        ({}, None),
        ({"flash_attn": True}, True),
        ({"flash_attn": False, "kv_types": ("q8_0", "f16")}, False),
        ({"kv_types": ("f16", "q8_0")}, True),
    ],
)
def test_flash_attention_is_llama_cpp_s_choice_unless_told_or_needed(given, flash):
    options = {"threads": 2, "n_seq_max": 12, "n_ctx_per_call": 2048, "max_calls": 8, **given}
    assert BackendOptions(**options).flash is flash
