"""A database of every earlier version becomes one of today, with everything that was in it."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

import pytest

from aiphone.errors import StorageError
from aiphone.spoken_word import SpokenWord
from aiphone.store import migrations
from aiphone.store.calls import STOPPED
from aiphone.store.records import CallFilter, CallRow, PersonaRecord, Retention, SipClient, TurnRow, WordsRow
from aiphone.store.store import Store

VECTORS = Path(__file__).resolve().parents[2] / "vectors" / "store"
VERSIONS = sorted(int(path.stem[1:]) for path in VECTORS.glob("v*.sql"))


def layout(db: sqlite3.Connection) -> dict[str, str]:
    """Every table, index and view, but for those of the full-text index."""
    rows = db.execute("SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'search%' AND sql IS NOT NULL")
    return {name: re.sub(r"\s+|\"", "", sql) for name, sql in rows}


def restore(path: Path, version: int) -> None:
    db = sqlite3.connect(path)
    db.executescript((VECTORS / f"v{version}.sql").read_text())
    db.close()


def test_there_is_a_database_of_each_version():
    assert list(range(1, migrations.VERSION + 1)) == VERSIONS


@pytest.mark.parametrize("version", VERSIONS)
def test_a_database_of_each_version_is_read_and_written(tmp_path, version):
    path = tmp_path / "phone.db"
    restore(path, version)
    store = Store(path, tmp_path / "phone.key", lambda: 9000.0)
    assert store.sip_clients() == [
        SipClient("pbx", "100", "192.0.2.1", 5070, "Front desk", True, "Hi", "tcp", "u100", "sip:proxy", "night", True,
                  started=True, version=4),
        SipClient("spare", "101", "192.0.2.2", auto_answer=False, enabled=False),
    ]  # fmt: skip
    assert store.personas() == [
        PersonaRecord("default", greeting="Welcome.", patience=0.9, version=3),
        PersonaRecord("night", bot_name="Luna"),
    ]
    assert store.call(3) == CallRow(
        3, "pbx", "sip:ann@192.0.2.9", "Ann", "sip:100@192.0.2.1", "in", 1000.0, 1000.5, 1060.0, 200,
        "the caller hung up", "recordings/3.wav", {"lost": 2, "jitter_ms": 1.5},
    )  # fmt: skip
    assert store.call(4).media == {}
    assert store.call(7).end_reason == STOPPED
    assert store.words(3) == [
        WordsRow(3, 1, "user", "Do you sell marmalade?", 1010.0),
        WordsRow(3, 2, "assistant", "Yes, we do.", 1012.0, interrupted=True),
    ]
    word_by_word = (SpokenWord("Hello?", -0.62, -0.18, 0.97),) if version >= 4 else ()
    assert store.words(7) == [WordsRow(7, 1, "user", "Hello?", 3005.0, spoken=word_by_word)]
    parts = {"patience": 0.7, "playout": 0.1}
    assert store.turns(3) == [TurnRow(3, 1, 1010.0, "Do you sell marmalade?", "Yes, we do.", True, parts, 0.8)]
    assert [call.id for call in store.calls(CallFilter(text="marmalade")).calls] == [3]
    assert [call.id for call in store.calls(CallFilter(text="hello")).calls] == [7]
    assert [call.id for call in store.calls(CallFilter(caller="bob@192")).calls] == [4]
    assert store.retention() == Retention(calls=30, recordings=7)
    assert store.audit_log()[0].target == "pbx"
    assert store.begin_call(line_id="pbx", caller="x") == 8
    store.set_started("spare", True)
    assert store.check() == []
    assert layout(store._db) == layout(new(tmp_path))
    store.close()


def new(tmp_path: Path) -> sqlite3.Connection:
    Store(tmp_path / "new.db", tmp_path / "new.key").close()
    return sqlite3.connect(tmp_path / "new.db")


@pytest.mark.parametrize("version", VERSIONS)
def test_the_vectors_are_what_their_version_was(version):
    """A step that was released may not be changed any more."""
    vector, steps = sqlite3.connect(":memory:"), sqlite3.connect(":memory:", isolation_level=None)
    vector.executescript((VECTORS / f"v{version}.sql").read_text())
    migrations.migrate(steps, migrations.STEPS[:version])
    assert layout(vector) == layout(steps)
    assert migrations.version_of(vector) == version


# ---------------------------------------------------------------------------------------------- the machine itself


@pytest.fixture
def db():
    db = sqlite3.connect(":memory:", isolation_level=None)
    migrations.migrate(db, [["CREATE TABLE fruit (name TEXT)", "INSERT INTO fruit VALUES ('apple')"]])
    return db


FIRST = ["CREATE TABLE fruit (name TEXT)", "INSERT INTO fruit VALUES ('apple')"]


def test_a_step_runs_once(db):
    steps = [FIRST, ["INSERT INTO fruit VALUES ('pear')"]]
    assert migrations.migrate(db, steps) == 1
    assert migrations.migrate(db, steps) == 2
    assert db.execute("SELECT name FROM fruit").fetchall() == [("apple",), ("pear",)]


def test_a_step_that_fails_changes_nothing(db):
    steps = [
        FIRST,
        ["INSERT INTO fruit VALUES ('pear')"],
        ["DELETE FROM fruit", "INSERT INTO nowhere VALUES (1)"],
    ]
    with pytest.raises(sqlite3.OperationalError, match="nowhere"):
        migrations.migrate(db, steps)
    assert migrations.version_of(db) == 2
    assert db.execute("SELECT name FROM fruit").fetchall() == [("apple",), ("pear",)]
    assert not db.in_transaction
    assert db.execute("PRAGMA foreign_keys").fetchone() == (1,)


def test_a_step_that_breaks_references_is_undone(db):
    db.execute("PRAGMA foreign_keys = ON")
    steps = [
        FIRST,
        [
            "CREATE TABLE tree (name TEXT PRIMARY KEY)",
            "CREATE TABLE leaf (tree TEXT REFERENCES tree (name))",
            "INSERT INTO leaf VALUES ('oak')",
        ],
    ]
    with pytest.raises(sqlite3.IntegrityError, match="step 2"):
        migrations.migrate(db, steps)
    assert migrations.version_of(db) == 1


def test_a_full_disk_during_a_migration_leaves_the_old_version(tmp_path, monkeypatch):
    path = tmp_path / "phone.db"
    restore(path, 1)
    db = sqlite3.connect(path)
    before = db.execute("SELECT * FROM call").fetchall()
    failing = [*migrations.STEPS[:1], [*migrations.STEPS[1], "INSERT INTO nowhere VALUES (1)"]]
    with monkeypatch.context() as patch:
        patch.setattr(migrations.migrate, "__defaults__", (failing,))
        with pytest.raises(StorageError, match="nowhere"):
            Store(path, tmp_path / "phone.key")
    assert migrations.version_of(db) == 1
    assert db.execute("SELECT * FROM call").fetchall() == before
    db.close()
    store = Store(path, tmp_path / "phone.key")
    assert store.call(3).media["lost"] == 2
    store.close()
