from __future__ import annotations

import os
import socket

import pytest

from aiphone.errors import NetworkError
from aiphone.media.ports import RtpPortPool


def test_pairs_are_even_and_odd_and_bound() -> None:
    pool = RtpPortPool("127.0.0.1", 45000, 45099)
    pair = pool.open()
    try:
        assert pair.port % 2 == 0
        for fd, port in ((pair.rtp_fd, pair.port), (pair.rtcp_fd, pair.port + 1)):
            with socket.socket(fileno=os.dup(fd)) as s:
                assert s.getsockname() == ("127.0.0.1", port)
    finally:
        pool.close(pair)


def test_all_pairs_are_different_until_none_is_left_then_the_range_is_named() -> None:
    pool = RtpPortPool("127.0.0.1", 45101, 45108)
    pairs = [pool.open() for _ in range(3)]
    try:
        assert {p.port for p in pairs} == {45102, 45104, 45106}
        with pytest.raises(NetworkError, match="45101-45108"):
            pool.open()
    finally:
        for pair in pairs:
            pool.close(pair)
    pool.close(pool.open())


def test_a_pair_with_one_port_in_use_is_passed_over_without_a_leak() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 45203))
        pool = RtpPortPool("127.0.0.1", 45202, 45205)
        pair = pool.open()
        assert pair.port == 45204
        pool.close(pair)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(("127.0.0.1", 45202))


@pytest.mark.parametrize(("first", "last"), [(5001, 5001), (5001, 5002), (0, 10), (70000, 70010), (10, 5)])
def test_a_range_without_a_pair(first: int, last: int) -> None:
    with pytest.raises(NetworkError, match=f"{first}-{last}"):
        RtpPortPool("127.0.0.1", first, last)


def test_addresses_that_are_not_ours() -> None:
    with pytest.raises(NetworkError, match=r"203\.0\.113\.7"):
        RtpPortPool("203.0.113.7", 45000, 45099).open()
    with pytest.raises(NetworkError, match="numeric"):
        RtpPortPool("localhost", 45000, 45099)


def test_a_pair_at_another_address_of_ours() -> None:
    pool = RtpPortPool("127.0.0.1", 45300, 45301)
    pair, other = pool.open(), pool.open("127.0.0.2")
    try:
        with socket.socket(fileno=os.dup(other.rtp_fd)) as s:
            assert s.getsockname() == ("127.0.0.2", 45300)
    finally:
        pool.close(pair)
        pool.close(other)
