"""Real calls to the real server: answering, latency wire to wire with its parts, memory, many calls at once.

    python -m benchmarks.calls [--quick] [--json]

It starts the server with the starter models and its defaults (but for greedy decoding, a short greeting and answers
of at most 48 tokens, so that a turn ends soon) and calls it from processes of their own. Questions of 2 to 3 s are
spoken by Piper. Latency is what the caller measured: from the sending of the packet with its last voiced 20 ms to
the arrival of the first audible one of the answer. The parts are the server's, and add up to its own figure.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from aiphone.caller import Call, Caller, load, write_wav
from aiphone.config import default_models_dir
from aiphone.conversation.latency import PARTS
from aiphone.events import INTERNAL_RATE
from aiphone.inference.piper_voice import PiperVoice
from aiphone.models.resolve import resolve_voice
from aiphone.models.store import ModelStore
from benchmarks.report import Row, as_json, machine, percentile, table
from benchmarks.server import Server, environment

QUESTIONS = (
    "Can you please tell me, what is the capital of France?",
    "Good morning, how many days are there in one week?",
    "I would like to know, what is the color of a banana?",
    "Could you tell me who wrote the play Romeo and Juliet?",
    "What is the largest animal that lives in the ocean?",
)
STORY = "Tell me a long story about a dragon."
FLAGS = ("--greeting", "Good morning.", "--idle-after", "0")
REPLY = ("--reply-tokens", "48")
HELD = 50


@dataclass(slots=True)
class Conversations:
    """What one or more callers at once went through."""

    latencies: list[float] = field(default_factory=list)
    """Of every answered question, in ms."""
    asked: int = 0
    parts: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in PARTS})
    cut_short: int = 0
    rss: float = 0.0
    """Largest resident memory of the server meanwhile, in MB."""


def speak(folder: Path) -> list[Path]:
    """The questions as files; the story last."""
    voice = PiperVoice(
        resolve_voice("en_US-joe-medium", ModelStore(default_models_dir(os.environ))), threads=1, noise=False
    )
    paths = []
    for number, text in enumerate((*QUESTIONS, STORY)):
        path = folder / f"question-{number}.wav"
        write_wav(path, np.concatenate([piece.pcm for piece in voice.synthesise(text)]), INTERNAL_RATE)
        paths.append(path)
    return paths


def caller(server: Server, *flags: str) -> subprocess.Popen[str]:
    """A caller in a process of its own."""
    arguments = [sys.executable, "-m", "aiphone.caller", server.sip_uri, "--json", "--silence", "0.6", *flags]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment())


def reported(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What the caller has to tell, when it is through."""
    out, _ = process.communicate(timeout=300)
    report: dict[str, Any] = json.loads(out)
    return report


def converse(server: Server, sets: Sequence[Sequence[Path]], into: Conversations) -> None:
    """One caller at once for each set of questions."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            into.rss = max(into.rss, server.holdings().rss)

    watcher = threading.Thread(target=watch)
    if sys.platform == "linux":
        watcher.start()
    callers = [caller(server, *(word for path in questions for word in ("--play", str(path)))) for questions in sets]
    try:
        reports = [reported(process) for process in callers]
    finally:
        done.set()
        if watcher.is_alive():
            watcher.join()
    status = server.wait_idle()
    for report in reports:
        into.asked += len(report["questions"])
        answered = [q["latency_ms"] for q in report["questions"] if q["latency_ms"] is not None]
        into.latencies += answered
        (record,) = [call for call in status["recent_calls"] if call["sip_call_id"] == report["call_id"]]
        # One answer too many is an answer to half a question.
        into.cut_short += max(0, len(record["turns"]) - len(answered))
        for turn in record["turns"]:
            for name in PARTS:
                into.parts[name].append(turn[name] * 1000)


def answering(server: Server, calls: int) -> list[Row]:
    """Call, hear the greeting, hang up."""
    reports = [reported(caller(server)) for _ in range(calls)]

    def times(name: str) -> list[float]:
        return [report[name] for report in reports if report[name] is not None]

    invite, packet, voiced = (
        times(name) for name in ("invite_to_200_ms", "ack_to_first_packet_ms", "ack_to_first_voiced_ms")
    )
    return [
        Row("INVITE to 200 OK, p50", "ms", percentile(invite, 0.5), 100),
        Row("INVITE to 200 OK, p95", "ms", percentile(invite, 0.95), 100),
        Row("ACK to the greeting's first packet, p50", "ms", percentile(packet, 0.5), 150),
        Row("ACK to the greeting's first packet, p95", "ms", percentile(packet, 0.95), 150),
        Row("ACK to its first audible packet, p50", "ms", percentile(voiced, 0.5)),
    ]


def latency(server: Server, questions: Sequence[Path], rounds: int) -> list[Row]:
    """One caller, two at once, and four, who also show what a further call takes."""
    converse(server, [questions[:1]], Conversations())  # the first call of all pays for what is made once
    one, two, four = Conversations(), Conversations(), Conversations()
    for turn in range(rounds):
        converse(server, [[*questions[turn:], *questions[:turn]]], one)
    for turn in range(max(1, rounds // 2)):
        converse(server, [questions[turn:], [*questions[turn + 1 :], *questions[:1]]], two)
    converse(server, [questions[number : number + 1] for number in range(4)], four)
    rows = [
        Row("wire to wire, p50", "ms", percentile(one.latencies, 0.5), 1200),
        Row("wire to wire, p95", "ms", percentile(one.latencies, 0.95)),
        Row("wire to wire, p99", "ms", percentile(one.latencies, 0.99)),
        *(
            Row(f"  its {name.replace('_', ' ')}, p50", "ms", percentile(times, 0.5))
            for name, times in one.parts.items()
        ),
        Row("questions asked", "", one.asked),
        Row("questions answered", "%", 100 * len(one.latencies) / one.asked, 100, at_least=True),
        Row("turns cut short", "%", 100 * one.cut_short / one.asked),
        Row("two callers at once, wire to wire, p50", "ms", percentile(two.latencies, 0.5), 1800),
        Row("two callers at once, wire to wire, p95", "ms", percentile(two.latencies, 0.95)),
        Row("two callers at once, answered", "%", 100 * len(two.latencies) / two.asked, 100, at_least=True),
        Row("four callers at once, wire to wire, p50", "ms", percentile(four.latencies, 0.5)),
    ]
    if sys.platform == "linux":
        rows += [
            Row("memory with one call, short answers", "MB", one.rss, 800),
            Row("memory for each further call", "MB", max(0.0, (four.rss - one.rss) / 3), 60),
        ]
    return rows


async def interrupt(server: Server, story: Path, over: Path) -> float:
    """Seconds from the caller's first voiced packet until the last audible one of what it talks over."""
    async with Caller() as phone:
        call = await phone.call(server.sip_uri)
        await call.wait_reply(after=call.ack_at, silence=0.5)
        asked = await call.play(story)
        async with asyncio.timeout(30):
            while not any(p.voiced and p.arrived_at > asked for p in call.packets[-50:]):
                await asyncio.sleep(0.02)
        await asyncio.sleep(1.5)  # of listening
        played = await call.play_through(load(over))
        begin, end = played.first_voiced_at or 0.0, played.last_voiced_at or 0.0
        during = [p.arrived_at for p in call.packets if p.voiced and begin < p.arrived_at < end]
        await call.hangup()
        return max(during, default=begin) - begin


async def hold(server: Server, seconds: float) -> tuple[int, int, float]:
    """Calls that were answered, those still there with their packets at the end, and the memory then (MB)."""
    async with Caller() as phone:
        calls: list[Call] = list(
            await asyncio.gather(*(phone.call(server.sip_uri) for _ in range(HELD)), return_exceptions=True)  # type: ignore[arg-type]
        )
        calls = [call for call in calls if isinstance(call, Call)]
        await asyncio.gather(*(call.wait_packet(30) for call in calls))
        await asyncio.sleep(seconds)
        kept = [call for call in calls if call.state.value == "answered" and len(call.packets) > 0.9 * seconds * 50]
        return len(calls), len(kept), server.holdings().rss if sys.platform == "linux" else 0.0


def run(quick: bool) -> list[Row]:
    """All measurements."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="aiphone-bench-") as name:
        *questions, story = speak(Path(name))
        ready = []
        for _ in range(1 if quick else 3):
            with Server(*FLAGS) as server:
                ready.append(server.ready_seconds)
        rows.append(Row("start to ready, median", "s", median(ready), 5))
        with Server(*FLAGS, *REPLY) as server:
            rows += answering(server, 5 if quick else 20)
            rows += latency(server, questions, 1 if quick else 4)
        with Server(*FLAGS) as server:
            long = Conversations()
            converse(server, [[story]], long)
            if sys.platform == "linux":
                rows.append(Row("memory with one call, after an answer of full length", "MB", long.rss, 800))
            stops = [asyncio.run(interrupt(server, story, questions[0])) for _ in range(1 if quick else 3)]
            rows.append(Row("talked over, silent after, worst", "ms", 1000 * max(stops), 600))
        with Server(*FLAGS, "--max-calls", str(HELD)) as server:
            answered, kept, rss = asyncio.run(hold(server, 3 if quick else 10))
            rows.append(Row("calls answered at once", "", answered, HELD, at_least=True))
            rows.append(Row("calls held, with their audio", "", kept, HELD, at_least=True))
            if sys.platform == "linux":
                rows.append(Row("memory with those", "MB", rss))
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when every target is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few turns only: whether it works, not how well")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    options = parser.parse_args(arguments)
    before = machine()
    rows = run(options.quick)
    print(as_json(rows, machine=before) if options.json else f"{before}\n\n{table(rows)}")
    return 1 if any(row.short for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
