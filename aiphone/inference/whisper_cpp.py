"""whisper.cpp's objects: one model (the weights) and a state for each call.

Weights are shared, states are not: any number of threads may run ``WhisperState.full`` at once as long as each
uses its own state. ctypes lets go of the GIL while the library works.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aiphone.errors import InferenceError, ModelError
from aiphone.inference import whisper_library as wl

SAMPLE_RATE = 16_000
"""Sample rate (Hz) of the PCM whisper.cpp takes."""
FRAMES_PER_SECOND = 50
"""Encoder positions for a second of audio; the full context of 1500 is 30 s."""


@dataclass(frozen=True, slots=True)
class Token:
    """A text token with its probability (0 to 1) and natural log-probability."""

    id: int
    raw: bytes
    """Its text in UTF-8, with the space before it; may be a part of a character."""
    p: float
    logprob: float
    t0: float = 0.0
    """Seconds from the start of the audio; set when ``token_timestamps`` were asked for."""
    t1: float = 0.0


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of text. ``t0`` and ``t1`` are seconds from the start of the audio."""

    text: str
    t0: float
    t1: float
    no_speech: float
    """Probability of the no-speech token."""
    tokens: tuple[Token, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class DecodeParams:
    """What ``WhisperState.full`` is to do, in whisper.cpp's terms."""

    threads: int = 2
    language: str = "en"
    """ISO 639-1 code, or ``"auto"``. Ignored by an English-only model."""
    translate: bool = False
    """Translate to English."""
    initial_prompt: str = ""
    audio_ctx: int = 0
    """Encoder positions to use, of 1500; 0 is all of them. Audio beyond them is not heard."""
    max_tokens: int = 0
    """Tokens at most; 0 is no limit."""
    beam_size: int = 1
    """1 is greedy."""
    timestamps: bool = False
    token_timestamps: bool = False
    """Estimate when each token was said; needs ``timestamps``."""
    single_segment: bool = True
    suppress_nst: bool = True
    """Never sample symbols that stand for non-speech sounds."""
    temperature: float = 0.0


class Aborted(InferenceError):  # noqa: N818 - an outcome that was asked for, not a fault
    """The abort callback said stop."""


class WhisperModel:
    """The weights of a ggml Whisper file (``whisper_context`` without a state).

    Making one takes a moment; everything else is cheap. Any thread. ``close`` frees the weights once its last
    state is closed. ``use_gpu`` means Metal or CUDA where the build of the library has them.

    whisper.cpp takes a file whose last tensor is cut short without a word: ``path`` is one that
    ``models.resolve`` has looked at, which also says what is wrong with one that is not.
    Raises ``ModelError`` when whisper.cpp refuses it.
    """

    def __init__(self, path: Path, use_gpu: bool = True, flash_attn: bool = False) -> None:
        self._lib = wl.load_library()
        defaults = self._lib.whisper_context_default_params_by_ref()
        params = wl.ContextParams.from_buffer_copy(defaults.contents)
        self._lib.whisper_free_context_params(defaults)
        params.use_gpu = use_gpu
        params.flash_attn = flash_attn
        self._context = self._lib.whisper_init_from_file_with_params_no_state(os.fsencode(path), params)
        if not self._context:
            raise ModelError(f"{path} was refused by whisper.cpp; check it with 'whisper-talk-llama models verify'.")
        self.path = path
        self.multilingual = bool(self._lib.whisper_is_multilingual(self._context))
        self.n_vocab: int = self._lib.whisper_n_vocab(self._context)
        self.n_audio_ctx: int = self._lib.whisper_n_audio_ctx(self._context)
        self.token_eot: int = self._lib.whisper_token_eot(self._context)
        self.type: str = self._lib.whisper_model_type_readable(self._context).decode()
        self._lock = threading.Lock()
        self._open_states = 0
        self._closed = False

    def new_state(self) -> WhisperState:
        """A fresh ``whisper_state``. Any thread. Raises ``InferenceError`` when memory is short."""
        with self._lock:
            if self._closed:
                raise InferenceError(f"the Whisper model {self.path.name} is closed.")
            self._open_states += 1
        pointer = self._lib.whisper_init_state(self._context)
        if not pointer:
            self._state_closed()
            raise InferenceError(
                f"whisper.cpp could not make another state for {self.path.name}: memory is short; lower --max-calls."
            )
        return WhisperState(self, pointer)

    @property
    def open_states(self) -> int:
        """States made and not closed yet. Any thread."""
        return self._open_states

    def token_bytes(self, token: int) -> bytes:
        """Text of a token, as in ``Token.raw``. Any thread."""
        return self._lib.whisper_token_to_str(self._context, token) or b""

    def knows_language(self, code: str) -> bool:
        """Whether ``code`` is ``"auto"`` or a language of Whisper's. Any thread."""
        return code == "auto" or int(self._lib.whisper_lang_id(code.encode())) >= 0

    def close(self) -> None:
        """Free the weights, now or when the last state is closed. Any thread; may be called twice."""
        with self._lock:
            self._closed = True
            self._free_if_unused()

    def _state_closed(self) -> None:
        with self._lock:
            self._open_states -= 1
            if self._closed:
                self._free_if_unused()

    def _free_if_unused(self) -> None:
        if self._context and self._open_states == 0:
            self._lib.whisper_free(self._context)
            self._context = None


class WhisperState:
    """A ``whisper_state``: one transcription at a time, from any one thread at a time."""

    def __init__(self, model: WhisperModel, pointer: int) -> None:
        self._model = model
        self._lib = model._lib
        self._pointer: int | None = pointer

    def close(self) -> None:
        """Free it. Never while ``full`` runs. May be called twice."""
        if self._pointer:
            self._lib.whisper_free_state(self._pointer)
            self._pointer = None
            self._model._state_closed()

    def full(
        self,
        pcm: npt.NDArray[np.float32],
        params: DecodeParams,
        *,
        abort: Callable[[], bool] | None = None,
        stop: Callable[[list[int]], bool] | None = None,
    ) -> list[Segment]:
        """Transcribe float32 mono PCM at 16 kHz, shape ``[samples]``, range -1 to 1.

        ``abort`` is asked after the encoder and after each decoder step; when it says True, ``Aborted`` is raised. Not
        within the encoder: whisper.cpp hands it to no graph, and its backends are out of reach. ``stop`` is asked
        before each token with the ids so far; when it says True the text ends there.
        Both are called on this thread (``stop`` on a helper thread too, with a beam) and must not raise.

        Raises ``InferenceError`` when whisper.cpp fails.
        """
        if self._pointer is None:
            raise InferenceError("this Whisper state is closed.")
        aborted = False

        def on_abort(_user_data: object) -> bool:
            nonlocal aborted
            aborted = aborted or (abort is not None and abort())
            wl.expect_stop(aborted)
            return aborted

        eot, n_vocab = self._model.token_eot, self._model.n_vocab

        def on_logits(
            _context: object, _state: object, tokens: object, count: int, logits: object, _user: object
        ) -> None:
            ids = [tokens[i].id for i in range(count)]  # type: ignore[index]
            if stop is not None and stop(ids):
                view = np.ctypeslib.as_array(logits, shape=(n_vocab,))
                view.fill(-np.inf)
                view[eot] = 0.0

        full = self._params(params)
        # These must stay alive until the call returns: the structure holds bare pointers.
        abort_hook, logits_hook = wl.AbortCallback(on_abort), wl.LogitsFilter(on_logits)
        if abort is not None:
            full.abort_callback = abort_hook
        if stop is not None:
            full.logits_filter_callback = logits_hook
        samples = np.ascontiguousarray(pcm, dtype=np.float32)
        code = self._lib.whisper_full_with_state(
            self._model._context,
            self._pointer,
            full,
            samples.ctypes.data_as(ctypes.POINTER(ctypes.c_float)),
            len(samples),
        )
        wl.expect_stop(False)
        if aborted:
            raise Aborted("the transcription was cancelled.")
        if code != 0:
            raise InferenceError(f"whisper.cpp failed to transcribe with {self._model.path.name} (code {code}).")
        return self._segments()

    def detect_language(self, pcm: npt.NDArray[np.float32], threads: int) -> tuple[str, float]:
        """Language of float32 mono PCM at 16 kHz (ISO 639-1) and its probability, with the context last used.

        Raises ``InferenceError`` when whisper.cpp fails, as it does for a model that knows one language.
        """
        if self._pointer is None:
            raise InferenceError("this Whisper state is closed.")
        context = self._model._context
        samples = np.ascontiguousarray(pcm, dtype=np.float32)
        pointer = samples.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        chances = (ctypes.c_float * (self._lib.whisper_lang_max_id() + 1))()
        number = self._lib.whisper_pcm_to_mel_with_state(context, self._pointer, pointer, len(samples), threads)
        if number == 0:
            number = self._lib.whisper_lang_auto_detect_with_state(context, self._pointer, 0, threads, chances)
        if number < 0:
            raise InferenceError(f"whisper.cpp could not tell the language with {self._model.path.name} ({number}).")
        return str(self._lib.whisper_lang_str(number).decode()), float(chances[number])

    def _params(self, params: DecodeParams) -> wl.FullParams:
        strategy = wl.SAMPLING_GREEDY if params.beam_size <= 1 else wl.SAMPLING_BEAM_SEARCH
        defaults = self._lib.whisper_full_default_params_by_ref(strategy)
        full = wl.FullParams.from_buffer_copy(defaults.contents)
        self._lib.whisper_free_params(defaults)
        full.n_threads = params.threads
        full.translate = params.translate and self._model.multilingual
        full.no_context = True
        full.no_timestamps = not params.timestamps
        full.token_timestamps = params.token_timestamps
        full.single_segment = params.single_segment
        full.print_progress = False
        full.print_timestamps = False
        full.audio_ctx = params.audio_ctx
        full.max_tokens = params.max_tokens
        full.language = params.language.encode() if self._model.multilingual else b"en"
        full.initial_prompt = params.initial_prompt.encode() if params.initial_prompt else None
        full.suppress_nst = params.suppress_nst
        full.temperature = params.temperature
        # The guard decides what to do about a bad result; whisper.cpp's own way, sampling at random again and
        # again at the same context, costs more and may say something else each time.
        full.temperature_inc = 0.0
        full.greedy.best_of = 1
        if strategy == wl.SAMPLING_BEAM_SEARCH:
            full.beam_search.beam_size = params.beam_size
        return full

    def _segments(self) -> list[Segment]:
        lib, state = self._lib, self._pointer
        segments = []
        for i in range(lib.whisper_full_n_segments_from_state(state)):
            tokens = []
            for k in range(lib.whisper_full_n_tokens_from_state(state, i)):
                data = lib.whisper_full_get_token_data_from_state(state, i, k)
                if data.id < self._model.token_eot:
                    raw = self._model.token_bytes(data.id)
                    tokens.append(Token(data.id, raw, data.p, data.plog, max(0, data.t0) / 100, max(0, data.t1) / 100))
            text = lib.whisper_full_get_segment_text_from_state(state, i) or b""
            segments.append(
                Segment(
                    text.decode(errors="replace"),
                    lib.whisper_full_get_segment_t0_from_state(state, i) / 100,
                    lib.whisper_full_get_segment_t1_from_state(state, i) / 100,
                    lib.whisper_full_get_segment_no_speech_prob_from_state(state, i),
                    tuple(tokens),
                )
            )
        return segments
