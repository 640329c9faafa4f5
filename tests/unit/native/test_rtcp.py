from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiphone.native import rtcp


def test_sender_report_with_a_block_sdes_and_bye() -> None:
    packet = rtcp.build(
        1,
        1_700_000_000.5,
        4000,
        10,
        1600,
        last_sr=0xABCD0123,
        delay=1.5,
        bye=True,
        source=(42, [65534, 65535, 1, 2]),
    )
    assert len(packet) % 4 == 0
    assert packet[1] == 200
    report = rtcp.parse(packet, 42)
    assert report["has_sr"]
    assert report["sr_ssrc"] == 1
    # 1_700_000_000.5 as NTP: the low half of the seconds and the high half of the fraction.
    assert report["sr_middle"] == (((1_700_000_000 + 2_208_988_800) & 0xFFFF) << 16) | 0x8000
    assert report["has_block"]
    assert report["lost"] == 1
    assert report["fraction_lost"] == 256 // 5
    assert report["last_sr"] == 0xABCD0123
    assert report["delay"] == 1.5 * 65536
    assert report["bye"]


def test_a_block_about_somebody_else() -> None:
    packet = rtcp.build(1, 1.0, 0, 0, 0, source=(42, [1]))
    assert not rtcp.parse(packet, 43)["has_block"]


def test_receiver_report_of_one_who_sends_nothing() -> None:
    packet = rtcp.build(1, 1.0, 0, 0, 0, sent=False)
    assert packet[1] == 201
    assert packet[8:][1] == 202
    report = rtcp.parse(packet, 1)
    assert not report["has_sr"]
    assert not report["has_block"]


def test_every_cut_of_a_packet_is_an_error_or_a_whole_number_of_packets() -> None:
    packet = rtcp.build(1, 1.0, 0, 0, 0, bye=True, source=(42, [1, 2]))
    whole = {52, 52 + 16, len(packet)}
    for n in range(1, len(packet) + 1):
        if n in whole:
            rtcp.parse(packet[:n], 42)
        else:
            with pytest.raises(ValueError, match="malformed"):
                rtcp.parse(packet[:n], 42)


@given(st.binary(min_size=1, max_size=200))
def test_any_bytes(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        rtcp.parse(data, 1)


def test_more_blocks_than_bytes() -> None:
    packet = bytearray(rtcp.build(1, 1.0, 0, 0, 0, source=(42, [1])))
    packet[0] = 0x9F
    with pytest.raises(ValueError, match="malformed"):
        rtcp.parse(bytes(packet), 42)
