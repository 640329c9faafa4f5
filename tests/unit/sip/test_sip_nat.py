"""Whose Contact is not believed, and what it becomes."""

from __future__ import annotations

import pytest

from aiphone.sip.nat import mended_contact


def invite(contact: str, *vias: str, extra: str = "") -> str:
    lines = ["INVITE sip:ai@203.0.113.1 SIP/2.0", *(f"Via: {via}" for via in vias), f"Contact: {contact}"]
    return "\r\n".join([*lines, *([extra] if extra else []), "", ""])


def answer(contact: str) -> str:
    return f"SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 203.0.113.1:5060;rport=5060\r\nm: {contact}\r\n\r\n"


PHONE = "SIP/2.0/UDP 192.168.1.5:5060;rport;branch=z9hG4bK1"


@pytest.mark.parametrize(
    ("contact", "mended"),
    [
        ("<sip:bob@192.168.1.5:5060>", "<sip:bob@198.51.100.7:6000>"),
        ("<sip:192.168.1.5>;expires=60", "<sip:198.51.100.7:6000>;expires=60"),
        ('"Bob" <sip:bob@192.168.1.5:5060;ob;transport=tcp>', '"Bob" <sip:bob@198.51.100.7:6000;ob;transport=tcp>'),
        ("sip:bob@192.168.1.5:5060", "sip:bob@198.51.100.7:6000"),
        ("<sip:bob%40h@192.168.1.5>", "<sip:bob%40h@198.51.100.7:6000>"),
    ],
)
def test_a_phone_behind_nat_is_reached_where_it_came_from(contact: str, mended: str) -> None:
    assert mended_contact(invite(contact, PHONE), "198.51.100.7:6000") == mended


@pytest.mark.parametrize(
    "message",
    [
        invite("<sip:bob@192.168.1.5:5060>", "SIP/2.0/UDP 198.51.100.7:5060", PHONE),  # by way of a proxy
        invite("<sip:bob@192.168.1.5:5060>", f"SIP/2.0/UDP 198.51.100.7:5060, {PHONE}"),
        invite("<sip:bob@192.168.1.5:5060>", PHONE, extra="Record-Route: <sip:198.51.100.7;lr>"),
        invite("<sip:bob@192.168.1.5:5060>", "SIP/2.0/UDP 198.51.100.7:5060"),  # another's Contact
        invite("<sip:bob@203.0.113.9:5060>", "SIP/2.0/UDP 203.0.113.9:5060"),  # public: with a reason
        invite("<sip:bob@phone.example>", PHONE),
        invite("<sip:bob@198.51.100.7:5061>", "SIP/2.0/UDP 198.51.100.7:5060"),
        invite("*", PHONE),
        invite("", PHONE),
        invite("<sip:bob@192.168.1.5:5060>"),
        "",
    ],
)
def test_a_contact_that_may_be_right_is_left_alone(message: str) -> None:
    assert mended_contact(message, "198.51.100.7:6000") == ""


def test_an_answer_from_behind_nat() -> None:
    assert mended_contact(answer("<sip:bob@10.0.0.5>"), "198.51.100.7:6000") == "<sip:bob@198.51.100.7:6000>"
    assert mended_contact(answer("<sip:bob@10.0.0.5>"), "10.0.0.2:5060") == ""
    assert mended_contact(answer("<sip:bob@10.0.0.5>"), "127.0.0.1:5060") == ""


def test_in_ipv6() -> None:
    phone = invite("<sip:bob@[fd00::5]:5060>", "SIP/2.0/UDP [fd00::5]:5060;rport")
    assert mended_contact(phone, "[2001:db8::7]:6000") == "<sip:bob@[2001:db8::7]:6000>"
