from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiphone.native import rtp

VECTORS = Path(__file__).parents[2] / "vectors" / "rtp"
PAYLOAD = bytes(range(160))
COMMON = (0x1234, 0xDEADBEEF, 0xCAFEBABE)

GOOD = {
    "pcmu_plain": (0, False, *COMMON, PAYLOAD),
    "pcma_marker": (8, True, *COMMON, PAYLOAD),
    "two_csrcs": (0, False, *COMMON, PAYLOAD),
    "extension": (0, False, *COMMON, PAYLOAD),
    "padding": (0, False, *COMMON, PAYLOAD),
    "csrc_extension_padding": (0, False, *COMMON, PAYLOAD),
    "empty_payload": (13, False, *COMMON, b""),
    "telephone_event": (101, True, *COMMON, b"\x05\x0a\x00\xa0"),
    "all_padding": (0, False, *COMMON, b""),
}
BAD = {
    "bad_short": "short",
    "bad_version": "version",
    "bad_csrcs_missing": "short",
    "bad_extension_header_cut": "short",
    "bad_extension_too_long": "short",
    "bad_padding_zero": "padding",
    "bad_padding_too_long": "padding",
    "rtcp_sender_report": "rtcp",
}


def test_every_vector_is_used() -> None:
    assert {p.stem for p in VECTORS.glob("*.bin")} == {*GOOD, *BAD}


@pytest.mark.parametrize("name", GOOD)
def test_good_packets(name: str) -> None:
    assert rtp.parse((VECTORS / f"{name}.bin").read_bytes()) == GOOD[name]


@pytest.mark.parametrize("name", BAD)
def test_bad_packets(name: str) -> None:
    with pytest.raises(ValueError, match=BAD[name]):
        rtp.parse((VECTORS / f"{name}.bin").read_bytes())


@given(st.binary(max_size=300))
def test_any_bytes_are_a_packet_inside_the_datagram_or_an_error(data: bytes) -> None:
    try:
        *_, payload = rtp.parse(data)
    except ValueError:
        return
    assert payload in data


@given(
    st.integers(0, 63),
    st.booleans(),
    st.integers(0, 2**16 - 1),
    st.integers(0, 2**32 - 1),
    st.binary(max_size=480),
)
def test_what_is_built_is_what_is_parsed(pt: int, marker: bool, seq: int, timestamp: int, payload: bytes) -> None:
    packet = rtp.build(pt, marker, seq, timestamp, 77, payload)
    assert rtp.parse(packet) == (pt, marker, seq, timestamp, 77, payload)


def test_sequence_numbers_wrap() -> None:
    source = rtp.Source()
    numbers = [source.update(seq)[1] for seq in (65534, 65535, 0, 1)]
    assert [n - numbers[0] for n in numbers] == [0, 1, 2, 3]
    assert source.lost == 0


def test_loss_duplicates_and_reordering() -> None:
    source = rtp.Source()
    assert [source.update(s)[0] for s in (10, 11, 13, 13, 12, 9, 16)] == [
        "new", "new", "new", "duplicate", "reordered", "reordered", "new",
    ]  # fmt: skip
    assert source.lost == 2
    assert source.fraction_lost() == 2 * 256 // 8
    assert source.fraction_lost() == 0


def test_a_jump_must_be_confirmed() -> None:
    source = rtp.Source()
    assert [source.update(s)[0] for s in (1, 30000, 2, 40000, 40001, 40002)] == [
        "new", "invalid", "new", "invalid", "restarted", "new",
    ]  # fmt: skip
    assert source.lost == 0


def test_jitter_as_in_the_rfc_and_over_a_wrapping_timestamp() -> None:
    source, expected, transit = rtp.Source(), 0.0, None
    for i, late in enumerate([0.0, 0.005, 0.0, 0.01, 0.002] * 4):
        source.update(i, (2**32 - 500 + 160 * i) % 2**32, 0.02 * i + late)
        now = late * 8000
        if transit is not None:
            expected += (abs(now - transit) - expected) / 16
        transit = now
    assert source.jitter == pytest.approx(expected, rel=1e-6)


@given(st.lists(st.integers(0, 65535), min_size=1, max_size=200))
def test_any_order_of_numbers_keeps_the_counts_sane(numbers: list[int]) -> None:
    source = rtp.Source()
    for number in numbers:
        source.update(number)
        assert source.lost >= 0
        assert 0 <= source.fraction_lost() <= 255
