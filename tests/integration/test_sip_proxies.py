"""Our servers behind what large installations have in front of them. `make test-sip`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from proxies import RtpEngine, destinations, dispatcher, relaying
from server_process import CAPITAL, SECRET_LINE, Server, in_loop, spoken, transcribed
from sip_harness import Agent, close_all

from aiphone.caller import Caller
from aiphone.caller.sdp import audio
from aiphone.events import Pcm
from benchmarks.kamailio import Kamailio

pytestmark = [pytest.mark.integration, pytest.mark.sip_all]

CALLS = 6


@pytest.mark.behaviour(
    "Two servers behind a dispatcher (Kamailio): they share the calls, and one takes all when the other is stopped",
    "RFC 3261 sections 11.2, 16",
)
def test_a_dispatcher(needs: Callable[[str, str], str], tmp_path: Path) -> None:
    agents = [Agent() for _ in range(2)]
    first, second = (agent.port for agent in agents)

    async def calls(proxy: Kamailio) -> None:
        async with Caller() as caller:
            for call in await asyncio.gather(*(caller.call(proxy.uri("ai")) for _ in range(CALLS))):
                await call.hangup()

    try:
        template = dispatcher([first, second], tmp_path)
        with Kamailio(needs("kamailio", "kamailio"), {}, tmp_path, template=template) as proxy:
            in_loop(calls(proxy))
            went = destinations(proxy.log)
            assert (went.count(first), went.count(second)) == (CALLS // 2, CALLS // 2)
            for agent in agents:
                for _ in range(CALLS // 2):
                    assert agent.wait("CallEnded")["reason"] == "the call ended normally"
            agents[0].stop()
            # At once, when the dispatcher may not know it yet, and when it does.
            in_loop(calls(proxy))
            proxy.wait_log(f"sip:127.0.0.1:{first} is down")
            in_loop(calls(proxy))
            went = destinations(proxy.log)
            assert went.count(second) == CALLS // 2 + 2 * CALLS
            for _ in range(2 * CALLS):
                assert agents[1].wait("CallEnded")["reason"] == "the call ended normally"
            assert f"sip:127.0.0.1:{second} is down" not in proxy.log, "our answers to OPTIONS keep us there"
            assert agents[1].ask("facts")["sockets"] == 0
    finally:
        for agent in agents:
            agent.stop()
        close_all()


@pytest.mark.behaviour(
    "A relay of media (rtpengine) on the way, plain and with SRTP towards us: a conversation through it",
    "RFC 3264, RFC 3711, RFC 4568",
)
def test_conversations_through_a_relay(needs: Callable[[str, str], str], tmp_path: Path) -> None:
    rtpengine, kamailio = needs("rtpengine-daemon", "rtpengine"), needs("kamailio", "kamailio")
    question = spoken(CAPITAL)
    config = tmp_path / "aiphone.toml"
    config.write_text(SECRET_LINE, "utf-8")

    async def talk(uri: str, relay: RtpEngine) -> Pcm:
        async with Caller() as caller:
            call = await caller.call(uri)
            description = audio(call.remote_sdp)
            assert description is not None
            assert description.port in relay.ports
            await call.wait_reply(after=call.ack_at, silence=0.5)
            await call.play(question)
            reply = await call.wait_reply(timeout=40, silence=2.5)
            await call.hangup()
            assert {packet.source[1] for packet in call.packets} == {description.port}
            return call.recording().between(reply.first_voiced_at - 0.3, reply.ended_at)

    with (
        RtpEngine(rtpengine) as relay,
        Server("--greeting", "Good morning.", "--filler", "", "--config", str(config)) as server,
    ):
        template = relaying(relay, server.sip_uri.rpartition("@")[2], encrypted_for="2000")
        with Kamailio(kamailio, {}, tmp_path, template=template) as proxy:
            for user in ("ai", "2000"):
                assert "paris" in transcribed(in_loop(talk(proxy.uri(user), relay)))
        ended = {record["line_id"]: record["end_reason"] for record in server.wait_idle()["recent_calls"]}
    assert ended == dict.fromkeys(("direct", "secret"), "the call ended normally")
