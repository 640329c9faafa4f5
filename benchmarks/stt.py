"""From the end of speech to its text: ``python -m benchmarks.stt [--model tiny.en base] [--json FILE]``.

Real telephone prompts with their transcripts (the Debian package ``asterisk-core-sounds-en-wav``), three ways in
one process with the same weights, one after the other for each prompt so that a busy machine slows all alike:

``ours``      context in proportion to the audio, timestamps, guard (``aiphone.inference.stt``)
``full``      whisper.cpp as it comes: flash attention and the whole context of 30 s for every prompt
``bare``      the context cut to the audio and a margin, without guard

Printed are the word error rate, the median and 95th percentile of the time for a prompt, and the ratio of each to
``full``. Then noises that are not speech (silence, line noise, hum, music, ringing, DTMF) and how many words they
give, and what a further state costs in memory.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import sys
import time
import wave
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aiphone.clock import SystemClock
from aiphone.inference.stt import SpeechToText, StatePort
from aiphone.inference.stt_guard import GuardPolicy
from aiphone.inference.whisper_cpp import DecodeParams, WhisperModel

PACKAGE = "asterisk-core-sounds-en-wav"
SOUNDS = Path("/usr/share/asterisk/sounds/en_US_f_Allison")
TRANSCRIPTS = Path("/usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz")
RATE = 16_000
BARE_MARGIN = 128

Pcm = npt.NDArray[np.int16]


@dataclass(frozen=True)
class Prompt:
    """A recording and what is said in it."""

    name: str
    text: str
    pcm: Pcm

    @property
    def seconds(self) -> float:
        return len(self.pcm) / RATE


def prompts(count: int, seed: int = 0) -> list[Prompt]:
    """``count`` prompts of three words and a second or more, drawn with ``seed``; 0 is all of them."""
    if not TRANSCRIPTS.is_file() or not SOUNDS.is_dir():
        raise SystemExit(f"the recordings are missing; install them: apt-get install {PACKAGE}")
    found = []
    with gzip.open(TRANSCRIPTS, "rt", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            name, colon, text = line.rstrip("\n").partition(":")
            path = SOUNDS / f"{name}.wav"
            # Brackets mark recordings of tones, or remarks about the recording.
            if not colon or name.startswith(";") or re.search(r"[\[(<]", text) or not path.is_file():
                continue
            pcm = upsample(read_wav(path))
            if len(text.split()) >= 3 and 1.0 <= len(pcm) / RATE <= 28.0:
                found.append(Prompt(name, text.strip(), pcm))
    found.sort(key=lambda prompt: prompt.name)
    if not count or count >= len(found):
        return found
    chosen = np.random.default_rng(seed).permutation(len(found))[:count]
    return [found[index] for index in sorted(chosen)]


def read_wav(path: Path) -> Pcm:
    """The samples of a mono 8 kHz file."""
    with wave.open(str(path)) as file:
        if file.getframerate() != 8000 or file.getnchannels() != 1:
            raise SystemExit(f"{path} is not a mono 8 kHz recording")
        return np.frombuffer(file.readframes(file.getnframes()), np.int16)


def upsample(pcm: Pcm) -> Pcm:
    """8 to 16 kHz with a windowed sinc of 65 taps."""
    taps = np.sinc(np.arange(-32, 33) / 2) * np.kaiser(65, 8.0)
    spread = np.zeros(2 * len(pcm))
    spread[::2] = pcm
    return np.clip(np.rint(np.convolve(spread, taps, "same")), -32768, 32767).astype(np.int16)


# --------------------------------------------------------------------------- words

_ONES = [
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
]
_TENS = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def spell(number: int) -> str:
    """Digits as they are read out."""
    if number < 20:
        return _ONES[number]
    if number < 100:
        return _TENS[number // 10] + (f" {_ONES[number % 10]}" if number % 10 else "")
    if number < 1000:
        return f"{_ONES[number // 100]} hundred" + (f" {spell(number % 100)}" if number % 100 else "")
    return " ".join(_ONES[int(digit)] for digit in str(number))


def words(text: str) -> list[str]:
    """A text as it is compared: lower case, numbers spelt out, no punctuation."""
    text = text.lower().replace("#", " pound ").replace("*", " star ").replace("&", " and ").replace("%", " percent ")
    text = re.sub(r"\d+", lambda match: f" {spell(int(match[0]))} ", text)
    return re.sub(r"[^a-z ]", " ", text.replace("'", "")).split()


def edits(reference: list[str], heard: list[str]) -> int:
    """Levenshtein distance in words."""
    row = list(range(len(heard) + 1))
    for i, expected in enumerate(reference, 1):
        diagonal, row[0] = row[0], i
        for j, got in enumerate(heard, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (expected != got))
    return row[-1]


# --------------------------------------------------------------------------- the ways


Way = Callable[[Pcm], str]


def ways(stt: SpeechToText, state: StatePort, wide: StatePort, peer: StatePort, threads: int) -> dict[str, Way]:
    """Each way to get a text, by name. ``peer`` is a state of whisper.cpp with its own defaults."""

    def plain(state: StatePort, pcm: Pcm, context: int, cap: int) -> str:
        samples = pcm.astype(np.float32) / 32768.0
        samples = np.pad(samples, (0, max(0, int(1.1 * RATE) - len(samples))))
        params = DecodeParams(threads=threads, audio_ctx=context, max_tokens=cap)
        return " ".join(segment.text for segment in state.full(samples, params))

    def bare(pcm: Pcm) -> str:
        return plain(state, pcm, min(1500, len(pcm) * 50 // RATE + BARE_MARGIN), int(8 * len(pcm) / RATE) + 16)

    return {
        "ours": lambda pcm: stt.transcribe(state, pcm, language="en", wide=lambda step: state if step else wide).text,
        "full": lambda pcm: plain(peer, pcm, 0, int(8 * len(pcm) / RATE) + 16),
        "bare": bare,
    }


def measure(chosen: dict[str, Way], corpus: list[Prompt], repeat: int) -> dict[str, Any]:
    """Word error rate and times (the best of ``repeat``) of every way over the corpus."""
    times: dict[str, list[float]] = {name: [] for name in chosen}
    wrong = dict.fromkeys(chosen, 0)
    total = sum(len(words(prompt.text)) for prompt in corpus)
    worst: list[dict[str, Any]] = []
    for number, prompt in enumerate(corpus):
        names = list(chosen)
        # Each prompt begins with another way, so that none always finds the caches warm.
        for name in names[number % len(names) :] + names[: number % len(names)]:
            took = []
            for _ in range(repeat):
                began = time.perf_counter()
                text = chosen[name](prompt.pcm)
                took.append(time.perf_counter() - began)
            times[name].append(min(took))
            errors = edits(words(prompt.text), words(text))
            wrong[name] += errors
            if name == "ours" and errors > 2:
                worst.append({"prompt": prompt.name, "errors": errors, "text": text})
    result: dict[str, Any] = {"prompts": len(corpus), "seconds": round(sum(p.seconds for p in corpus), 1)}
    for name in chosen:
        p50, p95 = np.percentile(times[name], [50, 95])
        full50, full95 = np.percentile(times["full"], [50, 95])
        result[name] = {
            "wer": round(100 * wrong[name] / total, 2),
            "p50_ms": round(1000 * p50, 1),
            "p95_ms": round(1000 * p95, 1),
            "p50_to_full": round(p50 / full50, 3),
            "p95_to_full": round(p95 / full95, 3),
        }
    result["worst"] = worst
    return result


# --------------------------------------------------------------------------- what is not speech


def noises(seconds: float, seed: int = 0) -> Iterator[tuple[str, Pcm]]:
    """Sounds of a telephone line that no word should come of, each ``seconds`` long."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * RATE)) / RATE

    def tone(*frequencies: float) -> npt.NDArray[np.float64]:
        return sum((np.sin(2 * np.pi * f * t) for f in frequencies), np.zeros_like(t)) / max(1, len(frequencies))

    def pcm(signal: npt.NDArray[np.float64], level: float) -> Pcm:
        return np.clip(signal * level * 32767, -32768, 32767).astype(np.int16)

    white = rng.standard_normal(len(t))
    yield "silence", pcm(white, 1e-4)
    yield "line noise", pcm(white, 0.01)
    yield "loud noise", pcm(white, 0.1)
    yield "hum", pcm(tone(50, 100, 150), 0.1)
    yield "ringing", pcm(tone(440, 480) * (t % 6 < 2), 0.3)
    yield "busy", pcm(tone(480, 620) * (t % 1 < 0.5), 0.3)
    yield "DTMF", pcm(tone(770, 1336) * (t % 0.4 < 0.2), 0.3)
    notes = np.array([262, 330, 392, 523, 440, 349])[(t * 3).astype(int) % 6]
    yield "music", pcm(np.sin(2 * np.pi * np.cumsum(notes) / RATE) * np.exp(-3 * (t * 3 % 1)), 0.3)


def noise_words(stt: SpeechToText, state: StatePort, seconds: float) -> dict[str, int]:
    """Words from each noise, in turns of 2 and 5 s, with no voice detector in front."""
    found = {}
    for name, pcm in noises(seconds):
        count = 0
        for length in (2 * RATE, 5 * RATE):
            for start in range(0, len(pcm) - length + 1, length):
                text = stt.transcribe(state, pcm[start : start + length], language="en").text
                count += len(text.split())
        found[name] = count
    return found


def resident() -> float:
    """Resident memory of this process in MB; 0 where it cannot be read."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def memory_of_states(stt: SpeechToText, corpus: list[Prompt], count: int = 4) -> float:
    """MB for each further state that has transcribed something."""
    states = [stt.new_state()]
    wide = stt.new_state()
    try:
        wide.full(corpus[0].pcm.astype(np.float32) / 32768.0, DecodeParams())
        stt.transcribe(states[0], corpus[0].pcm, language="en", wide=lambda _step: wide)
        before = resident()
        for _ in range(count):
            states.append(stt.new_state())
            for prompt in corpus[:8]:
                stt.transcribe(states[-1], prompt.pcm, language="en", wide=lambda _step: wide)
        return round((resident() - before) / count, 1)
    finally:
        for state in [*states, wide]:
            state.close()


# --------------------------------------------------------------------------- command


def run(model: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything for one model."""
    corpus = prompts(arguments.prompts)
    policy = GuardPolicy(margins=tuple(arguments.margins)) if arguments.margins else GuardPolicy()
    stt = SpeechToText(
        model,
        post=lambda _event: None,
        clock=SystemClock(),
        threads=arguments.threads,
        max_states=8,
        use_gpu=arguments.gpu,
        flash_attn=arguments.flash,
        policy=policy,
    )
    model_as_it_comes = WhisperModel(model, use_gpu=arguments.gpu, flash_attn=True)
    state, wide, peer = stt.new_state(), stt.new_state(), model_as_it_comes.new_state()
    try:
        chosen = ways(stt, state, wide, peer, arguments.threads)
        chosen["full"](corpus[0].pcm)  # the first run pays for page faults
        result = {
            "model": model.name,
            "margins": list(policy.margins),
            "flash_attn": arguments.flash,
            "threads": arguments.threads,
        }
        result |= measure(chosen, corpus, arguments.repeat)
        if arguments.noise:
            result["noise_words"] = noise_words(stt, state, arguments.noise)
        result["mb_per_state"] = memory_of_states(stt, corpus)
        return result
    finally:
        for each in (state, wide, peer):
            each.close()
        stt.close()
        model_as_it_comes.close()


def report(result: dict[str, Any]) -> None:
    """The result as a table."""
    print(f"{result['model']}: {result['prompts']} prompts, {result['seconds']} s, {result['threads']} threads")
    print(f"  {'':6}{'WER %':>8}{'p50 ms':>9}{'p95 ms':>9}{'p50/full':>10}{'p95/full':>10}")
    for name in ("ours", "full", "bare"):
        row = result[name]
        print(
            f"  {name:6}{row['wer']:8.2f}{row['p50_ms']:9.0f}{row['p95_ms']:9.0f}"
            f"{row['p50_to_full']:10.3f}{row['p95_to_full']:10.3f}"
        )
    for row in result["worst"]:
        print(f"    {row['errors']} words wrong in {row['prompt']}: {row['text']}")
    if "noise_words" in result:
        print("  words from noise:", ", ".join(f"{name} {count}" for name, count in result["noise_words"].items()))
    print(f"  memory: {result['mb_per_state']} MB for each further state")


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stt", description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="+", default=["tiny.en", "base"], help="names or ggml files")
    parser.add_argument("--models-dir", type=Path, default=Path.home() / ".cache" / "aiphone" / "models")
    parser.add_argument("--prompts", type=int, default=120, help="how many; 0 is all")
    parser.add_argument("--repeat", type=int, default=1, help="time each prompt so often and take the best")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--margins", type=int, nargs="+", help="encoder positions beyond the audio, for each step")
    parser.add_argument("--noise", type=float, default=20.0, help="seconds of each noise; 0 is none")
    parser.add_argument("--gpu", action="store_true", help="use Metal or CUDA if the library has it")
    parser.add_argument("--flash", action="store_true", help="flash attention for ours on a GPU too")
    parser.add_argument("--json", type=Path, help="write the results here as well")
    arguments = parser.parse_args()
    results = []
    for name in arguments.model:
        path = Path(name) if Path(name).is_file() else arguments.models_dir / f"ggml-{name}.bin"
        results.append(run(path, arguments))
        report(results[-1])
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
