"""The times of a turn: parts that add up, and what the stages took themselves."""

from __future__ import annotations

import pytest

from aiphone.conversation.latency import PARTS, Stopwatch


def watched() -> Stopwatch:
    watch = Stopwatch(10.0)
    watch.own("transcript", 0.15)
    watch.mark("transcribed", 10.3)
    watch.asked = 10.3
    watch.first_token(10.37)
    watch.first_token(10.39)
    watch.first_phrase(10.45)
    watch.own("first_audio", 0.08)
    watch.mark("first_audio", 10.53)
    return watch


def test_nothing_is_told_before_everything_is_known() -> None:
    assert watched().times(10.8) is None


def test_parts_add_up_and_own_times_are_the_stages() -> None:
    watch = watched()
    watch.mark("committed", 10.7)
    times = watch.times(10.72)
    assert times is not None
    assert list(times.parts()) == list(PARTS)
    assert sum(times.parts().values()) == pytest.approx(times.total) == pytest.approx(0.72)
    assert times.parts()["patience"] == pytest.approx(0.7)
    assert times.own.first_token == pytest.approx(0.07)
    assert times.own.first_phrase == pytest.approx(0.08)
    assert times.own.floor == pytest.approx(0.15 + 0.07 + 0.08 + 0.08)


def test_what_waits_for_the_words_is_not_the_patience() -> None:
    watch = Stopwatch(0.0)
    for name, at in (("transcribed", 0.9), ("first_token", 0.9), ("first_phrase", 0.9), ("first_audio", 0.9)):
        watch.mark(name, at)
    watch.mark("committed", 0.4)
    times = watch.times(1.0)
    assert times is not None
    assert times.parts()["patience"] == pytest.approx(0.4)
    assert times.parts()["transcript"] == pytest.approx(0.5)
