"""Calls over a long and bad line: 300 ms each way, one packet in ten lost, SIP and RTP alike. `make test-sip`."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from long_line import LongLine
from namespaces import Machine
from server_process import CAPITAL, Server, in_loop, spoken, transcribed
from sip_harness import Agent, close_all

from aiphone.caller import Caller
from aiphone.caller.endpoint import Traced, Way
from aiphone.events import Pcm

pytestmark = [pytest.mark.integration, pytest.mark.sip_all]

OURS, THERE = "10.78.0.1", "10.78.0.2"
CALLS = 8
"""Of each kind, all at once."""
GIVEN_UP = 45.0
"""Seconds: everything of RFC 3261 has come to its end by then (64 T1 and what a delay adds)."""


def repeated(trace: Iterable[Traced], way: Way, start: str) -> int:
    """How often a message that begins like this went the way once more, word for word."""
    seen = Counter(one.data for one in trace if one.way is way and one.data.startswith(start.encode()))
    return sum(seen.values()) - len(seen)


@pytest.mark.behaviour(
    "300 ms of delay each way and one packet in ten lost: each call is one call, and ends on both sides",
    "RFC 3261 sections 13.3.1.4, 14.1, 17",
)
def test_calls_over_a_long_and_bad_line() -> None:
    with Machine() as ours, Machine() as there:
        line = LongLine(ours, there, f"{OURS}/24", f"{THERE}/24", seed=7)
        with ours.inside():
            agent = Agent(settings={"host": "0.0.0.0", "direct_networks": [f"{THERE}/32"]})
        before = agent.ask("facts")
        uri = f"sip:ai@{OURS}:{agent.port}"

        async def patient(caller: Caller) -> None:
            call = await caller.call(uri, timeout=GIVEN_UP)
            assert await call.wait_ended(GIVEN_UP) == "remote"

        async def brisk(caller: Caller) -> None:
            call = await caller.call(uri, timeout=GIVEN_UP)
            # Our ACK may have been lost: then the server's INVITE is still under way, and we come again (section 14.1).
            while (answer := await call.reinvite()).status == 491:
                await asyncio.sleep(2.1)
            assert answer.status == 200
            await call.hangup(GIVEN_UP)

        async def telephones() -> list[Traced]:
            async with Caller(THERE, user="patient") as one, Caller(THERE, user="brisk") as other:
                await asyncio.gather(*(patient(one) for _ in range(CALLS)), *(brisk(other) for _ in range(CALLS)))
                assert (one.calls, other.calls) == ([], [])
                return [*one.endpoint.trace, *other.endpoint.trace]

        def hang_up() -> list[dict[str, Any]]:
            calls = {}
            for _ in range(2 * CALLS):
                call_id = agent.wait("CallConfirmed", timeout=GIVEN_UP)["call_id"]
                calls[call_id] = agent.wait("IncomingCall", call_id=call_id)
                if "patient" in calls[call_id]["caller"]:
                    agent.do("hangup", call_id=call_id)
            return [agent.wait("CallEnded", timeout=GIVEN_UP, call_id=call_id) for call_id in calls]

        try:
            with line, there.inside(), ThreadPoolExecutor(1) as pool:
                hanging_up = pool.submit(hang_up)
                trace = in_loop(telephones(), 3 * GIVEN_UP)
                ended = hanging_up.result()
            assert {event["reason"] for event in ended} == {"the call ended normally"}
            assert agent.count("IncomingCall") == agent.count("CallEnded") == 0, "one call more than was made"
            assert agent.ask("status")["active_calls"] == 0
            after = agent.ask("facts")
            assert (after["sockets"], after["fds"]) == (0, before["fds"])
            # It was as bad as it should be: lost both ways, and said again by both sides.
            assert min(line.out.lost, line.back.lost) > 0
            assert repeated(trace, Way.SENT, "INVITE ") > 0
            assert repeated(trace, Way.RECEIVED, "SIP/2.0 200 ") > 0
        finally:
            agent.stop()
            close_all()


@pytest.mark.behaviour(
    "A conversation over a line with 300 ms of delay each way that loses one packet in ten: both hear each other",
    "RFC 3550 section 6.4.1",
)
def test_a_conversation_over_a_long_and_bad_line() -> None:
    question = spoken(CAPITAL)

    async def talk(uri: str) -> Pcm:
        async with Caller(THERE) as caller:
            call = await caller.call(uri, timeout=GIVEN_UP)
            await call.wait_reply(after=call.ack_at, silence=0.8)
            await call.play(question)
            reply = await call.wait_reply(timeout=40, silence=2.5)
            await call.hangup(GIVEN_UP)
            return call.recording().between(reply.first_voiced_at - 0.3, reply.ended_at)

    with Machine() as ours, Machine() as there:
        line = LongLine(ours, there, f"{OURS}/24", f"{THERE}/24", seed=3)
        flags = ("--sip-host", OURS, "--direct-from", f"{THERE}/32")
        with line, ours.inside(), Server("--greeting", "Good morning.", *flags) as server:
            with there.inside():
                heard = in_loop(talk(server.sip_uri.replace("127.0.0.1", OURS)), 120)
            (record,) = server.wait_idle()["recent_calls"]
    assert "paris" in transcribed(heard)
    assert record["end_reason"] == "the call ended normally"
