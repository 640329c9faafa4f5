"""Which words of a partial transcript are certain."""

from __future__ import annotations

import numpy as np
import pytest

from aiphone.inference.stt_stable import StablePrefix, agreed, same_turn

TURN = (np.arange(64_000) % 1999 - 1000).astype(np.int16)


@pytest.mark.parametrize(
    ("before", "now", "stable"),
    [
        ("", "I would", ""),
        ("I wood", "I would like", "I"),
        ("I would like two", "I would like to book", "I would like"),
        ("i would, like", "I would like to", "I would like"),
        ("I would like.", "I would like", "I would like"),
        ("Well I", "I would", ""),
        ("Grüße an", "Grüße an alle", "Grüße an"),
    ],
)
def test_words_that_both_have_are_certain(before: str, now: str, stable: str) -> None:
    assert agreed(before, now) == stable


def test_the_same_turn_begins_with_the_same_audio() -> None:
    assert same_turn(TURN[:24_000], TURN[:32_000])
    assert same_turn(TURN[:8_000], TURN[:16_000])
    assert not same_turn(TURN[:24_000], TURN[100:32_000])
    assert not same_turn(TURN[:32_000], TURN[:8_000])
    assert not same_turn(TURN[:0], TURN[:8_000])


def test_agreement_does_not_reach_into_another_turn() -> None:
    prefix = StablePrefix()
    assert prefix.add(TURN[:16_000], "my name is") == ""
    assert prefix.add(TURN[:32_000], "My name is Anna.") == "My name is"
    assert prefix.add(TURN[:48_000], "My name is Hannah Smith") == "My name is"
    assert prefix.add(TURN[500:32_000], "My name is") == ""
