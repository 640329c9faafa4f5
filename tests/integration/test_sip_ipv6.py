"""Calls over IPv6, in and out, by UDP and TCP, with the media engine's own sockets."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest
from captures import Capture
from namespaces import Machine
from server_process import CAPITAL, Server, in_loop, spoken, transcribed
from sip_harness import Agent, Peer, answered, close_all, sdp

from aiphone.caller import Caller
from aiphone.caller.sdp import audio
from aiphone.events import Pcm
from aiphone.sip.addresses import host_port

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

            theirs, offered = await answered(agent, caller, "o1")
            assert offered == "::1"
            await theirs.hangup()
            await asyncio.to_thread(agent.wait, "CallEnded", call_id="o1")

    try:
        assert agent.started["event"] == "started", agent.started
        asyncio.run(scenario())
    finally:
        agent.stop()
        close_all()


@pytest.mark.behaviour("One agent at both families: calls in and out over each", "RFC 3261 section 18, RFC 6157")
def test_calls_over_both_families() -> None:
    agent = Agent(settings={"host": "0.0.0.0", "both_families": True})

    async def scenario(host: str) -> None:
        async with Caller(host) as caller:
            call = await caller.call(f"sip:ai@{host_port(host, agent.port)}")
            stream = (await asyncio.to_thread(agent.wait, "MediaNegotiated"))["stream"]
            assert (stream["remote_host"], stream["remote_port"]) == (host, call.session.port)
            answer = audio(call.remote_sdp)
            assert answer is not None
            assert answer.host == host
            call_id = (await asyncio.to_thread(agent.wait, "CallConfirmed"))["call_id"]
            agent.do("hangup", call_id=call_id)
            assert await call.wait_ended(5) == "remote"

            theirs, offered = await answered(agent, caller, f"o-{host}")
            assert offered == host
            await theirs.hangup()
            await asyncio.to_thread(agent.wait, "CallEnded", call_id=f"o-{host}")
            await asyncio.to_thread(agent.wait, "MediaNegotiated")

    try:
        assert agent.started["event"] == "started", agent.started
        assert agent.ask("status")["listening"] == ["0.0.0.0", "::"]
        for host in ("127.0.0.1", "::1"):
            asyncio.run(scenario(host))
        assert agent.ask("facts")["sockets"] == 0
    finally:
        agent.stop()
        close_all()


@pytest.mark.behaviour("Media of the one family in a dialog over the other", "RFC 6157 section 3")
@pytest.mark.parametrize(("ours", "media"), [("127.0.0.1", "::1"), ("::1", "127.0.0.1")])
def test_media_have_the_family_of_the_offer(ours: str, media: str) -> None:
    agent = Agent(settings={"host": ours})
    families = {"127.0.0.1": socket.AF_INET, "::1": socket.AF_INET6}
    try:
        peer = Peer(agent.port, host=ours)
        with socket.socket(families[media], socket.SOCK_DGRAM) as rtp:
            rtp.bind((media, 0))
            answer = audio(peer.call(sdp(rtp.getsockname()[1], host=media)).body.encode())
            assert answer is not None
            assert answer.host == media
            stream = agent.wait("MediaNegotiated")["stream"]
            assert (stream["remote_host"], stream["remote_port"]) == rtp.getsockname()[:2]
            call_id = agent.wait("CallConfirmed")["call_id"]
            rtp.sendto(b"heard", (media, answer.port))
            agent.do("packet", call_id=call_id)
            assert bytes.fromhex(agent.wait("packet")["data"]) == b"heard"
        peer.bye()
        agent.wait("CallEnded", call_id=call_id)
    finally:
        stopped = agent.stop()
        close_all()
    assert stopped is not None
    assert stopped["sockets"] == 0


@pytest.mark.behaviour("IPv6 media offered where there is no way to", "RFC 3261 section 21.4.26")
def test_media_where_there_is_no_way_to_are_refused() -> None:
    with Machine() as nowhere, nowhere.inside():
        agent = Agent()
        try:
            assert Peer(agent.port).call(sdp(40_000, host="2001:db8::1")).code == 488
        finally:
            agent.stop()
            close_all()


@pytest.mark.sip_all
@pytest.mark.behaviour("A conversation over IPv6: both hear each other", "RFC 3550, RFC 6157")
@pytest.mark.parametrize("host", ["::1", "any"])
def test_a_conversation_over_ipv6(tmp_path: Path, host: str) -> None:
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
        Server("--greeting", "Good morning.", "--sip-host", host) as server,
    ):
        port = int(server.sip_uri.rpartition(":")[2])
        assert server.sip_uri == f"sip:ai@{'[::1]' if host == '::1' else '127.0.0.1'}:{port}"
        assert "paris" in transcribed(in_loop(talk(f"sip:ai@[::1]:{port}")))
        capture.check(sip_ports=[port], ours=[port], least={"sip": 2, "rtp": 100, "rtcp": 1})
        assert server.stop() == 0
        assert "Traceback" not in server.log
