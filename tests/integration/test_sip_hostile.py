"""What no proper user agent sends: the process lives, a call in progress goes on, memory and log stay small.

In the spirit of RFC 4475; each message is wrong, or odd though right, in the way its name says.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator

import pytest
from sip_harness import Agent, Peer, close_all, sdp

pytestmark = pytest.mark.integration

ROUNDS = int(os.environ.get("AIPHONE_TEST_ROUNDS", "1"))
FLOOD = 400 * ROUNDS
"""Messages of a flood."""

HEAD = (
    "Via: SIP/2.0/UDP {me};branch=z9hG4bK{n};rport\r\nMax-Forwards: 70\r\nFrom: <sip:x@{me}>;tag=t{n}\r\n"
    "To: <sip:ai@127.0.0.1>\r\nCall-ID: {n}@hostile\r\nContact: <sip:x@{me}>\r\n"
)
INVITE = "INVITE sip:ai@127.0.0.1 SIP/2.0\r\n"
PLAIN = INVITE + HEAD + "CSeq: 1 INVITE\r\n"

MESSAGES: dict[str, str] = {
    # RFC 4475 section 3.1.1: odd, and right.
    "folded and compact headers": INVITE + "v: SIP/2.0/UDP {me}\r\n ;branch=z9hG4bK{n}\r\nMAX-FORWARDS :\r\n 70\r\n"
    "f: \"quote \\\" me\" <sip:x@{me}>\r\n ; tag=t{n}\r\nt: <sip:nobody@127.0.0.1>\r\ni:{n}@hostile\r\n"
    "cseq: 0009\r\n INVITE\r\nm: <sip:x@{me}>\r\nl: 0\r\n\r\n",
    "escapes in the user": PLAIN.replace("sip:ai@", "sip:%61%69%00%0d%0a@") + "\r\n",
    "a method of many characters":
        "!i.m_a%t*e+d`~ sip:ai@127.0.0.1 SIP/2.0\r\n" + HEAD + "CSeq: 1 !i.m_a%t*e+d`~\r\n\r\n",
    "unknown URI scheme": PLAIN.replace("sip:ai@127.0.0.1 SIP", "nobodyKnowsThisScheme:totally+opaque SIP") + "\r\n",
    "tel URI": PLAIN.replace("sip:ai@127.0.0.1 SIP", "tel:+4930123 SIP") + "\r\n",
    "no user": PLAIN.replace("sip:ai@127.0.0.1 SIP", "sip:127.0.0.1 SIP") + "\r\n",
    # 3.1.2: wrong.
    "Content-Length larger than the body": PLAIN + "Content-Length: 9999\r\n\r\nv=0\r\n",
    "negative Content-Length": PLAIN + "Content-Length: -999\r\n\r\nv=0\r\n",
    "Content-Length is no number": PLAIN + "Content-Length: many\r\n\r\n",
    "two Content-Lengths": PLAIN + "Content-Length: 0\r\nContent-Length: 5\r\n\r\nhello",
    "numbers out of range": PLAIN.replace("CSeq: 1 ", "CSeq: 36893488147419103232 ")
    + "Expires: 10000000000000000000\r\nMax-Forwards: 300\r\n\r\n",
    "CSeq of another method": PLAIN.replace("CSeq: 1 INVITE", "CSeq: 1 BYE") + "\r\n",
    "no CSeq": INVITE + HEAD + "\r\n",
    "no Via": INVITE + "From: <sip:a@b>;tag=1\r\nTo: <sip:ai@c>\r\nCall-ID: x\r\nCSeq: 1 INVITE\r\n\r\n",
    "no Call-ID": PLAIN.replace("Call-ID: {n}@hostile\r\n", "") + "\r\n",
    "a quote that does not end": PLAIN.replace("From: <", 'From: "open <') + "\r\n",
    "angle bracket that does not end": PLAIN.replace("To: <sip:ai@127.0.0.1>", "To: <sip:ai@127.0.0.1") + "\r\n",
    "another version": PLAIN.replace("SIP/2.0\r\n", "SIP/7.0\r\n", 1) + "\r\n",
    "spaces in the Request-URI": PLAIN.replace("sip:ai@127.0.0.1 SIP", "sip:ai@127.0.0.1; lr SIP") + "\r\n",
    "bad date, bad authorization": PLAIN + "Date: never\r\nAuthorization: Digest n=,,,\"\r\n\r\n",
    "an answer to nothing": "SIP/2.0 200 OK\r\n" + HEAD + "CSeq: 1 INVITE\r\n\r\n",
    "an answer out of range": "SIP/2.0 4294967301 better\r\n" + HEAD + "CSeq: 1 INVITE\r\n\r\n",
    "Max-Forwards is zero": PLAIN.replace("Max-Forwards: 70", "Max-Forwards: 0") + "\r\n",
    "a hundred Vias": INVITE + "".join(f"Via: SIP/2.0/UDP h{i};branch=z9hG4bK{i}\r\n" for i in range(100))
    + HEAD + "CSeq: 1 INVITE\r\n\r\n",
    "ten thousand characters in one header": PLAIN + "Subject: " + "x" * 7000 + "\r\n\r\n",
    "five hundred headers": PLAIN + "".join(f"X-{i}: y\r\n" for i in range(500)) + "\r\n",
    "multipart body without a boundary": PLAIN + "Content-Type: multipart/mixed\r\nContent-Length: 5\r\n\r\nhello",
    "a description that is all media":
        PLAIN + "Content-Type: application/sdp\r\n\r\nv=0\r\n" + "m=audio 1 RTP/AVP 0\r\n" * 200,
    "a REGISTER for us": "REGISTER sip:127.0.0.1 SIP/2.0\r\n" + HEAD + "CSeq: 1 REGISTER\r\nExpires: 1\r\n\r\n",
    "a SUBSCRIBE to nothing":
        "SUBSCRIBE sip:ai@127.0.0.1 SIP/2.0\r\n" + HEAD + "CSeq: 1 SUBSCRIBE\r\nEvent: none\r\n\r\n",
    "a CANCEL of nothing": "CANCEL sip:ai@127.0.0.1 SIP/2.0\r\n" + HEAD + "CSeq: 1 CANCEL\r\n\r\n",
    "a NOTIFY nobody asked for":
        "NOTIFY sip:ai@127.0.0.1 SIP/2.0\r\n" + HEAD + "CSeq: 1 NOTIFY\r\nEvent: refer\r\n\r\n",
}  # fmt: skip


@pytest.fixture(scope="module")
def world() -> Iterator[tuple[Agent, Peer]]:
    """The agent, and a telephone in a call with it all the time."""
    agent = Agent(settings={"max_calls": 50})
    friend = Peer(agent.port)
    friend.call()
    agent.wait("IncomingCall")
    agent.wait("CallConfirmed")
    yield agent, friend
    friend.bye()
    agent.wait("CallEnded")
    stopped = agent.stop()
    close_all()
    assert stopped is not None
    assert stopped["sockets"] == 0
    assert not [line for line in agent.errors if "Traceback" in line], agent.errors[-20:]


def still_talking(friend: Peer) -> None:
    """The call in progress takes a re-INVITE as if nothing had been."""
    friend.request("INVITE", sdp(40_000, version=int(time.monotonic() * 1000)))
    friend.ack(friend.expect(200))


@pytest.mark.behaviour("Torture messages", "RFC 4475")
def test_torture(world: tuple[Agent, Peer]) -> None:
    agent, friend = world
    stranger = Peer(agent.port)
    for number, (name, text) in enumerate(MESSAGES.items()):
        stranger.send(text.replace("{me}", stranger.local).replace("{n}", f"{number}x"))
        assert agent.process.poll() is None, name
    for cut in range(0, 400, 7):
        whole = (PLAIN + "\r\n").replace("{me}", stranger.local).replace("{n}", f"c{cut}")
        stranger.send(whole[:cut])
    stranger.begin()
    stranger.request("OPTIONS")
    stranger.expect(200)
    still_talking(friend)
    agent.do("status")
    # Whoever got as far as a call is let go: an INVITE without an ACK would be one for half a minute.
    for event in [event for event in agent.seen if event["event"] == "IncomingCall"]:
        agent.do("hangup", call_id=event["call_id"])


@pytest.mark.behaviour("Broken and slow streams over TCP", "RFC 3261 sections 18.3, 26.1.5")
def test_tcp_that_lies_about_lengths(world: tuple[Agent, Peer]) -> None:
    agent, friend = world
    address = ("127.0.0.1", agent.port)
    before = agent.ask("facts")["rss_kb"]
    head = PLAIN.replace("UDP", "TCP").replace("{me}", "127.0.0.1:9").replace("{n}", "tcp")
    open_ones = [socket.create_connection(address, timeout=5) for _ in range(6 * ROUNDS)]
    try:
        for number, connection in enumerate(open_ones):
            part = (
                head + "Content-Length: 100000\r\n\r\n", head + "Content-Length: -1\r\n\r\n" + "x" * 100, "x" * 20_000,
                "\r\n" * 3000, head[: number % 300], "INVITE ",
            )[number % 6]  # fmt: skip
            try:
                connection.sendall(part.encode())
                for _ in range(3):
                    connection.sendall(b"x" * 3000)
            except OSError:
                continue  # closed by the other side, as it may be
        still_talking(friend)
    finally:
        for connection in open_ones:
            connection.close()
    still_talking(friend)
    assert agent.ask("facts")["rss_kb"] - before < 30_000


@pytest.mark.behaviour("Floods of INVITE, REGISTER and OPTIONS from many sources", "RFC 3261 section 26.1.5")
def test_floods(world: tuple[Agent, Peer]) -> None:
    agent, friend = world
    still_talking(friend)
    before, lines = agent.ask("facts"), len(agent.errors)
    sources = [Peer(agent.port, user="nobody", local=f"127.0.0.{n}") for n in range(2, 12)]
    for number in range(FLOOD):
        source = sources[number % len(sources)]
        source.begin()
        source.request(("INVITE", "REGISTER", "OPTIONS")[number % 3], sdp(40_000) if number % 3 == 0 else "")
        if number % 100 == 0:
            still_talking(friend)
    still_talking(friend)
    after = agent.ask("facts")
    assert after["sockets"] == before["sockets"]
    assert after["rss_kb"] - before["rss_kb"] < 8_000
    assert len(agent.errors) - lines < 60, "the log is a weapon"


@pytest.mark.behaviour("A call that is hung up before its ACK has come: the 200 is repeated, BYE waits for the ACK",
                       "RFC 3261 sections 13.3.1.4, 15")  # fmt: skip
def test_nobody_acknowledges(world: tuple[Agent, Peer]) -> None:
    agent, friend = world
    agent.seen.clear()
    lost = [Peer(agent.port) for _ in range(5)]
    for one in lost:
        one.request("INVITE", sdp(40_000))
        answer = one.expect(200)
    for _ in lost:
        call_id = agent.wait("IncomingCall")["call_id"]
        agent.do("hangup", call_id=call_id)
    again = lost[-1].expect(200)
    assert again.first == answer.first
    still_talking(friend)
    for one in lost:
        one.ack(one.expect(200))
        one.reply(one.expect("BYE"), 200)
    for _ in lost:
        agent.wait("CallEnded")
    still_talking(friend)


@pytest.mark.sip_all
@pytest.mark.behaviour("A caller who vanishes between 200 and ACK: the call is given up, and its record says why",
                       "RFC 3261 section 13.3.1.4")  # fmt: skip
def test_the_caller_vanishes_before_the_ack(world: tuple[Agent, Peer]) -> None:
    agent, friend = world
    agent.seen.clear()
    gone = Peer(agent.port)
    gone.request("INVITE", sdp(40_000))
    gone.expect(200)
    call_id = agent.wait("IncomingCall")["call_id"]
    ended = agent.wait("CallEnded", call_id=call_id, timeout=45)
    assert (ended["code"], ended["reason"]) == (408, "the caller never acknowledged our answer (no ACK came)")
    # Calls of the torture test that nobody acknowledged were given up before it, so that only the friend's is left.
    assert agent.ask("facts")["sockets"] == 1
    still_talking(friend)
