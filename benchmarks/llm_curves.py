"""The language model from 1 to 16 callers, as curves: ``python -m benchmarks.llm_curves [--json FILE] [--svg FILE]``.

So many callers with a shared prompt of 1,000 tokens ask at the same moment. For each number of calls, ours and
high-level ``Llama`` under a lock take turns: tokens/s until all are answered, time to the first token (p95), and the
pause between two tokens (p95). ``--from FILE`` draws what an earlier run wrote with ``--json``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aiphone.events import ReplyEnded
from aiphone.inference.llama_cpp_api import LlamaCpp
from aiphone.inference.llm_backend import BackendOptions
from benchmarks import llm_peers as peers
from benchmarks.llm_picture import FIGURES, NAMES, svg, table
from benchmarks.report import machine

NUMBERS = (1, 2, 4, 8, 12, 16)

Curve = dict[str, list[float]]


def measure(path: Path, threads: int, prompt: int, tokens: int, numbers: Sequence[int]) -> dict[str, Curve]:
    """The curves of both."""
    who = peers.persona(tokens, peers.words(prompt))
    bench = peers.Bench(path, threads, calls=max(numbers))
    backend = LlamaCpp(path, BackendOptions(threads=threads, n_seq_max=2, n_ctx_per_call=256, max_calls=1))
    prompts = peers.rendered(backend, who, max(numbers))
    backend.close()
    llama = peers.high_level(path, threads)
    list(llama.create_completion(prompts[0], max_tokens=1, temperature=0.0, stream=True))
    curves: dict[str, Curve] = {who: {name: [] for name, _ in FIGURES} for who in NAMES}
    for number in numbers:
        events = peers.at_once(bench, who, number)
        ended = [event for event in events if isinstance(event, ReplyEnded)]
        rate = sum(event.reply_tokens for event in ended) / max(event.seconds for event in ended)
        _add(curves["ours"], rate, [event.seconds_to_first for event in ended], peers.gaps(events))
        _add(curves["locked"], *peers.locked(llama, prompts[:number], tokens))
        print(f"measured {number:2} calls at once", flush=True)
    bench.model.stop()
    llama.close()
    return curves


def _add(curve: Curve, rate: float, firsts: Sequence[float], gaps: Sequence[float]) -> None:
    values = (rate, float(np.percentile(firsts, 95)), float(np.percentile(gaps, 95)))
    for (name, _), value in zip(FIGURES, values, strict=True):
        curve[name].append(value)


def main(arguments: Sequence[str]) -> int:
    """Measure, print, and draw."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.llm_curves", description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--svg", type=Path, help="write the picture to this file")
    parser.add_argument("--from", dest="known", type=Path, help="measure nothing: take the figures from this file")
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that it runs, not how fast")
    parser.add_argument("--threads", type=int, default=min(4, os.cpu_count() or 1))
    parser.add_argument("--model", type=Path, default=peers.MODEL)
    options = parser.parse_args(arguments)
    if options.known:
        body: dict[str, Any] = json.loads(options.known.read_text(encoding="utf-8"))
    else:
        peers.fair_process()
        numbers, prompt, tokens = ((1, 2), 100, 8) if options.quick else (NUMBERS, 1000, 48)
        curves = measure(options.model, options.threads, prompt, tokens, numbers)
        what = f"{options.model.stem}; shared prompt of {prompt} tokens, replies of {tokens}"
        body = {"what": what, "machine": machine(), "calls": list(numbers), **curves}
    curves = {name: body[name] for name in NAMES}
    print(table(curves, body["calls"]))
    if options.json:
        options.json.write_text(json.dumps(body, indent=1), encoding="utf-8")
    if options.svg:
        options.svg.write_text(svg(curves, body["calls"], f"{body['what']}; {body['machine']}"), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
