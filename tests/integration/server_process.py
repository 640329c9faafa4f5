"""What tests of the real server share: the process, Piper as the caller's mouth and Whisper as its ear.

``Server`` is that of the benchmarks; see there. The questions are spoken without Piper's noise, so that they are
the same samples each time.
"""

from __future__ import annotations

import asyncio
import functools
import os
import queue
import re
import subprocess
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from aiphone.caller.audio import to_line_rate
from aiphone.caller.rtp import RATE
from aiphone.clock import SystemClock
from aiphone.config import default_models_dir
from aiphone.events import INTERNAL_RATE, Event, Pcm, Transcribed
from aiphone.inference.piper_voice import PiperVoice
from aiphone.inference.stt import SpeechToText
from aiphone.models.resolve import resolve_voice, resolve_whisper
from aiphone.models.store import ModelStore
from aiphone.native.resample import StreamResampler
from benchmarks.server import Server, ServerError, command, environment, leftovers

__all__ = [
    "CAPITAL",
    "Server",
    "ServerError",
    "command",
    "environment",
    "in_loop",
    "leftovers",
    "run_command",
    "spoken",
    "transcribed",
    "write_script",
]

CAPITAL = "What is the capital of France?"

SECRET_LINE = """\
[[lines]]
client_id = "secret"
username = "2000"
server_ip = "127.0.0.1"
server_port = 9
srtp = "mandatory"
allowed_networks = ["127.0.0.0/8"]
"""
"""A line for calls with SRTP from anybody here, in the form of a configuration file; no registrar answers it."""

T = TypeVar("T")


def models() -> ModelStore:
    """Where the starter models are."""
    return ModelStore(default_models_dir(os.environ))


def in_loop(coroutine: Coroutine[Any, Any, T], timeout: float = 90.0) -> T:
    """Run a caller's side of a test to its end, or fail when it hangs."""

    async def limited() -> T:
        async with asyncio.timeout(timeout):
            return await coroutine

    return asyncio.run(limited())


@functools.cache
def _mouth() -> PiperVoice:
    return PiperVoice(resolve_voice("en_US-joe-medium", models()), threads=1, noise=False)


@functools.cache
def spoken(text: str) -> Pcm:
    """The text as a caller says it: int16 at 8 kHz."""
    pieces = [piece.pcm for piece in _mouth().synthesise(text)]
    return to_line_rate(np.concatenate(pieces), INTERNAL_RATE)


class Ear:
    """Our own speech to text, on recordings of 8 kHz."""

    def __init__(self) -> None:
        self._answers: queue.Queue[Event] = queue.Queue()
        self._stt = SpeechToText(
            resolve_whisper("tiny.en", models()),
            post=self._answers.put,
            clock=SystemClock(),
            threads=1,  # with two, a busy machine makes them wait for each other for seconds
        )
        self._number = 0

    def hear(self, pcm: Pcm) -> str:
        """The words in int16 PCM at 8 kHz, in lower case and without punctuation."""
        up = StreamResampler(RATE, INTERNAL_RATE)
        # Whisper was trained on recordings, and loses a first word that nothing precedes.
        quiet = np.zeros(RATE * 3 // 10, np.int16)
        padded = np.concatenate([quiet, pcm, quiet])
        self._number += 1
        self._stt.submit("test", self._number, np.concatenate([up.process(padded), up.flush()]))
        answer = self._answers.get(timeout=60)
        assert isinstance(answer, Transcribed), answer
        return " ".join(re.findall(r"[a-z0-9']+", answer.text.lower()))


@functools.cache
def _ear() -> Ear:
    return Ear()


def transcribed(pcm: Pcm) -> str:
    """See ``Ear.hear``."""
    return _ear().hear(pcm)


def run_command(*arguments: str, timeout: float = 60.0, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the console command to its end."""
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=timeout, env=environment(), check=False, **options
    )


def write_script(path: Path, text: str) -> Path:
    """An executable shell script."""
    path.write_text("#!/bin/sh\n" + text, encoding="utf-8")
    path.chmod(0o755)
    return path
