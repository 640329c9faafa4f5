"""Calls: written as they happen, found again, and counted up."""

from __future__ import annotations

import random

import pytest

from aiphone.spoken_word import SpokenWord
from aiphone.store import calls, dashboard
from aiphone.store.calls import MOST_PER_PAGE, STOPPED
from aiphone.store.dashboard import nearest_rank
from aiphone.store.records import (
    CallFilter,
    CallRow,
    HourCount,
    NotFoundError,
    Percentiles,
    TurnRow,
    WordsRow,
)
from aiphone.store.store import Store

NOW = 1_700_000_000.0


@pytest.fixture
def paths(tmp_path):
    return tmp_path / "phone.db", tmp_path / "phone.key"


@pytest.fixture
def store(paths):
    store = Store(*paths, lambda: NOW)
    yield store
    store.close()


def add(store, text="", *, at=NOW, line="pbx", caller="sip:ann@192.0.2.9", name="Ann", end=True):
    call = store.begin_call(line_id=line, caller=caller, caller_name=name, started=at)
    if text:
        store.add_words(WordsRow(call, 1, "user", text, at))
    if end:
        store.end_call(call, 200, "bye", ended=at + 60)
    return call


def found(store, **conditions):
    return [call.id for call in store.calls(CallFilter(**conditions)).calls]


def turn(call, number, at, total, *, interrupted=False):
    return TurnRow(call, number, at, "heard", "said", interrupted, {"patience": total / 2, "playout": total / 2}, total)


# ---------------------------------------------------------------------------------------------- a call


def test_a_call_from_beginning_to_end(store):
    call = store.begin_call(
        line_id="pbx", caller="sip:ann@192.0.2.9", caller_name="Ann", called="sip:ai@192.0.2.1", direction="out",
        started=100.0,
    )  # fmt: skip
    assert store.call(call) == CallRow(call, "pbx", "sip:ann@192.0.2.9", "Ann", "sip:ai@192.0.2.1", "out", 100.0)
    store.call_answered(call, 101.0)
    lines = [
        WordsRow(call, 1, "assistant", "Hello.", 102.0),
        WordsRow(
            call,
            2,
            "user",
            "Tea? 茶",
            103.0,
            True,
            (SpokenWord("Tea?", -0.9, -0.31, 0.98), SpokenWord("茶", -0.3, 0.0, 1.0)),
        ),
    ]
    for line in lines:
        store.add_words(line)
    store.add_turn(turn(call, 1, 104.0, 0.5))
    store.end_call(call, 200, "the caller hung up", {"lost": 3}, "recordings/1.wav", ended=110.0)
    row = store.call(call)
    assert (row.answered, row.ended, row.end_code, row.end_reason) == (
        101.0,
        110.0,
        200,
        "the caller hung up",
    )
    assert (row.media, row.recording) == ({"lost": 3}, "recordings/1.wav")
    assert store.words(call) == lines
    assert store.turns(call) == [turn(call, 1, 104.0, 0.5)]


def test_times_left_out_are_now(store):
    call = store.begin_call(line_id="pbx", caller="x")
    store.call_answered(call)
    store.end_call(call, 200, "")
    assert store.call(call).started == store.call(call).answered == store.call(call).ended == NOW


def test_the_end_of_a_call_keeps_its_recording(store):
    call = add(store, end=False)
    store.set_recording(call, "recordings/1.wav")
    store.end_call(call, 200, "Normal")
    assert store.call(call).recording == "recordings/1.wav"


def test_the_second_end_of_a_call_does_nothing(store):
    call = add(store, "apple")
    store.end_call(call, 500, "again", {"lost": 1})
    assert store.call(call).end_reason == "bye"
    assert found(store, text="apple") == [call]


def test_a_turn_is_replaced_by_its_number(store):
    call = add(store)
    store.add_turn(turn(call, 1, NOW, 0.5))
    store.add_turn(turn(call, 1, NOW, 0.5, interrupted=True))
    assert [row.interrupted for row in store.turns(call)] == [True]


def test_words_that_come_late_are_found(store):
    call = add(store, "apple")
    store.add_words(WordsRow(call, 2, "assistant", "pear", NOW))
    store.add_words(WordsRow(call, 1, "user", "plum", NOW))
    assert found(store, text="pear plum") == [call]
    assert found(store, text="apple") == []


def test_writes_about_a_call_that_is_gone_do_nothing(store, tmp_path):
    recording = tmp_path / "gone.wav"
    for end in (
        lambda: store.set_recording(99, "gone.wav"),
        lambda: store.end_call(99, 200, "", recording="gone.wav"),
    ):
        recording.write_text("RIFF")
        store.call_answered(99)
        store.add_words(WordsRow(99, 1, "user", "x", NOW))
        store.add_turn(turn(99, 1, NOW, 1.0))
        end()
        assert not recording.exists(), "a recording that belongs to no call stays for ever"
    assert store.words(99) == store.turns(99) == []
    with pytest.raises(NotFoundError, match="no call 99"):
        store.call(99)


def test_what_comes_over_the_network_can_be_read_back(store):
    call = add(store, "half \ud83d of \0 it", name="\udcff\0<script>", caller="sip:%00@\udc80")
    assert store.words(call)[0].text == "half ? of  it"
    assert store.call(call).caller_name == "?<script>"
    assert found(store, text="half script") == [call]


def test_numbers_are_reserved_and_never_given_again(store, paths):
    first = store.reserve_call()
    second = store.begin_call(line_id="pbx", caller="x")
    store.begin_call(line_id="pbx", caller="sip:late@h", call_id=first)
    assert (first, second) == (1, 2)
    store.forget_caller("x")
    store.forget_caller("sip:late@h")
    store.close()
    again = Store(*paths, lambda: NOW)
    assert again.begin_call(line_id="pbx", caller="x") == 3
    again.close()


def test_calls_that_a_crash_left_open_are_ended(store, paths):
    silent = add(store, at=100.0, end=False)
    spoken = add(store, "apple", at=200.0, end=False)
    store.add_turn(turn(spoken, 1, 230.0, 2.5))
    whole = add(store, at=300.0)
    store.close()
    again = Store(*paths, lambda: NOW)
    assert (again.call(silent).ended, again.call(silent).end_reason) == (100.0, STOPPED)
    assert again.call(spoken).ended == 232.5
    assert again.call(whole).end_reason == "bye"
    assert found(again, text="apple") == [spoken]
    again.close()


# ---------------------------------------------------------------------------------------------- history


def test_pages_have_every_call_once(store):
    calls = [add(store, "apple") for _ in range(23)]
    for where in (None, CallFilter(text="apple"), CallFilter(line="pbx"), CallFilter(since=0)):
        seen, before = [], None
        while True:
            page = store.calls(where, limit=5, before=before)
            seen += [call.id for call in page.calls]
            if page.next_before is None:
                break
            before = page.next_before
        assert seen == calls[::-1]


def test_a_page_is_bounded(store):
    with store.batch():
        for _ in range(MOST_PER_PAGE + 1):
            add(store)
    assert len(store.calls(limit=10**9).calls) == MOST_PER_PAGE
    assert len(store.calls(limit=-5).calls) == 1


def test_filters(store):
    ann = add(store, at=100.0)
    bob = add(store, at=200.0, caller="sip:bob_1@example.org", name="Robert 100%", line="web")
    assert found(store) == [bob, ann]
    assert found(store, caller="ANN") == [ann]
    assert found(store, caller="robert") == [bob]
    assert found(store, caller="0%") == [bob]
    assert found(store, caller="b_b") == []
    assert found(store, caller="\\") == []
    assert found(store, line="web") == [bob]
    assert found(store, line="we") == []
    assert found(store, since=200.0) == [bob]
    assert found(store, until=200.0) == [ann]
    assert found(store, since=150.0, until=160.0) == []
    assert found(store, caller="sip", line="pbx", since=50.0, until=150.0) == [ann]
    early = add(store, at=50.0)
    assert found(store, until=150.0) == [early, ann], "the clock was put back between two calls"


def test_search(store):
    tea = add(store, "Two cups of tea, please. Café crème!")
    rum = add(store, "A bottle of rum", name="Jim Hawkins", line="web")
    live = add(store, "Tea at once", end=False)
    assert found(store, text="of") == [rum, tea]
    assert found(store, text="TEA cups") == [tea]
    assert found(store, text="bott") == [rum]
    assert found(store, text="bott of") == [], "only the last word may be a beginning"
    assert found(store, text="cafe creme") == [tea]
    assert found(store, text="cafe\u0301") == [tea]
    assert found(store, text="hawkins rum") == [rum]
    assert found(store, text="of", line="web") == [rum]
    assert found(store, text="of", caller="jim") == [rum]
    assert found(store, text="of", caller="nobody") == []
    assert found(store, text="of", until=0.0) == []
    store.end_call(live, 200, "")
    assert found(store, text="tea") == [live, tea]


def test_any_part_of_a_caller_is_found(store):
    ann = add(store, "hello", caller="sip:+46701234567@pbx.example.org", name='Ann "Öberg"')
    bob = add(store, "hello", caller="sip:1001@192.0.2.9", name="Bob", line="web", end=False)
    for part in ("012345", "ANN", "öBERG", '"öb', "pbx.example", "@pbx", "n", "An"):
        assert found(store, caller=part) == [ann], part
    assert found(store, caller="sip") == found(store, caller="s") == [bob, ann]
    assert found(store, caller="sip", line="web") == [bob]
    assert found(store, caller="sip", text="hello") == [ann]
    assert found(store, caller="sip", text="hello", line="pbx") == [ann]
    assert found(store, caller="nn", text="hello") == [ann]
    assert found(store, caller="'*", text="hello") == []
    assert store.check() == []


def test_a_number_is_found_by_any_part_of_it(store):
    spoken = add(store, "my number is 4670", caller="sip:1@h")
    called = add(store, "hello", caller="sip:+46701234567@h")
    assert found(store, text="4670") == [called, spoken]
    assert found(store, text="1234567") == [called]
    assert found(store, text="+4670123") == [called]
    assert found(store, text="999") == []
    first = store.calls(CallFilter(text="4670"), limit=1)
    assert [call.id for call in first.calls] == [called]
    second = store.calls(CallFilter(text="4670"), limit=1, before=first.next_before)
    assert ([call.id for call in second.calls], second.next_before) == ([spoken], None)


def test_two_indexes_are_compared_piece_by_piece(store, monkeypatch):
    monkeypatch.setattr(calls, "PIECE", 3)
    both = [add(store, "apple" if number % 2 else "pear", line="web" if number % 3 else "pbx") for number in range(20)]
    wanted = [call for number, call in enumerate(both) if number % 2 and not number % 3][::-1]
    assert found(store, text="apple", line="pbx") == wanted
    assert found(store, text="apple", line="pbx", caller="ann") == wanted
    assert found(store, caller="ann", line="pbx") == [call for number, call in enumerate(both) if number % 3 == 0][::-1]
    seen, before = [], None
    while True:
        page = store.calls(CallFilter(text="apple", line="pbx"), limit=1, before=before)
        seen += [call.id for call in page.calls]
        if page.next_before is None:
            break
        before = page.next_before
    assert seen == wanted


@pytest.mark.parametrize(
    "text",
    [
        '"',
        "'",
        "*",
        "AND",
        "NOT tea",
        "tea OR",
        "who:ann",
        "-tea",
        "(",
        "^tea",
        "NEAR(a b)",
        "\0",
        "a\"b'c",
        "?!",
    ],
)
def test_what_is_typed_is_never_a_query(store, text):
    add(store, "tea")
    assert len(found(store, text=text)) <= 1


def test_what_has_no_words_finds_nothing(store):
    add(store, "tea")
    assert found(store, text="?!") == []
    assert len(found(store, text="  ")) == 1


# ---------------------------------------------------------------------------------------------- figures


def test_percentiles_by_nearest_rank():
    hundred = [float(value) for value in range(1, 101)]
    assert [nearest_rank(hundred, percent) for percent in (50, 95, 99, 100, 0)] == [50, 95, 99, 100, 1]
    assert nearest_rank([7.0], 99) == 7.0
    assert nearest_rank([1.0, 2.0], 50) == 1.0


def test_latency_over_a_day(store):
    call = add(store)
    day = NOW - 86_400
    totals = [random.Random(1).random() for _ in range(200)]
    for number, total in enumerate(totals):
        store.add_turn(turn(call, number, day + number * 400, total, interrupted=number % 10 == 0))
    store.add_turn(turn(call, 1000, day - 1, 99.0))
    summary = store.latency_summary(day)
    totals.sort()
    assert summary.turns == 200
    assert summary.interrupted == 20
    assert summary.total == Percentiles(totals[99], totals[189], totals[197])
    assert set(summary.parts) == {"patience", "playout"}
    assert summary.parts["playout"].p50 == pytest.approx(totals[99] / 2, abs=1e-6)
    assert sum(point.turns for point in summary.points) == 200
    assert len(summary.points) <= 97
    assert all(point.at % 900 == 0 and point.p50 <= point.p95 <= point.p99 for point in summary.points)


def test_very_many_turns_are_sampled(store, monkeypatch):
    monkeypatch.setattr(dashboard, "MOST_TURNS", 100)
    monkeypatch.setattr(dashboard, "MOST_PARTS", 100)
    call = add(store)
    with store.batch():
        for number in range(1000):
            store.add_turn(turn(call, number, NOW - 1000 + number, random.Random(number).random()))
    summary = store.latency_summary(NOW - 2000)
    assert summary.turns == sum(point.turns for point in summary.points) == 1000
    assert summary.total.p50 == pytest.approx(0.5, abs=0.15)
    assert summary.parts["playout"].p95 == pytest.approx(0.475, abs=0.05)


def test_latency_of_nothing(store):
    assert store.latency_summary(0) == store.latency_summary(NOW)
    assert store.latency_summary(0).total is None


def test_calls_by_the_hour(store):
    hour = NOW // 3600 * 3600
    for at, answered in ((hour - 7200, True), (hour + 1, True), (hour + 2, False)):
        call = add(store, at=at, end=False)
        if answered:
            store.call_answered(call, at + 1)
        store.end_call(call, 200, "", ended=at + 11)
    add(store, at=hour + 3, end=False)
    counts = store.calls_by_hour(hour - 7200, hour + 3600)
    assert counts == [HourCount(hour - 7200, 1, 1, 10.0), HourCount(hour, 3, 1, 10.0)]
    assert store.calls_by_hour(hour - 7000, hour) == []
