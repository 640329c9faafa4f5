"""Calls that we place, on the real pjsua2, to telephones that answer, ring, refuse and vanish."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from sip_harness import Agent, Registrar, close_all

from aiphone.caller import Caller
from aiphone.caller.sdp import TELEPHONE_EVENT, audio

pytestmark = pytest.mark.integration

Event = dict[str, Any]


@contextlib.contextmanager
def running(**options: object) -> Iterator[Agent]:
    agent = Agent(**options)
    try:
        assert agent.started["event"] == "started", agent.started
        yield agent
    finally:
        stopped = agent.stop()
        close_all()
    assert agent.stray == []
    assert not [line for line in agent.errors if "Traceback" in line], agent.errors
    assert stopped["sockets"] == 0
    ids = [event["call_id"] for event in agent.seen if event["event"] == "CallEnded"]
    assert len(ids) == len(set(ids)), "a call ended twice"


class Phone:
    """The agent and a telephone, in one event loop."""

    def __init__(self, agent: Agent, caller: Caller, pool: ThreadPoolExecutor) -> None:
        self.agent, self.caller, self._pool = agent, caller, pool
        self.count = 0

    def place(self, uri: str = "", line_id: str | None = None) -> str:
        self.count += 1
        call_id = f"o{self.count}"
        self.agent.do("place_call", call_id=call_id, uri=uri or self.caller.uri, line_id=line_id)
        return call_id

    async def wait(self, name: str, **where: object) -> Event:
        work: Callable[[], Event] = partial(self.agent.wait, name, timeout=10, **where)
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)


@contextlib.asynccontextmanager
async def phone(agent: Agent) -> AsyncIterator[Phone]:
    with ThreadPoolExecutor(1) as pool:
        async with Caller() as caller:
            yield Phone(agent, caller, pool)


def test_a_call_is_answered_and_ended_by_us() -> None:
    async def scenario(agent: Agent) -> None:
        async with phone(agent) as p:
            call_id = p.place()
            placed = await p.wait("OutgoingCall", call_id=call_id)
            assert (placed["line_id"], placed["called"]) == ("direct", p.caller.uri)
            theirs = await p.caller.incoming()
            theirs.ring()
            progress = await p.wait("CallProgress", call_id=call_id)
            assert (progress["code"], progress["reason"]) == (180, "Ringing")
            theirs.answer()
            negotiated = await p.wait("MediaNegotiated", call_id=call_id)
            await p.wait("CallConfirmed", call_id=call_id)
            # Our media is in the offer, theirs in the event.
            offer = audio(theirs.remote_sdp)
            assert offer is not None
            assert offer.port == negotiated["sockets"]["port"]
            names = {name.lower() for name, _ in offer.names.values()}
            assert names - {"g722"} == {"cn", "pcmu", "pcma", "telephone-event"}
            stream = negotiated["stream"]
            assert (stream["remote_host"], stream["remote_port"]) == ("127.0.0.1", theirs.session.port)
            assert (stream["codec"], stream["dtmf_payload_type"]) == (
                "PCMU",
                offer.payload_type(TELEPHONE_EVENT),
            )
            assert stream["send"]
            assert stream["receive"]
            agent.do("hangup", call_id=call_id, reason="that was all")
            ended = await p.wait("CallEnded", call_id=call_id)
            assert (ended["code"], ended["reason"]) == (200, "the call ended normally")
            assert await theirs.wait_ended(5) == "remote"

    with running() as agent:
        asyncio.run(scenario(agent))


def test_how_calls_fail_is_said_in_plain_words() -> None:
    async def refused(p: Phone, status: int, words: str) -> None:
        call_id = p.place()
        theirs = await p.caller.incoming()
        theirs.reject(status)
        ended = await p.wait("CallEnded", call_id=call_id)
        assert (ended["code"], ended["reason"]) == (status, words)

    async def scenario(agent: Agent) -> None:
        async with phone(agent) as p:
            await refused(p, 486, "busy")
            await refused(p, 603, "declined")
            await refused(p, 404, "nobody there has that number")
            await refused(p, 480, "nobody is available there")
            # Given up while it rings: a CANCEL.
            call_id = p.place()
            theirs = await p.caller.incoming()
            theirs.ring()
            await p.wait("CallProgress", call_id=call_id)
            agent.do("hangup", call_id=call_id)
            ended = await p.wait("CallEnded", call_id=call_id)
            assert (ended["code"], ended["reason"]) == (487, "given up before the answer")
            assert await theirs.wait_ended(5) == "cancelled"
            # Ended by the other side after the answer.
            call_id = p.place()
            theirs = await p.caller.incoming()
            theirs.answer()
            await p.wait("CallConfirmed", call_id=call_id)
            await theirs.hangup()
            ended = await p.wait("CallEnded", call_id=call_id)
            assert (ended["code"], ended["reason"]) == (200, "the call ended normally")
            facts = agent.ask("facts")
            assert facts["sockets"] == 0

    with running() as agent:
        asyncio.run(scenario(agent))


def test_a_call_that_nobody_answers_is_given_up() -> None:
    async def scenario(agent: Agent) -> None:
        async with phone(agent) as p:
            call_id = p.place()
            theirs = await p.caller.incoming()
            theirs.ring()
            ended = await p.wait("CallEnded", call_id=call_id)
            assert (ended["code"], ended["reason"]) == (408, "no answer")
            assert await theirs.wait_ended(5) == "cancelled"

    with running(settings={"ring_seconds": 0.6}) as agent:
        asyncio.run(scenario(agent))


def test_what_cannot_be_placed_ends_at_once_with_the_reason() -> None:
    async def scenario(agent: Agent) -> None:
        async with phone(agent) as p:
            call_id = p.place(line_id="office")
            assert (await p.wait("OutgoingCall", call_id=call_id))["line_id"] == "office"
            ended = await p.wait("CallEnded", call_id=call_id)
            assert (ended["code"], ended["reason"]) == (503, "the line office is not registered")
            first = p.place()
            theirs = await p.caller.incoming()
            theirs.answer()
            await p.wait("CallConfirmed", call_id=first)
            second = p.place()
            ended = await p.wait("CallEnded", call_id=second)
            assert (ended["code"], ended["reason"]) == (503, "all our lines are busy")
            await theirs.hangup()
            await p.wait("CallEnded", call_id=first)

    with running(settings={"max_calls": 1}) as agent:
        asyncio.run(scenario(agent))


def test_without_an_rtp_port_nothing_is_sent() -> None:
    async def scenario(agent: Agent) -> None:
        async with phone(agent) as p:
            ended = await p.wait("CallEnded", call_id=p.place())
            assert (ended["code"], ended["reason"]) == (503, "no RTP port is free here")

    with running(ports=0) as agent:
        asyncio.run(scenario(agent))


def test_a_call_from_a_registered_line_carries_its_name() -> None:
    async def scenario(agent: Agent, registrar: Registrar) -> None:
        agent.do(
            "add_line", line_id="office", username="1000", password="secret", server_ip="127.0.0.1",
            server_port=registrar.port, display_name="Front Desk",
        )  # fmt: skip
        async with phone(agent) as p:
            await p.wait("LineChanged", line_id="office", state="registered")
            call_id = p.place(line_id="office")
            theirs = await p.caller.incoming()
            assert theirs.requests[0].get("From").startswith('"Front Desk" <sip:1000@127.0.0.1>')
            theirs.answer()
            await p.wait("CallConfirmed", call_id=call_id)
            agent.do("remove_line", line_id="office")
            await p.wait("CallEnded", call_id=call_id)
            assert await theirs.wait_ended(5) == "remote"

    with running() as agent:
        asyncio.run(scenario(agent, Registrar()))


def test_stopping_ends_calls_that_ring_and_calls_that_talk() -> None:
    async def scenario(agent: Agent) -> None:
        async with phone(agent) as p:
            talking = p.place()
            first = await p.caller.incoming()
            first.answer()
            await p.wait("CallConfirmed", call_id=talking)
            ringing = p.place()
            second = await p.caller.incoming()
            second.ring()
            await p.wait("CallProgress", call_id=ringing)
            await asyncio.get_running_loop().run_in_executor(None, agent.stop)
            assert (first.end_reason, second.end_reason) == ("remote", "cancelled")
        endings = {event["call_id"]: event["code"] for event in agent.seen if event["event"] == "CallEnded"}
        assert endings == {talking: 503, ringing: 487}

    agent = Agent()
    try:
        asyncio.run(scenario(agent))
    finally:
        agent.stop()
