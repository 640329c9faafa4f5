"""Faults while people are on the line: who is hit hears an apology and goes on, the others notice nothing."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from callers import GREETING, answer, greeted, heard
from openai_stand_in import Hang, StandIn, chunk, good
from server_process import CAPITAL, Server, in_loop

from aiphone.caller import Caller
from aiphone.store.sessions import SessionStore

pytestmark = pytest.mark.integration

FLAGS = ("--greeting", GREETING, "--filler", "")
THANKS = "Thank you very much."


class ByWords:
    """A script for each request: who says thank you gets half an answer and then nothing more."""

    def __init__(self, stand_in: StandIn) -> None:
        self._stand_in = stand_in

    def pop(self, _index: int) -> list[Any]:
        said = self._stand_in.requests[-1]["messages"][-1]["content"].lower()
        return [chunk(), chunk("You are always"), Hang] if "capital" not in said else good("It is Paris.")


async def conversation(server: Server, user: str, *questions: str) -> list[str]:
    """A call in which these are asked; what was heard in answer to each."""
    async with Caller(user=user) as caller:
        call, _ = await greeted(caller, server)
        said = [heard(call, await answer(call, question)) for question in questions]
        await call.hangup()
        return said


@pytest.fixture
def endpoint() -> Iterator[StandIn]:
    stand_in = StandIn()
    stand_in.scripts = ByWords(stand_in)
    yield stand_in
    stand_in.close()


def test_an_endpoint_that_stalls_in_mid_stream(endpoint: StandIn) -> None:
    async def both(server: Server) -> list[list[str]]:
        stalled, lucky = conversation(server, "karl", THANKS, CAPITAL), conversation(server, "lisa", CAPITAL)
        return await asyncio.gather(stalled, lucky)

    with Server(*FLAGS, "--llm-url", endpoint.url) as server:
        (apology, after), (beside,) = in_loop(both(server))
        assert "sorry" in apology
        assert "paris" in after
        assert "paris" in beside
        server.wait_log("fell silent in the middle of a reply", 1)
        server.wait_idle()
        assert "Traceback" not in server.log


def test_a_disk_without_room_for_the_session(tmp_path: Path) -> None:
    """The limit on a file's size stands for it: a conversation's state takes 2 MB, nothing else does."""
    session = tmp_path / "session"
    with Server(*FLAGS, "--reply-tokens", "16", "--session", str(session)) as server:
        kept = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
        assert "paris" in in_loop(conversation(server, "karl", CAPITAL))[0]
        server.wait_log("Could not write the session file .* The conversation is kept and tried again", 5)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, kept)
        server.wait_idle()
        assert server.stop() == 0
        assert "Traceback" not in server.log
    store = SessionStore(session)
    (info,) = store.list()
    assert info.messages == 2
    assert info.tokens > 32
    store.close()
