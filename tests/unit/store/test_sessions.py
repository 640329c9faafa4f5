import logging
import os
import sqlite3
import stat
import threading

import pytest

from aiphone.errors import StorageError
from aiphone.persona import Message
from aiphone.store.sessions import FORMAT, SavedConversation, SessionStore, SessionWriter


class Wall:
    def __init__(self):
        self.now = 1_000_000.0

    def __call__(self):
        self.now += 1.0
        return self.now


def conversation(text="hello", kv=b"state" * 100, **changes):
    values = {
        "messages": (Message("system", "You are X."), Message("user", text)),
        "tokens": (1, 2, 3, -4),
        "kv": kv,
        "fingerprint": "model:f16",
        "template_digest": "abc",
    }
    return SavedConversation(**{**values, **changes})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "callers.session"


@pytest.fixture
def store(path):
    store = SessionStore(path, wall=Wall())
    yield store
    store.close()


def test_a_conversation_comes_back_as_it_was(store):
    saved = conversation("wie schön 你好")
    store.save("line/sip:a@b", saved)
    loaded = store.load("line/sip:a@b")
    assert loaded.messages == saved.messages
    assert loaded.tokens == saved.tokens
    assert loaded.kv == saved.kv
    assert (loaded.fingerprint, loaded.template_digest) == ("model:f16", "abc")
    assert loaded.updated > 1_000_000


def test_an_unknown_caller_has_no_conversation(store):
    assert store.load("line/nobody") is None
    assert store.export("line/nobody") is None
    assert not store.forget("line/nobody")


def test_saving_again_replaces(store):
    store.save("k", conversation("one"))
    store.save("k", conversation("two", kv=None))
    assert store.load("k").messages[1].content == "two"
    assert store.load("k").kv is None
    assert len(store.list()) == 1


def test_the_list_is_latest_first_with_sizes(store):
    store.save("a", conversation())
    store.save("b", conversation(kv=None))
    first, second = store.list()
    assert (first.key, second.key) == ("b", "a")
    assert second.tokens == 4
    assert second.messages == 2
    assert second.bytes - first.bytes == 500


def test_export_is_plain_text(store):
    store.save("k", conversation())
    exported = store.export("k")
    assert exported["messages"][1] == {"role": "user", "content": "hello"}
    assert exported["has_state"]


def test_the_file_is_private(store, path):
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_it_outlives_the_process(path):
    store = SessionStore(path)
    store.save("k", conversation())
    store.close()
    store.close()
    again = SessionStore(path)
    assert again.load("k").tokens == (1, 2, 3, -4)
    again.close()


def test_forgetting_leaves_no_byte(store, path):
    store.save("k", conversation("my secret number is 4711", kv=b"kvsecret" * 5000))
    assert store.forget("k")
    store.close()
    assert b"4711" not in path.read_bytes()
    assert b"kvsecret" not in path.read_bytes()
    assert path.stat().st_size < 30_000


def test_the_size_bound_takes_states_first_then_the_oldest(path):
    store = SessionStore(path, wall=Wall(), max_bytes=2500)
    for key in "abc":
        store.save(key, conversation(kv=b"x" * 1000))
    assert [store.load(key).kv is None for key in "abc"] == [True, False, False]
    store.save("d", conversation("y" * 2000, kv=None))
    assert store.load("d") is not None
    assert all(store.load(key) is None or store.load(key).kv is None for key in "abc")
    store.save("e", conversation("z" * 2200, kv=None))
    assert [info.key for info in store.list()] == ["e"]
    store.close()


def test_old_callers_expire(path):
    wall = Wall()
    store = SessionStore(path, wall=wall, max_age=100)
    store.save("old", conversation())
    wall.now += 200
    assert store.load("old") is None
    store.save("new", conversation())
    store.close()
    again = SessionStore(path, wall=wall, max_age=100)
    assert [info.key for info in again.list()] == ["new"]
    again.close()


def test_a_state_with_a_wrong_checksum_is_left_out(store, path, caplog):
    store.save("k", conversation())
    with sqlite3.connect(path) as db:
        db.execute("UPDATE conversation SET kv = ?", (b"other",))
    db.close()
    assert store.load("k").kv is None
    assert store.load("k").tokens == (1, 2, 3, -4)
    assert "checksum" in caplog.text


def test_a_file_cut_anywhere_is_whole_or_moved_aside(tmp_path, caplog):
    caplog.set_level(logging.CRITICAL)
    original = tmp_path / "whole"
    store = SessionStore(original)
    store.save("k", conversation(kv=b"q" * 9000))
    store.close()
    data = original.read_bytes()
    cuts = [*range(130), *range(130, len(data), 509), len(data) - 1]
    for cut in cuts:
        path = tmp_path / f"cut{cut}"
        path.write_bytes(data[:cut])
        store = SessionStore(path)
        loaded = store.load("k")
        damaged = path.with_name(path.name + ".damaged-1")
        if loaded is not None:
            assert loaded.messages == conversation().messages
            assert loaded.kv in (None, b"q" * 9000)
        elif cut:
            assert damaged.read_bytes() == data[:cut]
        store.save("k", conversation("after"))
        assert store.load("k").messages[1].content == "after"
        store.close()


def test_damaged_files_are_numbered_and_logged(path, caplog):
    for number in (1, 2):
        path.write_bytes(b"SQLite format 3\x00" + bytes(range(256)) * 20)
        SessionStore(path).close()
        assert path.with_name(f"{path.name}.damaged-{number}").exists()
    assert caplog.text.count("is damaged") == 2


def test_another_kind_of_file_is_left_alone(path):
    path.write_text("my letters")
    with pytest.raises(StorageError, match="not a session file"):
        SessionStore(path)
    assert path.read_text() == "my letters"


def test_another_programs_database_is_left_alone(path):
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE bookmark (url)")
    db.close()
    with pytest.raises(StorageError, match="another program"):
        SessionStore(path)


def test_a_newer_format_is_refused(path):
    SessionStore(path).close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {FORMAT + 1}")
    db.close()
    with pytest.raises(StorageError, match="newer"):
        SessionStore(path)


def test_a_directory_that_does_not_exist_is_said(tmp_path):
    with pytest.raises(StorageError, match="session file"):
        SessionStore(tmp_path / "no" / "such" / "file")


def test_a_full_disk_loses_nothing(store):
    store.save("k", conversation("kept"))
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages + 1}")
    with pytest.raises(StorageError, match="free some disk space"):
        store.save("k", conversation("too big", kv=os.urandom(100_000)))
    assert store.load("k").messages[1].content == "kept"
    store._db.execute("PRAGMA max_page_count = 100000")
    store.save("k", conversation("now"))
    assert store.load("k").messages[1].content == "now"


def test_an_unfinished_write_is_undone(path):
    """What a kill leaves behind: a transaction that was begun in another process and never ended."""
    store = SessionStore(path)
    store.save("k", conversation("before"))
    store.close()
    child = (
        "import sqlite3, os, sys\n"
        "db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "db.execute('PRAGMA cache_size = 1'); db.execute('BEGIN')\n"
        "db.execute('UPDATE conversation SET messages = ?, kv = zeroblob(3000000)', ('[]',))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    import subprocess
    import sys

    subprocess.run([sys.executable, "-c", child, str(path)], check=False)
    again = SessionStore(path)
    assert again.load("k").messages[1].content == "before"
    again.close()


# --------------------------------------------------------------------------- writer


class SlowStore:
    """Lets the test decide when a write ends and how."""

    def __init__(self):
        self.saved = []
        self.entered = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self.fail = False

    def save(self, key, value):
        self.entered.release()
        assert self.go.acquire(timeout=5)
        if self.fail:
            raise StorageError("the disk is full.")
        self.saved.append((key, value.messages[1].content, value.kv is not None))


def test_the_writer_writes(store):
    writer = SessionWriter(store)
    writer.submit("k", conversation("from the writer"))
    assert writer.flush(5)
    assert store.load("k").messages[1].content == "from the writer"
    assert writer.close(5)


def test_only_the_latest_is_written():
    slow = SlowStore()
    writer = SessionWriter(slow)
    writer.submit("a", conversation("first"))
    assert slow.entered.acquire(timeout=5)
    for number in range(5):
        writer.submit("b", conversation(f"b{number}"))
    slow.go.release(2)
    assert writer.flush(5)
    assert slow.saved == [("a", "first", True), ("b", "b4", True)]
    assert writer.close(5)


def test_a_failed_write_is_kept_and_tried_again(caplog):
    slow = SlowStore()
    slow.fail = True
    writer = SessionWriter(slow)
    writer.submit("a", conversation("kept"))
    slow.go.release()
    assert not writer.flush(5)
    assert "full" in writer.error
    slow.fail = False
    slow.go.release(2)
    assert writer.flush(5)
    assert slow.saved == [("a", "kept", True)]
    assert writer.error == ""
    assert writer.close(5)
    assert "full" in caplog.text


def test_states_that_wait_are_bounded_and_text_is_not(caplog):
    slow = SlowStore()
    writer = SessionWriter(slow, max_pending=1200)
    writer.submit("a", conversation())
    assert slow.entered.acquire(timeout=5)
    for key in "bcd":
        writer.submit(key, conversation())
    slow.go.release(4)
    assert writer.flush(5)
    assert [(key, kv) for key, _, kv in slow.saved] == [("a", True), ("b", True), ("c", False), ("d", False)]
    assert writer.close(5)
    assert "text only" in caplog.text


def test_what_is_discarded_is_not_written():
    slow = SlowStore()
    writer = SessionWriter(slow)
    writer.submit("a", conversation())
    assert slow.entered.acquire(timeout=5)
    writer.submit("b", conversation())
    writer.discard("b")
    slow.go.release(2)
    assert writer.flush(5)
    assert [key for key, _, _ in slow.saved] == ["a"]
    assert writer.close(5)


def test_flush_gives_up_after_its_time():
    slow = SlowStore()
    writer = SessionWriter(slow)
    writer.submit("a", conversation())
    assert not writer.flush(0.01)
    slow.go.release()
    assert writer.close(5)
