"""What is not to be kept is gone: rows, index, recordings, and the bytes in the files."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from aiphone.errors import StorageError
from aiphone.store.records import CallFilter, NotFoundError, Removed, Retention, TurnRow, WordsRow
from aiphone.store.store import Store

DAY = 86_400.0
NOW = 1_700_000_000.0


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "phone.db", tmp_path / "phone.key", lambda: NOW)
    (tmp_path / "recordings").mkdir()
    yield store
    store.close()


def add(store, text, *, caller="sip:ann@192.0.2.9", age=0.0, recording=True):
    """A call that started ``age`` days ago, with all that can hang on one."""
    at = NOW - age * DAY
    call = store.begin_call(line_id="pbx", caller=caller, caller_name=f"name {text}", started=at)
    store.add_words(WordsRow(call, 1, "user", f"{text} {call}", at))
    store.add_words(WordsRow(call, 2, "assistant", f"you said {text}", at))
    store.add_turn(TurnRow(call, 1, at, text, f"you said {text}", False, {"patience": 0.5}, 0.5))
    file = f"recordings/{call}.wav"
    if recording:
        (store.path.parent / file).write_text(text)
    store.end_call(call, 200, "bye", {"lost": 1}, file if recording else "", ended=at + 60)
    return call


def files_with(directory: Path, needle: str) -> list[str]:
    return [
        str(file.relative_to(directory))
        for file in directory.rglob("*")
        if file.is_file() and needle.lower().encode() in file.read_bytes().lower()
    ]


def terms(store, index: str = "search") -> set[str]:
    """Every word of a full-text index, those only marked as gone as well."""
    store._db.execute(f"CREATE VIRTUAL TABLE temp.terms USING fts5vocab('main', '{index}', 'row')")
    try:
        return {row[0] for row in store._db.execute("SELECT term FROM temp.terms")}
    finally:
        store._db.execute("DROP TABLE temp.terms")


def test_a_forgotten_caller_is_in_no_file_any_more(store, tmp_path):
    others = []
    # Of many lengths: where rows grow, SQLite moves others, and leaves copies behind that only VACUUM removes.
    random_ = random.Random(0)
    for number in range(100):
        text = f"ordinary{number} words " * random_.randint(1, 60)
        others.append(add(store, text, caller="sip:bob@192.0.2.7"))
        text = f"Marzipanschwein{number} at Xylophonweg " * random_.randint(1, 60)
        add(store, text, caller=f"sip:zoe@192.0.2.8:{5060 + number}")
    store.audit("admin", "look", "sip:zoe@192.0.2.8:5061", "heard sip:zoe@192.0.2.8")
    assert files_with(tmp_path, "xylophonweg")
    removed = store.forget_caller("sip:zoe@192.0.2.8")
    assert removed == Removed(calls=100, transcripts=100, recordings=100)
    for needle in ("marzipanschwein", "xylophonweg", "sip:zoe", "zoe@192"):
        assert files_with(tmp_path, needle) == []
    assert not {term for term in terms(store) if term.startswith(("marzipan", "xylophon", "zoe"))}
    assert not terms(store, "search_who") & {":zo", "zoe", "oe@", "2.8"}
    assert store.calls(CallFilter(text="xylophonweg")).calls == ()
    assert [call.id for call in store.calls(CallFilter(text="ordinary99"), limit=500).calls] == others[-1:]
    assert len(store.calls(limit=500).calls) == 100
    assert store.check() == []
    assert store.audit_log()[0].target == "(forgotten):5061"
    assert len(files_with(tmp_path / "recordings", "ordinary")) == 100


def test_only_that_caller_is_forgotten(store):
    for caller in (
        "sip:ann@192.0.2.9:5062",
        "sip:ann@192.0.2.90",
        "sip:joann@192.0.2.9",
        "sip:Ann@192.0.2.9",
    ):
        add(store, "kept" if caller != "sip:ann@192.0.2.9:5062" else "gone", caller=caller)
    assert store.forget_caller("sip:ann@192.0.2.9:7777").calls == 1
    assert [store.words(call.id)[1].text for call in store.calls().calls] == ["you said kept"] * 3


def test_a_caller_by_ipv6(store):
    add(store, "gone", caller="sip:ann@[2001:db8::9]:5062")
    add(store, "kept", caller="sip:ann@[2001:db8::8]:5062")
    assert store.forget_caller("sip:ann@[2001:db8::9]").calls == 1


def test_forgetting_someone_unknown_or_nobody(store):
    add(store, "kept", caller="")
    assert store.forget_caller("sip:nobody@h") == Removed()
    with pytest.raises(StorageError, match="empty caller"):
        store.forget_caller("  ")
    assert len(store.calls().calls) == 1


def test_the_rest_of_a_call_whose_caller_was_forgotten_is_not_kept(store):
    call = store.begin_call(line_id="pbx", caller="sip:ann@h")
    assert store.forget_caller("sip:ann@h").calls == 1
    store.add_words(WordsRow(call, 1, "user", "still here", NOW))
    store.end_call(call, 200, "bye")
    assert store.calls().calls == ()


def test_a_recording_that_cannot_be_deleted_is_said_and_the_rest_goes(store, monkeypatch, caplog):
    stuck, other = add(store, "stuck"), add(store, "other")
    unlink = Path.unlink

    def refuse(self, missing_ok=False):
        if self.name == f"{stuck}.wav":
            raise PermissionError(1, "Operation not permitted")
        unlink(self, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        with pytest.raises(StorageError, match=f"1 recordings.*{stuck}.wav.*try again"):
            store.forget_caller("sip:ann@192.0.2.9")
    assert "cannot be deleted" in caplog.text
    with pytest.raises(NotFoundError):
        store.call(other)
    assert store.forget_caller("sip:ann@192.0.2.9").calls == 1
    assert list((store.path.parent / "recordings").iterdir()) == []


def test_a_recording_outside_the_data_directory_goes_too(store, tmp_path):
    elsewhere = tmp_path / "elsewhere.wav"
    elsewhere.write_text("RIFF")
    call = add(store, "x", recording=False)
    store.set_recording(call, str(elsewhere))
    assert store.forget_caller("sip:ann@192.0.2.9").recordings == 1
    assert not elsewhere.exists()


# ---------------------------------------------------------------------------------------------- retention


def test_without_rules_everything_stays(store):
    add(store, "ancient", age=10_000)
    assert store.apply_retention() == Removed()
    assert len(store.calls().calls) == 1


def test_each_rule_removes_its_own(store, tmp_path):
    young, middle, old, ancient = (add(store, f"age{age}", age=age) for age in (1, 10, 40, 100))
    store.set_retention(Retention(calls=90, transcripts=30, recordings=7))
    assert store.apply_retention() == Removed(calls=1, transcripts=2, recordings=3)
    assert [call.id for call in store.calls().calls] == [old, middle, young]
    assert [bool(store.words(call)) for call in (young, middle, old)] == [True, True, False]
    assert [bool(store.call(call).recording) for call in (young, middle, old)] == [True, False, False]
    assert [file.name for file in (tmp_path / "recordings").iterdir()] == [f"{young}.wav"]
    assert store.turns(old)[0].caller_text == store.turns(old)[0].assistant_text == ""
    assert store.turns(old)[0].total == 0.5, "figures are not words"
    assert store.calls(CallFilter(text="said age40")).calls == ()
    assert [call.id for call in store.calls(CallFilter(text="ann")).calls] == [old, middle, young]
    assert not {"age100"} & terms(store)
    for gone in ("age100", "said age40"):
        assert files_with(tmp_path, gone) == []
    assert store.apply_retention() == Removed()
    assert store.check() == []
    with pytest.raises(NotFoundError):
        store.call(ancient)


def test_a_call_that_goes_on_is_not_too_old(store):
    call = store.begin_call(line_id="pbx", caller="x", started=NOW - 10 * DAY)
    store.set_retention(Retention(calls=1, transcripts=1, recordings=1))
    assert store.apply_retention() == Removed()
    assert store.call(call).ended is None


def test_a_recording_that_is_missing_does_not_hold_retention_up(store, tmp_path):
    call = add(store, "x", age=10)
    (tmp_path / "recordings" / f"{call}.wav").unlink()
    store.set_retention(Retention(recordings=1))
    assert store.apply_retention().recordings == 1
    assert store.call(call).recording == ""


def pages(store) -> int:
    return store._db.execute("PRAGMA page_count").fetchone()[0]


def test_many_calls_are_removed_in_pieces(store):
    with store.batch():
        for _ in range(450):
            add(store, "old words", age=10, recording=False)
    store.set_retention(Retention(calls=1))
    before = pages(store)
    assert store.apply_retention() == Removed(calls=450, transcripts=450)
    assert pages(store) < before, "the room is given back"
