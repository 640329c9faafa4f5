"""Addresses that we may call: what goes into a request as it is."""

from __future__ import annotations

import pytest

from aiphone.errors import SipError
from aiphone.sip.addresses import callable_host


@pytest.mark.parametrize(
    ("uri", "host"),
    [
        ("sip:1000@192.168.1.10", "192.168.1.10"),
        ("sip:1000@pbx.example.org:5070", "pbx.example.org"),
        ("sip:+4930123456;phone-context=a@example.org;transport=tcp", "example.org"),
        ("SIP:ai@127.0.0.1", "127.0.0.1"),
        ("sip:[2001:db8::1]:5060", "2001:db8::1"),
    ],
)
def test_what_may_be_called(uri: str, host: str) -> None:
    assert callable_host(uri) == host


@pytest.mark.parametrize(
    "uri",
    [
        "", "1000", "tel:+4930123456", "sip:", "sip:@host", "sip:a@", "sip:a@host:0", "sip:a@host:70000",
        "sip:a@host?Replaces=1", "sip:a@host\r\nVia: x", "sip:a b@host", "sip:a@host>", '"x" <sip:a@host>',
        "sip:a@host;lr", "sip:ä@host", "sip:" + "a" * 300 + "@host", "sip:a@-host",
    ],
)  # fmt: skip
def test_what_may_not_be_called(uri: str) -> None:
    with pytest.raises(SipError, match="is no address that can be called; write it like sip:1000@"):
        callable_host(uri)
