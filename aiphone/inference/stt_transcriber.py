"""One transcription: what Whisper is asked, and asked again.

The audio is cut into windows that Whisper's context holds, each is decoded with as little context as it needs, and
the guard (``stt_guard``) takes the result or has it decoded with more. A turn of several windows grows at its end only,
so that what the others hold is decoded once and then known (``Known``).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from aiphone.events import Pcm, Urgency
from aiphone.inference.stt_guard import (
    FLASH_CONTEXTS,
    FLASH_QUANTUM,
    POSITIONS_PER_SECOND,
    SAMPLE_RATE,
    Doubt,
    GuardPolicy,
    Spoken,
    Verdict,
    context_steps,
    is_looping,
    is_silent,
    judge,
    same_words,
    token_cap,
    token_key,
    windows,
)
from aiphone.inference.stt_states import StatePool, StatePort
from aiphone.inference.stt_words import words_of
from aiphone.inference.whisper_cpp import Aborted, DecodeParams, Token
from aiphone.spoken_word import SpokenWord

_log = logging.getLogger(__name__)

AUTO = "auto"
_CONTEXT_TO_TELL = 256
"""Encoder positions that are enough to tell a language from, and the samples that they hold."""
_SAMPLES_TO_TELL = _CONTEXT_TO_TELL * SAMPLE_RATE // POSITIONS_PER_SECOND


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


@dataclass(frozen=True, slots=True)
class Window:
    """What was found in one window."""

    text: str
    words: tuple[SpokenWord, ...]
    """With times from the start of the window."""
    decodings: int
    cut: bool
    doubtful: bool


Known = dict[bytes, Window]
"""The windows of a call's turn that audio follows, by their audio and how it was to be understood."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """What was found."""

    text: str
    words: tuple[SpokenWord, ...]
    language: str
    sure_of_language: float
    """Probability of a detected language, 1 for a given one."""
    decodings: int
    """How often Whisper was run; once for each of the windows when all went well."""
    windows: int
    """That were not known before."""
    cuts: int
    """Repetitions that were cut off."""
    doubted: str | None = None
    """Text of the last window, left out above, that the guard would have had decoded again; None when it took it."""

    @property
    def doubtful(self) -> bool:
        """Whether the guard would have had the last window decoded again."""
        return self.doubted is not None

    @property
    def retried(self) -> bool:
        """Whether a window was decoded more than once."""
        return self.decodings > self.windows


class Transcriber:
    """Whisper with the guard. Any thread, several at a time.

    ``params`` are those of every decoding (threads, beam size, translation); ``audio_ctx`` and ``max_tokens`` limit
    the context and the text (0: by the length of the audio); ``flash`` is whether the model uses flash attention.
    """

    def __init__(
        self,
        model: ModelPort,
        policy: GuardPolicy,
        params: DecodeParams,
        *,
        audio_ctx: int = 0,
        max_tokens: int = 0,
        flash: bool = False,
    ) -> None:
        self._model = model
        self._policy = policy
        self._params = replace(params, timestamps=True)
        self._audio_ctx = audio_ctx
        self._max_tokens = max_tokens
        self._contexts = FLASH_CONTEXTS if flash else ()
        self._keys: dict[int, bytes] = {}
        self.states = StatePool(model.new_state, FLASH_QUANTUM if flash else 1)

    def transcribe(
        self,
        pcm: Pcm,
        *,
        language: str,
        prompt: str = "",
        urgency: Urgency = Urgency.FINAL,
        threads: int = 0,
        abort: Callable[[], bool] | None = None,
        needed: Callable[[], bool] | None = None,
        doubted: str | None = None,
        known: Known | None = None,
    ) -> Transcript:
        """Text of int16 mono PCM at 16 kHz, on this thread.

        ``language`` is a code or ``AUTO``. But for a final the last window, which may grow, is decoded once, whatever
        the guard thinks of it; what it doubts is left out. ``needed`` tells whether one that began early is wanted as a
        final by now; ``doubted`` is what was found early and not taken: the least context is passed over. ``threads``
        0 takes those of the ``params``. ``known`` is the call's: its windows are not decoded again, and it is given
        those of this turn.

        Raises ``Aborted`` when ``abort`` says so and ``InferenceError`` when Whisper fails.
        """
        samples = pcm.astype(np.float32) / 32768.0
        sure = 1.0
        if is_silent(self._policy, samples):
            return Transcript("", (), language, 0.0 if language == AUTO else 1.0, 0, 0, 0)
        if language == AUTO:
            language, sure = self._detect(samples)
        *complete, last = windows(self._policy, samples)
        params = replace(
            self._params, language=language, initial_prompt=prompt, threads=threads or self._params.threads
        )
        known = {} if known is None else known
        found: list[Window] = []
        fresh: list[Window] = []
        keys = [_key(piece, language, prompt) for piece in complete]
        for key, piece in zip(keys, complete, strict=True):
            if key not in known:
                known[key] = self._window(piece, params, abort)
                fresh.append(known[key])
            found.append(known[key])
        for key in known.keys() - set(keys):
            del known[key]
        partial = urgency is Urgency.PARTIAL
        newest = self._window(
            last,
            params,
            abort,
            once=lambda: urgency is not Urgency.FINAL and not (needed is not None and needed()),
            doubted=doubted,
            timed=not partial,
        )
        found.append(replace(newest, text="", words=()) if newest.doubtful else newest)
        fresh.append(newest)
        words: list[SpokenWord] = []
        start = 0
        for window, piece in zip(found, (*complete, last), strict=True):
            words += [_later(word, start / SAMPLE_RATE) for word in window.words]
            start += len(piece)
        return Transcript(
            " ".join(window.text for window in found if window.text),
            () if partial else tuple(words),
            language,
            sure,
            sum(window.decodings for window in fresh),
            len(fresh),
            sum(window.cut for window in fresh),
            newest.text if newest.doubtful else None,
        )

    def _window(
        self,
        samples: npt.NDArray[np.float32],
        params: DecodeParams,
        abort: Callable[[], bool] | None,
        *,
        once: Callable[[], bool] = lambda: False,
        doubted: str | None = None,
        timed: bool = True,
    ) -> Window:
        params = replace(params, token_timestamps=timed)
        verdict, tokens, count = self._decode(samples, params, once, doubted, abort)
        written = "en" if params.translate else params.language
        words = () if not timed or not verdict.text else tuple(words_of(tokens[: verdict.kept], written))
        return Window(verdict.text, words, count, verdict.cut, verdict.retry)

    def _decode(
        self,
        samples: npt.NDArray[np.float32],
        params: DecodeParams,
        once: Callable[[], bool],
        doubted: str | None,
        abort: Callable[[], bool] | None,
    ) -> tuple[Verdict, list[Token], int]:
        """The last verdict, what it was about, and how many decodings it took."""
        cap = token_cap(self._policy, len(samples), self._max_tokens)
        steps = context_steps(self._policy, len(samples), self._model.n_audio_ctx, self._audio_ctx, self._contexts)
        if doubted is not None and len(steps) > 1:
            steps = steps[1:]
        count, before = 0, doubted
        for step in steps:
            count += 1
            if abort is not None and abort():  # whisper.cpp asks only after its encoder
                raise Aborted("the transcription was cancelled.")
            with self.states.lend(step) as state:
                segments = state.full(
                    samples,
                    replace(params, audio_ctx=step, max_tokens=cap),
                    abort=abort,
                    stop=self._is_looping if params.beam_size <= 1 else None,
                )
            tokens = [token for part in segments for token in part.tokens]
            no_speech = max((part.no_speech for part in segments), default=0.0)
            seconds = len(samples) / SAMPLE_RATE
            spoken = [Spoken(token.raw, token.logprob) for token in tokens]
            verdict = judge(self._policy, spoken, seconds, cap, no_speech, step == 0)
            if not verdict.retry or once():
                break
            if verdict.doubt is Doubt.IMPROBABLE and before is not None and same_words(verdict.text, before):
                # Heard twice: the whole context would have it the same, and takes longest.
                verdict = judge(self._policy, spoken, seconds, cap, no_speech, last=True)
                break
            before = verdict.text
            _log.debug("not sure after %d positions: %s", step, verdict.doubt.value)
        return verdict, tokens, count

    def _detect(self, samples: npt.NDArray[np.float32]) -> tuple[str, float]:
        if not self._model.multilingual:
            return "en", 1.0
        with self.states.lend(_CONTEXT_TO_TELL) as state:
            return state.detect_language(samples[:_SAMPLES_TO_TELL], self._params.threads)

    def warm_up(self) -> None:
        """Transcribe a tone in the contexts of short turns: the first caller does not pay for what that sets up."""
        tone = np.sin(np.arange(SAMPLE_RATE) * (2 * np.pi * 300 / SAMPLE_RATE)).astype(np.float32)
        for context in [context for context in self._contexts if context < _CONTEXT_TO_TELL] + [_CONTEXT_TO_TELL]:
            with self.states.lend(context) as state:
                state.full(tone * 0.1, replace(self._params, audio_ctx=context, max_tokens=4))

    def close(self) -> None:
        """Free the states; nothing may be running."""
        self.states.close()

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


def _key(samples: npt.NDArray[np.float32], language: str, prompt: str) -> bytes:
    known = hashlib.blake2b(samples.tobytes(), digest_size=16)
    known.update(f"{language}\0{prompt}".encode())
    return known.digest()


def _later(word: SpokenWord, seconds: float) -> SpokenWord:
    return replace(word, start=round(seconds + word.start, 2), end=round(seconds + word.end, 2))
