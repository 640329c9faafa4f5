"""G.711 against the Recommendation's own definition: decision and output values, not bit tricks."""

import bisect
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from aiphone.native.g711 import decode_alaw, decode_ulaw, encode_alaw, encode_ulaw

EVERY_SAMPLE = np.arange(-32768, 32768).astype(np.int16)
EVERY_CODE = bytes(range(256))


def mu_law_segments() -> tuple[list[int], list[int]]:
    """Table 2a: lower decision values and output values on the 14-bit scale, from the quietest (128 each)."""
    decision, output = [0], [0]
    low, step = 1, 2
    for segment in range(8):
        for _ in range(15 if segment == 0 else 16):
            decision.append(low)
            output.append(low + step // 2)
            low += step
        step *= 2
    return decision, output


def a_law_segments() -> tuple[list[int], list[int]]:
    """Table 1a: the same on the 13-bit scale, doubled, so that half steps are whole numbers."""
    decision, output = [], []
    low, step = 0, 2
    for segment in range(8):
        for _ in range(16):
            decision.append(low)
            output.append(low + step // 2)
            low += step
        step *= 1 if segment == 0 else 2
    return decision, output


MU = mu_law_segments()
A = a_law_segments()


def reference_encode_ulaw(x: int) -> int:
    magnitude = (x if x >= 0 else ~x) >> 2
    level = bisect.bisect_right(MU[0], magnitude) - 1
    return (0xFF if x >= 0 else 0x7F) - level  # the loudest is all zeros


def reference_encode_alaw(x: int) -> int:
    magnitude = ((x if x >= 0 else ~x) >> 3) & ~1
    level = bisect.bisect_right(A[0], magnitude) - 1
    return level ^ (0xD5 if x >= 0 else 0x55)


def reference_decode_ulaw(code: int) -> int:
    value = MU[1][0x7F - (code & 0x7F)] * 4
    return value if code & 0x80 else -value


def reference_decode_alaw(code: int) -> int:
    value = A[1][(code ^ 0x55) & 0x7F] * 8
    return value if code & 0x80 else -value


def test_every_sample_is_encoded_to_mu_law_as_the_recommendation_says() -> None:
    assert list(encode_ulaw(EVERY_SAMPLE)) == [reference_encode_ulaw(int(x)) for x in EVERY_SAMPLE]


def test_every_sample_is_encoded_to_a_law_as_the_recommendation_says() -> None:
    assert list(encode_alaw(EVERY_SAMPLE)) == [reference_encode_alaw(int(x)) for x in EVERY_SAMPLE]


def test_every_code_is_decoded_as_the_recommendation_says() -> None:
    assert decode_ulaw(EVERY_CODE).tolist() == [reference_decode_ulaw(c) for c in range(256)]
    assert decode_alaw(EVERY_CODE).tolist() == [reference_decode_alaw(c) for c in range(256)]


@pytest.mark.parametrize(
    ("code", "sample"),
    [(0x00, -32124), (0x80, 32124), (0x7F, 0), (0xFF, 0), (0x7E, -8), (0xFE, 8), (0x8F, 16764), (0xF0, 120)],
)
def test_golden_mu_law_values(code: int, sample: int) -> None:
    assert decode_ulaw(bytes([code])).tolist() == [sample]


@pytest.mark.parametrize(
    ("code", "sample"),
    [(0xD5, 8), (0x55, -8), (0xAA, 32256), (0x2A, -32256), (0xD4, 24), (0x80, 5504), (0x00, -5504)],
)
def test_golden_a_law_values(code: int, sample: int) -> None:
    assert decode_alaw(bytes([code])).tolist() == [sample]


def test_the_recommendations_tables_end_where_it_says() -> None:
    assert (MU[0][-1], MU[1][-1], len(MU[0])) == (7903, 8031, 128)
    assert (A[0][-1], A[1][-1], len(A[0])) == (3968, 4032, 128)


def test_a_code_survives_decoding_and_encoding() -> None:
    mu = list(encode_ulaw(decode_ulaw(EVERY_CODE)))
    assert [c for c in range(256) if mu[c] != c] == [0x7F]  # minus zero becomes plus zero
    assert encode_alaw(decode_alaw(EVERY_CODE)) == EVERY_CODE


@pytest.mark.parametrize("n", [0, 1, 7, 15, 16, 17, 31, 33, 80, 160, 1001])
def test_any_length_and_alignment(n: int) -> None:
    rng = np.random.default_rng(n)
    pcm = rng.integers(-32768, 32768, n + 1).astype(np.int16)[1:]
    for encode, decode, reference in (
        (encode_ulaw, decode_ulaw, reference_decode_ulaw),
        (encode_alaw, decode_alaw, reference_decode_alaw),
    ):
        data = encode(pcm)
        assert len(data) == n
        assert decode(memoryview(b"x" + data)[1:]).tolist() == [reference(c) for c in data]


def test_wrong_types_are_refused() -> None:
    with pytest.raises((TypeError, ValueError)):
        encode_ulaw(np.zeros(4, dtype=np.float32))
    with pytest.raises((TypeError, ValueError)):
        encode_ulaw(np.zeros(8, dtype=np.int16)[::2])
    with pytest.raises(TypeError):
        decode_ulaw(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("decode", [decode_ulaw, decode_alaw])
def test_decodes_into_an_array_that_is_there(decode: Callable[..., npt.NDArray[np.int16]]) -> None:
    codes = bytes(range(256))
    room = np.zeros(256, np.int16)
    assert decode(codes, room) is room
    assert np.array_equal(room, decode(codes))
    assert np.array_equal(decode(bytearray(codes), out=room), decode(codes))


@pytest.mark.parametrize(
    "out",
    [np.zeros(5, np.int16), np.zeros(4, np.int32), np.zeros(8, np.int16)[::2], np.zeros((2, 2), np.int16), b"1234"],
)
def test_an_array_that_does_not_fit_is_refused(out: Any) -> None:
    with pytest.raises(ValueError, match="one sample for each byte"):
        decode_ulaw(b"abcd", out)
