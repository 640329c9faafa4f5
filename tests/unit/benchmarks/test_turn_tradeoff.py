"""The trade-off: what a policy does to pauses that are known."""

from __future__ import annotations

import pytest

from aiphone.speech.patience import Limits
from benchmarks.turn_tradeoff import Listened, Pause, Point, curves, fixed, front, judge, latency_at, ours, smart_turn

INSIDE = Pause(1.0, 1.12, 1.7, 0.1, "I would like to know,")
END = Pause(3.0, 3.12, None, 0.98, "I would like to know, what is the time?")
TURN = Listened("pause", 2.98, (INSIDE, END))


@pytest.mark.parametrize(("patience", "early"), [(0.3, True), (0.65, True), (0.75, False), (1.5, False)])
def test_a_timer_shorter_than_the_pause_cuts_the_turn_short(patience: float, early: bool) -> None:
    cut, latency = judge(TURN, fixed(patience))
    assert cut is early
    assert (latency is None) is early
    if latency is not None:
        assert latency == pytest.approx(patience + 0.02)


def test_no_decision_falls_before_the_pause_is_known() -> None:
    assert judge(Listened("question", 3.0, (END,)), fixed(0.01))[1] == pytest.approx(0.12)


def test_the_model_tells_the_pauses_apart() -> None:
    cut, latency = judge(TURN, smart_turn(0.5, 2.0))
    assert not cut
    assert latency == pytest.approx(0.29)
    assert judge(TURN, smart_turn(0.05, 2.0))[0]


def test_words_and_voice_tell_them_apart_too() -> None:
    cut, latency = judge(TURN, ours(Limits(0.3, 0.7, 1.5)))
    assert not cut
    assert latency == pytest.approx(0.32)


def test_the_front_keeps_what_nothing_betters() -> None:
    points = [Point("a", 300, 400, 20), Point("b", 400, 500, 25), Point("c", 500, 600, 5), Point("d", 600, 700, 5)]
    assert [p.setting for p in front(points)] == ["a", "c"]
    assert latency_at(points, 10) == 500
    assert latency_at(points, 1) is None


def test_all_three_kinds_have_a_curve() -> None:
    found = curves([TURN])
    assert set(found) == {"fixed timer", "smart turn alone", "ours"}
    assert found["ours"][-1].cut_short == 0
    assert found["ours"][-1].latency < found["fixed timer"][-1].latency
