"""Faults while people are on the line: who is hit hears an apology and goes on, the others notice nothing."""

from __future__ import annotations

import asyncio
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from callers import GREETING, answer, greeted, heard
from faulty_server import BREAD, GERMANY, LONG, MUSIC, WEATHER
from openai_stand_in import Hang, StandIn, chunk, good
from server_process import CAPITAL, Server, in_loop

from aiphone.caller import Caller
from aiphone.store.sessions import SessionStore
from benchmarks import server as server_module

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


MODELS = ("SmolLM2-135M-Instruct.Q4_1.gguf", "ggml-tiny.en.bin", "en_US-joe-medium.onnx", "en_US-joe-medium.onnx.json")


@pytest.fixture(scope="module")
def models(model_file: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Copies, to do harm to."""
    folder = tmp_path_factory.mktemp("models")
    return [Path(shutil.copy(model_file(name), folder / name)) for name in MODELS]


@pytest.fixture(scope="module")
def faulty(models: list[Path]) -> Iterator[Server]:
    """A server that fails whoever says certain words: see ``faulty_server``."""
    program = Path(__file__).with_name("faulty_server.py")
    llm, whisper, voice, _ = map(str, models)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(server_module, "command", lambda *flags: [sys.executable, str(program), *flags])
        with Server(*FLAGS, "--reply-tokens", "24", "-ml", llm, "-mw", whisper, "--voice", voice) as server:
            yield server


FAULTS = {
    WEATHER: "the model computed values that are not numbers",
    MUSIC: "llama_decode failed with -3",
    BREAD: "the context of the language model is full",
    GERMANY: "the voice was told to fail",
    LONG: "the recogniser was told to fail",
}


def test_models_that_fail_one_call_each_and_whose_files_are_gone(faulty: Server, models: list[Path]) -> None:
    """Some files are written over, as a download does, and some removed. Who is hit hears so and goes on."""

    async def all_of_them() -> list[list[str]]:
        hit = [conversation(faulty, f"hit{number}", fault, CAPITAL) for number, fault in enumerate(FAULTS)]
        return await asyncio.gather(*hit, conversation(faulty, "beside", CAPITAL, CAPITAL))

    for path in models[:2]:
        path.write_bytes(b"\xff" * 1000)
    for path in models[2:]:
        path.unlink()
    *hit, unhurt = in_loop(all_of_them())
    for (fault, reason), (apology, after) in zip(FAULTS.items(), hit, strict=True):
        faulty.wait_log(reason, 1)
        assert "sorry" in apology, fault
        assert after, fault  # what was asked before is part of the question, so it may be about either
        assert fault == GERMANY or "sorry" not in after, fault  # whose answer may name it again
    assert ["paris" in text for text in unhurt] == [True, True]
    faulty.wait_idle()
