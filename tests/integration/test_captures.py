"""The check of captures finds what is wrong, and finds it with us only."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from captures import Capture

pytestmark = pytest.mark.integration

SDP = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio {port} RTP/AVP 0\r\n"
INVITE = (
    "INVITE sip:x@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bKx\r\nMax-Forwards: 70\r\n"
    "From: <sip:a@127.0.0.1>;tag=1\r\nTo: <sip:x@127.0.0.1>\r\nCall-ID: 1@x\r\nCSeq: 1 INVITE\r\n"
    "Contact: <sip:a@127.0.0.1>\r\nContent-Type: application/sdp\r\nContent-Length: {length}\r\n\r\n{body}"
)
RTP = bytes.fromhex("80000001000000a000000001") + b"\xff" * 160
CUT = bytes.fromhex("8f000002000000a000000001")  # fifteen contributing sources, and not one of them there


def test_what_is_malformed_is_found_where_it_is_ours(tmp_path: Path) -> None:
    with Capture(tmp_path / "x.pcap") as capture:
        with (
            socket.socket(type=socket.SOCK_DGRAM) as ours, socket.socket(type=socket.SOCK_DGRAM) as media,
            socket.socket(type=socket.SOCK_DGRAM) as theirs,
        ):  # fmt: skip
            for one in (ours, media, theirs):
                one.bind(("127.0.0.1", 0))
            port, media_port = ours.getsockname()[1], media.getsockname()[1]
            body = SDP.format(port=media_port)
            ours.sendto(INVITE.format(body=body, length=len(body)).encode(), theirs.getsockname())
            media.sendto(RTP, theirs.getsockname())
            theirs.sendto(CUT, media.getsockname())
            capture.wait_for(b"\x8f\x00\x00\x02")
            capture.check(sip_ports=[port], ours=[port], least={"sip": 1, "rtp": 1})
            media.sendto(CUT, theirs.getsockname())
            theirs.sendto(b"the end", ours.getsockname())
            capture.wait_for(b"the end")
        with pytest.raises(AssertionError, match="malformed"):
            capture.check(sip_ports=[port], ours=[port], least={})
        with pytest.raises(AssertionError, match="less than"):
            capture.check(sip_ports=[], ours=[], least={"rtcp": 1})
