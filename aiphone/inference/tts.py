"""Speech for all calls: a few workers, every call served in turn.

A phrase is computed piece by piece, and after each piece the worker asks again who is next. The rules:

1. The phrases of one call are spoken in the order they were asked for, one at a time.
2. A call that has heard nothing of its answer yet (first piece of phrase 0) goes before all others.
3. Otherwise the call that was served longest ago is next.

So a long sentence for one caller never delays another's first word by more than one piece.

A voice that fails is replaced by the fallback voice for the rest of that answer, so that a caller waits for it once;
one that fails in two answers in a row is not asked again for a minute. When there is no voice left the phrase ends in
``WorkFailed``.

Threads: ``submit``, ``cancel`` and ``release`` from the main thread, ``speak_now`` from any but the main one
(or before the loop runs); workers post their results.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from aiphone.clock import Clock
from aiphone.cores import Cores
from aiphone.errors import SpeechError
from aiphone.events import Event, Pcm, SpeechChunk, Stage, WorkFailed
from aiphone.inference.allocator import return_freed_memory
from aiphone.inference.phrase_cache import PhraseCache
from aiphone.inference.voice import Piece, Voice, always
from aiphone.priority import INFERENCE, lower_priority

_log = logging.getLogger(__name__)

_CACHED_TEXT = 100  # characters; longer phrases are not likely to come again
_CACHE_BYTES = 8_000_000  # four minutes of speech
_FAILURES = 2  # in a row, after which a voice rests
_REST = 60.0  # seconds
_NOTHING: Pcm = np.empty(0, np.int16)


@dataclass(frozen=True, slots=True)
class VoiceStatus:
    """How a voice is doing."""

    name: str
    language: str
    failures: int
    """Since the start."""
    last_error: str
    resting: bool
    """True while the fallback voice speaks instead."""


@dataclass(frozen=True, slots=True)
class SpeechStatus:
    """A snapshot for the status page."""

    voices: tuple[VoiceStatus, ...]
    waiting: int
    """Phrases asked for and not finished."""
    workers: int
    cached_phrases: int
    cached_bytes: int


@dataclass(slots=True, eq=False)
class _Job:
    """One phrase."""

    call_id: str
    generation: int
    phrase: int
    text: str
    voice: Voice
    asked: float
    pieces: Iterator[Piece] | None = None
    spoken: list[Pcm] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class _Queue:
    """The phrases of one call."""

    jobs: deque[_Job] = field(default_factory=deque)
    busy: bool = False
    served: int = 0
    """When a worker was last here, in turns."""
    cancelled: int = 0
    """Generations up to this one are not wanted."""
    failed: tuple[int, str] = (0, "")
    """Generation in which a voice last failed, and its name."""


@dataclass(slots=True)
class _Health:
    failures: int = 0
    in_a_row: int = 0
    last_error: str = ""
    rests_until: float = -1.0


class SpeechSynthesiser:
    """Text to speech for all calls. See the module for its rules.

    ``voices[0]`` is the default; ``fallback`` speaks when another fails, and may be one of ``voices``.
    ``prepare(text, language)`` makes a text speakable (markdown, units, ...). ``workers`` is how many phrases
    are computed at once; a voice's own threads come on top.
    """

    def __init__(
        self,
        voices: Sequence[Voice],
        *,
        post: Callable[[Event], None],
        clock: Clock,
        fallback: Voice | None = None,
        prepare: Callable[[str, str], str] = lambda text, _language: text,
        threads: int = 1,
        cores: Cores | None = None,
        workers: int = 1,
        cache_bytes: int = _CACHE_BYTES,
    ) -> None:
        if not voices:
            raise SpeechError("there is no voice to speak with; give one with --voice, or a command with -s")
        self._default = voices[0]
        self._fallback = fallback
        known = [*voices, *([fallback] if fallback is not None else [])]
        self._voices = {voice.name: voice for voice in known}
        self._health = {name: _Health() for name in self._voices}
        self._post = post
        self._clock = clock
        self._prepare = prepare
        self._threads_each = threads
        self._cores = cores or Cores()
        self._cache = PhraseCache(cache_bytes)
        self._calls: dict[str, _Queue] = {}
        self._turn = 0
        self._closed = False
        self._change = threading.Condition()  # guards everything above from _health on, but the cache
        self._unknown: set[str] = set()
        self._threads = [
            threading.Thread(target=self._run, name=f"tts-{number}", daemon=True) for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    # ------------------------------------------------------------------ main thread

    def submit(self, call_id: str, generation: int, phrase: int, text: str, voice: str = "") -> None:
        """Speak a phrase; answers with ``SpeechChunk`` events or ``WorkFailed``. Main thread only.

        ``voice`` is the name of a voice, empty for the default one. A phrase in the cache is answered at once.
        """
        job = _Job(call_id, generation, phrase, text, self._find(voice), self._clock.now())
        with self._change:
            if self._closed:
                return
            queue = self._calls.setdefault(call_id, _Queue())
            if generation <= queue.cancelled:
                return
            waits = queue.busy or bool(queue.jobs)
            pcm = None if waits else self._cached(job.voice, text)
            if pcm is None:
                queue.jobs.append(job)
                self._change.notify()
        if pcm is not None:
            self._post(SpeechChunk(call_id, generation, phrase, pcm, True, self._clock.now() - job.asked))

    def cancel(self, call_id: str, generation: int) -> None:
        """Give up this generation and older ones. Main thread only."""
        with self._change:
            queue = self._calls.get(call_id)
            if queue is None:
                return
            queue.cancelled = max(queue.cancelled, generation)
            queue.jobs = deque(job for job in queue.jobs if job.generation > queue.cancelled)

    def release(self, call_id: str) -> None:
        """The call is over: nothing more is said in it. Main thread only."""
        with self._change:
            self._calls.pop(call_id, None)

    def cached(self, text: str, voice: str = "") -> Pcm | None:
        """The phrase's int16 PCM at 16 kHz (read-only) if it was spoken before. Any thread."""
        return self._cached(self._find(voice), text)

    def close(self) -> None:
        """End the workers; what they are doing is given up. Main thread only."""
        with self._change:
            self._closed = True
            self._calls.clear()
            self._change.notify_all()
        for thread in self._threads:
            thread.join()

    # ------------------------------------------------------------------ any thread

    def add(self, voice: Voice) -> None:
        """Make one more voice known, in place of one of its name. Any thread."""
        with self._change:
            self._voices[voice.name] = voice
            self._health[voice.name] = _Health()
            self._unknown.discard(voice.name)

    def knows(self, name: str) -> bool:
        """Whether a voice of this name speaks, and not the default one for it; always of an empty name. Any thread."""
        with self._change:
            return not name or name in self._voices

    def speak_now(self, text: str, voice: str = "") -> Pcm:
        """Speak and wait: int16 at 16 kHz, read-only, and kept in the cache. For greetings, before calls come.

        Blocks the thread that asks. Raises SpeechError when neither the voice nor the fallback can.
        """
        first = self._choose(self._find(voice))
        candidates = [first]
        if self._fallback is not None and self._fallback is not first:
            candidates.append(self._fallback)
        for number, candidate in enumerate(candidates):
            prepared = self._prepare(text, candidate.language)
            pcm = self._cache.get((candidate.name, prepared))
            if pcm is not None:
                return pcm
            try:
                pieces = [piece.pcm for piece in candidate.synthesise(prepared, always)]
            except SpeechError as error:
                self._note_failure(candidate, error)
                if number == len(candidates) - 1:
                    raise
                continue
            self._note_success(candidate)
            return self._keep(candidate, prepared, pieces)
        raise AssertionError("unreachable")

    def status(self) -> SpeechStatus:
        """How voices and queues are doing. Any thread."""
        now = self._clock.now()
        with self._change:
            return SpeechStatus(
                voices=tuple(
                    VoiceStatus(
                        name,
                        voice.language,
                        self._health[name].failures,
                        self._health[name].last_error,
                        now < self._health[name].rests_until,
                    )
                    for name, voice in self._voices.items()
                ),
                waiting=sum(len(queue.jobs) for queue in self._calls.values()),
                workers=len(self._threads),
                cached_phrases=len(self._cache),
                cached_bytes=self._cache.bytes,
            )

    # ------------------------------------------------------------------ workers

    def _run(self) -> None:
        lower_priority(INFERENCE)
        while True:
            with self._change:
                while not self._closed and (turn := self._next()) is None:
                    self._change.wait()
                if self._closed:
                    return
            assert turn is not None
            queue, job = turn
            finished = True
            try:
                finished = self._step(queue, job)
            except Exception as error:  # noqa: BLE001 - top of the thread: the call is told, the worker lives on
                _log.exception("speaking failed")
                finished = self._replace_voice(queue, job, SpeechError(f"speaking failed: {error}"))
            with self._change:
                queue.busy = False
                if finished and queue.jobs and queue.jobs[0] is job:
                    queue.jobs.popleft()
                if queue.jobs:
                    self._change.notify()
            if finished:
                return_freed_memory()

    def _next(self) -> tuple[_Queue, _Job] | None:
        """Who is served next; the queue is marked busy. The lock is held."""
        best: _Queue | None = None
        rank = (True, 0)
        for queue in self._calls.values():
            if queue.busy or not queue.jobs:
                continue
            head = queue.jobs[0]
            candidate = (head.phrase > 0 or bool(head.spoken), queue.served)
            if best is None or candidate < rank:
                best, rank = queue, candidate
        if best is None:
            return None
        self._turn += 1
        best.busy, best.served = True, self._turn
        return best, best.jobs[0]

    def _step(self, queue: _Queue, job: _Job) -> bool:
        """Compute and post one piece of a phrase. True when the phrase is finished."""

        def wanted() -> bool:
            return self._wanted(queue, job)

        if not wanted():
            return True
        if job.pieces is None:
            job.voice = self._choose(job.voice)
            if self._fallback is not None and queue.failed == (job.generation, job.voice.name):
                job.voice = self._fallback
            pcm = self._cached(job.voice, job.text)
            if pcm is not None:
                self._deliver(job, pcm, last=True)
                return True
            prepared = self._prepare(job.text, job.voice.language)
            job.pieces = job.voice.synthesise(prepared, wanted) if prepared else iter(())
        try:
            with self._cores.working(self._threads_each):
                piece = next(job.pieces, Piece(_NOTHING, True))
        except SpeechError as error:
            return self._replace_voice(queue, job, error)
        if not wanted():
            return True
        job.spoken.append(piece.pcm)
        self._deliver(job, piece.pcm, last=piece.last)
        if piece.last:
            self._note_success(job.voice)
            if len(job.text) <= _CACHED_TEXT:
                self._keep(job.voice, self._prepare(job.text, job.voice.language), job.spoken)
        return piece.last

    def _replace_voice(self, queue: _Queue, job: _Job, error: SpeechError) -> bool:
        """The voice failed: True when the phrase is lost, False when the fallback will try."""
        if not self._wanted(queue, job):
            return True  # it was stopped, it did not fail
        self._note_failure(job.voice, error)
        if self._fallback is None or self._fallback is job.voice or job.spoken:
            self._fail(queue, job, str(error))
            return True
        queue.failed = (job.generation, job.voice.name)
        job.voice, job.pieces = self._fallback, None
        return False

    def _wanted(self, queue: _Queue, job: _Job) -> bool:
        with self._change:
            return self._calls.get(job.call_id) is queue and job.generation > queue.cancelled

    def _deliver(self, job: _Job, pcm: Pcm, *, last: bool) -> None:
        seconds = self._clock.now() - job.asked
        self._post(SpeechChunk(job.call_id, job.generation, job.phrase, pcm, last, seconds))

    def _fail(self, queue: _Queue, job: _Job, reason: str) -> None:
        if self._wanted(queue, job):
            self._post(WorkFailed(job.call_id, job.generation, Stage.SPEAK, reason))

    # ------------------------------------------------------------------ voices and their health

    def _find(self, name: str) -> Voice:
        if not name:
            return self._default
        with self._change:
            voice = self._voices.get(name)
            told, unknown = name in self._unknown, voice is None
            if unknown:
                self._unknown.add(name)
        if unknown and not told:
            _log.warning("there is no voice %r; %r speaks instead", name, self._default.name)
        return voice or self._default

    def _choose(self, voice: Voice) -> Voice:
        """The voice, or the fallback while it rests."""
        with self._change:
            rests = self._clock.now() < self._health[voice.name].rests_until
        return self._fallback if rests and self._fallback is not None else voice

    def _note_failure(self, voice: Voice, error: SpeechError) -> None:
        with self._change:
            health = self._health[voice.name]
            health.failures += 1
            health.in_a_row += 1
            health.last_error = str(error)
            if health.in_a_row >= _FAILURES:
                health.rests_until = self._clock.now() + _REST
        _log.warning("%s", error)

    def _note_success(self, voice: Voice) -> None:
        with self._change:
            self._health[voice.name].in_a_row = 0

    # ------------------------------------------------------------------ cache

    def _cached(self, voice: Voice, text: str) -> Pcm | None:
        if len(self._cache) == 0:
            return None
        return self._cache.get((voice.name, self._prepare(text, voice.language)))

    def _keep(self, voice: Voice, prepared: str, pieces: list[Pcm]) -> Pcm:
        pcm = np.concatenate(pieces) if pieces else _NOTHING.copy()
        self._cache.put((voice.name, prepared), pcm)
        return pcm
