"""The ways to a text that ``benchmarks.stt`` compares, all with the same weights and number of threads.

``ours``            context in proportion to the audio, timestamps, guard (``aiphone.inference.stt``); as in a call it
                    is asked for what was said so far while the prompt is spoken, here every 1.2 s
``full``            whisper.cpp as it comes: flash attention and the whole context of 30 s for every prompt
``faster-whisper``  CTranslate2, greedy, float32 from the same float16 weights; needs ``pip install faster-whisper``
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from aiphone.errors import AiphoneError
from aiphone.events import INTERNAL_RATE, Pcm, Urgency
from aiphone.inference.stt import SpeechToText
from aiphone.inference.stt_transcriber import Known
from aiphone.inference.whisper_cpp import DecodeParams, WhisperModel
from aiphone.models.catalogue import Catalogue, load_catalogue
from aiphone.models.store import ModelStore


@dataclass(frozen=True, slots=True)
class Way:
    """From a prompt's audio to its text."""

    text: Callable[[Pcm], str]
    """From the end of speech on: this is timed."""
    hear: Callable[[Pcm], None] = lambda _: None
    """What is done before."""


_SO_FAR = 1.2
"""Seconds from one transcript of what was said so far to the next. A call asks for one twice as often, and gets what
the other calls leave."""


FULL = "full"
OURS = "ours"
FASTER = "faster-whisper"


@contextlib.contextmanager
def ways(stt: SpeechToText, path: Path, threads: int, use_gpu: bool, cache: Path) -> Iterator[dict[str, Way]]:
    """Each way to get a text, by name; ``path`` is the ggml file. What cannot be had is left out with a line."""
    model = WhisperModel(path, use_gpu=use_gpu, flash_attn=True)
    state = model.new_state()

    def full(pcm: Pcm) -> str:
        samples = pcm.astype(np.float32) / 32768.0
        samples = np.pad(samples, (0, max(0, int(1.1 * INTERNAL_RATE) - len(samples))))
        cap = int(8 * len(pcm) / INTERNAL_RATE) + 16
        params = DecodeParams(threads=threads, max_tokens=cap)
        return " ".join(segment.text for segment in state.full(samples, params))

    known: Known = {}

    def hear(pcm: Pcm) -> None:
        known.clear()
        step = int(_SO_FAR * INTERNAL_RATE)
        for end in range(step, len(pcm), step):
            stt.transcribe(pcm[:end], language="en", urgency=Urgency.PARTIAL, known=known)

    def ours(pcm: Pcm) -> str:
        return stt.transcribe(pcm, language="en", known=known).text

    chosen = {OURS: Way(ours, hear), FULL: Way(full)}
    theirs = _faster_whisper(path.stem.removeprefix("ggml-"), threads, cache)
    if theirs is not None:
        chosen[FASTER] = theirs
    try:
        yield chosen
    finally:
        state.close()
        model.close()


def _faster_whisper(name: str, threads: int, cache: Path) -> Way | None:
    if importlib.util.find_spec("faster_whisper") is None:
        print(f"{FASTER} is missing: pip install faster-whisper")
        return None
    try:
        directory = original_weights(name, cache)
    except AiphoneError as error:
        print(f"{FASTER} has no weights: {error}")
        return None
    library: Any = importlib.import_module("faster_whisper")
    logging.getLogger("faster_whisper").setLevel(logging.WARNING)
    model = library.WhisperModel(str(directory), device="cpu", compute_type="float32", cpu_threads=threads)

    def transcribe(pcm: Pcm) -> str:
        samples = pcm.astype(np.float32) / 32768.0
        segments, _ = model.transcribe(samples, language="en", beam_size=1, condition_on_previous_text=False)
        return " ".join(segment.text for segment in segments)

    return Way(transcribe)


def original_weights(name: str, cache: Path) -> Path:
    """The CTranslate2 directory that the catalogue's ggml file is converted from, fetched once.

    Raises ``ModelError`` when the catalogue has no such model or it cannot be fetched.
    """
    model = load_catalogue().get(name)
    directory = cache / f"{name}-ctranslate2"
    ModelStore(directory, catalogue=Catalogue([replace(model, files=model.sources, sources=())])).pull(name)
    return directory
