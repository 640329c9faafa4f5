"""The store's file: opening, transactions, readers, damage, a full disk, backup."""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import stat
import threading

import pytest

from aiphone.errors import StorageError
from aiphone.store import database, search
from aiphone.store.database import backup_database
from aiphone.store.records import CallFilter, Retention, SipClient, WordsRow
from aiphone.store.store import Store


class Wall:
    """A wall clock that goes on by a second each time it is read."""

    def __init__(self):
        self.now = 1_000_000.0

    def __call__(self):
        self.now += 1.0
        return self.now


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def path(directory):
    return directory / "phone.db"


@pytest.fixture
def open_store(directory, path):
    opened = []

    def open_(**changes):
        store = Store(path, directory / "phone.key", Wall(), **changes)
        opened.append(store)
        return store

    yield open_
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store):
    return open_store()


def add_call(store, text="hello there", caller="sip:ann@192.0.2.9", **values):
    call = store.begin_call(line_id="pbx", caller=caller, **values)
    store.add_words(WordsRow(call, 1, "user", text, 5.0))
    store.end_call(call, 200, "bye")
    return call


# ---------------------------------------------------------------------------------------------- opening


def test_only_the_owner_can_read_the_files(store, directory):
    store.add_sip_client(SipClient("pbx", "100", "192.0.2.1"), "pw")
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in directory.iterdir()}
    assert set(modes) == {"phone.db", "phone.db-wal", "phone.db-shm", "phone.db.lock", "phone.key"}
    assert set(modes.values()) == {0o600}


def test_a_second_server_is_refused_and_a_command_is_not(store, open_store):
    with pytest.raises(StorageError, match=r"used by a running server.*--data-dir"):
        open_store()
    call = store.begin_call(line_id="pbx", caller="sip:a@b")
    open_store(exclusive=False).set_setting("auth.password", "hash")
    assert store.setting("auth.password") == "hash"
    assert store.call(call).ended is None


def test_it_can_be_opened_again_after_closing(store, open_store):
    call = add_call(store)
    store.close()
    store.close()
    assert open_store().call(call).end_reason == "bye"
    with pytest.raises(StorageError, match="closed"):
        store.call(call)


@pytest.mark.parametrize("content", [b"this is a text file, not a database", b"\0" * 4096])
def test_what_is_no_database_is_left_alone(path, open_store, content):
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(StorageError, match=r"damaged.*'whisper-talk-llama backup'"):
        open_store()
    assert path.read_bytes() == content


def test_an_empty_file_is_a_new_database(path, open_store):
    path.parent.mkdir()
    path.touch()
    assert open_store().personas()


def test_a_database_of_another_program_is_refused(path, open_store):
    path.parent.mkdir()
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE theirs (x)")
    db.close()
    with pytest.raises(StorageError, match="another program"):
        open_store()
    assert sqlite3.connect(path).execute("SELECT count(*) FROM theirs").fetchone() == (0,)


def test_a_newer_database_is_refused_and_not_changed(store, path, open_store):
    store.close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 999")
    db.close()
    before = path.read_bytes()
    with pytest.raises(StorageError, match=r"version 999, newer.*update"):
        open_store()
    assert path.read_bytes() == before


def test_damage_is_found_at_the_start(store, path, open_store):
    for number in range(50):
        add_call(store, f"some words to fill pages {number} " * 20)
    store.close()
    data = bytearray(path.read_bytes())
    for page in range(5, len(data) // 4096):
        data[page * 4096 : page * 4096 + 200] = os.urandom(200)
    path.write_bytes(data)
    with pytest.raises(StorageError, match="damaged"):
        open_store()
    assert path.read_bytes() == bytes(data)


def test_damage_met_later_is_named(store, path, open_store, monkeypatch):
    for number in range(200):
        add_call(store, f"some words to fill pages {number} " * 20)
    store.close()
    monkeypatch.setattr(database, "CHECK_AT_START", 0)
    data = bytearray(path.read_bytes())
    for page in range(30, len(data) // 4096):
        data[page * 4096 : (page + 1) * 4096] = b"\xff" * 4096
    path.write_bytes(data)

    def read_all():
        reopened = open_store()
        for number in range(1, 200):
            reopened.words(number)

    with pytest.raises(StorageError, match="damaged"):
        read_all()


def test_a_directory_without_permission_is_named(open_store, monkeypatch):
    def refuse(*_):  # not by its mode: root may write anywhere
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StorageError, match=r"cannot be opened.*--data-dir"):
        open_store()


def test_a_directory_that_is_a_file_is_named(directory, open_store):
    directory.write_text("")
    with pytest.raises(StorageError, match=r"cannot be opened.*--data-dir"):
        open_store()


# ---------------------------------------------------------------------------------------------- transactions


def test_a_batch_is_all_or_nothing(store):
    def fail():
        with store.batch():
            add_call(store)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert store.calls().calls == ()
    with store.batch():
        add_call(store)
        add_call(store)
    assert len(store.calls().calls) == 2


def test_a_refused_write_within_a_batch_leaves_no_half(store):
    client = SipClient("pbx", "100", "192.0.2.1")
    with store.batch():
        store.add_sip_client(client, "pw")
        with pytest.raises(StorageError):
            store.add_sip_client(client, "other")
        store.set_setting("after", 1)
    assert store.sip_password("pbx") == "pw"
    assert store.setting("after") == 1


def test_readers_see_whole_writes_and_do_not_wait(store):
    call = add_call(store)
    seen = []
    with store.batch():
        store.add_words(WordsRow(call, 2, "assistant", "half of it", 6.0))
        reader = threading.Thread(target=lambda: seen.append(len(store.words(call))))
        reader.start()
        reader.join(5.0)
        assert seen == [1]
        store.add_words(WordsRow(call, 3, "assistant", "the rest", 7.0))
    assert len(store.words(call)) == 3


def test_many_threads_at_once(store):
    def work(number):
        for index in range(20):
            call = add_call(store, f"thread{number} item{index}")
            assert store.words(call)[0].text == f"thread{number} item{index}"

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    numbers = [row.id for row in store.calls(limit=200).calls]
    assert len(set(numbers)) == 80
    assert store.check() == []


def test_a_full_disk_is_said_and_nothing_is_lost(store):
    kept = add_call(store)
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages + 2}")
    stored = []
    with pytest.raises(StorageError, match=r"full.*free some disk space"):  # noqa: PT012 - which of them is open
        for number in range(100):
            stored.append(add_call(store, f"text {number} " * 200))  # noqa: PERF401 - those before the error count
    store._db.execute("PRAGMA max_page_count = 100000")
    assert store.check() == []
    assert [store.words(call)[0].number for call in [kept, *stored]] == [1] * (1 + len(stored))
    later = add_call(store, "room again")
    assert store.calls(CallFilter(text="room")).calls[0].id == later


def test_a_batch_on_a_full_disk_is_undone_whole(store):
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages + 2}")

    def fill():
        with store.batch():
            store.set_setting("first", 1)
            for number in range(100):
                add_call(store, f"text {number} " * 200)

    with pytest.raises(StorageError, match="full"):
        fill()
    assert store.setting("first") is None
    assert store.calls().calls == ()


# ---------------------------------------------------------------------------------------------- backup


def test_a_backup_is_a_database_of_its_own(store, directory, tmp_path, open_store):
    store.add_sip_client(SipClient("pbx", "100", "192.0.2.1"), "pw")
    call = add_call(store, "marmalade")
    target = tmp_path / "copy.db"
    store.backup(target)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    add_call(store, "after the copy")
    restored = Store(target, directory / "phone.key", Wall())
    assert [row.id for row in restored.calls(CallFilter(text="marmalade")).calls] == [call]
    assert len(restored.calls().calls) == 1
    assert restored.sip_password("pbx") == "pw"
    assert restored.check() == []
    restored.close()


def test_a_backup_overwrites_nothing(store, tmp_path):
    target = tmp_path / "copy.db"
    target.write_text("dear")
    with pytest.raises(StorageError, match="exists"):
        store.backup(target)
    assert target.read_text() == "dear"


def test_a_backup_that_fails_leaves_nothing(store, path, tmp_path):
    with pytest.raises(StorageError, match="Could not write the backup"):
        store.backup(tmp_path / "missing" / "copy.db")
    with pytest.raises(StorageError, match="no database"):
        backup_database(tmp_path / "none.db", tmp_path / "copy.db")
    (tmp_path / "text").write_text("not a database, but longer than a header")
    with pytest.raises(StorageError, match="Could not back up"):
        backup_database(tmp_path / "text", tmp_path / "copy.db")
    assert [file.name for file in tmp_path.iterdir() if "copy" in file.name] == []


# ---------------------------------------------------------------------------------------------- settings, audit


def test_settings(store):
    store.set_setting("theme", {"dark": True})
    store.set_setting("auth.password", "hash")
    store.set_setting("_own", 1)
    assert store.settings() == {"theme": {"dark": True}}
    assert store.setting("auth.password") == "hash"
    store.set_setting("theme", None)
    assert store.setting("theme", "light") == "light"
    store.set_retention(Retention(calls=30))
    assert store.retention() == Retention(calls=30)


def test_the_audit_log_is_paged(store):
    for number in range(5):
        store.audit("admin", "add", f"client{number}", "from the page")
    first = store.audit_log(limit=2)
    assert [row.target for row in first] == ["client4", "client3"]
    assert [row.target for row in store.audit_log(before=first[-1].id)] == ["client2", "client1", "client0"]
    assert first[0].at > 1_000_000


# ---------------------------------------------------------------------------------------------- without FTS5


def test_search_works_without_fts5_and_makes_up_for_it(store, open_store, monkeypatch):
    add_call(store, "early apples")
    store.close()
    with monkeypatch.context() as patch:
        patch.setattr(search, "available", lambda db: False)
        without = open_store()
        late = add_call(without, "late Pears, 50%_off")
        assert [row.id for row in without.calls(CallFilter(text="pear late")).calls] == [late]
        assert without.calls(CallFilter(text="pear plum")).calls == ()
        without.close()
    again = open_store()
    assert [row.id for row in again.calls(CallFilter(text="pears")).calls] == [late]
    assert len(again.calls(CallFilter(text="ann")).calls) == 2
    assert len(again.calls(CallFilter(caller="ann@")).calls) == 2


def test_an_index_of_another_layout_is_made_anew(store, open_store):
    apples = add_call(store, "early apples")
    store._db.executescript(
        "DROP TABLE search; CREATE VIRTUAL TABLE search USING fts5 (who, words, content = 'call_text', "
        "content_rowid = 'id'); DROP TABLE search_who"
    )
    store.close()
    again = open_store()
    assert [row.id for row in again.calls(CallFilter(text="apples")).calls] == [apples]
    assert [row.id for row in again.calls(CallFilter(caller="ann@")).calls] == [apples]


def test_log_lines_carry_no_secret(store, caplog):
    with caplog.at_level(logging.DEBUG):
        store.add_sip_client(SipClient("pbx", "100", "192.0.2.1"), "hunter2secret")
        store.update_sip_client(SipClient("pbx", "100", "192.0.2.1"), "hunter3secret")
    assert "hunter" not in caplog.text
    assert "hunter" not in repr(store.sip_clients()) + repr(vars(store))
