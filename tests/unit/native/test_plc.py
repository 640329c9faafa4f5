"""Concealment as ITU-T G.711 Appendix I describes it."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiphone.errors import MediaError
from aiphone.native.plc import Concealer

Pcm = npt.NDArray[np.int16]
RATES = pytest.mark.parametrize("rate", [8000, 16000])


def voice(rate: int, seconds: float, pitch: float = 110.0) -> Pcm:
    """A buzz with the spectrum of a vowel: harmonics that fall by 6 dB an octave."""
    t = np.arange(int(rate * seconds)) / rate
    wave = sum(np.sin(2 * np.pi * pitch * k * t + k) / k for k in range(1, int(3000 / pitch)))
    return np.round(6000 * wave).astype(np.int16)


def run(concealer: Concealer, pcm: Pcm, frame: int, lost: set[int]) -> Pcm:
    out = []
    for i in range(len(pcm) // frame):
        if i in lost:
            out.append(concealer.conceal(frame))
        else:
            out.append(concealer.good(pcm[i * frame : (i + 1) * frame]))
    return np.concatenate(out)


def rms(pcm: Pcm) -> float:
    return float(np.sqrt(np.mean(pcm.astype(np.float64) ** 2)))


@RATES
def test_without_loss_it_only_delays_by_3_75_ms(rate: int) -> None:
    pcm = voice(rate, 0.3)
    concealer = Concealer(rate)
    assert concealer.delay == rate * 375 // 100_000
    out = run(concealer, pcm, rate // 50, set())
    assert not out[: concealer.delay].any()
    assert np.array_equal(out[concealer.delay :], pcm[: len(out) - concealer.delay])


@RATES
@pytest.mark.parametrize("pitch", [80.0, 110.0, 145.0, 190.0])
def test_a_lost_frame_of_a_steady_vowel_is_hardly_heard(rate: int, pitch: float) -> None:
    pcm = voice(rate, 0.4, pitch)
    frame = rate // 100
    concealer = Concealer(rate)
    out = run(concealer, pcm, frame, {20})[concealer.delay :]
    error = out.astype(int) - pcm[: len(out)]
    around = slice(19 * frame, 23 * frame)
    assert rms(error[around]) < 0.22 * rms(pcm[around])


@RATES
def test_no_clicks_at_the_seams(rate: int) -> None:
    pcm = voice(rate, 0.5, 123.0)
    out = run(Concealer(rate), pcm, rate // 50, {8, 9, 14})
    steepest = np.abs(np.diff(pcm.astype(int))).max()
    assert np.abs(np.diff(out.astype(int))).max() < 1.5 * steepest


@RATES
def test_fades_slowly_in_a_burst_and_is_silent_after_120_ms(rate: int) -> None:
    pcm = voice(rate, 0.3, 100.0)
    concealer = Concealer(rate)
    run(concealer, pcm, rate // 100, set())
    step = rate // 100
    gap = concealer.conceal(13 * step)
    gap = np.concatenate([gap, concealer.conceal(2 * step)])[concealer.delay :]
    levels = [rms(gap[i * step : (i + 1) * step]) / rms(pcm) for i in range(14)]
    expected = [1.0, 0.9, 0.76, 0.68, 0.6, 0.52, 0.44, 0.36, 0.28, 0.2, 0.12, 0.04]
    assert levels[:12] == pytest.approx(expected, abs=0.06)
    assert not gap[12 * step :].any()


@RATES
def test_the_first_good_frame_is_blended_in(rate: int) -> None:
    frame = rate // 50
    concealer = Concealer(rate)
    run(concealer, voice(rate, 0.3), frame, set())
    concealer.conceal(frame)
    loud = np.full(frame, 20000, dtype=np.int16)
    out = concealer.good(loud)[concealer.delay :]
    assert abs(int(out[0]) - 20000) > 3000
    assert np.array_equal(out[rate // 100 :], loud[rate // 100 : len(out)])


@RATES
def test_speech_goes_on_untouched_after_the_blend(rate: int) -> None:
    pcm = voice(rate, 0.6, 97.0)
    frame = rate // 50
    concealer = Concealer(rate)
    out = run(concealer, pcm, frame, {10, 11, 12})[concealer.delay :]
    rest = slice(13 * frame + rate // 100, len(out))
    assert np.array_equal(out[rest], pcm[rest])


def error_of(out: Pcm, pcm: Pcm, gap: slice) -> float:
    return rms(out[gap].astype(int) - pcm[gap]) / rms(pcm[gap])


def sliding(rate: int) -> Pcm:
    """A vowel that rises from 100 to 140 Hz, so that the past says little about the end of a gap."""
    t = np.arange(rate // 2) / rate
    phase = 2 * np.pi * (100 * t + 40 * t**2)
    return np.round(6000 * sum(np.sin(k * phase + k) / k for k in range(1, 20))).astype(np.int16)


@RATES
def test_with_the_next_frame_at_hand_the_end_of_the_gap_is_near_the_truth(rate: int) -> None:
    pcm, frame = sliding(rate), rate // 50
    bridged, blind = Concealer(rate), Concealer(rate)
    for concealer in (bridged, blind):
        run(concealer, pcm[: 10 * frame], frame, set())
    future = pcm[12 * frame : 13 * frame]
    known = [bridged.bridge(frame, future, left * frame) for left in (2, 1)]
    out = np.concatenate([*known, bridged.good(future), bridged.good(pcm[13 * frame : 14 * frame])])[bridged.delay :]
    blindly = np.concatenate([blind.conceal(2 * frame), blind.good(future), blind.good(pcm[:frame])])[blind.delay :]
    truth, last = pcm[10 * frame : 14 * frame], slice(3 * frame // 2, 2 * frame)
    assert error_of(out, truth, last) < 0.6 * error_of(blindly, truth, last)
    # Only the first quarter of a period of the frame itself is touched, and nothing clicks.
    touched = 2 * frame + rate // 100 * 3 // 8
    assert np.array_equal(out[touched : 3 * frame], truth[touched : 3 * frame])
    assert np.abs(np.diff(out.astype(int))).max() < 1.6 * np.abs(np.diff(pcm.astype(int))).max()


def test_a_bridge_is_the_same_however_it_is_cut() -> None:
    pcm = voice(8000, 0.3)
    whole, parts = Concealer(8000), Concealer(8000)
    for concealer in (whole, parts):
        concealer.good(pcm)
    expected = whole.bridge(480, pcm[:160], 480)
    cuts, left = [], 480
    for n in (80, 160, 7, 233):
        cuts.append(parts.bridge(n, pcm[:160], left))
        left -= n
    assert np.abs(np.concatenate(cuts).astype(int) - expected).max() <= 1
    assert np.array_equal(whole.good(pcm[:160]), parts.good(pcm[:160]))


def test_a_long_gap_is_silent_in_the_middle_and_ends_at_full_level() -> None:
    pcm = voice(8000, 0.3)
    concealer = Concealer(8000)
    concealer.good(pcm)
    gap = np.concatenate([concealer.bridge(160, pcm[:160], left) for left in range(8000, 0, -160)])
    assert not gap[1200:6800].any()
    assert rms(gap[7900:]) > 0.8 * rms(pcm)


def test_a_frame_too_short_to_have_a_period_or_already_due_is_no_bridge() -> None:
    pcm = voice(8000, 0.3)
    a, b, c = Concealer(8000), Concealer(8000), Concealer(8000)
    for concealer in (a, b, c):
        concealer.good(pcm)
    expected = a.conceal(160)
    assert np.array_equal(b.bridge(160, pcm[:40], 160), expected)
    assert np.array_equal(c.bridge(160, pcm[:160], 120), expected)


@RATES
def test_silence_is_concealed_by_silence(rate: int) -> None:
    concealer = Concealer(rate)
    concealer.good(np.zeros(rate // 10, dtype=np.int16))
    assert not concealer.conceal(rate // 50).any()


def test_loss_before_anything_arrived_is_silence() -> None:
    assert not Concealer(8000).conceal(800).any()


@settings(max_examples=40, deadline=None)
@given(
    rate=st.sampled_from([8000, 16000]),
    cuts=st.lists(st.integers(1, 200), min_size=1, max_size=30),
    gap_ms=st.integers(1, 150),
    seed=st.integers(0, 1000),
)
def test_a_gap_sounds_the_same_however_it_is_cut(rate: int, cuts: list[int], gap_ms: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pcm = (voice(rate, 0.2) + rng.integers(-300, 300, rate // 5)).astype(np.int16)
    whole, parts = Concealer(rate), Concealer(rate)
    whole.good(pcm)
    parts.good(pcm)
    n = rate * gap_ms // 1000
    expected = whole.conceal(n)
    pieces = []
    for cut in cuts:
        pieces.append(parts.conceal(min(cut, n)))
        n -= len(pieces[-1])
    pieces.append(parts.conceal(n))
    assert np.array_equal(np.concatenate(pieces), expected)
    after = pcm[: rate // 50]
    assert np.array_equal(parts.good(after), whole.good(after))


@settings(max_examples=40, deadline=None)
@given(
    rate=st.sampled_from([8000, 16000]),
    plan=st.lists(st.tuples(st.sampled_from(["good", "lost", "bridge"]), st.integers(0, 900)), max_size=30),
    seed=st.integers(0, 1000),
)
def test_survives_any_sequence(rate: int, plan: list[tuple[str, int]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    concealer = Concealer(rate)
    for what, n in plan:
        pcm = rng.integers(-32768, 32768, n).astype(np.int16)
        if what == "bridge":
            out = concealer.bridge(n, pcm[: int(rng.integers(0, 900))], int(rng.integers(-10, 2000)))
        else:
            out = concealer.good(pcm) if what == "good" else concealer.conceal(n)
        assert len(out) == n


def test_reset_forgets() -> None:
    concealer = Concealer(8000)
    concealer.good(voice(8000, 0.2))
    concealer.reset()
    assert not concealer.conceal(160).any()


@pytest.mark.parametrize("rate", [0, -8000, 11025, 48000])
def test_other_rates_are_refused(rate: int) -> None:
    with pytest.raises(MediaError, match="use 8000 or 16000"):
        Concealer(rate)
