from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiphone.native.ring import ByteRing


def test_the_oldest_stays_when_it_is_full() -> None:
    ring = ByteRing(1, 3)
    assert ring.put(b"abcd") == 3
    assert ring.put(b"e") == 0
    assert ring.get(2) == b"ab"
    assert ring.put(b"fg") == 2
    assert ring.get(10) == b"cfg"
    assert len(ring) == 0


def test_whole_items_only() -> None:
    with pytest.raises(ValueError, match="4 bytes"):
        ByteRing(4, 2).put(b"abc")
    with pytest.raises(ValueError, match="at least one"):
        ByteRing(0, 2)


@given(
    st.integers(1, 7),
    st.integers(1, 9),
    st.lists(st.tuples(st.booleans(), st.integers(0, 12)), max_size=60),
)
def test_it_is_a_bounded_queue(item: int, capacity: int, steps: list[tuple[bool, int]]) -> None:
    ring, model, serial = ByteRing(item, capacity), [], 0
    for put, n in steps:
        if put:
            items = [bytes([(serial + i) % 256]) * item for i in range(n)]
            taken = ring.put(b"".join(items))
            assert taken == min(n, capacity - len(model))
            model += items[:taken]
            serial += n
        else:
            assert ring.get(n) == b"".join(model[:n])
            del model[:n]
        assert len(ring) == len(model)


def test_two_threads_see_every_item_once_and_in_order() -> None:
    ring, total = ByteRing(4, 61), 3_000
    received = bytearray()

    def consume() -> None:
        while len(received) < 4 * total:
            received.extend(ring.get(17))

    consumer = threading.Thread(target=consume)
    consumer.start()
    sent = 0
    while sent < total:
        n = min(13, total - sent)
        sent += ring.put(b"".join((sent + i).to_bytes(4, "big") for i in range(n)))
    consumer.join(20)
    assert bytes(received) == b"".join(i.to_bytes(4, "big") for i in range(total))
