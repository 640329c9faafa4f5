"""Speech to text for all calls: one model, a few workers, a state for each transcription that runs.

A call's turns become text in two ways, which ``stt_queue`` puts in order:

* A *final* is of what was said up to a pause. It ends in exactly one ``Transcribed`` or ``WorkFailed``, unless it was
  cancelled, superseded or released. An *early* one, of a pause that is not certain, is dropped when no core is free for
  it or the guard has its doubts; ``insist`` asks for it again, once the pause is certain.
* A *partial* is of what is being said. It ends in one ``PartialTranscript`` or in nothing: partials are worth the time
  that finals leave, are stopped for them, and one that the guard has its doubts about is kept back.

How much each is worth is its ``Urgency``.

What Whisper is asked is in ``stt_transcriber``, when it is asked again in ``stt_guard``, with which state in
``stt_states``. All that is kept of a call between two pieces of work is its language, its last partial transcript, and
of a turn longer than a window what the windows before the last hold.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiphone.clock import Clock
from aiphone.cores import Cores
from aiphone.errors import AiphoneError, ConfigError
from aiphone.events import INTERNAL_RATE, Event, PartialTranscript, Pcm, Stage, Transcribed, Urgency, WorkFailed
from aiphone.inference.allocator import return_freed_memory
from aiphone.inference.stt_guard import GuardPolicy
from aiphone.inference.stt_queue import Job, WorkQueue
from aiphone.inference.stt_stable import StablePrefix
from aiphone.inference.stt_transcriber import AUTO, Known, ModelPort, Transcriber, Transcript
from aiphone.inference.whisper_cpp import Aborted, DecodeParams, WhisperModel
from aiphone.inference.whisper_library import accelerators
from aiphone.priority import INFERENCE, lower_priority

_log = logging.getLogger(__name__)

_SURE = 0.5
"""Probability from which a detected language is kept for the rest of the call."""

_ENOUGH = 3 * INTERNAL_RATE
"""Samples of voice whose language is kept though more of it is coming."""

_LATELY = 5.0
"""Seconds for which a call that asked for a transcript may have an answer in the making."""

_WORTH_A_FREE_CORE = (Urgency.EARLY, Urgency.PARTIAL)
"""What is begun with only where nobody else loses by it."""


@dataclass(slots=True, eq=False)
class _Call:
    """What is kept of a call."""

    language: str = ""
    """The language that was set for it or detected; empty until then."""
    detect: bool = False
    """It is to be detected, whatever the server's language is."""
    prompt: str = ""
    answered: int = -1
    """Generation of the last final that is done."""
    doubted: tuple[int, str | None] = (-1, None)
    """Generation and text of the last early final that the guard had its doubts of."""
    asked: float = -math.inf
    """When it last asked for a transcript."""
    partial: StablePrefix = field(default_factory=StablePrefix)
    known: Known = field(default_factory=dict)


class SpeechToText:
    """Whisper for all calls. See the module for the rules.

    ``threads`` are whisper.cpp's for each of the ``workers`` while one call speaks; where several do, a core is left to
    the other models. ``audio_ctx`` 0 sets the encoder's context in proportion to the audio; ``max_tokens`` 0 does the
    same for the text. ``language`` ``"auto"`` detects it once for each call. ``beam_size`` 1 is greedy. ``flash_attn``
    asks for flash attention on a GPU; on a CPU it is always used, being faster there and a third of the memory.

    ``submit``, ``cancel`` and ``release`` from the main thread; ``post`` is called from the workers.

    Raises ``ModelError`` for a model file that cannot be used, ``ConfigError`` for a language that Whisper or the model
    does not know.
    """

    def __init__(
        self,
        model_path: Path,
        *,
        post: Callable[[Event], object],
        clock: Clock,
        threads: int,
        workers: int = 1,
        language: str = "en",
        translate: bool = False,
        audio_ctx: int = 0,
        max_tokens: int = 0,
        use_gpu: bool = True,
        flash_attn: bool = False,
        beam_size: int = 1,
        policy: GuardPolicy | None = None,
        cores: Cores | None = None,
        load: Callable[[Path, bool, bool], ModelPort] = WhisperModel,
    ) -> None:
        flash = flash_attn or not (use_gpu and accelerators())
        self._model = load(model_path, use_gpu, flash)
        if not self._model.knows_language(language):
            self._model.close()
            raise ConfigError(f"Whisper has no language '{language}'; give a code such as en, de or es, or auto.")
        self._name = model_path.name
        if not self._model.multilingual:
            self._english_only(language, translate)
        self._post = post
        self._clock = clock
        self._language = language if self._model.multilingual else "en"
        self._flash = flash
        self._threads_each = threads
        self._cores = cores or Cores()
        self._transcriber = Transcriber(
            self._model,
            policy or GuardPolicy(),
            DecodeParams(threads=threads, translate=translate, beam_size=beam_size),
            audio_ctx=audio_ctx,
            max_tokens=max_tokens,
            flash=flash,
        )

        self._condition = threading.Condition()  # guards everything below
        self._queue = WorkQueue(workers)
        self._calls: dict[str, _Call] = {}
        self._closing = False
        self._done = self._partials = self._failed = self._retried = self._cut = 0
        self._workers = [
            threading.Thread(target=self._work, name=f"stt-{number}", daemon=True) for number in range(workers)
        ]
        for thread in self._workers:
            thread.start()

    # ------------------------------------------------------------------ main thread

    def begin(self, call_id: str, *, language: str = "", prompt: str = "") -> None:
        """Say what is known of a call before its first words; not needed otherwise. Main thread only.

        ``language`` is the call's own, ``prompt`` text in whose manner Whisper goes on: names and words to expect.
        ``"auto"`` detects it once. A language that the model does not have is ignored with a warning.
        """
        detect = language == AUTO and self._model.multilingual
        if not self._model.multilingual and language not in ("", "en"):
            _log.warning("call %s: %s", call_id, _needs_more(self._name, f"the language {language!r}"))
        if language == AUTO or not self._model.multilingual:
            language = ""
        elif not self._model.knows_language(language or self._language):
            _log.warning("call %s: Whisper has no language %r; %r is used", call_id, language, self._language)
            language = ""
        with self._condition:
            self._calls[call_id] = _Call(language, detect, prompt)

    def submit(
        self,
        call_id: str,
        generation: int,
        pcm: Pcm,
        urgency: Urgency = Urgency.FINAL,
        *,
        prompt: str = "",
    ) -> None:
        """Transcribe int16 mono PCM at 16 kHz; returns at once. Main thread only.

        ``prompt`` takes the place of the call's (see ``begin``).
        """
        with self._condition:
            call = self._calls.setdefault(call_id, _Call())
            call.asked = self._clock.now()
            job = Job(call_id, generation, pcm, prompt or call.prompt, call.asked, urgency)
            if self._queue.put(job):
                self._condition.notify()

    def insist(self, call_id: str, generation: int, pcm: Pcm) -> None:
        """What was submitted early is needed: transcribe it, unless that is done or under way. Main thread only."""
        with self._condition:
            job = self._queue.find(call_id, generation)
            if job is not None:
                job.urgency = Urgency.FINAL
                return
            call = self._calls.get(call_id)
            if call is not None and call.answered == generation:
                return
        self.submit(call_id, generation, pcm)

    def cancel(self, call_id: str, generation: int) -> None:
        """Give up this generation and older ones; nothing more is posted for them. Main thread only."""
        with self._condition:
            self._queue.cancel(call_id, generation)

    def release(self, call_id: str) -> None:
        """The call is over: its work is given up and what was known of it forgotten. Main thread only."""
        with self._condition:
            self._queue.release(call_id)
            self._calls.pop(call_id, None)

    def warm_up(self) -> None:
        """Have whisper.cpp set up what it sets up at first use. Blocks for a moment; any thread, before calls come.

        Raises ``InferenceError`` when the model does not work.
        """
        self._transcriber.warm_up()

    def transcribe(
        self,
        pcm: Pcm,
        *,
        language: str = "",
        prompt: str = "",
        urgency: Urgency = Urgency.FINAL,
        known: Known | None = None,
    ) -> Transcript:
        """Transcribe on the thread that asks, past the queue; ``known`` is what of a turn is known and becomes so.

        Any thread. Raises ``InferenceError``.
        """
        return self._transcriber.transcribe(
            pcm, language=language or self._language, prompt=prompt, urgency=urgency, known=known
        )

    def status(self) -> dict[str, Any]:
        """Counters and sizes for the status page. Any thread."""
        states = self._transcriber.states
        with self._condition:
            return {
                "model": self._name,
                "language": self._language,
                "workers": len(self._workers),
                "threads": self._threads_each,
                "flash_attn": self._flash,
                "states": states.free + states.lent,
                "states_free": states.free,
                "waiting": self._queue.waiting,
                "done": self._done,
                "partials": self._partials,
                "partials_dropped": self._queue.partials_dropped,
                "failed": self._failed,
                "retried": self._retried,
                "repetitions_cut": self._cut,
                "superseded": self._queue.superseded,
                "dropped": self._queue.dropped,
            }

    def close(self) -> None:
        """Stop the workers and free the model. Returns when the running work has stopped. Any thread."""
        with self._condition:
            self._closing = True
            self._queue.clear()
            self._calls.clear()
            self._condition.notify_all()
        for thread in self._workers:
            thread.join()
        self._transcriber.close()
        self._model.close()

    def _english_only(self, language: str, translate: bool) -> None:
        """Refuse what the model cannot do at all, and warn of what it does not need to do."""
        if language not in ("en", AUTO):
            self._model.close()
            raise ConfigError(_needs_more(self._name, f"-l {language}"))
        if language == AUTO:
            _log.warning("%s", _needs_more(self._name, "-l auto"))
        if translate:
            _log.warning("%s", _needs_more(self._name, "-tr"))

    # ------------------------------------------------------------------ workers

    def _work(self) -> None:
        lower_priority(INFERENCE)
        while True:
            with self._condition:
                while not self._closing and (job := self._queue.next()) is None:
                    self._condition.wait()
                if self._closing:
                    return
                assert job is not None
                if job.urgency in _WORTH_A_FREE_CORE and not self._cores.free:
                    self._queue.drop(job)
                    continue
            event = self._run(job)
            with self._condition:
                self._queue.done(job)
                self._settle(job, event)
                wanted = not job.cancelled and not self._closing
                # Another worker may have passed over this call because it was busy.
                self._condition.notify()
            if wanted and event is not None:
                self._deliver(event)
            return_freed_memory()

    def _settle(self, job: Job, event: Event | None) -> None:
        """A final is done, or an early one was given up that is needed by now. With the lock."""
        call = self._calls.get(job.call_id)
        if call is None or job.partial or job.cancelled:
            return
        if event is not None:
            call.answered = job.generation
        elif job.urgency is not Urgency.EARLY:
            self._queue.put(job)

    def _threads_wanted(self, call_id: str, now: float) -> int:
        """All threads for the only call that speaks; one less where another's answer may need a core. With the lock."""
        alone = all(now - call.asked > _LATELY for other, call in self._calls.items() if other != call_id)
        return self._threads_each if alone else max(1, self._threads_each - 1)

    def _deliver(self, event: Event) -> None:
        try:
            self._post(event)
        except Exception:  # noqa: BLE001 - the worker must go on for the other calls
            _log.exception("call %s: its transcript could not be delivered", event.call_id)

    def _run(self, job: Job) -> Event | None:
        began = self._clock.now()
        urgency = job.urgency  # an early one may become a final meanwhile
        with self._condition:
            call = self._calls.get(job.call_id, _Call())
            language = call.language or (AUTO if call.detect else self._language)
            wanted = self._threads_wanted(job.call_id, began)
            generation, doubted = call.doubted
        try:
            with self._cores.working(wanted) as threads:
                transcript = self._transcriber.transcribe(
                    job.pcm,
                    language=language,
                    prompt=job.prompt,
                    urgency=urgency,
                    threads=threads,
                    abort=lambda: job.cancelled,
                    needed=lambda: job.urgency is Urgency.FINAL,
                    doubted=doubted if generation == job.generation else None,
                    known=call.known,
                )
        except Aborted:
            return None
        except Exception as error:  # noqa: BLE001 - the top of a worker thread: it must go on for the other calls
            reason = (
                str(error) if isinstance(error, AiphoneError) else f"speech to text failed ({error!r}); see the log."
            )
            _log.warning("call %s, generation %d: %s", job.call_id, job.generation, reason, exc_info=True)
            with self._condition:
                self._failed += 1
            return None if job.partial else WorkFailed(job.call_id, job.generation, Stage.TRANSCRIBE, reason)
        if urgency is Urgency.EARLY and transcript.doubtful:
            with self._condition:
                call.doubted = (job.generation, transcript.doubted)
            return None  # half a sentence is often doubtful; when it turns out to be a whole one, it is worth more time
        took = self._clock.now() - began
        with self._condition:
            self._cut += transcript.cuts
            # What is being said may have only begun: its language is a guess, unless there is enough of it.
            enough = urgency is Urgency.FINAL or len(job.pcm) >= _ENOUGH
            sure = transcript.sure_of_language >= _SURE
            if not call.language and language == AUTO and transcript.text and sure and enough:
                call.language = transcript.language
            if job.partial:
                self._partials += 1
                return _partial(job, call, transcript, took)
            self._done += 1
            self._retried += transcript.retried
        return Transcribed(
            job.call_id,
            job.generation,
            transcript.text,
            took,
            began - job.asked,
            transcript.retried,
            transcript.words,
            transcript.language,
            transcript.doubted or "",
        )


def _needs_more(model: str, what: str) -> str:
    return f"{model} knows English only; for {what} give a multilingual model, such as -mw base."


def _partial(job: Job, call: _Call, transcript: Transcript, seconds: float) -> PartialTranscript | None:
    if transcript.doubtful or not transcript.text:
        return None
    stable = call.partial.add(job.pcm, transcript.text)
    return PartialTranscript(job.call_id, job.generation, transcript.text, stable, seconds)
