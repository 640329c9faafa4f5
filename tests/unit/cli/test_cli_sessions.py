import argparse
import json

import pytest

from aiphone.cli import sessions
from aiphone.errors import StorageError
from aiphone.persona import Message
from aiphone.store.sessions import SavedConversation, SessionStore


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "callers"
    store = SessionStore(path, wall=lambda: 1_700_000_000.0)
    store.save(
        "main/sip:a@b",
        SavedConversation((Message("user", "hi\x1b[2J there"), Message("assistant", "Hello."))),
    )
    store.close()
    return path


def call(*arguments):
    parser = argparse.ArgumentParser()
    sessions.add_arguments(parser.add_subparsers(required=True))
    return sessions.run(parser.parse_args(["sessions", *map(str, arguments)]))


def test_list(path, capsys):
    assert call("list", "--session", path) == 0
    out = capsys.readouterr().out
    assert "main/sip:a@b" in out
    assert "2023-11-1" in out


def test_show_cannot_steer_the_terminal(path, capsys):
    assert call("show", "main/sip:a@b", "--session", path) == 0
    out = capsys.readouterr().out
    assert "assistant: Hello." in out
    assert "\x1b" not in out


def test_export_is_json(path, capsys):
    assert call("export", "main/sip:a@b", "--session", path) == 0
    assert json.loads(capsys.readouterr().out)["messages"][1]["content"] == "Hello."


def test_forget(path, capsys):
    assert call("forget", "main/sip:a@b", "--session", path) == 0
    assert call("list", "--session", path) == 0
    assert "Nobody is remembered" in capsys.readouterr().out


@pytest.mark.parametrize("action", ["show", "forget", "export"])
def test_an_unknown_key_says_how_to_find_the_right_one(path, action):
    with pytest.raises(StorageError, match="sessions list"):
        call(action, "nobody", "--session", path)


def test_a_missing_file_is_not_made(tmp_path):
    with pytest.raises(StorageError, match="does not exist"):
        call("list", "--session", tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("arguments", [["list"], ["show", "main/sip:a@b"]])
def test_who_only_looks_forgets_nothing_by_bounds_that_are_the_servers(path, monkeypatch, arguments):
    def prune(self):
        pytest.fail("a caller may be forgotten by this")

    monkeypatch.setattr(SessionStore, "_prune", prune)
    assert call(*arguments, "--session", path) == 0


def test_a_damaged_file_is_said_and_stays_where_it_is(path):
    damaged = path.read_bytes()[:5000]
    path.write_bytes(damaged)
    with pytest.raises(StorageError, match=r"is damaged .*: the server keeps it aside"):
        call("list", "--session", path)
    assert path.read_bytes() == damaged
    assert [file.name for file in path.parent.iterdir()] == [path.name]
