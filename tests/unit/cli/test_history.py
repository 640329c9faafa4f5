"""Facts of calls become rows in the store, whatever the disk does."""

from __future__ import annotations

import dataclasses
import threading

import pytest

from aiphone.cli.history import History, plain
from aiphone.clock import ManualClock
from aiphone.conversation.facts import (
    CallAdmitted,
    CallAnswered,
    CallOver,
    Hearing,
    Speaking,
    StateChanged,
    TurnTimed,
    WordsSaid,
)
from aiphone.conversation.latency import TurnTimes
from aiphone.conversation.record import CallRecord
from aiphone.errors import StorageError
from aiphone.events import LineChanged, LineState
from aiphone.spoken_word import SpokenWord
from aiphone.store.records import CallFilter, Retention, WordsRow
from aiphone.store.store import Store

WALL = 1_700_000_000.0
"""The wall clock when the monotonic one stands at 0."""


class StuckStore(Store):
    """A store whose writes can be made to fail or to take for ever."""

    error: Exception | None = None

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.free = threading.Event()
        self.free.set()
        self.tried = threading.Semaphore(0)

    def add_words(self, words):
        self.free.wait()
        self.tried.release()
        if self.error is not None:
            raise self.error
        super().add_words(words)


@pytest.fixture
def clock():
    return ManualClock(1000.0)


@pytest.fixture
def store(tmp_path, clock):
    store = StuckStore(tmp_path / "phone.db", tmp_path / "phone.key", lambda: WALL + clock.now())
    yield store
    store.close()


@pytest.fixture
def start(store, clock):
    histories = []

    def start_(**changes):
        history = History(store, clock, lambda: WALL + clock.now(), **{"retry": 0.01, **changes})
        histories.append(history)
        return history

    yield start_
    store.error = None
    store.free.set()
    for history in histories:
        history.close()


@pytest.fixture
def history(start):
    return start()


def record(call_id="c1", started=1000.0):
    return CallRecord(call_id, "pbx", "sip:ann@192.0.2.9", "Ann", "sip:ai@192.0.2.1", "abc@h", started)


def say(history, call, role, text, at=1010.0, interrupted=False, words=()):
    history.watch(WordsSaid(call, role, text, at, interrupted, words))


def stored(history, store):
    assert history.flush(5.0)
    return store.calls().calls[0]


def test_a_whole_call(history, store, clock):
    call = record()
    history.watch(CallAdmitted(call))
    number = history.number_of("c1")
    call.answered = 1001.0
    history.watch(CallAnswered(call))
    say(history, call, "assistant", "Hello.", 1003.0)
    history.watch(StateChanged(call, "listening"))
    history.watch(Hearing(call, "Do you"))
    word_by_word = (SpokenWord("Do", -1.0, -0.8, 0.7), SpokenWord("you", -0.8, -0.6, 0.99))
    say(history, call, "user", "Do you sell tea?", 1010.0, words=word_by_word)
    times = TurnTimes(1010.0, 1010.7, 1010.8, 1010.9, 1011.0, 1011.1, 1011.2)
    history.watch(TurnTimed(call, times))
    history.watch(Speaking(call, "Yes."))
    say(history, call, "assistant", "Yes.", 1013.0, interrupted=True)
    clock.advance(20.0)
    call.ended, call.end_code, call.end_reason = 1020.0, 200, "the caller hung up"
    history.watch(CallOver(call, {"lost": 2}))
    row = stored(history, store)
    assert row.id == number == history.number_of("c1")
    assert (row.line_id, row.caller, row.caller_name) == ("pbx", "sip:ann@192.0.2.9", "Ann")
    assert (row.called, row.direction) == ("sip:ai@192.0.2.1", "in")
    assert (row.started, row.answered, row.ended) == (WALL + 1000, WALL + 1001, WALL + 1020)
    assert (row.end_code, row.end_reason, row.media) == (200, "the caller hung up", {"lost": 2})
    assert store.words(number) == [
        WordsRow(number, 1, "assistant", "Hello.", WALL + 1003),
        WordsRow(number, 2, "user", "Do you sell tea?", WALL + 1010, spoken=word_by_word),
        WordsRow(number, 3, "assistant", "Yes.", WALL + 1013, interrupted=True),
    ]
    (turn,) = store.turns(number)
    assert (turn.caller_text, turn.assistant_text, turn.interrupted) == ("Do you sell tea?", "Yes.", True)
    assert (turn.at, turn.total) == (WALL + 1010, pytest.approx(1.2))
    assert turn.parts == pytest.approx(times.parts())
    assert store.calls(CallFilter(text="tea")).calls == (row,)


def test_turns_have_the_words_that_belong_to_them(history, store):
    call = record()
    history.watch(CallAdmitted(call))
    times = TurnTimes(1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0)
    say(history, call, "assistant", "Hello.")
    say(history, call, "user", "One")
    say(history, call, "user", "and two")
    history.watch(TurnTimed(call, times))
    say(history, call, "user", "No, three")
    history.watch(TurnTimed(call, times))
    say(history, call, "assistant", "Three.")
    say(history, call, "assistant", "Are you still there?")
    assert history.flush(5.0)
    turns = store.turns(history.number_of("c1"))
    assert [(turn.number, turn.caller_text, turn.assistant_text) for turn in turns] == [
        (1, "One and two", ""),
        (2, "No, three", "Three."),
    ]


def test_calls_at_once_do_not_mix(start, store):
    history = start(direction=lambda record: "web" if record.call_id == "c2" else "out")
    calls = [record("c1"), record("c2")]
    for call in calls:
        history.watch(CallAdmitted(call))
    for call in calls:
        say(history, call, "user", f"I am {call.call_id}")
    for call in calls:
        history.watch(CallOver(call, None))
    assert history.flush(5.0)
    for call, direction in zip(calls, ("out", "web"), strict=True):
        number = history.number_of(call.call_id)
        assert [line.text for line in store.words(number)] == [f"I am {call.call_id}"]
        assert store.call(number).direction == direction


def test_facts_of_no_call_are_no_trouble(history, store):
    unknown = record("c9")
    history.watch(LineChanged("pbx", LineState.REGISTERED))
    history.watch(CallAnswered(unknown))
    say(history, unknown, "user", "hello")
    history.watch(TurnTimed(unknown, TurnTimes(1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)))
    history.watch(CallOver(unknown, None))
    history.recorded("c9", "x.wav")
    assert history.flush(5.0)
    assert history.number_of("c9") is None
    assert store.calls().calls == ()


def test_a_recording_is_noted_before_and_after_the_end(history, store):
    for call_id, before in (("c1", True), ("c2", False)):
        call = record(call_id)
        history.watch(CallAdmitted(call))
        if before:
            history.recorded(call_id, f"recordings/{call_id}.wav")
        history.watch(CallOver(call, None))
        history.recorded(call_id, f"recordings/{call_id}.wav")
    assert history.flush(5.0)
    assert sorted(call.recording for call in store.calls().calls) == [
        "recordings/c1.wav",
        "recordings/c2.wav",
    ]


def test_the_main_thread_does_not_wait_for_the_disk(history, store):
    call = record()
    store.free.clear()
    history.watch(CallAdmitted(call))
    for number in range(2000):
        say(history, call, "user", f"line {number}")
    assert history.waiting > 1900
    assert not history.flush(0.01)
    store.free.set()
    assert history.flush(10.0)
    assert len(store.words(history.number_of("c1"))) == 2000


def test_what_cannot_be_written_is_kept_and_tried_again(history, store, caplog):
    call = record()
    history.watch(CallAdmitted(call))
    store.error = StorageError("The disk is full: free some space.")
    say(history, call, "user", "precious")
    history.watch(CallOver(call, None))
    for _ in range(6):
        assert store.tried.acquire(timeout=5.0), "it is tried again and again"
    assert history.error == "The disk is full: free some space."
    assert caplog.text.count("The disk is full") == 1, "said once, not at each attempt"
    assert history.waiting == 2, "in their order: the call can not end before it was spoken in"
    store.error = None
    row = stored(history, store)
    assert history.error == ""
    assert row.end_reason == ""
    assert store.calls(CallFilter(text="precious")).calls == (row,)


def test_a_defect_costs_one_write(history, store, caplog):
    call = record()
    history.watch(CallAdmitted(call))
    store.error = ZeroDivisionError()
    say(history, call, "user", "lost")
    assert history.flush(5.0)
    store.error = None
    assert caplog.text.count("A write to the history failed.") == 1
    say(history, call, "user", "kept")
    assert history.flush(5.0)
    assert [line.text for line in store.words(history.number_of("c1"))] == ["kept"]


def test_the_queue_is_bounded(start, store, caplog):
    history = start(capacity=10)
    call = record()
    history.watch(CallAdmitted(call))
    assert history.flush(5.0)
    store.free.clear()
    for number in range(30):
        say(history, call, "user", f"line {number}")
    assert history.waiting == 10
    assert history.lost == 20
    assert caplog.text.count("parts of the history are lost") == 1
    store.free.set()
    assert history.flush(5.0)
    assert [line.text for line in store.words(history.number_of("c1"))] == [f"line {number}" for number in range(10)]


def test_closing_writes_what_waits(history, store):
    call = record()
    store.free.clear()
    history.watch(CallAdmitted(call))
    say(history, call, "user", "last words")
    store.free.set()
    assert history.close(5.0)
    assert store.words(history.number_of("c1"))[0].text == "last words"


def test_closing_on_a_full_disk_ends_and_says_so(history, store, caplog):
    call = record()
    history.watch(CallAdmitted(call))
    store.error = StorageError("The disk is full.")
    say(history, call, "user", "lost")
    assert not history.close(5.0)
    assert "1 writes to the history were lost: The disk is full." in caplog.text


def test_what_is_too_old_is_removed_at_the_start(store, clock, start):
    done = threading.Event()
    old = store.begin_call(line_id="pbx", caller="x", started=WALL - 100 * 86_400)
    store.end_call(old, 200, "", ended=WALL - 100 * 86_400 + 1)
    store.set_retention(Retention(calls=30))
    apply = store.apply_retention

    def applied(now=None):
        apply(now)
        done.set()

    store.apply_retention = applied
    history = start(tidy_every=0.05)
    assert done.wait(5.0)
    assert history.flush(5.0)
    assert store.calls().calls == ()


def test_only_so_many_ended_calls_are_remembered(history, monkeypatch):
    monkeypatch.setattr("aiphone.cli.history.REMEMBERED", 3)
    live = record("live")
    history.watch(CallAdmitted(live))
    for number in range(10):
        call = record(f"c{number}")
        history.watch(CallAdmitted(call))
        history.watch(CallOver(call, None))
    assert history.number_of("live") == 1
    assert history.number_of("c0") is None
    assert history.number_of("c9") == 11


def test_media_statistics_as_plain_values():
    @dataclasses.dataclass
    class Stats:
        lost: int = 3
        jitter_ms: float = 1.5
        round_trip_ms: float | None = None
        level: float = float("-inf")
        odd: object = dataclasses.field(default_factory=object)

    assert plain(Stats()) == {"lost": 3, "jitter_ms": 1.5, "round_trip_ms": None}
    assert plain(None) == {}
