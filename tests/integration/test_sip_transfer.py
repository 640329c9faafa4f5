"""Transfers with three parties, and forks: each side a plain socket that says what the standard has it say."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from captures import Capture
from sip_harness import Agent, Message, Peer, close_all, sdp

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def shared(capture: Capture) -> Iterator[Agent]:
    agent = Agent(settings={"direct_policy": {"transfers": True}})
    assert agent.started["event"] == "started", agent.started
    yield agent
    stopped = agent.stop()
    capture.check(sip_ports=[agent.port], ours=[agent.port], least={"sip": 5})
    assert stopped is not None
    assert stopped["sockets"] == 0
    assert not [line for line in agent.errors if "Traceback" in line], agent.errors


@pytest.fixture
def agent(shared: Agent) -> Iterator[Agent]:
    shared.seen.clear()
    yield shared
    close_all()
    deadline = time.monotonic() + 5
    while shared.ask("status")["active_calls"] or shared.ask("facts")["sockets"]:
        assert time.monotonic() < deadline, "a call or its sockets were left behind"
    ended = [event["call_id"] for event in shared.seen if event["event"] == "CallEnded"]
    assert len(ended) == len(set(ended)), "a call ended twice"


def tag(value: str) -> str:
    found = re.search(r"tag=([^;>\s]+)", value)
    assert found is not None
    return found[1]


def uri(value: str) -> str:
    found = re.search(r"<([^>]+)>", value)
    return found[1] if found else value


class Callee(Peer):
    """A telephone that is called."""

    @property
    def address(self) -> str:
        return f"sip:callee@{self.local}"

    def take(self, port: int, *, wait: tuple[Any, ...] = ("INVITE",)) -> Message:
        """Answer the next INVITE with our description; the INVITE."""
        invite = self.expect(*wait)
        self.answer(invite, 200, sdp(port))
        self.expect("ACK")
        self.to, self.from_ = invite["from"], f"{invite['to']};tag=callee"
        self.call_id, self.contact = invite["call-id"], uri(invite["contact"])
        self.cseq = 100
        return invite

    def answer(self, request: Message, code: int, body: str = "", own_tag: str = "callee") -> None:
        request.headers = [
            (k, v + f";tag={own_tag}" if k == "to" and "tag=" not in v else v) for k, v in request.headers
        ]
        self.reply(request, code, body=body)


def notified(peer: Peer) -> str:
    """The next NOTIFY's status line."""
    notify = peer.expect("NOTIFY")
    peer.reply(notify, 200)
    return str(notify.body.strip())


@pytest.mark.behaviour("The caller transfers us (blind): the conversation goes on with the third party",
                       "RFC 3515, RFC 5589 section 6")  # fmt: skip
def test_we_are_transferred_blind(agent: Agent) -> None:
    caller, third = Peer(agent.port), Callee(agent.port)
    caller.call(sdp(40_000))
    call_id = agent.wait("IncomingCall")["call_id"]
    first = agent.wait("MediaNegotiated")
    agent.wait("CallConfirmed")
    caller.request("REFER", extra=[f"Refer-To: <{third.address}>", "Referred-By: <sip:boss@example.org>"])
    caller.expect(202)
    assert notified(caller) == "SIP/2.0 100 Trying"
    invite = third.take(40_100)
    assert invite["referred-by"] == "<sip:boss@example.org>"
    # The same RTP port: nothing of the conversation has to be made anew.
    assert f"m=audio {first['sockets']['port']} " in invite.body
    assert notified(caller) == "SIP/2.0 200 OK"
    moved = agent.wait("CallMoved")
    assert (moved["call_id"], moved["sip_call_id"]) == (call_id, invite["call-id"])
    assert moved["remote"].startswith("sip:callee@127.0.0.1")
    media = agent.wait("MediaNegotiated")
    assert (media["call_id"], media["sockets"]) == (call_id, None)
    assert media["stream"]["remote_port"] == 40_100
    caller.bye()
    assert agent.count("CallEnded") == 0, "the call is over for the caller, not for us"
    third.bye()
    assert agent.wait("CallEnded")["call_id"] == call_id


@pytest.mark.behaviour("A caller who hangs up at once after transferring us", "RFC 5589 section 6")
def test_the_caller_does_not_wait_for_the_outcome(agent: Agent) -> None:
    caller, third = Peer(agent.port), Callee(agent.port)
    caller.call(sdp(40_000))
    call_id = agent.wait("CallConfirmed")["call_id"]
    caller.request("REFER", extra=[f"Refer-To: <{third.address}>"])
    caller.expect(202)
    caller.bye()
    third.take(40_100)
    assert agent.wait("CallMoved")["call_id"] == call_id
    agent.do("hangup", call_id=call_id)
    third.reply(third.expect("BYE"), 200)
    agent.wait("CallEnded", call_id=call_id)


@pytest.mark.behaviour(
    "We are transferred to somebody who is busy, after the caller has hung up", "RFC 5589 section 6.1"
)
def test_a_transfer_that_fails_behind_the_callers_back(agent: Agent) -> None:
    caller, third = Peer(agent.port), Callee(agent.port)
    caller.call(sdp(40_000))
    call_id = agent.wait("CallConfirmed")["call_id"]
    caller.request("REFER", extra=[f"Refer-To: <{third.address}>"])
    caller.expect(202)
    invite = third.expect("INVITE")
    caller.bye()
    third.answer(invite, 486)
    third.expect("ACK")
    assert agent.wait("CallEnded", call_id=call_id)["code"] == 486


@pytest.mark.behaviour("The caller transfers us to somebody they talk with (attended)",
                       "RFC 3891, RFC 5589 section 7")  # fmt: skip
def test_we_are_transferred_attended(agent: Agent) -> None:
    caller, third = Peer(agent.port), Callee(agent.port)
    caller.call(sdp(40_000))
    call_id = agent.wait("CallConfirmed")["call_id"]
    replaces = quote("other@dialog;to-tag=a;from-tag=b", safe="")
    caller.request("REFER", extra=[f"Refer-To: <{third.address}?Replaces={replaces}>"])
    caller.expect(202)
    invite = third.take(40_100)
    assert invite["replaces"].replace(" ", "") == "other@dialog;to-tag=a;from-tag=b"
    caller.bye()
    agent.wait("CallMoved")
    third.bye()
    agent.wait("CallEnded", call_id=call_id)


@pytest.mark.behaviour("Somebody takes the caller's place (Replaces); the conversation goes on", "RFC 3891 section 3")
def test_somebody_takes_the_callers_place(agent: Agent) -> None:
    caller, boss = Peer(agent.port), Peer(agent.port)
    caller.call(sdp(40_000))
    call_id = agent.wait("CallConfirmed")["call_id"]
    agent.wait("MediaNegotiated")
    replaces = f"Replaces: {caller.call_id};to-tag={tag(caller.to)};from-tag={tag(caller.from_)}"
    boss.call(sdp(40_200, codecs=(8,)), extra=[replaces])
    caller.reply(caller.expect("BYE"), 200)
    moved = agent.wait("CallMoved")
    assert (moved["call_id"], moved["sip_call_id"]) == (call_id, boss.call_id)
    media = agent.wait("MediaNegotiated")
    assert (media["stream"]["codec"], media["stream"]["remote_port"]) == ("PCMA", 40_200)
    assert agent.count("CallEnded") == 0
    assert agent.count("IncomingCall") == 1
    boss.bye()
    agent.wait("CallEnded", call_id=call_id)


@pytest.mark.behaviour("We transfer the caller to somebody we talk with (attended)", "RFC 3891, RFC 5589 section 7")
def test_we_transfer_attended(agent: Agent) -> None:
    caller, third = Peer(agent.port), Callee(agent.port)
    caller.call(sdp(40_000))
    call_id = agent.wait("CallConfirmed")["call_id"]
    agent.do("place_call", call_id="consult", uri=third.address, line_id=None)
    invite = third.take(40_100)
    agent.wait("CallConfirmed", call_id="consult")
    agent.do("transfer_to_call", call_id=call_id, other_call_id="consult")
    refer = caller.expect("REFER")
    caller.reply(refer, 202)
    assert "Replaces=" in refer["refer-to"]
    assert quote(invite["call-id"], safe="") in refer["refer-to"] or invite["call-id"] in refer["refer-to"]
    caller.request(
        "NOTIFY",
        "SIP/2.0 200 OK\r\n",
        extra=["Event: refer", "Subscription-State: terminated;reason=noresource"],
        kind="message/sipfrag;version=2.0",
    )
    caller.reply(caller.expect("BYE"), 200)
    third.reply(third.expect("BYE"), 200)
    for name in (call_id, "consult"):
        assert agent.wait("CallEnded", call_id=name)["reason"] == "transferred"


@pytest.mark.behaviour("A call of ours is answered by two telephones: the first has it, the other is hung up",
                       "RFC 3261 section 13.2.2.4")  # fmt: skip
def test_a_fork_with_two_answers(agent: Agent) -> None:
    third = Callee(agent.port)
    agent.do("place_call", call_id="forked", uri=third.address, line_id=None)
    invite = third.expect("INVITE")
    plain = list(invite.headers)
    third.answer(invite, 180, own_tag="one")
    invite.headers = list(plain)
    third.answer(invite, 200, sdp(40_100), own_tag="one")
    assert tag(third.expect("ACK")["to"]) == "one"
    invite.headers = list(plain)
    third.answer(invite, 200, sdp(40_102), own_tag="two")
    assert tag(third.expect("ACK")["to"]) == "two"
    bye = third.expect("BYE")
    assert tag(bye["to"]) == "two"
    third.reply(bye, 200)
    assert agent.wait("MediaNegotiated", call_id="forked")["stream"]["remote_port"] == 40_100
    agent.wait("CallConfirmed", call_id="forked")
    agent.do("hangup", call_id="forked")
    bye = third.expect("BYE")
    assert tag(bye["to"]) == "one"
    third.reply(bye, 200)
    agent.wait("CallEnded", call_id="forked")
