"""The language model with many callers: ``python -m benchmarks.llm [--json FILE] [--quick] [--only NAME...]``.

It ends with a table of what is promised; 1 when something falls short.

Each figure stands beside a peer with the same weights, threads and priority, measured in the same process, in turns, so
that a busy machine slows all alike. Look at the ratios, not at the times. The curves over 1 to 16 calls are drawn by
``benchmarks.llm_curves``.

``throughput``  tokens/s of 8 calls at once, while all of them speak: ours; a bare ``llama_decode`` loop over 8
                sequences; high-level ``Llama`` under a lock
``first``       the same with a shared prompt of 1,000 tokens, reading included, and the time to the first token; the
                bare loop and ``Llama`` share what questions begin with, too
``gap``         longest pause between tokens of a speaking call while another reads a long prompt, and its pause alone
``returning``   first token for a caller with a long history: from the session file's state, and reading it again
``cache``       the KV cache at 16 and at 8 bits, in the same memory: cells, speed of one and of 8 calls, perplexity,
                and how often the likeliest next token is the same
``memory``      resident memory of each further call beside its share of the KV cache
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aiphone.events import ReplyEnded, ReplyText
from aiphone.inference.llama_cpp_api import LlamaCpp
from aiphone.inference.llm import SessionSnapshot
from aiphone.inference.llm_backend import BackendOptions, Entry
from aiphone.persona import Message
from aiphone.store.sessions import SavedConversation
from benchmarks import llm_peers as peers
from benchmarks.report import Row, machine, table

CALLS = 8

Figures = dict[str, Any]


def _like_ours(threads: int) -> BackendOptions:
    """What a bare loop is given: the context that ``Bench`` makes."""
    return BackendOptions(
        threads=threads, n_seq_max=12, n_ctx_per_call=4096, max_calls=CALLS, n_ctx_total=8192, flash_attn=peers.FLASH
    )


def throughput(path: Path, threads: int, size: int) -> Figures:
    """See the module's docstring."""
    who = peers.persona(size)
    bench = peers.Bench(path, threads)
    backend = LlamaCpp(path, _like_ours(threads))
    llama = peers.high_level(path, threads)
    prompts = peers.rendered(backend, who)
    ours, bare, lock = [], [], []
    for _ in range(3):
        bare.append(peers.bare_rate(backend, prompts, size))
        ours.append(peers.speaking_rate(peers.at_once(bench, who)))
        bare.append(peers.bare_rate(backend, prompts, size))
        lock.append(peers.locked(llama, prompts, size)[0])
    bench.model.stop()
    backend.close()
    llama.close()
    around = [(bare[at] + bare[at + 1]) / 2 for at in range(0, len(bare), 2)]
    return {
        "ours_tokens_s": statistics.median(ours),
        "bare_tokens_s": statistics.median(bare),
        "locked_tokens_s": statistics.median(lock),
        "ours_to_bare": statistics.median(a / b for a, b in zip(ours, around, strict=True)),
        "ours_to_locked": statistics.median(a / b for a, b in zip(ours, lock, strict=True)),
    }


def first(path: Path, threads: int, size: int) -> Figures:
    """See the module's docstring. Both have read the shared prompt before, and both keep it."""
    tokens = 64 if size >= 1000 else 16
    who = peers.persona(tokens, peers.words(size))
    bench = peers.Bench(path, threads)
    backend = LlamaCpp(path, _like_ours(threads))
    prompts = peers.rendered(backend, who)
    llama = peers.high_level(path, threads)
    list(llama.create_completion(prompts[0], max_tokens=1, temperature=0.0, stream=True))
    ours, lock, rates, bare = [], [], [], []
    for _ in range(2):
        events = peers.at_once(bench, who)
        ended = [event for event in events if isinstance(event, ReplyEnded)]
        ours.append(float(np.percentile([event.seconds_to_first for event in ended], 95)))
        rate = sum(event.reply_tokens for event in ended) / max(event.seconds for event in ended)
        speed, theirs, _ = peers.locked(llama, prompts, tokens)
        lock.append(float(np.percentile(theirs, 95)))
        rates.append(rate / speed)
        bare.append(peers.bare_shared_rate(backend, prompts, tokens) / speed)
    bench.model.stop()
    backend.close()
    llama.close()
    return {
        "prompt_tokens": len(prompts[0]),
        "reply_tokens": tokens,
        "ours_p95_s": min(ours),
        "locked_p95_s": min(lock),
        "ours_to_locked": statistics.median(a / b for a, b in zip(ours, lock, strict=True)),
        "tokens_s_to_locked": statistics.median(rates),
        "bare_tokens_s_to_locked": statistics.median(bare),
    }


def gap(path: Path, threads: int, size: int) -> Figures:
    """See the module's docstring."""
    who = peers.persona(120)
    bench = peers.Bench(path, threads)
    bench.model.open("speaks", who)
    bench.model.open("reads", peers.persona(4))
    bench.settle()
    bench.model.generate("speaks", 1, peers.story(who, 0))
    bench.until_ended(1)
    alone = np.diff(bench.backend.forget()).tolist()
    bench.model.generate("speaks", 2, peers.story(who, 1))
    for _ in range(5):
        bench.events.get(timeout=600)
    bench.model.generate("reads", 1, [Message("user", peers.words(size))])
    bench.until_ended(2)
    beside = np.diff(bench.backend.forget()).tolist()
    bench.model.stop()
    median = statistics.median(alone)
    return {
        "alone_median_s": median,
        "alone_longest_s": max(alone),
        "beside_median_s": statistics.median(beside),
        "beside_longest_s": max(beside),
        "budget_s": peers.LIMITS.gap_budget,
        "allowed_s": 2.5 * median + peers.LIMITS.gap_budget,
        "longest_to_allowed": max(beside) / (2.5 * median + peers.LIMITS.gap_budget),
        "pauses_beyond": sum(pause > 2.5 * median + peers.LIMITS.gap_budget for pause in beside),
        "pauses": len(beside),
    }


def returning(path: Path, threads: int, size: int) -> Figures:
    """See the module's docstring."""
    who = peers.persona(4)
    bench = peers.Bench(path, threads)
    talk = [who.system_message(), Message("user", peers.words(size))]
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
    }


def _eight(backend: LlamaCpp, text: Sequence[int]) -> float:
    """Tokens a second of eight sequences in one batch, each with ``text`` behind it: the median of eight decodes."""
    for seq in range(CALLS):
        backend.decode([Entry(seq, 0, text[: backend.n_batch], False)])
    at = min(len(text), backend.n_batch)
    seconds = []
    for step in range(8):
        began = time.monotonic()
        backend.decode([Entry(seq, at + step, [text[step]], True) for seq in range(CALLS)])
        seconds.append(time.monotonic() - began)
    return CALLS / statistics.median(seconds)


def cache(path: Path, threads: int, size: int) -> Figures:
    """See the module's docstring. The text is the model's own, so that its next token is no toss-up."""
    figures: Figures = {}
    likeliest: dict[str, list[int]] = {}
    losses: dict[str, float] = {}
    text: list[int] = []
    for kind in ("f16", "q8_0"):
        options = BackendOptions(threads=threads, n_seq_max=8, n_ctx_per_call=1024, max_calls=8, kv_types=(kind, kind))
        backend = LlamaCpp(path, options)
        text = text or backend.tokenize(" ".join(m.content for n in range(8) for m in peers.story(peers.persona(1), n)))
        text = text[:size]
        picks, loss, began = [], 0.0, time.process_time()
        for at, token in enumerate(text):
            backend.decode([Entry(0, at, [token], True)])
            logits = backend.logits(0).astype(np.float64)
            picks.append(int(logits.argmax()))
            if at + 1 < len(text):
                loss += float(np.logaddexp.reduce(logits) - logits[text[at + 1]])
        figures[f"{kind}_cpu_s"] = time.process_time() - began
        figures[f"{kind}_bytes_per_token"] = backend.kv_bytes_per_token
        figures[f"{kind}_cells"] = backend.n_ctx
        backend.seq_rm(0, 0)
        figures[f"{kind}_8_calls_tokens_s"] = _eight(backend, text)
        likeliest[kind], losses[kind] = picks, loss / (len(text) - 1)
        backend.close()
    same = sum(a == b for a, b in zip(likeliest["f16"], likeliest["q8_0"], strict=True))
    return {
        **figures,
        "same_likeliest_token": same / len(text),
        "f16_perplexity": float(np.exp(losses["f16"])),
        "q8_0_perplexity": float(np.exp(losses["q8_0"])),
    }


def memory(path: Path, threads: int, size: int) -> Figures:
    """See the module's docstring; the context has the size that the server gives it for 32 calls."""
    del size

    def resident() -> float:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    before = resident()
    bench = peers.Bench(path, threads, calls=32, n_ctx_total=None)
    who = peers.persona(48)
    peers.at_once(bench, who, 1)
    one, cells = resident(), 0
    events = peers.at_once(bench, who)
    eight = resident()
    cells = sum(e.prompt_tokens + e.reply_tokens for e in events if isinstance(e, ReplyEnded))
    status = bench.model.status()
    bench.model.stop()
    share = cells / CALLS * float(str(status["kv_bytes_per_token"])) / 1e6
    return {
        "model_and_first_call_mb": one - before,
        "each_further_call_mb": (eight - one) / (CALLS - 1),
        "its_share_of_the_cache_mb": share,
        "beside_its_share_mb": max(0.0, (eight - one) / (CALLS - 1) - share),
        "n_ctx": status["n_ctx"],
        "kv_bytes_per_token": status["kv_bytes_per_token"],
    }


PARTS: dict[str, tuple[Callable[[Path, int, int], Figures], int, int]] = {
    "memory": (memory, 0, 0),
    "throughput": (throughput, 64, 16),
    "first": (first, 1000, 200),
    "gap": (gap, 2000, 300),
    "returning": (returning, 2000, 300),
    "cache": (cache, 400, 40),
}
"""What is measured, with its size, and with ``--quick``."""

PROMISES: tuple[tuple[str, str, str, float, bool], ...] = (
    ("throughput", "ours_to_bare", "tokens/s of 8 calls / of a bare llama_decode loop", 0.95, True),
    ("throughput", "ours_to_locked", "tokens/s of 8 calls / of Llama under a lock", 1.7, True),
    ("first", "tokens_s_to_locked", "the same with a shared prompt of 1,000 tokens", 1.7, True),
    ("first", "ours_to_locked", "its first token, p95 / of Llama under a lock", 0.15, False),
    ("gap", "longest_to_allowed", "longest pause beside a reader / 2.5 medians alone + budget", 1.0, False),
    ("returning", "faster", "first token of a returning caller: read again / from the state", 10.0, True),
    ("memory", "beside_its_share_mb", "MB of a further call beside its share of the cache", 25.0, False),
)
"""What the product promises: part, figure, words for it, value, and whether more is better. For the full sizes."""


def main(arguments: Sequence[str]) -> int:
    """Run the parts and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.llm", description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that it runs, not how fast")
    parser.add_argument("--only", nargs="+", choices=sorted(PARTS), default=list(PARTS))
    parser.add_argument("--threads", type=int, default=min(4, os.cpu_count() or 1))
    parser.add_argument("--model", type=Path, default=peers.MODEL)
    parser.add_argument("--no-flash-attn", action="store_true", help="as the server's flag")
    options = parser.parse_args(arguments)
    peers.FLASH = False if options.no_flash_attn else None
    peers.fair_process()
    results: dict[str, Any] = {"machine": machine()}
    print(results["machine"])
    for name in options.only:
        measure, size, quick = PARTS[name]
        figures = results[name] = measure(options.model, options.threads, quick if options.quick else size)
        print(name)
        for key, value in figures.items():
            print(f"    {key:26} {value:.3f}" if isinstance(value, float) else f"    {key:26} {value}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2), encoding="utf-8")
    if options.quick:
        return 0
    rows = [
        Row(words, "", results[part][figure], limit, at_least)
        for part, figure, words, limit, at_least in PROMISES
        if part in results
    ]
    print(table(rows))
    return int(any(row.short for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
