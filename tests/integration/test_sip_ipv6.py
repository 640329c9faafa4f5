"""Calls over IPv6, in and out, by UDP and TCP, with the media engine's own sockets."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from captures import Capture
from server_process import CAPITAL, Server, in_loop, spoken, transcribed
from sip_harness import Agent, close_all

from aiphone.caller import Caller
from aiphone.caller.sdp import audio
from aiphone.events import Pcm

pytestmark = pytest.mark.integration


@pytest.mark.behaviour("A call over IPv6, in and out", "RFC 3261 section 19.1, RFC 8866 section 5.7, RFC 6157")
def test_calls_over_ipv6() -> None:
    agent = Agent(settings={"host": "::1"})

    async def scenario() -> None:
        async with Caller("::1") as caller:
            call = await caller.call(f"sip:ai@[::1]:{agent.port}")
            stream = (await asyncio.to_thread(agent.wait, "MediaNegotiated"))["stream"]
            assert (stream["remote_host"], stream["remote_port"]) == ("::1", call.session.port)
            answer = audio(call.remote_sdp)
            assert answer is not None
            assert answer.host == "::1"
            call_id = (await asyncio.to_thread(agent.wait, "CallConfirmed"))["call_id"]
            agent.do("hangup", call_id=call_id)
            assert await call.wait_ended(5) == "remote"

            agent.do("place_call", call_id="o1", uri=caller.uri, line_id=None)
            theirs = await caller.incoming()
            theirs.answer()
            await asyncio.to_thread(agent.wait, "CallConfirmed")
            offer = audio(theirs.remote_sdp)
            assert offer is not None
            assert offer.host == "::1"
            await theirs.hangup()
            await asyncio.to_thread(agent.wait, "CallEnded", call_id="o1")

    try:
        assert agent.started["event"] == "started", agent.started
        asyncio.run(scenario())
    finally:
        agent.stop()
        close_all()


@pytest.mark.sip_all
@pytest.mark.behaviour("A conversation over IPv6: both hear each other", "RFC 3550, RFC 6157")
def test_a_conversation_over_ipv6(tmp_path: Path) -> None:
    async def talk(uri: str) -> Pcm:
        async with Caller("::1") as caller:
            call = await caller.call(uri)
            await call.wait_reply(after=call.ack_at, silence=0.5)
            await call.play(spoken(CAPITAL))
            reply = await call.wait_reply(timeout=40)
            await call.hangup()
            return call.recording().between(reply.first_voiced_at - 0.3, reply.ended_at)

    with (
        Capture(tmp_path / "calls.pcap") as capture,
        Server("--greeting", "Good morning.", "--sip-host", "::1") as server,
    ):
        assert server.sip_uri.startswith("sip:ai@[::1]:")
        assert "paris" in transcribed(in_loop(talk(server.sip_uri)))
        port = int(server.sip_uri.rpartition(":")[2])
        capture.check(sip_ports=[port], ours=[port], least={"sip": 2, "rtp": 100, "rtcp": 1})
        assert server.stop() == 0
        assert "Traceback" not in server.log
