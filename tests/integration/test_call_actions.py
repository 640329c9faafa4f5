"""Calls in which the assistant acts: real SIP, RTP, Whisper and Piper; the language model's words are given."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from callers import answer, heard
from openai_stand_in import StandIn, good
from server_process import Server, in_loop, spoken

from aiphone.caller import Caller, OutgoingCall

pytestmark = pytest.mark.integration

ASKED = "Sales, please."
TARGET = "sip:sales@127.0.0.1:5999"
CONNECTING = good("I will connect", " you. [trans", "fer sales]")


@pytest.fixture(scope="module")
def model() -> Iterator[StandIn]:
    model = StandIn()
    yield model
    model.close()


@pytest.fixture(scope="module")
def server(model: StandIn) -> Iterator[Server]:
    spoken(ASKED)  # before a call waits for it
    flags = ("--greeting", "", "--filler", "", "--idle-after", "0", "--llm-url", model.url)
    flags += ("--actions", "transfer, hang up, press, hold", "--transfers", f"sales = {TARGET}")
    with Server(*flags) as server:
        yield server
        assert server.stop() == 0
        assert "Traceback" not in server.log


def requests(call: OutgoingCall, method: str) -> list[str]:
    return [request.serialise().decode() for request in call.requests if request.method == method]


async def notify(call: OutgoingCall, status: str) -> None:
    """Say how the call to the transfer's target went (RFC 3515 section 2.4.5)."""
    event, state = ("Event", "refer"), ("Subscription-State", "terminated;reason=noresource")
    kind = ("Content-Type", "message/sipfrag;version=2.0")
    await call.request("NOTIFY", body=f"SIP/2.0 {status}\r\n".encode(), headers=(event, state, kind))


def ended(server: Server, user: str) -> str:
    records = server.wait_idle()["recent_calls"]
    return str(next(record["end_reason"] for record in records if f":{user}@" in record["caller"]))


@pytest.mark.behaviour("The assistant transfers the caller, when its words have been heard", "RFC 3515")
def test_the_caller_is_transferred_when_the_words_have_been_heard(server: Server, model: StandIn) -> None:
    model.otherwise = CONNECTING

    async def converse() -> tuple[str, list[str], str]:
        async with Caller(user="anna") as caller:
            call = await caller.call(server.sip_uri)
            reply = await answer(call, ASKED)
            refers = requests(call, "REFER")
            await notify(call, "200 OK")
            reason = await call.wait_ended(10.0)
            return heard(call, reply), refers, reason

    words, refers, reason = in_loop(converse())
    assert "connect you" in words
    assert "sales" not in words
    assert len(refers) == 1
    assert f"<{TARGET}>" in refers[0]
    assert reason == "remote"
    assert ended(server, "anna") == "transferred to sales"
    system = model.requests[0]["messages"][0]["content"]
    assert "[transfer sales]" in system
    assert "transfer" in model.requests[0]["grammar"]


@pytest.mark.behaviour(
    "The assistant's transfer fails, it presses keys (RFC 4733), and it hangs up", "RFC 3515, RFC 4733"
)
def test_after_a_transfer_that_fails_the_conversation_goes_on(server: Server, model: StandIn) -> None:
    model.otherwise = CONNECTING

    async def converse() -> tuple[str, str, str]:
        async with Caller(user="bert") as caller:
            call = await caller.call(server.sip_uri)
            await answer(call, ASKED)
            begun = call.packets[-1].arrived_at
            await notify(call, "486 Busy Here")
            sorry = await call.wait_reply(after=begun)
            model.otherwise = good("I press it. [press 12#]")
            await answer(call, ASKED)
            digits = await call.wait_digits(3)
            model.otherwise = good("Thank you for calling. [hang up]")
            bye = await answer(call, ASKED)
            await call.wait_ended(10.0)
            return heard(call, sorry), digits, heard(call, bye)

    sorry, digits, bye = in_loop(converse())
    assert "nobody answers" in sorry
    assert digits == "12#"
    assert ended(server, "bert") == "the assistant hung up"
    assert "thank you for calling" in bye, server.log[-4000:]
    # The model knows what it had done, and what became of it.
    past = [message["content"] for message in model.requests[-1]["messages"] if message["role"] == "assistant"]
    assert past[0] == "I will connect you. [transfer sales] I am sorry, nobody answers there."
    assert past[1] == "I press it. [press 12#]"


@pytest.mark.behaviour("The assistant puts the caller on hold", "RFC 3264 section 8.4")
def test_the_caller_is_put_on_hold(server: Server, model: StandIn) -> None:
    model.otherwise = good("Please wait. [hold]")

    async def converse() -> list[str]:
        async with Caller(user="carl") as caller:
            call = await caller.call(server.sip_uri)
            await answer(call, ASKED)
            offers = requests(call, "INVITE")
            await call.hangup()
            return offers

    offers = in_loop(converse())
    assert len(offers) == 1
    assert "a=sendonly" in offers[0]
    server.wait_idle()
