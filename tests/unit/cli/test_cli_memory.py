"""What joins the session file to the language model."""

import pytest

from aiphone.cli.memory import Memory
from aiphone.errors import StorageError
from aiphone.inference.llm import SessionSnapshot
from aiphone.persona import Message, Persona
from aiphone.store.sessions import SavedConversation, SessionStore, SessionWriter

KEY = "line1:sip:ann@192.0.2.1"
TALK = (Message("user", "I am Ann."), Message("assistant", "Hello Ann."))


class Model:
    """Notes what it is told; answers a snapshot when it is asked to."""

    def __init__(self):
        self.told = []

    def __getattr__(self, name):
        return lambda *arguments, **more: self.told.append((name, *arguments, *more.values()))


@pytest.fixture
def desk(tmp_path):
    store = SessionStore(tmp_path / "sessions")
    writer = SessionWriter(store)
    model = Model()
    yield Memory(store, writer, model), model, store, writer
    writer.close()
    store.close()


def test_a_conversation_is_kept_with_the_models_state_and_comes_back(desk):
    memory, model, _, writer = desk
    assert memory.recall("c1", KEY) == ()
    memory.open("c1", Persona())
    assert model.told == [("open", "c1", Persona(), None)]
    memory.keep("c1", KEY, TALK)
    assert model.told[-1] == ("snapshot", "c1")
    assert memory.take(SessionSnapshot("c1", "model", "template", (1, 2, 3), b"state"))
    assert writer.flush(5)
    assert memory.recall("c2", KEY) == TALK
    memory.open("c2", Persona())
    restored = model.told[-1][3]
    assert isinstance(restored, SavedConversation)
    assert (restored.tokens, restored.kv, restored.fingerprint) == ((1, 2, 3), b"state", "model")


def test_a_conversation_that_could_not_be_written_is_remembered_all_the_same(desk, monkeypatch, caplog):
    memory, model, store, writer = desk
    store.save(KEY, SavedConversation(TALK[:1]))

    def full(key, conversation):
        raise StorageError("Could not write: the disk is full.")

    with monkeypatch.context() as patched:
        patched.setattr(store, "save", full)
        memory.keep("c1", KEY, TALK)
        memory.take(SessionSnapshot("c1", "model", "template", (1, 2, 3), b"state"))
        assert not writer.flush(5)
        assert memory.recall("c2", KEY) == TALK
        memory.open("c2", Persona())
        assert model.told[-1][3].kv == b"state"
    assert "tried again" in caplog.text
    assert writer.flush(5)
    assert store.load(KEY).messages == TALK
    assert memory.recall("c3", KEY) == TALK


def test_everything_else_is_passed_on(desk):
    memory, model, _, _ = desk
    memory.generate("c", 1, TALK, speculative=True)
    memory.read_ahead("c", 2, TALK)
    memory.promote("c", 1)
    memory.cancel("c", 1)
    memory.close_call("c")
    assert [name for name, *_ in model.told] == ["generate", "read_ahead", "promote", "cancel", "close_call"]
    assert not memory.take(object())


@pytest.mark.parametrize(
    "caller", ["sip:anonymous@anonymous.invalid", "sip:Anonymous@example.org", "sip:x@anonymous.invalid", ""]
)
def test_callers_who_hide_their_number_share_nothing(desk, caller):
    memory, model, store, _ = desk
    memory.keep("c", f"line1:{caller}", TALK)
    assert model.told == []
    store.save(f"line1:{caller}", SavedConversation(TALK))
    assert memory.recall("c", f"line1:{caller}") == ()


@pytest.mark.parametrize("caller", ["sip:ann@192.0.2.1", "sip:anonymouse@192.0.2.1", "+15550100"])
def test_others_are_known(desk, caller):
    memory, _, store, _ = desk
    store.save(f"line1:{caller}", SavedConversation(TALK))
    assert memory.recall("c", f"line1:{caller}") == TALK
