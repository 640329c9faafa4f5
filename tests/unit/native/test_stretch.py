"""Time-scaling: lengths, pitch and seams."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiphone.errors import MediaError
from aiphone.native.stretch import TimeScaler

Pcm = npt.NDArray[np.int16]
RATES = pytest.mark.parametrize("rate", [8000, 16000])


def voice(rate: int, seconds: float, pitch: float = 125.0) -> Pcm:
    t = np.arange(int(rate * seconds)) / rate
    wave = sum(np.sin(2 * np.pi * pitch * k * t + k) / k for k in range(1, int(3000 / pitch)))
    return np.round(6000 * wave).astype(np.int16)


def play(pcm: Pcm, rate: int, how: str, least: float) -> tuple[Pcm, int]:
    """All of it in frames of 20 ms, each made longer or shorter when that is possible."""
    scaler, frame, out, changed = TimeScaler(rate), rate // 50, [], 0
    at = 0
    while at < len(pcm):
        at += scaler.put(pcm[at : at + frame])
        if scaler.waiting >= frame:
            changed += scaler.shorten(least) if how == "shorten" else scaler.lengthen(least)
        while scaler.waiting >= frame:
            out.append(scaler.take(frame))
    out.append(scaler.take(frame))
    return np.concatenate(out), changed


@RATES
@pytest.mark.parametrize("how", ["shorten", "lengthen"])
def test_a_vowel_changes_its_length_and_nothing_else(rate: int, how: str) -> None:
    pcm = voice(rate, 1.0)
    out, changed = play(pcm, rate, how, 0.9)
    assert changed > 0.2 * len(pcm)
    assert len(out) == len(pcm) + (changed if how == "lengthen" else -changed)
    steepest = np.abs(np.diff(pcm.astype(int))).max()
    assert np.abs(np.diff(out.astype(int))).max() < 1.1 * steepest  # no click
    middle = out[len(out) // 4 : len(out) // 4 + rate // 4].astype(float)
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert np.argmax(spectrum) * rate / len(middle) == pytest.approx(125, abs=5)
    level = np.sqrt(np.mean(out.astype(float) ** 2)) / np.sqrt(np.mean(pcm.astype(float) ** 2))
    assert level == pytest.approx(1.0, abs=0.05)


@RATES
def test_noise_keeps_its_level(rate: int) -> None:
    pcm = np.random.default_rng(1).normal(0, 1000, rate).astype(np.int16)
    for how in ("shorten", "lengthen"):
        out, changed = play(pcm, rate, how, -1.0)
        assert changed > 0.1 * len(pcm)
        assert np.std(out) == pytest.approx(1000, rel=0.06)


@RATES
def test_what_is_unlike_is_left_alone(rate: int) -> None:
    pcm = np.random.default_rng(1).normal(0, 5000, rate).astype(np.int16)
    out, changed = play(pcm, rate, "shorten", 0.9)
    assert changed == 0
    assert np.array_equal(out, pcm)


@RATES
def test_silence_gives_the_most_and_no_more_than_asked(rate: int) -> None:
    for most in (rate // 200, rate // 100):
        scaler = TimeScaler(rate)
        scaler.put(np.zeros(rate // 25, np.int16))
        assert scaler.shorten(0.9, most) == most
        assert scaler.lengthen(0.9, most) == most
        assert scaler.shorten(0.9, rate // 1000) == 0  # less than the shortest pitch period


def test_too_little_is_not_worked_on() -> None:
    scaler = TimeScaler(8000)
    assert scaler.shorten() == 0
    scaler.put(np.ones(30, np.int16))
    assert scaler.shorten() == 0
    assert scaler.lengthen() == 0
    assert scaler.waiting == 30


@given(
    rate=st.sampled_from([8000, 16000]),
    plan=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 500), st.integers(0, 300)), max_size=40),
    seed=st.integers(0, 1000),
)
def test_nothing_is_lost_but_what_it_says(rate: int, plan: list[tuple[int, int, int]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    scaler, balance = TimeScaler(rate), 0
    for action, n, most in plan:
        if action == 0:
            balance += scaler.put(rng.integers(-32768, 32767, n).astype(np.int16))
        elif action == 1:
            balance -= len(scaler.take(n))
        elif action == 2:
            balance -= scaler.shorten(-1.0, most)
        else:
            balance += scaler.lengthen(-1.0, most)
        assert scaler.waiting == balance
        assert 0 <= balance <= rate // 10


def test_other_rates_are_refused() -> None:
    with pytest.raises(MediaError, match="8000 or 16000"):
        TimeScaler(44100)
