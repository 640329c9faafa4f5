"""The server with models that fail whoever says certain words; its flags are those of the real one.

The faults are put where the libraries are called, so that everything above them is the real thing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from aiphone.cores import wait_gently

WEATHER = "Tell me about the weather."
"""The language model computes what are no numbers."""
MUSIC = "Tell me about the music."
"""``llama_decode`` fails."""
BREAD = "Tell me about the bread."
"""``llama_decode`` finds no room in the cache."""
GERMANY = "What is the capital of Germany?"
"""The voice fails at its answer."""
LONG = "I would like to know, if you can tell me that, and if you have the time for it, what the capital of France is."
"""The recogniser fails at what is as long as that."""
LONGEST = 5.0
"""Seconds that the recogniser hears without failing."""


def break_language_model() -> None:
    from aiphone.inference.llama_cpp_api import LlamaCpp
    from aiphone.inference.llm_backend import Entry

    real_decode, real_logits, real_copy = LlamaCpp.decode, LlamaCpp.logits, LlamaCpp.seq_cp
    held: dict[int, list[int]] = {}
    batch: list[Entry] = []

    def asked(model: LlamaCpp, seq: int) -> str:
        """The end of what a sequence's caller said last: a turn without an answer is part of the next."""
        text = b"".join(model.piece(token, special=True) for token in held.get(seq, [])).decode("utf-8", "replace")
        return text.rpartition("<|im_start|>user")[2].partition("<|im_end|>")[0].lower()[-10:]

    def decode(model: LlamaCpp, entries: Sequence[Entry]) -> int:
        batch[:] = entries
        for entry in entries:
            held[entry.seq] = [*held.get(entry.seq, [])[: entry.pos], *entry.tokens]
        said = " ".join(asked(model, entry.seq) for entry in entries)
        return -3 if "music" in said else 1 if "bread" in said else real_decode(model, entries)

    def logits(model: LlamaCpp, index: int) -> Any:
        row = real_logits(model, index)
        return np.full_like(row, np.nan) if "weather" in asked(model, batch[index].seq) else row

    def copy(model: LlamaCpp, src: int, dst: int, p1: int) -> None:
        held[dst] = held.get(src, [])[:p1]
        real_copy(model, src, dst, p1)

    LlamaCpp.decode, LlamaCpp.logits, LlamaCpp.seq_cp = decode, logits, copy  # type: ignore[method-assign]


def break_speech() -> None:
    from aiphone.errors import InferenceError
    from aiphone.inference.piper_voice import PiperVoice
    from aiphone.inference.whisper_cpp import WhisperState

    real_samples, real_full = PiperVoice.samples, WhisperState.full

    def samples(voice: PiperVoice, text: str) -> Iterator[Any]:
        if "germany" in text.lower() or "berlin" in text.lower():
            raise RuntimeError("the voice was told to fail")
        return real_samples(voice, text)

    def full(state: WhisperState, pcm: Any, *arguments: Any, **more: Any) -> Any:
        if len(pcm) > LONGEST * 16_000:
            raise InferenceError("the recogniser was told to fail.")
        return real_full(state, pcm, *arguments, **more)

    PiperVoice.samples, WhisperState.full = samples, full  # type: ignore[method-assign]


if __name__ == "__main__":
    wait_gently()
    break_language_model()
    break_speech()
    from aiphone.cli.main import main

    sys.exit(main(sys.argv[1:]))
