"""A real OpenAI-compatible server: llama-cpp-python's own, or any other at AIPHONE_TEST_LLM_URL."""

import importlib.util
import json
import os
import queue
import subprocess
import sys
import urllib.request

import pytest

from aiphone.clock import SystemClock
from aiphone.events import ReplyEnded, ReplyText, WorkFailed
from aiphone.inference.openai_http import Endpoint
from aiphone.inference.openai_model import OpenAiModel, Patience
from aiphone.persona import Message, Persona, Sampling

pytestmark = pytest.mark.integration

PERSONA = Persona(
    prompt="You answer the telephone in one short sentence.", sampling=Sampling(temperature=0, max_tokens=40)
)
PATIENCE = Patience(first=60.0, attempt=60.0, stall=60.0)


class Server:
    """llama-cpp-python's server with the starter model."""

    def __init__(self, model, log):
        self.log = log.open("wb")
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "llama_cpp.server", "--model", str(model), "--host", "127.0.0.1"),
                *("--port", "0", "--n_ctx", "512", "--n_threads", "2", "--chat_format", "chatml"),
            ],
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )

    def stop(self):
        self.process.kill()
        self.process.wait(10)
        self.log.close()


def listening(server, log):
    """Its address, once it serves: uvicorn logs the port that the system gave it."""
    with log.open(encoding="utf-8", errors="replace") as lines:
        while server.process.poll() is None:
            line = lines.readline()
            if "Uvicorn running on" in line:
                return line.split("running on ")[1].split()[0] + "/v1"
            if not line:
                try:
                    server.process.wait(0.05)
                except subprocess.TimeoutExpired:
                    continue
    pytest.fail(f"the server ended: {log.read_text(errors='replace')[-500:]}")


@pytest.fixture(scope="module")
def url(tmp_path_factory, request):
    if os.environ.get("AIPHONE_TEST_LLM_URL"):
        yield os.environ["AIPHONE_TEST_LLM_URL"]
        return
    if not importlib.util.find_spec("starlette_context"):
        pytest.skip("needs llama-cpp-python[server]")
    model = request.getfixturevalue("model_file")("SmolLM2-135M-Instruct.Q4_1.gguf")
    log = tmp_path_factory.mktemp("server") / "log"
    server = Server(model, log)
    try:
        yield listening(server, log)
    finally:
        server.stop()


@pytest.fixture
def desk(url):
    events = queue.Queue()
    model = OpenAiModel(Endpoint.parse(url), post=events.put, clock=SystemClock(), patience=PATIENCE)
    model.start()
    model.open("c", PERSONA)
    yield model, events
    model.stop()


def ask(model, generation, text, **more):
    model.generate("c", generation, [PERSONA.system_message(), Message("user", text)], **more)


def outcome(events):
    said = ""
    while isinstance(event := events.get(timeout=60), ReplyText):
        said += event.text
    return said, event


def test_the_capital_of_france(desk):
    model, events = desk
    assert model.status()["ready"]
    ask(model, 1, "What is the capital of France?")
    said, ended = outcome(events)
    assert "Paris" in said
    assert isinstance(ended, ReplyEnded)
    assert ended.reply_tokens > 3


def test_a_grammar_is_kept(desk):
    model, events = desk
    ask(model, 1, "Answer with a city.", grammar='root ::= "Rome" | "Oslo"')
    assert outcome(events)[0] in ("Rome", "Oslo")


def test_a_cancelled_reply_ends_and_the_next_one_comes(desk):
    model, events = desk
    ask(model, 1, "Tell me a very long story.")
    assert isinstance(events.get(timeout=60), ReplyText)
    model.cancel("c", 1)
    ask(model, 2, "What is the capital of Italy?")
    seen = [events.get(timeout=60)]
    while not isinstance(seen[-1], ReplyEnded | WorkFailed):
        seen.append(events.get(timeout=60))
    assert isinstance(seen[-1], ReplyEnded)
    assert seen[-1].generation == 2


def test_a_conversation_beyond_the_servers_context_goes_on(desk):
    """The server has 512 tokens of context, and answers nothing at all when asked for more."""
    model, events = desk
    turns = [Message(role, f"{role} says {n}: " + "word " * 60) for n in range(4) for role in ("user", "assistant")]
    model.generate("c", 1, [PERSONA.system_message(), *turns, Message("user", "Say hello.")])
    said, ended = outcome(events)
    assert isinstance(ended, ReplyEnded), ended
    assert said


def test_the_models_it_lists_are_asked_for(url, desk):
    with urllib.request.urlopen(f"{url}/models", timeout=10) as answer:
        assert desk[0].status()["model"] == json.load(answer)["data"][0]["id"]
