"""Sounds and turns that are made: levels, lengths, labels, the same from the same seed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from aiphone.caller import tone
from aiphone.caller.rtp import RATE, level_dbfs
from aiphone.events import Pcm
from benchmarks import turn_sounds as sounds
from benchmarks.turn_corpus import PAUSES, Clip, Turn, cuts, parted, spaced, two_people, whole


@pytest.mark.parametrize("make", [sounds.cough, sounds.breath, sounds.knock])
def test_what_a_seed_makes_is_the_same_again(make: Callable[[np.random.Generator], Pcm]) -> None:
    first, second = (make(np.random.default_rng(3)) for _ in range(2))
    other = make(np.random.default_rng(4))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other[: len(first)])
    assert 0.1 < len(first) / RATE < 2.0


@pytest.mark.parametrize("dbfs", [-66.0, -40.0])
def test_line_noise_has_its_level(dbfs: float) -> None:
    assert level_dbfs(sounds.line_noise(2.0, dbfs, np.random.default_rng(1))) == pytest.approx(dbfs, abs=0.6)


def test_a_ringback_rings_two_seconds_of_six() -> None:
    ring = sounds.ringback(6.0, -20.0)
    assert level_dbfs(ring[: 2 * RATE]) == pytest.approx(-20.0, abs=0.5)
    assert not ring[2 * RATE :].any()


def test_speech_is_brought_to_one_level_and_cut_to_its_sound() -> None:
    speech = sounds.joined([sounds.silence(0.5), tone(300, 1.0, dbfs=-33), sounds.silence(0.7)])
    made = sounds.normalised(sounds.trimmed(speech))
    assert level_dbfs(made[800:8000]) == pytest.approx(sounds.SPEECH_DBFS, abs=0.5)
    assert 1.0 <= len(made) / RATE <= 1.12


def test_trimming_silence_leaves_nothing() -> None:
    assert len(sounds.trimmed(sounds.silence(1.0))) == 0


def test_mixing_adds_and_clips() -> None:
    loud = np.full(4, 30000, np.int16)
    assert sounds.mixed(loud, loud[:2]).tolist() == [32767, 32767, 30000, 30000]


def test_pauses_lie_where_the_label_says() -> None:
    parts = [tone(400, 0.5), tone(500, 0.3), tone(600, 0.4)]
    pcm, places = spaced(parts, [0.4, 0.8])
    assert places == ((0.5, 0.9), (pytest.approx(1.2), pytest.approx(2.0)))
    for begin, end in places:
        assert not pcm[round(begin * RATE) : round(end * RATE)].any()
    assert len(pcm) == round(2.4 * RATE)


def test_a_recording_is_cut_in_a_dip_only() -> None:
    pcm = sounds.joined([tone(400, 0.5), sounds.silence(0.06), tone(500, 0.5)])
    left, right = parted(pcm, [0.53])
    assert len(left) / RATE == pytest.approx(0.54, abs=0.04)
    assert len(right) / RATE == pytest.approx(0.5, abs=0.08)
    with pytest.raises(ValueError, match="cannot be cut"):
        parted(pcm, [0.3])


def test_a_turn_knows_its_voiced_frames() -> None:
    pcm, _ = spaced([tone(400, 0.1), tone(400, 0.05)], [0.1])
    voiced = Turn("a", "pause", "", pcm).voiced()
    assert voiced == [True] * 5 + [False] * 5 + [True] * 3


def test_another_person_is_behind_the_caller_and_goes_on() -> None:
    near, far = (Clip(name, name, tone(300, 1.5, dbfs=-20), recorded=True) for name in "ab")
    turn = two_people(near, far)
    assert turn.behind is not None
    assert len(turn.behind) > len(turn.pcm)
    assert level_dbfs(turn.behind[RATE:]) == pytest.approx(-42.0, abs=0.5)
    assert all(turn.voiced())


def test_the_list_of_cuts_is_in_order() -> None:
    assert len(cuts()) >= 60
    assert len(whole()) >= 30
    assert all(0.2 < cut.at < 7.5 for cut in cuts())
    assert PAUSES[0] < PAUSES[1] <= 1.0
