"""The bench of the echo gate: its lines and its callers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from aiphone.caller.rtp import RATE
from benchmarks import echo
from benchmarks.turn_sounds import levels


def noise(seconds: float, amplitude: float) -> np.ndarray:
    return (np.random.default_rng(1).standard_normal(round(seconds * RATE)) * amplitude).astype(np.int16)


@pytest.mark.parametrize("db", [-6.0, -20.0])
def test_our_voice_comes_back_as_late_and_as_loud_as_said(db: float) -> None:
    ours = np.concatenate([noise(0.5, 3000), np.zeros(RATE // 2, np.int16)])
    heard = echo.line(ours, np.zeros_like(ours), db, 0.1, np.random.default_rng(2))
    before, during = heard[: RATE // 10], heard[RATE // 10 + 200 : RATE // 2]
    assert max(levels(before[:800])) < -55
    ratio = 20 * np.log10(np.std(during.astype(float)) / np.std(ours[: RATE // 2].astype(float)))
    assert ratio == pytest.approx(db, abs=1.5)


def test_a_line_without_echo_has_only_the_caller() -> None:
    ours, caller = noise(1.0, 3000), np.zeros(RATE, np.int16)
    assert max(levels(echo.line(ours, caller, None, 0.0, np.random.default_rng(2)))) < -55


def test_callers_come_one_after_the_other_and_it_is_known_when() -> None:
    clip = np.concatenate([np.zeros(320, np.int16), noise(0.5, 3000)])
    said, begins = echo.callers([clip], 20 * RATE, np.random.default_rng(3))
    assert len(begins) == 2
    assert all(later - earlier > 3 for earlier, later in itertools.pairwise(begins))
    for begin in begins:
        at = round(begin * RATE)
        assert not said[at - 200 : at - 160].any()
        assert said[at : at + 160].any()
