"""Smart Turn: from the caller's voice alone, how probable it is that the turn is over.

The model (Smart Turn version 3, https://github.com/pipecat-ai/smart-turn) hears the last 8 s of the turn, up to the
pause, and gives one probability; intonation and tempo are what it goes by, words hardly matter. One run takes some
50 ms of one core, so it has a thread of its own and never delays the detector.

At most one question of each call waits: a newer one takes its place, and one that was cancelled is not asked. So the
queue is bounded by the number of calls.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime

from aiphone.clock import Clock
from aiphone.cores import Cores
from aiphone.errors import ModelError
from aiphone.events import Event, Pcm, TurnEndEstimated
from aiphone.priority import TURN_END, lower_priority
from aiphone.speech.mel import BANDS, FRAMES, SAMPLES, LogMel

_log = logging.getLogger(__name__)

_PATIENCE = 0.15
"""Seconds that a question waits for a core: the transcript of the same pause begins a little earlier and uses all of
them, and the answer needs its words first. Two that share a core hold each other up."""


class Estimator(Protocol):
    """What gives the probability, see ``SmartTurn``."""

    def probability(self, pcm: Pcm) -> float:
        """That the turn is over with this audio (int16 at 16 kHz, the caller's turn so far)."""
        ...


class SmartTurn:
    """The network. One thread at a time.

    Raises ``ModelError`` when the file is missing or is no Smart Turn model of version 3.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise ModelError(f"there is no turn-end model at {path}; fetch it with 'models pull smart-turn-v3.2'")
        options = onnxruntime.SessionOptions()
        # One thread: two take twice as long, and the second core has other work.
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = False
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            # onnxruntime's errors have no common base but Exception.
            raise ModelError(f"{path} cannot be loaded as a turn-end model; fetch it again") from error
        if [item.name for item in session.get_inputs()] != ["input_features"]:
            raise ModelError(f"{path} is not Smart Turn version 3; fetch 'smart-turn-v3.2' again")
        self._session = session
        self._mel = LogMel()

    def probability(self, pcm: Pcm) -> float:
        """That the turn is over: 0 to 1. ``pcm`` is int16 at 16 kHz, the turn so far; the last 8 s count."""
        features = self._mel.features(pcm[-SAMPLES:])
        assert features.shape == (BANDS, FRAMES)
        (output,) = self._session.run(None, {"input_features": features[np.newaxis]})
        return float(output[0, 0])


@dataclass(frozen=True, slots=True, eq=False)
class _Question:
    generation: int
    pcm: Pcm
    asked: float


class TurnEndDetector:
    """Asks the network for all calls, in a thread of its own.

    ``submit``, ``cancel``, ``release`` and ``close`` from the main thread; ``post`` is called from the detector's.
    A question that fails is logged and has no answer: the words and the time decide then.
    """

    def __init__(
        self, estimator: Estimator, *, post: Callable[[Event], object], clock: Clock, cores: Cores | None = None
    ) -> None:
        self._estimator = estimator
        self._cores = cores or Cores()
        self._post = post
        self._clock = clock
        self._waiting: dict[str, _Question] = {}
        self._busy_with: tuple[str, int] = ("", 0)
        self._closing = False
        self._change = threading.Condition()  # guards all of the above
        self._thread = threading.Thread(target=self._run, name="turn-end", daemon=True)
        self._thread.start()

    def submit(self, call_id: str, generation: int, pcm: Pcm) -> None:
        """Ask about a turn (int16 at 16 kHz, up to the pause); answers with ``TurnEndEstimated``."""
        with self._change:
            self._waiting[call_id] = _Question(generation, pcm, self._clock.now())
            self._change.notify()

    def cancel(self, call_id: str, generation: int) -> None:
        """The answer for this generation and older ones is not wanted any more."""
        with self._change:
            question = self._waiting.get(call_id)
            if question is not None and question.generation <= generation:
                del self._waiting[call_id]
            if self._busy_with[0] == call_id and self._busy_with[1] <= generation:
                self._busy_with = ("", 0)

    def release(self, call_id: str) -> None:
        """The call is over."""
        with self._change:
            self._waiting.pop(call_id, None)
            if self._busy_with[0] == call_id:
                self._busy_with = ("", 0)

    def close(self) -> None:
        """End the thread; returns when it has ended, after the run that goes on at most."""
        with self._change:
            self._closing = True
            self._waiting.clear()
            self._change.notify()
        self._thread.join()

    def _run(self) -> None:
        lower_priority(TURN_END)
        while True:
            with self._change:
                while not self._waiting and not self._closing:
                    self._change.wait()
                if self._closing:
                    return
                call_id = next(iter(self._waiting))
                question = self._waiting.pop(call_id)
                self._busy_with = (call_id, question.generation)
            try:
                with self._cores.working(1, _PATIENCE):
                    if not self._wanted(call_id, question):
                        continue  # cancelled while it waited
                    probability = self._estimator.probability(question.pcm)
            except Exception:  # noqa: BLE001 - top of the thread: it must go on for the other calls
                _log.exception("the end of a turn could not be estimated")
                continue
            with self._change:
                wanted = self._wanted(call_id, question)
                self._busy_with = ("", 0)
            if wanted:
                seconds = self._clock.now() - question.asked
                self._post(TurnEndEstimated(call_id, question.generation, probability, seconds))

    def _wanted(self, call_id: str, question: _Question) -> bool:
        """Whether the question that is under way has not been cancelled."""
        with self._change:
            return self._busy_with == (call_id, question.generation) and not self._closing
