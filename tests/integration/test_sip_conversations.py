"""What becomes of a conversation when its call is held or transferred: who hears whom, in words. `make test-sip`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from baresip import Baresip
from callers import GREETING, answer, heard
from captures import Capture
from server_process import CAPITAL, Server, in_loop, spoken, transcribed
from sip_harness import Agent, close_all
from test_calls import voiced_for

from aiphone.caller import Caller, IncomingCall, OutgoingCall
from aiphone.caller.sdp import Direction

pytestmark = [pytest.mark.integration, pytest.mark.sip_all]

STORY = "Tell me a long story about a dragon."
LINE = """\
[[lines]]
client_id = "office"
username = "2000"
server_ip = "127.0.0.1"
server_port = 9
allowed_networks = ["127.0.0.0/8"]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, capture: Capture) -> Iterator[Server]:
    config = tmp_path_factory.mktemp("config") / "aiphone.toml"
    config.write_text(LINE, "utf-8")
    for text in (CAPITAL, STORY):
        spoken(text)
    with Server("--greeting", GREETING, "--filler", "", "--config", str(config)) as server:
        # Its registrar is not there, which takes nothing from it.
        server.wait_status(lambda status: [line["state"] for line in status["lines"]] in (["registering"], ["failed"]))
        yield server
        assert server.stop() == 0
        assert "Traceback" not in server.log
        port = int(server.sip_uri.rpartition(":")[2])
        capture.check(sip_ports=[port], ours=[port], least={"sip": 10, "rtp": 500})


def line_of(server: Server) -> str:
    """The line's address: who calls it may transfer us."""
    return f"sip:2000@127.0.0.1:{server.sip_uri.rpartition(':')[2]}"


async def greeted(caller: Caller, server: Server) -> OutgoingCall:
    call = await caller.call(line_of(server))
    await call.wait_reply(after=call.ack_at, silence=0.5)
    return call


async def taken(third: Caller) -> IncomingCall:
    """The call that we make to the third party, answered."""
    theirs = await third.incoming()
    theirs.answer()
    await theirs.wait_acknowledged()
    return theirs


async def asked(call: IncomingCall) -> str:
    """The words of the answer that the third party hears to a question of its own."""
    await call.play(spoken(CAPITAL))
    reply = await call.wait_reply(timeout=40)
    words = transcribed(call.recording().between(reply.first_voiced_at - 0.3, reply.ended_at))
    await call.hangup()
    return words


@pytest.mark.behaviour("On hold in the middle of an answer, and resumed: a conversation", "RFC 3264 section 8.4")
def test_on_hold_in_the_middle_of_an_answer(server: Server) -> None:
    async def converse() -> tuple[int, str, str]:
        async with Caller() as caller:
            call = await greeted(caller, server)
            await call.play(spoken(STORY))
            await voiced_for(call, after=time.monotonic(), seconds=1.5)
            assert (await call.reinvite(direction=Direction.SENDONLY)).status == 200
            held = len(call.packets)
            await asyncio.sleep(2.0)
            during = len(call.packets) - held
            begun = call.packets[-1].arrived_at
            assert (await call.reinvite()).status == 200
            await asyncio.sleep(2.0)
            after = transcribed(call.recording().between(begun, call.packets[-1].arrived_at))
            reply = await answer(call, CAPITAL)
            words = heard(call, reply)
            await call.hangup()
            return during, after, words

    during, after, words = in_loop(converse())
    assert during < 10
    assert after
    assert "paris" in words


@pytest.mark.behaviour("Transferred (blind) to a third party, who asks and is answered", "RFC 3515, RFC 5589 section 6")
def test_a_blind_transfer_ends_with_the_third_party_in_the_conversation(server: Server) -> None:
    async def converse() -> str:
        async with Caller(user="anna") as anna, Caller(user="third") as third:
            call = await greeted(anna, server)
            assert (await call.request("REFER", headers=(("Refer-To", f"<{third.uri}>"),))).status == 202
            theirs = await taken(third)
            assert await call.wait_ended(10) == "remote"
            return await asked(theirs)

    assert "paris" in in_loop(converse())
    server.wait_idle()


@pytest.mark.behaviour(
    "Transferred (attended) to a third party, who asks and is answered", "RFC 3891, RFC 5589 section 7"
)
def test_an_attended_transfer_ends_with_the_third_party_in_the_conversation(server: Server) -> None:
    async def converse() -> tuple[str, str]:
        async with Caller(user="bert") as bert, Caller(user="third") as third:
            call = await greeted(bert, server)
            calling = asyncio.create_task(bert.call(third.uri))
            first = await taken(third)
            consultation = await calling
            dialog = consultation.dialog
            replaces = f"{dialog.call_id};to-tag={dialog.remote_tag};from-tag={dialog.local_tag}"
            target = f"<{third.uri}?Replaces={quote(replaces, safe='')}>"
            assert (await call.request("REFER", headers=(("Refer-To", target),))).status == 202
            theirs = await taken(third)
            await first.hangup()
            assert await call.wait_ended(10) == "remote"
            return str(theirs.requests[0].get("Replaces")), await asked(theirs)

    replaced, words = in_loop(converse())
    assert "to-tag=" in replaced
    assert "paris" in words
    server.wait_idle()


@pytest.mark.behaviour("We transfer baresip: the third party hears it", "RFC 3515, RFC 5589 section 6")
def test_who_is_transferred_by_us_is_heard_by_the_third_party(tmp_path: Path, needs: Callable[[str, str], str]) -> None:
    program = needs("baresip-core", "baresip")
    # Over and over, as it begins anew with each call.
    says = np.concatenate([spoken(CAPITAL), np.zeros(8000, np.int16)] * 8)
    agent = Agent()

    async def third_party() -> tuple[str, str]:
        async with Caller(user="third") as third:
            address = f"sip:ai@127.0.0.1:{agent.port}"
            phone = Baresip(program, tmp_path / "b", encryption="", dial=address, says=says, seconds=25)
            try:
                call_id = (await asyncio.to_thread(agent.wait, "CallConfirmed"))["call_id"]
                agent.do("transfer", call_id=call_id, uri=third.uri)
                theirs = await taken(third)
                ended = await asyncio.to_thread(agent.wait, "CallEnded", call_id=call_id)
                reply = await theirs.wait_reply(timeout=20, silence=0.5)
                words = transcribed(theirs.recording().between(reply.first_voiced_at - 0.3, reply.ended_at))
                await theirs.hangup()
            finally:
                await asyncio.to_thread(phone.close)
            return words, ended["reason"]

    try:
        words, reason = in_loop(third_party())
    finally:
        agent.stop()
        close_all()
    assert "capital of france" in words
    assert "transfer" in reason
