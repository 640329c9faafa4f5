"""Keys by RFC 4733, from well-behaved and other senders."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aiphone.native.telephone_event import KeyReceiver, KeySender

Packet = tuple[int, bool, int, bool, int, float]
"""event, end, duration, marker, timestamp, arrival"""


def press(event: int, timestamp: int, at: float, *, packets: int = 5, marker: bool = True) -> list[Packet]:
    steps = [(event, False, 160 * (i + 1), marker and i == 0, timestamp, at + 0.02 * i) for i in range(packets)]
    end = [(event, True, 160 * packets, False, timestamp, at + 0.02 * (packets + i)) for i in range(3)]
    return steps + end


def heard(packets: list[Packet]) -> str:
    receiver = KeyReceiver()
    keys = (
        receiver.packet(bytes([event, (0x80 if end else 0) | 10, *duration.to_bytes(2, "big")]), marker, timestamp, at)
        for event, end, duration, marker, timestamp, at in packets
    )
    return "".join(k for k in keys if k)


def test_each_press_once() -> None:
    assert heard(press(1, 0, 0.0) + press(1, 2400, 0.3) + press(11, 4800, 0.6)) == "11#"


def test_without_markers() -> None:
    assert heard(press(1, 0, 0.0, marker=False) + press(1, 2400, 0.3, marker=False)) == "11"


def test_only_the_end_arrives() -> None:
    assert heard(press(7, 0, 0.0)[-1:] + press(7, 2400, 0.3)[-2:]) == "77"


def test_every_packet_twice_and_neighbours_swapped() -> None:
    packets = press(3, 0, 0.0) + press(4, 2400, 0.3)
    assert heard([p for p in packets for _ in (0, 1)]) == "34"
    packets[1], packets[2] = packets[2], packets[1]
    assert heard(packets) == "34"


def test_a_straggler_of_the_previous_key_is_not_a_press() -> None:
    first, second = press(3, 0, 0.0), press(4, 2400, 0.3)
    assert heard(first[:-1] + second[:2] + first[-1:] + second[2:]) == "34"


def test_a_long_press_in_segments() -> None:
    # Section 2.5.1.3: a new timestamp without a marker when the duration is used up.
    packets = [(5, False, min(160 * (i + 1), 65535), i == 0, 0, 0.02 * i) for i in range(409)]
    packets += [(5, False, 160 * (i + 1), False, 65535, 0.02 * (409 + i)) for i in range(50)]
    packets += [(5, True, 8000, False, 65535, 9.2)] * 3
    assert heard(packets) == "5"


def test_a_sender_that_moves_the_timestamp_with_every_packet() -> None:
    packets = [(8, i >= 5, 160 * (i + 1), i == 0, 160 * i, 0.02 * i) for i in range(8)]
    assert heard(packets) == "8"


def test_timestamps_wrap() -> None:
    assert heard(press(1, 2**32 - 800, 0.0) + press(2, 1600, 0.3)) == "12"


def test_what_is_no_key_is_ignored() -> None:
    assert heard([(16, False, 160, True, 0, 0.0), (255, True, 160, True, 160, 0.1)]) == ""
    assert KeyReceiver().packet(b"\x01\x0a\x00", True, 0, 0.0) is None
    assert KeyReceiver().packet(b"", True, 0, 0.0) is None


@given(st.lists(st.integers(0, 15), min_size=1, max_size=10))
def test_what_we_send_is_what_we_hear(events: list[int]) -> None:
    sender, receiver = KeySender(), KeyReceiver()
    assert sender.queue(bytes(events)) == len(events)
    timestamp, keys, step = 2**32 - 1600, [], 0
    while (out := sender.step(timestamp % 2**32)) is not None:
        payload, at, first = out
        if payload is not None:
            keys.append(receiver.packet(payload, first, at, 0.02 * step))
        timestamp += 160
        step += 1
    assert [k for k in keys if k] == ["0123456789*#ABCD"[e] for e in events]


def test_the_queue_is_bounded() -> None:
    assert KeySender().queue(bytes(40)) == 32
