"""From the end of speech to its text, against whisper.cpp as it comes and faster-whisper with the same weights.

    python -m benchmarks.stt [--model tiny.en base] [--prompts N] [--seed N] [--noise SECONDS] [--json FILE]

Real telephone prompts with their transcripts (the Debian package ``asterisk-core-sounds-en-wav``), every way
(``stt_peers``) in one process, one after the other for each prompt, so that a busy machine slows all alike. Then
what a call hears when nobody speaks (``stt_noise``), and what each further call costs in memory.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from aiphone.clock import SystemClock
from aiphone.cores import wait_gently
from aiphone.inference.stt import SpeechToText
from aiphone.inference.stt_guard import GuardPolicy
from aiphone.speech.vad import SileroVad
from benchmarks.report import Row, machine, table
from benchmarks.stt_corpus import Prompt, edits, prompts, words
from benchmarks.stt_noise import listen
from benchmarks.stt_peers import FASTER, FULL, OURS, Way, ways

CACHE = Path.home() / ".cache" / "aiphone"


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
                chosen[name].hear(prompt.pcm)
                began = time.perf_counter()
                text = chosen[name].text(prompt.pcm)
                took.append(time.perf_counter() - began)
            times[name].append(min(took))
            errors = edits(words(prompt.text), words(text))
            wrong[name] += errors
            if name == OURS and errors > 2:
                worst.append({"prompt": prompt.name, "errors": errors, "text": text})
    result: dict[str, Any] = {"prompts": len(corpus), "seconds": round(sum(p.seconds for p in corpus), 1)}
    for name in chosen:
        p50, p95 = np.percentile(times[name], [50, 95])
        result[name] = {
            "wer": round(100 * wrong[name] / total, 2),
            "p50_ms": round(1000 * p50, 1),
            "p95_ms": round(1000 * p95, 1),
        }
    result["worst"] = worst
    return result


def resident() -> float:
    """Resident memory of this process in MB; 0 where it cannot be read."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def memory_of_calls(stt: SpeechToText, corpus: list[Prompt], events: list[object], count: int = 8) -> float:
    """MB for each further call that has said something, after a first one said the same."""

    def one(call: str) -> None:
        for number, prompt in enumerate(corpus[:12], start=1):
            before = len(events)
            stt.submit(call, number, prompt.pcm)
            while len(events) == before:
                time.sleep(0.005)

    one("first")
    before = resident()
    for number in range(count):
        one(f"c{number}")
    return round((resident() - before) / count, 1)


# --------------------------------------------------------------------------- command


def run(model: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything for one model."""
    corpus = prompts(arguments.prompts, arguments.seed)
    policy = GuardPolicy(margins=tuple(arguments.margins)) if arguments.margins else GuardPolicy()
    events: list[object] = []
    stt = SpeechToText(
        model,
        post=events.append,
        clock=SystemClock(),
        threads=arguments.threads,
        use_gpu=arguments.gpu,
        flash_attn=arguments.flash,
        policy=policy,
    )
    try:
        result: dict[str, Any] = {"model": model.name, "threads": arguments.threads, "machine": machine()}
        stt.warm_up()
        with ways(stt, model, arguments.threads, arguments.gpu, CACHE / "bench") as chosen:
            for way in chosen.values():
                way.text(corpus[0].pcm)  # the first run pays for page faults
            result |= measure(chosen, corpus, arguments.repeat)
        if arguments.noise:
            vad = SileroVad(arguments.models_dir / "silero_vad.onnx")
            result["noise"] = [
                {"sound": heard.name, "seconds": heard.seconds, "stretches": heard.taken_for_speech}
                | {"words": heard.words, "texts": heard.texts}
                for heard in listen(stt, vad, arguments.noise)
            ]
        result["mb_per_call"] = memory_of_calls(stt, corpus, events)
        return result
    finally:
        stt.close()


def rows(result: dict[str, Any]) -> list[Row]:
    """What was promised, and what came of it."""
    ours, full, theirs = result[OURS], result[FULL], result.get(FASTER)
    found = [
        Row("p50, of the full context's", "x", ours["p50_ms"] / full["p50_ms"], 0.22),
        Row("p95, of the full context's", "x", ours["p95_ms"] / full["p95_ms"], 0.5),
        Row("p50, of faster-whisper's", "x", ours["p50_ms"] / theirs["p50_ms"] if theirs else None, 0.5),
        Row("word error rate beyond the full context's", "points", ours["wer"] - full["wer"], 0.3),
    ]
    if "noise" in result:
        minutes = sum(sound["seconds"] for sound in result["noise"]) / 60
        said = sum(sound["words"] for sound in result["noise"])
        found.append(Row(f"words from {minutes:.0f} minutes without speech", "", said, 0))
    found.append(Row("memory of each further call", "MB", result["mb_per_call"], 25.0))
    return found


def report(result: dict[str, Any]) -> None:
    """The result for people."""
    print(f"{result['model']}: {result['prompts']} prompts, {result['seconds']} s, {result['threads']} threads")
    print(f"  {'':16}{'WER %':>8}{'p50 ms':>9}{'p95 ms':>9}")
    for name in (OURS, FULL, FASTER):
        if name in result:
            way = result[name]
            print(f"  {name:16}{way['wer']:8.2f}{way['p50_ms']:9.0f}{way['p95_ms']:9.0f}")
    for worst in result["worst"]:
        print(f"    {worst['errors']} words wrong in {worst['prompt']}: {worst['text']}")
    for sound in result.get("noise", ()):
        said = f": {' / '.join(sound['texts'])}" if sound["words"] else ""
        print(
            f"  {sound['sound']:16}{sound['seconds']:6.0f} s{sound['stretches']:5} stretches"
            f"{sound['words']:5} words{said}"
        )
    print(table(rows(result)))


def main() -> int:
    """The command; 0 when the targets are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["tiny.en", "base"], help="names or ggml files")
    parser.add_argument("--models-dir", type=Path, default=CACHE / "models")
    parser.add_argument("--prompts", type=int, default=120, help="how many; 0 is all")
    parser.add_argument("--seed", type=int, default=0, help="which prompts are drawn")
    parser.add_argument("--repeat", type=int, default=1, help="time each prompt so often and take the best")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--margins", type=int, nargs="+", help="encoder positions beyond the audio, for each step")
    parser.add_argument("--noise", type=float, default=1200.0, help="seconds of what is not speech; 0 is none")
    parser.add_argument("--gpu", action="store_true", help="use Metal or CUDA if the library has it")
    parser.add_argument("--flash", action="store_true", help="flash attention for ours on a GPU too")
    parser.add_argument("--json", type=Path, help="write the results here as well")
    arguments = parser.parse_args()
    wait_gently()  # OpenMP as the server has it, for all
    results = []
    for name in arguments.model:
        path = Path(name) if Path(name).is_file() else arguments.models_dir / f"ggml-{name}.bin"
        results.append(run(path, arguments))
        report(results[-1])
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 1 if any(row.short for result in results for row in rows(result)) else 0


if __name__ == "__main__":
    sys.exit(main())
