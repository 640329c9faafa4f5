from __future__ import annotations

from dataclasses import replace

import pytest

from aiphone.sip.addresses import (
    advertised_address,
    is_this_machine,
    local_address_towards,
    parse_address,
    split_host_port,
)
from aiphone.sip.admission import UNATTENDED_SECONDS, Doorman, LineDoor
from aiphone.sip.message import read_request
from aiphone.sip.settings import LineConfig, SipSettings

PBX = LineConfig("pbx", "1000", "secret", "192.0.2.10", token="t0ken")
TRUNK = LineConfig("trunk", "1000", "secret", "sip.example.org", allowed_networks=("203.0.113.0/24",))
DOORS = (LineDoor.of(PBX), LineDoor.of(TRUNK, ["198.51.100.4"]))


def admit(uri, source, **settings):
    doorman = Doorman(SipSettings(**settings), is_local=lambda address: str(address).startswith("127."))
    result = doorman.admit(read_request(f"INVITE {uri} SIP/2.0\r\n\r\n"), source, DOORS)
    return result.line_id, result.code


@pytest.mark.parametrize(
    ("uri", "source", "outcome"),
    [
        ("sip:ai@h", "127.0.0.1", ("direct", 0)),
        ("sip:AI@h", "127.0.0.1", ("direct", 0)),
        ("sip:ai@h", "192.0.2.99", ("direct", 403)),
        ("sip:bob@h", "127.0.0.1", ("direct", 404)),
        ("sip:bob@h", "192.0.2.99", ("direct", 403)),
        ("sip:1000@h", "192.0.2.10", ("pbx", 0)),
        ("sip:1000@h", "198.51.100.4", ("trunk", 0)),
        ("sip:1000@h", "203.0.113.77", ("trunk", 0)),
        ("sip:1000@h", "192.0.2.99", ("direct", 403)),
        ("sip:1000@h;aiphone=t0ken", "192.0.2.99", ("pbx", 0)),
        ("sip:anything@h;aiphone=t0ken", "192.0.2.99", ("pbx", 0)),
        ("sip:1000@h;aiphone=", "192.0.2.99", ("direct", 403)),
        ("sip:1000@h;aiphone=guess", "192.0.2.99", ("direct", 403)),
        ("sip:1000@h", "not an address", ("direct", 403)),
        ("", "127.0.0.1", ("direct", 404)),
    ],
)
def test_who_may_call_what(uri, source, outcome):
    assert admit(uri, source) == outcome


def test_the_direct_line_for_a_network():
    open_to = {"direct_networks": ("192.0.2.0/24", "2001:db8::/32")}
    assert admit("sip:ai@h", "192.0.2.99", **open_to) == ("direct", 0)
    assert admit("sip:ai@h", "::ffff:192.0.2.99", **open_to) == ("direct", 0)
    assert admit("sip:ai@h", "2001:db8::7", **open_to) == ("direct", 0)
    assert admit("sip:nobody@h", "192.0.2.99", **open_to) == ("direct", 404)
    assert admit("sip:ai@h", "198.51.100.1", **open_to) == ("direct", 403)
    assert admit("sip:ai@h", "127.0.0.1", **open_to) == ("direct", 0)


def test_without_a_direct_line_nobody_gets_in_by_it():
    assert admit("sip:ai@h", "127.0.0.1", direct_line=False) == ("direct", 403)
    assert admit("sip:1000@h", "192.0.2.10", direct_line=False) == ("pbx", 0)


def test_this_machine():
    assert is_this_machine(parse_address("127.0.0.1"))
    assert is_this_machine(parse_address("127.9.9.9"))
    assert is_this_machine(parse_address("::1"))
    assert not is_this_machine(parse_address("192.0.2.1"))
    assert not is_this_machine(parse_address("0.0.0.0"))
    assert not is_this_machine(parse_address("224.0.0.1"))


def test_splitting_addresses():
    assert split_host_port("192.0.2.1:5060") == ("192.0.2.1", 5060)
    assert split_host_port("[2001:db8::1]:5060") == ("2001:db8::1", 5060)
    assert split_host_port("2001:db8::1") == ("2001:db8::1", 0)
    assert split_host_port("host") == ("host", 0)
    assert split_host_port("host:port") == ("host", 0)
    assert split_host_port("") == ("", 0)


def test_the_address_a_caller_is_told():
    assert local_address_towards("127.0.0.1", "0.0.0.0") == "127.0.0.1"
    assert local_address_towards("nonsense", "192.0.2.5") == "192.0.2.5"
    assert advertised_address("", "8.8.8.8", "192.168.1.5") == "192.168.1.5"
    assert advertised_address("9.9.9.9", "8.8.8.8", "192.168.1.5") == "9.9.9.9"
    assert advertised_address("9.9.9.9", "127.0.0.1", "127.0.0.1") == "127.0.0.1"
    assert advertised_address("9.9.9.9", "192.168.1.5", "192.168.1.5") == "192.168.1.5"
    assert advertised_address("9.9.9.9", "192.168.1.9", "192.168.1.5") == "192.168.1.5"
    assert advertised_address("10.0.0.7", "192.168.1.9", "172.17.0.2") == "10.0.0.7"
    assert advertised_address("pbx.example.org", "8.8.8.8", "192.168.1.5") == "pbx.example.org"


def test_a_line_without_auto_answer_rings_first():
    doorman = Doorman(SipSettings())
    doors = (LineDoor.of(replace(PBX, auto_answer=False)), LineDoor.of(TRUNK))
    assert doorman.policy("pbx", doors).answer_after == UNATTENDED_SECONDS
    assert doorman.policy("trunk", doors).answer_after == 0.0
    assert doorman.policy("nobody's", doors) == SipSettings().direct_policy


def test_strangers_may_be_ignored_and_servers_are_trusted():
    request = read_request("INVITE sip:1000@h SIP/2.0\r\n\r\n")
    assert Doorman(SipSettings(strangers="ignore")).admit(request, "192.0.2.99", DOORS).silent
    assert not Doorman(SipSettings()).admit(request, "192.0.2.99", DOORS).silent
    assert Doorman(SipSettings()).admit(request, "192.0.2.10", DOORS).trusted
