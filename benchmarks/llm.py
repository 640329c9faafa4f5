"""The language model with many callers: ``python -m benchmarks.llm [--json FILE] [--quick] [--only NAME...]``.

Each figure stands beside a peer with the same weights and threads, measured in the same process, in turns, so that a
busy machine slows all alike. Look at the ratios, not at the times.

``throughput``  tokens/s of 8 calls at once, while all of them speak: ours; a bare ``llama_decode`` loop over 8
                sequences; high-level ``Llama`` under a lock
``first``       time to the first token of 8 calls at once with a shared prompt: ours and ``Llama`` under a lock
``gap``         longest pause between tokens of a speaking call while another reads a long prompt, and its pause alone
``returning``   first token for a caller with a long history: from the session file's state, and reading it again
``memory``      resident memory with no call, one call and eight calls
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import queue
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aiphone.clock import SystemClock
from aiphone.config import default_models_dir
from aiphone.events import Event, ReplyEnded, ReplyText, WorkFailed
from aiphone.inference.llama_cpp_api import LlamaCpp
from aiphone.inference.llm import LanguageModel, SessionSnapshot
from aiphone.inference.llm_backend import BackendOptions, Entry
from aiphone.inference.llm_scheduler import Limits
from aiphone.persona import Message, Persona, Sampling
from aiphone.store.sessions import SavedConversation

MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
CALLS = 8
TOPICS = ["a lighthouse", "a tiger", "the moon", "a baker", "a train", "the sea", "a robot", "a garden"]
SYSTEM = "You are a helpful assistant. You tell long stories."
LIMITS = Limits(n_ctx_per_call=4096)

Figures = dict[str, Any]


class Bench:
    """One embedded model and what it posts."""

    def __init__(self, path: Path, threads: int, n_ctx_total: int) -> None:
        self.events: queue.Queue[Event] = queue.Queue()
        self.model = LanguageModel(
            path,
            post=self.events.put,
            clock=SystemClock(),
            threads=threads,
            max_calls=CALLS,
            limits=LIMITS,
            n_ctx_total=n_ctx_total,
        )
        self.model.start()

    def until_ended(self, count: int) -> list[Event]:
        """All events up to the end of ``count`` replies."""
        seen: list[Event] = []
        while count:
            seen.append(self.events.get(timeout=600))
            if isinstance(seen[-1], WorkFailed):
                raise SystemExit(f"benchmarks.llm: {seen[-1].reason}")
            count -= isinstance(seen[-1], ReplyEnded)
        return seen

    def settle(self) -> None:
        """Wait until templates are read."""
        self.model.snapshot("nobody")  # answered in order, so what came before has been taken in
        self.events.get(timeout=600)
        while True:
            before = self.model.status()["cells_used"]
            time.sleep(0.5)  # a benchmark's rest, no test's
            if self.model.status()["cells_used"] == before:
                return


def persona(max_tokens: int, system: str = SYSTEM) -> Persona:
    """A greedy storyteller."""
    return Persona(prompt=system, sampling=Sampling(temperature=0, max_tokens=max_tokens))


def story(who: Persona, topic: str) -> list[Message]:
    """A request that is answered at length."""
    return [who.system_message(), Message("user", f"Tell me a long story about {topic}.")]


def words(count: int) -> str:
    """Filler of about ``count`` tokens."""
    lines = (f"Rule {n}: be polite to guest {n} at table {n % 7}. " for n in itertools.count())
    return "".join(itertools.islice(lines, max(1, count // 15)))


def at_once(bench: Bench, who: Persona) -> list[Event]:
    """Eight callers ask at the same moment; everything until all were answered."""
    names = [f"b{number}" for number in range(CALLS)]
    for name in names:
        bench.model.open(name, who)
    bench.settle()
    for name, topic in zip(names, TOPICS, strict=True):
        bench.model.generate(name, 1, story(who, topic))
    events = bench.until_ended(CALLS)
    for name in names:
        bench.model.close_call(name)
    return events


def speaking_rate(events: Sequence[Event]) -> float:
    """Tokens/s while all calls speak: from the last first token to the first last one."""
    times: dict[str, list[float]] = {}
    for event in events:
        if isinstance(event, ReplyText):
            times.setdefault(event.call_id, []).append(event.at)
    begin, end = max(t[0] for t in times.values()), min(t[-1] for t in times.values())
    count = sum(1 for mine in times.values() for t in mine if begin < t <= end)
    return count / (end - begin) if end > begin else float("nan")


def bare_rate(backend: LlamaCpp, prompts: Sequence[Sequence[int]], steps: int) -> float:
    """Tokens/s of a loop that does nothing but decode and pick."""
    sampler = backend.new_sampler(Sampling(temperature=0), None)
    tokens = []
    for seq, prompt in enumerate(prompts):
        backend.decode([Entry(seq, 0, prompt, True)])
        tokens.append(backend.sample(sampler, 0) or 0)
    began = time.monotonic()
    for step in range(steps):
        entries = [Entry(s, len(prompts[s]) + step, tokens[s : s + 1], True) for s in range(len(prompts))]
        if backend.decode(entries):
            raise SystemExit("benchmarks.llm: the bare loop could not decode")
        tokens = [backend.sample(sampler, index) or 0 for index in range(len(prompts))]
    rate = steps * len(prompts) / (time.monotonic() - began)
    for seq in range(len(prompts)):
        backend.seq_rm(seq, 0)
    sampler.close()
    return rate


def locked(llama: Any, prompts: Sequence[Sequence[int]], max_tokens: int) -> tuple[float, list[float]]:
    """Eight threads, one ``Llama``, one lock: tokens/s over all, and times to the first token."""
    lock, firsts, counts = threading.Lock(), [0.0] * len(prompts), [0] * len(prompts)
    began = time.monotonic()

    def one(index: int) -> None:
        with lock:
            for chunk in llama.create_completion(
                list(prompts[index]), max_tokens=max_tokens, temperature=0.0, stream=True
            ):
                del chunk
                firsts[index] = firsts[index] or time.monotonic() - began
                counts[index] += 1

    threads = [threading.Thread(target=one, args=(index,)) for index in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.monotonic() - began), firsts


def rendered(backend: LlamaCpp, who: Persona) -> list[list[int]]:
    """The eight prompts as tokens."""
    template = backend.chat_template or ""
    texts = [backend.apply_template(template, story(who, topic), add_assistant=True) or "" for topic in TOPICS]
    return [backend.tokenize(text) for text in texts]


def high_level(path: Path, threads: int) -> Any:
    """llama-cpp-python's own class, with the batch size and context that ours has."""
    from llama_cpp import Llama

    return Llama(str(path), n_ctx=4096, n_batch=256, n_threads=threads, n_threads_batch=threads, verbose=False)


def throughput(path: Path, threads: int, size: int) -> Figures:
    """See the module's docstring."""
    who = persona(size)
    bench = Bench(path, threads, 8192)
    backend = LlamaCpp(
        path,
        BackendOptions(threads=threads, n_seq_max=CALLS + 4, n_ctx_per_call=4096, max_calls=CALLS, n_ctx_total=8192),
    )
    llama = high_level(path, threads)
    prompts = rendered(backend, who)
    ours, bare, lock = [], [], []
    for _ in range(3):
        bare.append(bare_rate(backend, prompts, size))
        ours.append(speaking_rate(at_once(bench, who)))
        lock.append(locked(llama, prompts, size)[0])
    bench.model.stop()
    backend.close()
    llama.close()
    return {
        "ours_tokens_s": statistics.median(ours),
        "bare_tokens_s": statistics.median(bare),
        "locked_tokens_s": statistics.median(lock),
        "ours_to_bare": statistics.median(a / b for a, b in zip(ours, bare, strict=True)),
        "target_ours_to_bare": ">= 0.95",
        "ours_to_locked": statistics.median(a / b for a, b in zip(ours, lock, strict=True)),
        "target_ours_to_locked": ">= 1.7",
    }


def first(path: Path, threads: int, size: int) -> Figures:
    """See the module's docstring."""
    who = persona(32, words(size))
    bench = Bench(path, threads, 8192)
    events = at_once(bench, who)
    bench.model.stop()
    ended = [event for event in events if isinstance(event, ReplyEnded)]
    mine = [event.seconds_to_first for event in ended]
    backend = LlamaCpp(path, BackendOptions(threads=threads, n_seq_max=2, n_ctx_per_call=256, max_calls=1))
    prompts = rendered(backend, who)
    backend.close()
    llama = high_level(path, threads)
    list(
        llama.create_completion(prompts[0], max_tokens=1, temperature=0.0, stream=True)
    )  # it, too, may keep the prefix
    theirs = locked(llama, prompts, 32)[1]
    llama.close()
    return {
        "prompt_tokens": len(prompts[0]),
        "ours_p95_s": float(np.percentile(mine, 95)),
        "locked_p95_s": float(np.percentile(theirs, 95)),
        "ours_to_locked": float(np.percentile(mine, 95) / np.percentile(theirs, 95)),
        "target": "<= 0.15",
    }


def gaps(events: Sequence[Event], call_id: str) -> list[float]:
    """Pauses between the pieces of a reply."""
    times = [event.at for event in events if isinstance(event, ReplyText) and event.call_id == call_id]
    return [b - a for a, b in itertools.pairwise(times)]


def gap(path: Path, threads: int, size: int) -> Figures:
    """See the module's docstring."""
    who = persona(120)
    bench = Bench(path, threads, 8192)
    bench.model.open("speaks", who)
    bench.model.open("reads", persona(4))
    bench.settle()
    bench.model.generate("speaks", 1, story(who, TOPICS[0]))
    alone = gaps(bench.until_ended(1), "speaks")
    bench.model.generate("speaks", 2, story(who, TOPICS[1]))
    head: list[Event] = [bench.events.get(timeout=600) for _ in range(5)]
    bench.model.generate("reads", 1, [Message("user", words(size))])
    beside = gaps([*head, *bench.until_ended(2)], "speaks")
    bench.model.stop()
    median = statistics.median(alone)
    return {
        "alone_median_s": median,
        "alone_longest_s": max(alone),
        "beside_median_s": statistics.median(beside),
        "beside_longest_s": max(beside),
        "budget_s": LIMITS.gap_budget,
        "allowed_s": 2.5 * median + LIMITS.gap_budget,
    }


def returning(path: Path, threads: int, size: int) -> Figures:
    """See the module's docstring."""
    who = persona(4)
    bench = Bench(path, threads, 8192)
    talk = [who.system_message(), Message("user", words(size))]
    bench.model.open("c", who)
    bench.settle()
    bench.model.generate("c", 1, talk)
    text = "".join(event.text for event in bench.until_ended(1) if isinstance(event, ReplyText))
    talk += [Message("assistant", text), Message("user", "It is me again.")]
    bench.model.snapshot("c")
    snapshot = bench.events.get(timeout=60)
    assert isinstance(snapshot, SessionSnapshot)
    saved = SavedConversation((), snapshot.tokens, snapshot.kv, snapshot.fingerprint, snapshot.template_digest)
    bench.model.close_call("c")
    seconds: dict[str, list[float]] = {"state": [], "text": []}
    for name, restore in (("state", saved), ("text", None), ("state", saved)):
        began = time.monotonic()
        bench.model.open(name, who, restore=restore)
        bench.model.generate(name, 1, talk)
        texts = [event for event in bench.until_ended(1) if isinstance(event, ReplyText)]
        seconds[name].append(texts[0].at - began)
        bench.model.close_call(name)
    bench.model.stop()
    return {
        "history_tokens": len(snapshot.tokens),
        "state_bytes": len(snapshot.kv or b""),
        "from_state_s": min(seconds["state"]),
        "from_text_s": min(seconds["text"]),
        "faster": min(seconds["text"]) / min(seconds["state"]),
        "target": ">= 10",
    }


def memory(path: Path, threads: int, size: int) -> Figures:
    """See the module's docstring; the context has the size that the server gives it."""
    del size

    def resident() -> float:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    before = resident()
    events: queue.Queue[Event] = queue.Queue()
    model = LanguageModel(path, post=events.put, clock=SystemClock(), threads=threads, max_calls=32)
    model.start()
    bench = Bench.__new__(Bench)
    bench.events, bench.model = events, model
    who = persona(48)
    model.open("warm", who)
    model.generate("warm", 1, story(who, TOPICS[0]))
    bench.until_ended(1)
    one = resident()
    at_once(bench, who)
    eight = resident()
    status = model.status()
    model.stop()
    return {
        "model_and_first_call_mb": one - before,
        "each_further_call_mb": (eight - one) / (CALLS - 1),
        "n_ctx": status["n_ctx"],
        "kv_bytes_per_token": status["kv_bytes_per_token"],
    }


PARTS: dict[str, tuple[Callable[[Path, int, int], Figures], int, int]] = {
    "memory": (memory, 0, 0),
    "throughput": (throughput, 64, 16),
    "first": (first, 1000, 200),
    "gap": (gap, 2000, 300),
    "returning": (returning, 2000, 300),
}
"""What is measured, with its size, and with ``--quick``."""


def main(arguments: Sequence[str]) -> int:
    """Run the parts and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.llm", description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that it runs, not how fast")
    parser.add_argument("--only", nargs="+", choices=sorted(PARTS), default=list(PARTS))
    parser.add_argument("--threads", type=int, default=min(4, os.cpu_count() or 1))
    parser.add_argument("--model", type=Path, default=default_models_dir(os.environ) / MODEL)
    options = parser.parse_args(arguments)
    results: dict[str, Figures] = {}
    for name in options.only:
        measure, size, quick = PARTS[name]
        results[name] = measure(options.model, options.threads, quick if options.quick else size)
        print(name)
        for key, value in results[name].items():
            print(
                f"    {key:24} {value:.3f}" if isinstance(value, float) else f"    {key:24} {value}",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(results, indent=2), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
