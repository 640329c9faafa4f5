"""Where the telephone side listens at its start, by its settings."""

from __future__ import annotations

import pytest

from aiphone.cli.assembly import line_hosts, reaches_out, sip_host
from aiphone.config import LineSettings, Settings


@pytest.mark.parametrize(
    ("host", "direct_from", "listens", "reaches"),
    [
        ("auto", "local", "127.0.0.1", True),
        ("auto", "none", "127.0.0.1", True),
        ("auto", "any", "0.0.0.0", False),
        ("auto", "192.168.1.0/24", "0.0.0.0", False),
        ("127.0.0.1", "local", "127.0.0.1", False),
        ("0.0.0.0", "local", "0.0.0.0", False),
        ("any", "any", "0.0.0.0", False),
        ("192.168.1.5", "any", "192.168.1.5", False),
    ],
)
def test_where_it_listens(host: str, direct_from: str, listens: str, reaches: bool) -> None:
    settings = Settings(sip_host=host, direct_from=direct_from)
    assert sip_host(settings) == listens
    assert reaches_out(settings) is reaches


def test_a_line_at_this_machine_needs_no_other_address() -> None:
    lines = (LineSettings(client_id="a", username="u", password="p", server_ip="127.0.0.1"),)
    assert line_hosts(Settings(lines=lines)) == []


def test_a_line_without_a_way_to_its_server_does_not_keep_the_server_from_starting() -> None:
    lines = (LineSettings(client_id="a", username="u", password="p", server_ip="255.255.255.255"),)
    assert line_hosts(Settings(lines=lines)) == []
