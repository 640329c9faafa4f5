"""A scripted Whisper, and speech to text with it: what is heard, when it is held up, and what becomes of its states."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from inbox import Inbox

from aiphone.clock import ManualClock
from aiphone.inference.stt import SpeechToText
from aiphone.inference.whisper_cpp import Aborted, DecodeParams, Segment, Token

WAIT = 5.0
RATE = 16_000


def voice(seconds: float = 2.0, level: int = 3000) -> np.ndarray:
    return np.full(int(seconds * RATE), level, np.int16)


def segment(text: str, logprob: float = -0.1, no_speech: float = 0.0) -> Segment:
    tokens = tuple(Token(index, f" {word}".encode(), 0.9, logprob) for index, word in enumerate(text.split()))
    return Segment(text, 0.0, 1.0, no_speech, tokens)


def better_with_context(params: DecodeParams, _stop: object) -> list[Segment]:
    """What a model hears that is sure of nothing but what it heard with the whole context."""
    return [segment("good text", -0.1) if params.audio_ctx == 0 else segment(f"bad {params.audio_ctx}", -0.8)]


class FakeState:
    """Says what its model's script says; can be held up."""

    def __init__(self, model: FakeModel) -> None:
        self.model = model
        self.closed = False
        self.busy = False
        self.runs = 0

    def full(
        self,
        pcm: np.ndarray,
        params: DecodeParams,
        *,
        abort: Callable[[], bool] | None = None,
        stop: Callable[[list[int]], bool] | None = None,
    ) -> list[Segment]:
        assert not self.closed
        assert not self.busy, "two transcriptions in one state"
        self.busy = True
        self.runs += 1
        self.model.runs(len(pcm), 1)
        try:
            self.model.asked.append((self, len(pcm), params))
            self.model.started.release()
            if self.model.held is not None:
                while not self.model.held.wait(0.001):
                    if abort is not None and abort():
                        raise Aborted("the transcription was cancelled.")
            return self.model.answer(params, stop)
        finally:
            self.model.runs(len(pcm), -1)
            self.busy = False

    def detect_language(self, pcm: np.ndarray, threads: int) -> tuple[str, float]:
        self.model.detections.append(len(pcm))
        return self.model.spoken

    def close(self) -> None:
        assert not self.closed
        self.closed = True


class FakeModel:
    multilingual = True
    n_audio_ctx = 1500
    token_eot = 50257

    def __init__(self) -> None:
        self.states: list[FakeState] = []
        self.asked: list[tuple[FakeState, int, DecodeParams]] = []
        self.started = threading.Semaphore(0)
        self.running: Counter[int] = Counter()
        """How many audios of so many samples are being transcribed."""
        self._lock = threading.Lock()
        self.held: threading.Event | None = None
        self.detections: list[int] = []
        self.spoken = ("de", 0.9)
        self.closed = False
        self.answer: Callable[..., list[Segment]] = lambda _params, _stop: [segment("hello there")]

    def runs(self, samples: int, change: int) -> None:
        with self._lock:
            self.running[samples] += change

    def new_state(self) -> FakeState:
        self.states.append(FakeState(self))
        return self.states[-1]

    def token_bytes(self, token: int) -> bytes:
        return f" w{token}".encode()

    def knows_language(self, code: str) -> bool:
        return code in ("en", "de", "ja", "auto")

    def close(self) -> None:
        assert all(state.closed for state in self.states), "a state outlived its model"
        self.closed = True

    def hold(self) -> threading.Event:
        self.held = threading.Event()
        return self.held


class Bench:
    def __init__(self, *, english_only: bool = False, **options: Any) -> None:
        self.model = FakeModel()
        self.model.multilingual = not english_only
        self.inbox = Inbox(WAIT)
        self.clock = ManualClock(100.0)
        self.stt = SpeechToText(
            Path("ggml-fake.bin"),
            post=self.inbox.post,
            clock=self.clock,
            threads=2,
            load=lambda _path, _gpu, _flash: self.model,
            **options,
        )

    def started(self) -> None:
        assert self.model.started.acquire(timeout=WAIT)
