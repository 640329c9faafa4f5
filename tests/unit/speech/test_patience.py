"""How long to wait: endings of turns, the order of waits, and the bounds."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiphone.errors import ConfigError
from aiphone.speech.patience import Ending, Limits, ending, seconds

LIMITS = Limits(0.35, 0.7, 1.1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Ending.NOTHING),
        ("...", Ending.NOTHING),
        ("Hold on a second.", Ending.HOLD),
        ("Just a moment, please.", Ending.HOLD),
        ("Okay, let me see...", Ending.HOLD),
        ("Wait.", Ending.HOLD),
        ("I waited a second time for it.", Ending.PLAIN),
        ("I would like a pizza and", Ending.HANGING),
        ("I'm looking for a present, um", Ending.HANGING),
        ("I was wondering,", Ending.HANGING),
        ("It should be, uh...", Ending.HANGING),
        ("Ich möchte wissen, ob der", Ending.HANGING),
        ("5 5 5, 1 2", Ending.DICTATING),
        ("My number is five five five", Ending.DICTATING),
        ("It's spelled B R A", Ending.DICTATING),
        ("B-R-A", Ending.DICTATING),
        ("My number is 555-1234.", Ending.PLAIN),
        ("We close at 7:30.", Ending.PLAIN),
        ("A table for four.", Ending.PLAIN),
        ("Who is it for?", Ending.PLAIN),
        ("I think so.", Ending.PLAIN),
        ("Yes please.", Ending.CLOSED),
        ("No, thank you. Goodbye!", Ending.CLOSED),
        ("That\u2019s all.", Ending.CLOSED),
    ],
)
def test_how_a_turn_ends(text: str, expected: Ending) -> None:
    assert ending(text) is expected


def test_a_complete_question_in_a_sure_voice_waits_the_least() -> None:
    assert seconds(LIMITS, 0.98, "What is the capital of France?") == LIMITS.shortest
    assert seconds(LIMITS, 0.9, "What is the capital of France?", by_words=0.5) == LIMITS.shortest


@pytest.mark.parametrize("text", ["I would like a pizza and", "My number is 5 5 5 1"])
def test_a_turn_in_the_middle_waits_longest_whatever_the_voice_says(text: str) -> None:
    assert seconds(LIMITS, 0.99, text, by_words=0.05) == LIMITS.longest


def test_who_asks_for_time_gets_it() -> None:
    assert seconds(LIMITS, 0.99, "Hold on a second.") == pytest.approx(3 * LIMITS.longest)


def test_before_the_words_the_voice_decides_but_never_for_less_than_the_usual_patience() -> None:
    assert seconds(LIMITS, 0.99, None) == LIMITS.usual
    assert seconds(LIMITS, None, None) == LIMITS.usual
    assert seconds(LIMITS, 0.1, None) == LIMITS.longest


def test_without_any_words_the_usual_patience_is_right() -> None:
    assert seconds(LIMITS, 0.99, "") == LIMITS.usual


def test_what_the_language_model_expects_counts() -> None:
    text = "I would like to go to Boston on Friday."
    waits = [seconds(LIMITS, 0.6, text, by_words=likely) for likely in (0.9, 0.1, 0.01)]
    assert waits[0] == LIMITS.shortest < waits[1] < waits[2]
    assert waits[0] <= seconds(LIMITS, 0.6, text) <= waits[2]


def test_a_missing_voice_counts_as_one_of_the_average() -> None:
    text = "Where can I park my car today?"
    assert seconds(LIMITS, 0.5, text) > seconds(LIMITS, None, text) > seconds(LIMITS, 0.98, text)


def test_a_short_answer_is_over_although_much_could_follow_it() -> None:
    assert seconds(LIMITS, 0.95, "Yes please.", by_words=0.01) == LIMITS.shortest


@given(st.text(max_size=60), st.floats(0, 1), st.floats(0, 1))
def test_a_surer_voice_never_waits_longer_and_never_beyond_the_bounds(text: str, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert LIMITS.shortest <= seconds(LIMITS, high, text) <= seconds(LIMITS, low, text) <= 3 * LIMITS.longest


@pytest.mark.parametrize("wrong", [p for p in itertools.permutations((0.3, 0.7, 1.1)) if list(p) != sorted(p)])
def test_limits_come_in_order(wrong: tuple[float, float, float]) -> None:
    with pytest.raises(ConfigError, match="in this order"):
        Limits(*wrong)
