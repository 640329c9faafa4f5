"""SIP messages: what is read, what is written, what is refused."""

import pytest

from aiphone.caller.messages import (
    MalformedMessageError,
    NameAddress,
    Request,
    Response,
    SipUri,
    Via,
    join_host_port,
    parse,
    split_outside_quotes,
)

INVITE = (
    b"INVITE sip:ai@127.0.0.1:5060 SIP/2.0\r\n"
    b"Via: SIP/2.0/UDP 10.0.0.1:5070;branch=z9hG4bKabc;rport\r\n"
    b'From: "A, B" <sip:a@10.0.0.1>;tag=1\r\n'
    b"To: <sip:ai@127.0.0.1>\r\n"
    b"Call-ID: x@10.0.0.1\r\n"
    b"CSeq: 7 INVITE\r\n"
    b"Content-Length: 4\r\n\r\n"
    b"v=0\n"
)


def test_a_message_survives_reading_and_writing() -> None:
    message = parse(INVITE)
    assert isinstance(message, Request)
    assert (message.method, message.uri, message.body) == ("INVITE", "sip:ai@127.0.0.1:5060", b"v=0\n")
    assert message.serialise() == INVITE


def test_parts_are_found() -> None:
    message = parse(INVITE)
    assert message.cseq == (7, "INVITE")
    assert message.from_ == NameAddress("A, B", "sip:a@10.0.0.1", {"tag": "1"})
    assert message.from_.tag == "1"
    assert message.to.tag == ""
    assert (message.via.host, message.via.port, message.via.branch) == ("10.0.0.1", 5070, "z9hG4bKabc")
    assert "rport" in message.via.parameters


def test_lenient_reading() -> None:
    message = parse(
        b"\r\n\r\nsip/2.0 486\nv: SIP / 2.0 / UDP host ;branch=z9hG4bKq, SIP/2.0/TCP b\nf:<sip:a@b>;tag=2\n"
        b"T : sip:c@d;tag=3\nl: 9999\nm: <sip:x@y>,\n  <sip:z@y>\ngarbage without colon\n\nrest\xff"
    )
    assert isinstance(message, Response)
    assert (message.status, message.reason) == (486, "")
    assert message.get("To") == "sip:c@d;tag=3"
    assert message.to.tag == "3"
    assert message.get_all("Contact") == ["<sip:x@y>", "<sip:z@y>"]
    assert [Via.parse(v).transport for v in message.get_all("Via")] == ["UDP", "TCP"]
    assert message.body == b"rest\xff"


def test_bytes_that_are_no_utf8_come_through_unchanged() -> None:
    data = INVITE.replace(b"A, B", b"A\xe9")
    assert parse(data).serialise() == data


@pytest.mark.parametrize(
    "data", [b"", b"\r\n", b"hello", b"INVITE sip:a@b HTTP/1.1\r\n\r\n", b"SIP/2.0 20 OK\r\n\r\n", b"\x80\x00" * 20]
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedMessageError, match="does not begin a SIP message"):
        parse(data)


def test_a_message_without_via_cannot_be_answered() -> None:
    with pytest.raises(MalformedMessageError, match="no Via"):
        _ = parse(b"OPTIONS sip:a@b SIP/2.0\r\nCSeq: x OPTIONS\r\n\r\n").via
    with pytest.raises(MalformedMessageError, match="cannot be understood"):
        Via.parse("nonsense")


def test_headers_can_be_changed() -> None:
    message = parse(INVITE)
    message.set("f", "<sip:new@host>;tag=9")
    message.add("X-Test", "1")
    message.add("x-test", "2, 3")
    message.remove("to")
    assert message.headers[1] == ("f", "<sip:new@host>;tag=9")
    assert message.get_all("X-TEST") == ["1", "2", "3"]
    assert message.get("To", "none") == "none"


def test_a_response_copies_what_it_must() -> None:
    request = parse(INVITE.replace(b"From:", b"Record-Route: <sip:p1;lr>\r\nRecord-Route: <sip:p2;lr>\r\nFrom:"))
    assert isinstance(request, Request)
    response = request.response(200, to_tag="mine")
    assert response.get("To") == "<sip:ai@127.0.0.1>;tag=mine"
    assert response.get("Via") == request.get("Via")
    assert response.get_all("Record-Route") == ["<sip:p1;lr>", "<sip:p2;lr>"]
    assert (response.reason, response.cseq, response.call_id) == ("OK", (7, "INVITE"), "x@10.0.0.1")
    assert request.response(404).get_all("Record-Route") == []


@pytest.mark.parametrize(
    ("text", "user", "host", "port"),
    [
        ("sip:a@b", "a", "b", None),
        ("SIPS:a:pw@b:5061;transport=tls?x=y", "a:pw", "b", 5061),
        ("sip:127.0.0.1:5060", "", "127.0.0.1", 5060),
        ("sip:a@[::1]:5062;lr", "a", "::1", 5062),
    ],
)
def test_addresses(text: str, user: str, host: str, port: int | None) -> None:
    uri = SipUri.parse(text)
    assert (uri.user, uri.host, uri.port) == (user, host, port)


@pytest.mark.parametrize("text", ["", "a@b", "http://a", "sip:", "sip:a@"])
def test_wrong_addresses_are_refused(text: str) -> None:
    with pytest.raises(MalformedMessageError, match="write it like sip:"):
        SipUri.parse(text)


def test_separators_in_quotes_and_brackets_do_not_separate() -> None:
    assert split_outside_quotes(r'"a,\"b" <sip:x,y>, c,,', ",") == [r'"a,\"b" <sip:x,y>', "c"]


def test_ipv6_gets_brackets() -> None:
    assert join_host_port("::1", 5060) == "[::1]:5060"
    assert join_host_port("127.0.0.1", 5060) == "127.0.0.1:5060"
