from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aiphone.sip.message import MAX_FIELD, body_of, header, read_request, retry_after

INVITE = (
    "INVITE sip:1%30:pw@192.0.2.1:5070;aiphone=ab12;lr?x=y SIP/2.0\r\n"
    'From:  "A \\"B\\" C"\r\n <sip:alice@example.org;user=phone>;tag=7\r\n'
    "i: abc@host\r\nContent-Length: 3\r\n\r\nv=0"
)


def test_an_invite():
    request = read_request(INVITE)
    assert request.uri == "sip:1%30:pw@192.0.2.1:5070;aiphone=ab12;lr?x=y"
    assert request.user == "10"
    assert request.parameters == {"aiphone": "ab12", "lr": ""}
    assert (request.caller, request.caller_name) == ("sip:alice@example.org", 'A "B" C')
    assert request.call_id == "abc@host"
    assert body_of(INVITE) == "v=0"


def test_forms_of_from():
    def caller(value):
        request = read_request(f"INVITE sip:a@b SIP/2.0\r\nf: {value}\r\n\r\n")
        return request.caller_name, request.caller

    assert caller("sip:bob@h;tag=1") == ("", "sip:bob@h")
    assert caller("Bob Smith <sip:bob@h>;tag=1") == ("Bob Smith", "sip:bob@h")
    assert caller("<tel:+4930123>;tag=1") == ("", "tel:+4930123")
    assert caller('"unfinished <sip:x@y>') == ("", "")
    assert caller("<sip:x@y") == ("", "sip:x@y")
    assert caller("") == ("", "")


def test_a_request_uri_without_user_or_of_another_kind():
    assert read_request("INVITE sip:host SIP/2.0\r\n\r\n").user == ""
    assert read_request("INVITE tel:123 SIP/2.0\r\n\r\n").user == ""
    assert read_request("").uri == ""


def test_headers():
    message = "SIP/2.0 503 X\r\nRetry-After: 120 (resting);duration=60\r\n\r\nRetry-After: 1\r\n"
    assert retry_after(message) == 120
    assert header(message, "retry-after").startswith("120")
    assert retry_after("SIP/2.0 503 X\r\nRetry-After: soon\r\n\r\n") is None
    assert retry_after("SIP/2.0 503 X\r\n\r\nRetry-After: 1\r\n") is None


@given(st.text(max_size=300) | st.binary(max_size=300).map(lambda b: b.decode("utf-8", "surrogateescape")))
def test_any_text_is_read_and_what_comes_out_is_harmless(text):
    for message in (
        text,
        "INVITE " + text,
        f"INVITE sip:{text}@h SIP/2.0\r\nFrom: {text}\r\ni: {text}\r\n\r\n",
    ):
        request = read_request(message)
        for value in (request.uri, request.user, request.caller, request.caller_name, request.call_id):
            value.encode()
            assert len(value) <= MAX_FIELD
            assert "\n" not in value
            assert "\r" not in value
        retry_after(message)
        body_of(message)
