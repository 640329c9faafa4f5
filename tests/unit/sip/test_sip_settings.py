from __future__ import annotations

import pytest

from aiphone.errors import ConfigError
from aiphone.sip.call_limit import limit_note, usable_calls
from aiphone.sip.settings import LineConfig, SipSettings


def line(**changes):
    return LineConfig(**{"line_id": "a", "username": "u", "password": "p4ssw0rd", "server_ip": "h.example"} | changes)


def test_a_line_in_sip_terms():
    made = line(username="bob smith", display_name='The "AI"', server_port=5070, transport="tcp", proxy="edge:5080")
    assert made.identity == '"The \\"AI\\"" <sip:bob%20smith@h.example>'
    assert made.registrar_uri == "sip:h.example:5070;transport=tcp"
    assert made.proxy_uri == "sip:edge:5080;lr;transport=tcp"
    assert line(server_ip="2001:db8::1").registrar_uri == "sip:[2001:db8::1]:5060"
    assert line().identity == "<sip:u@h.example>"
    assert line().proxy_uri == ""


def test_secrets_are_not_shown():
    assert "p4ssw0rd" not in repr(line())
    assert line().token not in repr(line())
    assert line().token != line().token


@pytest.mark.parametrize(
    "changes",
    [
        {"line_id": ""}, {"line_id": "direct"}, {"username": ""}, {"username": "a\r\nContact: x"},
        {"display_name": "a\nb"}, {"password": "a\0b"}, {"server_ip": "a b"}, {"server_ip": "h>"}, {"server_ip": ""},
        {"server_port": 0}, {"server_port": 70000}, {"transport": "sctp"}, {"proxy": "a b"}, {"proxy": "h:99999"},
        {"allowed_networks": ("lan",)},
    ],
)  # fmt: skip
def test_lines_that_are_refused(changes):
    with pytest.raises(ConfigError):
        line(**changes)


@pytest.mark.parametrize(
    "changes",
    [{"port": -1}, {"port": 65536}, {"max_calls": 0}, {"public_address": "a b"}, {"direct_user": "a@b"},
     {"direct_user": ""}, {"direct_networks": ("10.0.0.0/99",)}],
)  # fmt: skip
def test_settings_that_are_refused(changes):
    with pytest.raises(ConfigError):
        SipSettings(**changes)


def test_the_call_limit_in_words():
    assert usable_calls(4, 50) == 4
    assert usable_calls(4, 50, reserved=1) == 3
    assert usable_calls(1024, 50) == 50
    assert usable_calls(1, 50, reserved=1) == 1
    note = limit_note(4, 50)
    assert "allows 4 calls at once" in note
    assert "make pjsua2" in note
    assert limit_note(1024, 50) == ""
    assert limit_note(50, 50) == ""
    assert limit_note(50, 50, reserved=1) != ""
