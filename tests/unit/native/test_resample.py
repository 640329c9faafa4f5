"""The resampler: frequency response, streaming, and what it refuses."""

import hashlib
import math
import threading

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiphone.errors import MediaError
from aiphone.native.resample import StreamResampler

PAIRS = [
    (8000, 16000), (16000, 8000), (22050, 8000), (22050, 16000), (24000, 8000), (24000, 16000),
    (48000, 8000), (48000, 16000), (16000, 24000), (16000, 48000), (44100, 8000),
]  # fmt: skip
GOLDEN = {
    (8000, 16000): "6ac5b4a7441511c4",
    (16000, 8000): "43d49cc07d349c9d",
    (22050, 8000): "6e935aaa8a4d16e5",
    (22050, 16000): "7891221363a74291",
    (24000, 8000): "fb8ce6f7507b59ac",
    (24000, 16000): "31447f27800ae9e9",
    (48000, 8000): "bf47e425ae1bc552",
    (48000, 16000): "fb8ce6f7507b59ac",
    (16000, 24000): "6e30f1240c863a0a",
    (16000, 48000): "cd13e075505bbe2d",
    (44100, 8000): "38fc23f888bc4042",
}
Pcm = npt.NDArray[np.int16]
AMPLITUDE = 30000.0


def tone(frequency: float, rate: int, seconds: float = 0.3) -> Pcm:
    t = np.arange(int(rate * seconds)) / rate
    return np.round(AMPLITUDE * np.sin(2 * np.pi * frequency * t)).astype(np.int16)


def steady(pcm: Pcm, rate: int) -> npt.NDArray[np.float64]:
    """Without the first and last 20 ms, where the filter's delay line is not full."""
    return pcm[rate // 50 : -rate // 50].astype(np.float64)


def level(pcm: npt.NDArray[np.float64], frequency: float, rate: int) -> float:
    """Level of one frequency, in dB relative to a tone of AMPLITUDE."""
    window = np.hanning(len(pcm))
    wave = np.exp(-2j * np.pi * frequency * np.arange(len(pcm)) / rate)
    return 20 * math.log10(max(2 * abs(np.sum(pcm * window * wave)) / window.sum() / AMPLITUDE, 1e-9))


def total_level(pcm: npt.NDArray[np.float64]) -> float:
    return 20 * math.log10(max(math.sqrt(2 * np.mean(pcm**2)) / AMPLITUDE, 1e-9))


@pytest.mark.parametrize(("rate_in", "rate_out"), PAIRS)
def test_flat_in_the_passband(rate_in: int, rate_out: int) -> None:
    edge = 0.425 * min(rate_in, rate_out)
    for frequency in np.linspace(50, edge, 18):
        out = StreamResampler(rate_in, rate_out).process(tone(frequency, rate_in))
        assert abs(level(steady(out, rate_out), frequency, rate_out)) < 0.05, frequency


@pytest.mark.parametrize(("rate_in", "rate_out"), [p for p in PAIRS if p[0] > p[1]])
def test_aliases_are_80_db_down(rate_in: int, rate_out: int) -> None:
    for frequency in np.linspace(rate_out / 2, rate_in / 2 - 10, 40):
        out = StreamResampler(rate_in, rate_out).process(tone(frequency, rate_in))
        assert total_level(steady(out, rate_out)) < -80, frequency


@pytest.mark.parametrize(("rate_in", "rate_out"), PAIRS)
def test_nothing_but_the_tone_comes_out(rate_in: int, rate_out: int) -> None:
    """Images of up-sampling and the error of the phases, as the rest after the tone is taken away."""
    for frequency in (300.0, 1000.0, 0.42 * min(rate_in, rate_out)):
        out = steady(StreamResampler(rate_in, rate_out).process(tone(frequency, rate_in)), rate_out)
        t = 2 * np.pi * frequency * np.arange(len(out)) / rate_out
        basis = np.stack([np.sin(t), np.cos(t)], axis=1)
        rest = out - basis @ np.linalg.lstsq(basis, out, rcond=None)[0]
        assert total_level(rest) < -80


@pytest.mark.parametrize(("rate_in", "rate_out"), PAIRS)
def test_delay_is_as_stated_and_small(rate_in: int, rate_out: int) -> None:
    resampler = StreamResampler(rate_in, rate_out)
    assert resampler.delay <= 36.0 / min(rate_in, rate_out)
    frequency = 0.1 * min(rate_in, rate_out)
    pcm = tone(frequency, rate_in)
    delay = round(resampler.delay * rate_out)
    out = np.concatenate([resampler.process(pcm), resampler.flush()])[delay:]
    assert len(out) == math.ceil(len(pcm) * rate_out / rate_in)
    expected = AMPLITUDE * np.sin(2 * np.pi * frequency * np.arange(len(out)) / rate_out)
    assert np.max(np.abs(steady(out, rate_out) - steady(expected, rate_out))) < 0.002 * AMPLITUDE


@settings(max_examples=60, deadline=None)
@given(
    pair=st.sampled_from([*PAIRS, (8000, 8000)]),
    blocks=st.lists(st.integers(0, 1200), min_size=1, max_size=12),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_block_sizes_give_the_same_samples(pair: tuple[int, int], blocks: list[int], seed: int) -> None:
    pcm = np.random.default_rng(seed).integers(-32768, 32768, sum(blocks)).astype(np.int16)
    whole, parts = StreamResampler(*pair), StreamResampler(*pair)
    expected = np.concatenate([whole.process(pcm), whole.flush()])
    pieces, at = [], 0
    for block in blocks:
        pieces.append(parts.process(pcm[at : at + block]))
        assert len(pieces[-1]) <= math.ceil(block * pair[1] / pair[0])
        at += block
    assert np.array_equal(np.concatenate([*pieces, parts.flush()]), expected)


def test_loud_input_saturates_instead_of_wrapping() -> None:
    square = np.where(np.arange(1600) % 32 < 16, 32767, -32768).astype(np.int16)
    out = StreamResampler(16000, 48000).process(square)
    assert out.max() == 32767
    assert out.min() == -32768
    assert np.abs(np.diff(out.astype(int))).max() < 40000


@pytest.mark.parametrize(("rate_in", "rate_out"), PAIRS)
def test_no_sum_overflows_at_full_scale(rate_in: int, rate_out: int) -> None:
    """What overflows 32 bits at full scale does not at half of it; the signs are those of a row of the filter, too."""
    half = 16383
    click = np.zeros(1024, np.int16)
    click[512] = half
    response = StreamResampler(rate_in, rate_out).process(click)
    signs = np.sign(np.repeat(response[::-1], max(1, round(rate_in / rate_out)))).astype(np.int16)
    noise = np.random.default_rng(9).choice(np.array([-1, 1], np.int16), 20000)
    quiet = np.concatenate([signs * np.int16(half), noise * np.int16(half)])
    low = StreamResampler(rate_in, rate_out).process(quiet).astype(int)
    high = StreamResampler(rate_in, rate_out).process((2 * quiet).astype(np.int16)).astype(int)
    exact = (low > -32768) & (low < 32767)
    assert np.max(np.abs(np.clip(2 * low, -32768, 32767) - high)[exact]) <= 2


@pytest.mark.parametrize(("pair", "digest"), GOLDEN.items())
def test_every_version_of_the_kernels_gives_these_samples(pair: tuple[int, int], digest: str) -> None:
    """AVX2, SSE2, and C for any processor: a build with another of them is held to the same bits."""
    noise = ((np.arange(6000, dtype=np.uint32) * np.uint32(2654435761)) >> np.uint32(16)).astype(np.uint16)
    pcm = noise.view(np.int16)
    loudest = np.where(pcm < 0, -32768, 32767).astype(np.int16)
    quietest = pcm >> 8
    resampler = StreamResampler(*pair)
    blocks = np.split(np.concatenate([pcm, loudest, quietest]), [1, 8, 25, 57, 1000, 7000])
    out = np.concatenate([*(resampler.process(block) for block in blocks), resampler.flush()])
    assert hashlib.sha256(out.astype("<i2").tobytes()).hexdigest()[:16] == digest


def test_equal_rates_pass_samples_through() -> None:
    pcm = np.arange(-500, 500).astype(np.int16)
    same = StreamResampler(8000, 8000)
    assert np.array_equal(same.process(pcm), pcm)
    assert len(same.flush()) == 0
    assert same.delay == 0.0


def test_flush_leaves_it_as_new() -> None:
    pcm = np.random.default_rng(3).integers(-9000, 9000, 777).astype(np.int16)
    resampler = StreamResampler(22050, 8000)
    first = resampler.process(pcm)
    resampler.flush()
    assert np.array_equal(resampler.process(pcm), first)


@pytest.mark.parametrize("pair", [(7999, 8000), (8000, 96000), (0, 8000), (-1, 8000), (8000, 47999)])
def test_unsupported_rates_are_refused_in_a_sentence(pair: tuple[int, int]) -> None:
    with pytest.raises(MediaError, match=r"cannot convert audio from -?\d+ Hz to \d+ Hz: use rates"):
        StreamResampler(*pair)


def test_many_threads_make_the_same_new_pair() -> None:
    start = threading.Barrier(8)
    results: list[bytes] = []
    pcm = np.random.default_rng(5).integers(-9000, 9000, 2000).astype(np.int16)

    def work() -> None:
        start.wait(timeout=10)
        results.append(StreamResampler(32000, 12000).process(pcm).tobytes())

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert len(results) == 8
    assert len(set(results)) == 1
