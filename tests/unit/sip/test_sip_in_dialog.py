from __future__ import annotations

import pytest

from aiphone.errors import SipError
from aiphone.sip.addresses import complete_uri
from aiphone.sip.in_dialog import bye_reason, description_in, info_digit
from aiphone.sip.transfers import refer_target


def message(body, kind, *lines, method="INFO"):
    return "\r\n".join([f"{method} sip:a@b SIP/2.0", f"Content-Type: {kind}", *lines, "", body])


@pytest.mark.parametrize(
    ("body", "kind", "digit"),
    [
        ("5", "application/dtmf", "5"),
        ("#\r\n", "application/dtmf", "#"),
        ("10", "application/dtmf", "*"),
        ("11", "application/dtmf; charset=x", "#"),
        ("d=a", "application/dtmf", "A"),
        ("12", "application/dtmf", ""),
        ("hello", "application/dtmf", ""),
        ("", "application/dtmf", ""),
        ("5", "text/plain", ""),
    ],
)
def test_keys_in_info(body, kind, digit):
    assert info_digit(message(body, kind)) == digit


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ('Q.850;cause=16;text="Normal call clearing"', "Normal call clearing"),
        ('SIP ;cause=200 ;text="Call \\"done\\""', 'Call "done"'),
        ("Q.850;cause=31", "Q.850 cause 31"),
        ("preemption", ""),
        ("", ""),
    ],
)
def test_the_reason_in_bye(value, said):
    assert bye_reason(f"BYE sip:a SIP/2.0\r\nReason: {value}\r\n\r\n") == said


def test_a_description_is_known_by_its_type():
    assert description_in(message("v=0", "application/sdp")) == "v=0"
    assert description_in(message("v=0", "text/plain")) == ""


@pytest.mark.parametrize(
    ("value", "uri"),
    [
        ("<sip:desk@192.0.2.1>", "sip:desk@192.0.2.1"),
        ("sip:desk@192.0.2.1", "sip:desk@192.0.2.1"),
        ("<sip:desk@h;method=INVITE>", "sip:desk@h"),
        ("<sip:b@h?Replaces=x%40y%3Bto-tag%3D1>", "sip:b@h"),
        ("<sip:b@h:5070;transport=tcp?Replaces=x&Require=replaces>;q=1", "sip:b@h:5070;transport=tcp"),
    ],
)
def test_whom_we_are_sent_to(value, uri):
    assert refer_target(value) == uri


@pytest.mark.parametrize(
    "value",
    [
        "", "<>", "<http://h>", "<tel:+49>", "<sip:b@h?Route=%3Csip:x%3E>", "<sip:b@h?body=x>",
        "<sip:b@h?Replaces=x&Via=1>",
        "<sip:b@h> <sip:c@h>", "<sip:b@h\r\nX: 1>", "<sip:b@h;method=BYE>",
    ],
)  # fmt: skip
def test_whom_we_do_not_call(value):
    with pytest.raises(SipError):
        refer_target(value)


def test_a_number_is_completed_with_the_lines_server():
    assert complete_uri("1002", "pbx:5070") == "sip:1002@pbx:5070"
    assert complete_uri("*97#", "pbx") == "sip:*97%23@pbx"
    assert complete_uri("sip:a@b", "pbx") == "sip:a@b"
    for text, server in (("1002", ""), ("10 02", "pbx"), ("a@b", "pbx"), ("http://h", "pbx")):
        with pytest.raises(SipError):
            complete_uri(text, server)
