"""Speech to text for all calls: one model, a Whisper state for each call, a few workers.

The rules, which keep the queue bounded by the number of calls and the answers fresh:

* A call has at most one piece of work waiting and one running. A newer generation takes the place in the queue
  of the one that waits, and stops the one that runs: its answer would be thrown away.
* Workers take calls in the order in which they began to wait.
* A call gets its state with its first work and keeps it until ``release``; a state that comes back is given to
  the next call. A silent call has none. States carry nothing from one transcription to the next.
* Long contexts touch several times the memory of short ones, so they run in states of the worker's own, and those of
  the calls stay small. The full context has one to itself: it is no multiple of 256 (see ``FLASH_QUANTUM``), and only
  a state that never held anything else has nothing in its padding.
* More calls than ``max_states`` at once: the work of those beyond fails, with a sentence that says why.

Each accepted piece of work ends in exactly one ``Transcribed`` or ``WorkFailed``, unless it was cancelled,
superseded or released. What Whisper is asked, and when it is asked again, is in ``stt_guard``.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from aiphone.clock import Clock
from aiphone.errors import AiphoneError, ConfigError, InferenceError
from aiphone.events import Event, Pcm, Stage, Transcribed, WorkFailed
from aiphone.inference.stt_guard import (
    FLASH_QUANTUM,
    GuardPolicy,
    Spoken,
    context_steps,
    is_looping,
    is_silent,
    judge,
    token_cap,
    token_key,
    windows,
)
from aiphone.inference.whisper_cpp import Aborted, DecodeParams, Segment, WhisperModel
from aiphone.inference.whisper_library import accelerators

_log = logging.getLogger(__name__)

AUTO = "auto"
LARGEST_OF_A_CALL = 768
"""Encoder positions (13 s of audio) up to which the call's own state is used."""


class StatePort(Protocol):
    """What is needed of a ``WhisperState``."""

    @property
    def language(self) -> str:
        """Language of the last transcription."""
        ...

    def full(
        self,
        pcm: npt.NDArray[np.float32],
        params: DecodeParams,
        *,
        abort: Callable[[], bool] | None = None,
        stop: Callable[[list[int]], bool] | None = None,
    ) -> list[Segment]:
        """Transcribe."""
        ...

    def close(self) -> None:
        """Free it."""
        ...


class ModelPort(Protocol):
    """What is needed of a ``WhisperModel``."""

    multilingual: bool
    n_audio_ctx: int
    token_eot: int

    def new_state(self) -> StatePort:
        """A fresh state."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """Text of a token."""
        ...

    def knows_language(self, code: str) -> bool:
        """Whether the code is a language of the model's."""
        ...

    def close(self) -> None:
        """Free the weights."""
        ...


@dataclass(slots=True, eq=False)
class _Job:
    call_id: str
    generation: int
    pcm: Pcm
    prompt: str
    asked: float
    cancelled: bool = False


@dataclass(slots=True, eq=False)
class _Call:
    """What is known of a call: its state, its language, its running work."""

    state: StatePort | None = None
    language: str = ""
    running: _Job | None = None
    released: bool = False


@dataclass(frozen=True, slots=True)
class Transcript:
    """What ``transcribe`` found."""

    text: str
    decodings: int
    """How often Whisper was run; one for each window when all went well."""
    windows: int
    cuts: int
    """Repetitions that were cut off."""
    language: str

    @property
    def retried(self) -> bool:
        return self.decodings > self.windows


class SpeechToText:
    """Whisper for all calls. See the module for the rules.

    ``threads`` are whisper.cpp's for each of the ``workers``. ``audio_ctx`` 0 sets the encoder's context in
    proportion to the audio; ``max_tokens`` 0 does the same for the text. ``language`` ``"auto"`` detects it once
    for each call. ``beam_size`` 1 is greedy. ``flash_attn`` asks for flash attention on a GPU; on a CPU it is always
    used, being faster there and a third of the memory.

    ``submit``, ``cancel`` and ``release`` from the main thread; ``post`` is called from the workers.

    Raises ``ModelError`` for a model file that cannot be used, ``ConfigError`` for an unknown language.
    """

    def __init__(
        self,
        model_path: Path,
        *,
        post: Callable[[Event], object],
        clock: Clock,
        threads: int,
        max_states: int,
        workers: int = 1,
        language: str = "en",
        translate: bool = False,
        audio_ctx: int = 0,
        max_tokens: int = 0,
        use_gpu: bool = True,
        flash_attn: bool = False,
        beam_size: int = 1,
        policy: GuardPolicy | None = None,
        load: Callable[[Path, bool, bool], ModelPort] = WhisperModel,
    ) -> None:
        flash = flash_attn or not (use_gpu and accelerators())
        self._model = load(model_path, use_gpu, flash)
        if not self._model.knows_language(language):
            self._model.close()
            raise ConfigError(f"Whisper has no language '{language}'; give a code such as en, de or es, or auto.")
        if not self._model.multilingual and (language not in ("en", AUTO) or translate):
            _log.warning("%s knows English only; the language %s is ignored", model_path.name, language)
        self._name = model_path.name
        self._post = post
        self._clock = clock
        self._params = DecodeParams(threads=threads, translate=translate, beam_size=beam_size, timestamps=True)
        self._language = language if self._model.multilingual else "en"
        self._audio_ctx = audio_ctx
        self._quantum = FLASH_QUANTUM if flash else 1
        self._max_tokens = max_tokens
        self._max_states = max_states
        self._policy = policy or GuardPolicy()
        self._keys: dict[int, bytes] = {}
        self._local = threading.local()

        self._condition = threading.Condition()
        self._waiting: dict[str, _Job] = {}
        self._calls: dict[str, _Call] = {}
        self._free: list[StatePort] = []
        self._states = 0
        self._closing = False
        self._done = self._failed = self._retried = self._cut = self._superseded = 0
        self._threads = [
            threading.Thread(target=self._work, name=f"stt-{number}", daemon=True) for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    # ------------------------------------------------------------------ main thread

    def submit(self, call_id: str, generation: int, pcm: Pcm, *, prompt: str = "") -> None:
        """Transcribe int16 mono PCM at 16 kHz; returns at once. Main thread only.

        ``prompt`` is text in whose manner Whisper goes on: names and words to expect.
        """
        with self._condition:
            call = self._calls.setdefault(call_id, _Call())
            waiting = self._waiting.get(call_id)
            newest = max((job.generation for job in (waiting, call.running) if job is not None), default=generation)
            if generation < newest:
                return
            if waiting is not None:
                self._superseded += 1
            if call.running is not None:
                call.running.cancelled = True
            # Assigning to a key keeps its place in the order.
            self._waiting[call_id] = _Job(call_id, generation, pcm, prompt, self._clock.now())
            self._condition.notify()

    def cancel(self, call_id: str, generation: int) -> None:
        """Give up this generation and older ones; nothing more is posted for them. Main thread only."""
        with self._condition:
            waiting = self._waiting.get(call_id)
            if waiting is not None and waiting.generation <= generation:
                del self._waiting[call_id]
            call = self._calls.get(call_id)
            if call is not None and call.running is not None and call.running.generation <= generation:
                call.running.cancelled = True

    def release(self, call_id: str) -> None:
        """The call is over: its work is given up and its state goes back to the pool. Main thread only."""
        with self._condition:
            self._waiting.pop(call_id, None)
            call = self._calls.pop(call_id, None)
            if call is None:
                return
            call.released = True
            if call.running is not None:
                call.running.cancelled = True  # the worker gives the state back
            else:
                self._give_back(call)

    def status(self) -> dict[str, Any]:
        """Counters and sizes for the status page. Any thread."""
        with self._condition:
            return {
                "model": self._name,
                "language": self._language,
                "workers": len(self._threads),
                "threads": self._params.threads,
                "flash_attn": self._quantum > 1,
                "states": self._states,
                "states_free": len(self._free),
                "waiting": len(self._waiting),
                "done": self._done,
                "failed": self._failed,
                "retried": self._retried,
                "repetitions_cut": self._cut,
                "superseded": self._superseded,
            }

    def close(self) -> None:
        """Stop the workers and free the model. Returns when the running work has stopped. Any thread."""
        with self._condition:
            self._closing = True
            self._waiting.clear()
            for call in self._calls.values():
                if call.running is not None:
                    call.running.cancelled = True
            self._condition.notify_all()
        for thread in self._threads:
            thread.join()
        with self._condition:
            for call in self._calls.values():
                self._give_back(call)
            self._calls.clear()
            for state in self._free:
                state.close()
            self._free.clear()
            self._states = 0
        self._model.close()

    # ------------------------------------------------------------------ workers

    def _work(self) -> None:
        try:
            self._serve()
        finally:
            self._discard_wide()

    def _serve(self) -> None:
        while True:
            with self._condition:
                while (job := self._next()) is None:
                    if self._closing:
                        return
                    self._condition.wait()
                call = self._calls[job.call_id]
                call.running = job
            event = self._run(job, call)
            with self._condition:
                call.running = None
                if call.released:
                    self._give_back(call)
                wanted = not job.cancelled and not call.released and not self._closing
                # Another worker may have passed over this call because it was busy.
                self._condition.notify()
            if wanted:
                self._post(event)

    def _next(self) -> _Job | None:
        """The first job whose call no other worker is busy with. With the lock."""
        for call_id, job in self._waiting.items():
            if self._calls[call_id].running is None:
                del self._waiting[call_id]
                return job
        return None

    def _run(self, job: _Job, call: _Call) -> Event:
        began = self._clock.now()
        try:
            state = self._state_of(call)
            transcript = self.transcribe(
                state,
                job.pcm,
                language=call.language or self._language,
                prompt=job.prompt,
                abort=lambda: job.cancelled,
                wide=self._wide_state,
            )
        except Aborted as error:
            return WorkFailed(job.call_id, job.generation, Stage.TRANSCRIBE, str(error))
        except Exception as error:  # noqa: BLE001 - the top of a worker thread: it must go on for the other calls
            reason = (
                str(error) if isinstance(error, AiphoneError) else f"speech to text failed ({error!r}); see the log."
            )
            _log.warning("call %s, generation %d: %s", job.call_id, job.generation, reason, exc_info=True)
            with self._condition:
                self._failed += 1
                self._discard(call)
            self._discard_wide()
            return WorkFailed(job.call_id, job.generation, Stage.TRANSCRIBE, reason)
        with self._condition:
            self._done += 1
            self._retried += transcript.retried
            self._cut += transcript.cuts
            if self._language == AUTO and transcript.text:
                call.language = transcript.language
        return Transcribed(
            job.call_id,
            job.generation,
            transcript.text,
            self._clock.now() - began,
            began - job.asked,
            transcript.retried,
        )

    def _state_of(self, call: _Call) -> StatePort:
        with self._condition:
            if call.state is not None:
                return call.state
            if self._free:
                call.state = self._free.pop()
                return call.state
            if self._states >= self._max_states:
                raise InferenceError(
                    f"all {self._max_states} Whisper states are in use; raise --max-calls or wait for a call to end."
                )
            self._states += 1
        try:
            state = self._model.new_state()
        except AiphoneError:
            with self._condition:
                self._states -= 1
            raise
        call.state = state
        return state

    def _wide_state(self, step: int) -> StatePort:
        """This worker's own state for a long context; the full one, 0, has its own."""
        states: dict[bool, StatePort] = self._local.__dict__.setdefault("wide", {})
        full = step == 0
        if full not in states:
            states[full] = self._model.new_state()
        return states[full]

    def _give_back(self, call: _Call) -> None:
        """The call's state goes to the pool. With the lock."""
        if call.state is not None:
            self._free.append(call.state)
            call.state = None

    def _discard(self, call: _Call) -> None:
        """A state that failed is not used again. With the lock."""
        if call.state is not None:
            call.state.close()
            call.state = None
            self._states -= 1

    def _discard_wide(self) -> None:
        """At the end, and after a failure, which may have been of one of these."""
        states: dict[bool, StatePort] = self._local.__dict__.pop("wide", {})
        for state in states.values():
            state.close()

    # ------------------------------------------------------------------ one transcription

    def new_state(self) -> StatePort:
        """A state outside the pool, for ``transcribe``; to be closed before this object. Any thread."""
        return self._model.new_state()

    def transcribe(
        self,
        state: StatePort,
        pcm: Pcm,
        *,
        language: str,
        prompt: str = "",
        abort: Callable[[], bool] | None = None,
        wide: Callable[[int], StatePort] | None = None,
    ) -> Transcript:
        """Text of int16 mono PCM at 16 kHz, on this thread, with a state that nothing else uses meanwhile.

        ``wide`` gives the state for long contexts (0 is the full one); without it ``state`` does them too.

        Raises ``Aborted`` when ``abort`` says so and ``InferenceError`` when Whisper fails.
        """
        samples = pcm.astype(np.float32) / 32768.0
        if is_silent(self._policy, samples):
            return Transcript("", 0, 0, 0, language)
        pieces = windows(self._policy, samples)
        texts: list[str] = []
        decodings = cuts = 0
        for piece in pieces:
            seconds = len(piece) / 16_000
            cap = token_cap(self._policy, len(piece), self._max_tokens)
            steps = context_steps(self._policy, len(piece), self._model.n_audio_ctx, self._audio_ctx, self._quantum)
            for step in steps:
                is_wide = step == 0 or step > LARGEST_OF_A_CALL
                chosen = wide(step) if wide is not None and is_wide else state
                segments = chosen.full(
                    piece,
                    DecodeParams(
                        threads=self._params.threads,
                        language=language,
                        translate=self._params.translate,
                        initial_prompt=prompt,
                        audio_ctx=step,
                        max_tokens=cap,
                        beam_size=self._params.beam_size,
                        timestamps=True,
                    ),
                    abort=abort,
                    stop=self._is_looping if self._params.beam_size <= 1 else None,
                )
                decodings += 1
                if language == AUTO:
                    language = chosen.language
                tokens = [Spoken(token.raw, token.logprob) for part in segments for token in part.tokens]
                no_speech = max((part.no_speech for part in segments), default=0.0)
                verdict = judge(self._policy, tokens, seconds, cap, no_speech, step == steps[-1])
                if not verdict.retry:
                    break
                _log.debug("decoding again after %d positions: %s", step, verdict.doubt.value)
            cuts += verdict.cut
            if verdict.text:
                texts.append(verdict.text)
        return Transcript(" ".join(texts), decodings, len(pieces), cuts, language)

    def _is_looping(self, ids: list[int]) -> bool:
        """Asked before each token, from within whisper.cpp."""
        keys = []
        for token in ids:
            if token >= self._model.token_eot:
                continue
            key = self._keys.get(token)
            if key is None:
                key = self._keys[token] = token_key(self._model.token_bytes(token))
            keys.append(key)
        return is_looping(keys)
