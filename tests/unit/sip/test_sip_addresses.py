"""Which of our addresses leads where."""

from __future__ import annotations

import pytest

from aiphone.errors import NetworkError
from aiphone.sip.addresses import address_of_ours, host_port, is_loopback, of_other_family, split_host_port
from aiphone.sip.settings import LineConfig


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.0.9", True),
        ("::1", True),
        ("[::1]", True),
        ("LocalHost", True),
        ("::ffff:127.0.0.1", True),
        ("192.168.1.5", False),
        ("0.0.0.0", False),
        ("pbx.example.org", False),
    ],
)
def test_what_is_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_our_address_towards_ourselves() -> None:
    assert address_of_ours("127.0.0.1") == "127.0.0.1"


def test_an_ipv6_address_has_brackets_in_a_uri() -> None:
    assert host_port("::1", 5060) == "[::1]:5060"
    assert host_port("192.0.2.1", 5060) == "192.0.2.1:5060"
    assert split_host_port(host_port("2001:db8::1", 5061)) == ("2001:db8::1", 5061)


def test_no_way_is_an_error_that_names_the_peer() -> None:
    with pytest.raises(NetworkError, match=r"no way to 255\.255\.255\.255"):
        address_of_ours("255.255.255.255")


@pytest.mark.parametrize(
    ("proxy", "hop"),
    [("", "pbx.example.org"), ("192.0.2.7", "192.0.2.7"), ("edge.example.org:5080", "edge.example.org")],
)
def test_the_next_hop_of_a_line_is_its_proxy_where_it_has_one(proxy: str, hop: str) -> None:
    assert LineConfig("l", "u", "p", "pbx.example.org", proxy=proxy).next_hop == hop


def test_media_of_the_other_family() -> None:
    assert of_other_family("2001:db8::1", "192.0.2.1")
    assert of_other_family("192.0.2.1", "::1")
    assert not of_other_family("192.0.2.1", "192.0.2.2")
    assert not of_other_family("192.0.2.1", "::ffff:192.0.2.2")  # IPv4 at a socket of both
    # On hold, a name, nothing at all.
    for offered in ("::", "media.example.org", ""):
        assert not of_other_family(offered, "192.0.2.1")
