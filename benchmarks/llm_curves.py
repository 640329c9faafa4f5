"""The language model from 1 to 16 callers, as curves: ``python -m benchmarks.llm_curves [--json FILE] [--svg FILE]``.

So many callers with a shared prompt of 1,000 tokens ask at the same moment. For each number of calls, ours and
high-level ``Llama`` under a lock take turns: tokens/s until all are answered, time to the first token (p95), and the
pause between two tokens (p95).
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
from benchmarks.report import machine

NUMBERS = (1, 2, 4, 8, 12, 16)
FIGURES = (("tokens_s", "tokens/s"), ("first_p95_s", "first token, p95 (s)"), ("gap_p95_s", "pause, p95 (s)"))
COLOURS = {"ours": "#1a6fb5", "locked": "#c8553d"}
NAMES = {"ours": "one batch (ours)", "locked": "Llama under a lock"}

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
    curves: dict[str, Curve] = {who: {name: [] for name, _ in FIGURES} for who in COLOURS}
    for number in numbers:
        events = peers.at_once(bench, who, number)
        ended = [event for event in events if isinstance(event, ReplyEnded)]
        rate = sum(event.reply_tokens for event in ended) / max(event.seconds for event in ended)
        _add(curves["ours"], rate, [event.seconds_to_first for event in ended], peers.gaps(events))
        _add(curves["locked"], *peers.locked(llama, prompts[:number], tokens))
        print(f"{number:2} calls  " + "  ".join(f"{name} {_last(curve)}" for name, curve in curves.items()), flush=True)
    bench.model.stop()
    llama.close()
    return curves


def _add(curve: Curve, rate: float, firsts: Sequence[float], gaps: Sequence[float]) -> None:
    values = (rate, float(np.percentile(firsts, 95)), float(np.percentile(gaps, 95)))
    for (name, _), value in zip(FIGURES, values, strict=True):
        curve[name].append(value)


def _last(curve: Curve) -> str:
    return " ".join(f"{name}={values[-1]:.3g}" for name, values in curve.items())


def svg(curves: dict[str, Curve], numbers: Sequence[int], note: str) -> str:
    """Three panels side by side."""
    width, height, left, top = 260, 170, 56, 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {3 * (width + left) + 20} {height + top + 60}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="#fff"/>',
    ]
    for panel, (name, title) in enumerate(FIGURES):
        x0, y0 = left + panel * (width + left), top + height
        most = max(value for curve in curves.values() for value in curve[name]) * 1.1 or 1.0
        parts.append(f'<text x="{x0}" y="{top - 12}" font-weight="bold">{title}</text>')
        for step in range(5):
            y = y0 - step * height / 4
            parts.append(f'<path d="M{x0} {y:.1f}h{width}" stroke="#ddd"/>')
            parts.append(f'<text x="{x0 - 6}" y="{y + 4:.1f}" text-anchor="end">{most * step / 4:.2g}</text>')
        at = [x0 + number / max(numbers) * width for number in numbers]
        for x, number in zip(at, numbers, strict=True):
            parts.append(f'<text x="{x:.1f}" y="{y0 + 16}" text-anchor="middle">{number}</text>')
        for who, curve in curves.items():
            points = " ".join(f"{x:.1f},{y0 - v / most * height:.1f}" for x, v in zip(at, curve[name], strict=True))
            parts.append(f'<polyline points="{points}" fill="none" stroke="{COLOURS[who]}" stroke-width="2"/>')
    for index, who in enumerate(curves):
        x, y = left + index * 170, top + height + 34
        parts.append(f'<path d="M{x} {y - 4}h22" stroke="{COLOURS[who]}" stroke-width="2"/>')
        parts.append(f'<text x="{x + 28}" y="{y}">{NAMES[who]}</text>')
    parts.append(f'<text x="{left}" y="{top + height + 52}" fill="#666">calls at once; {note}</text>')
    return "\n".join([*parts, "</svg>", ""])


def main(arguments: Sequence[str]) -> int:
    """Measure, print, and draw."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.llm_curves", description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--svg", type=Path, help="write the picture to this file")
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that it runs, not how fast")
    parser.add_argument("--threads", type=int, default=min(4, os.cpu_count() or 1))
    parser.add_argument("--model", type=Path, default=peers.MODEL)
    options = parser.parse_args(arguments)
    peers.fair_process()
    numbers, prompt, tokens = ((1, 2), 100, 8) if options.quick else (NUMBERS, 1000, 48)
    curves = measure(options.model, options.threads, prompt, tokens, numbers)
    note = f"SmolLM2-135M, shared prompt of {prompt} tokens, replies of {tokens}; {machine()}"
    if options.json:
        body: dict[str, Any] = {"machine": machine(), "calls": list(numbers), **curves}
        options.json.write_text(json.dumps(body, indent=1), encoding="utf-8")
    if options.svg:
        options.svg.write_text(svg(curves, numbers, note), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
