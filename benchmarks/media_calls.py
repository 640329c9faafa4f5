"""How many calls a core carries, and how late their packets are: ``python -m benchmarks.media_calls [--json FILE]``.

Each program (``media_peers``) gets calls at their real pace from telephones written in C (``media_load``) and is
charged for the processor time that the kernel has booked on its threads: seconds of one core for a second of a
call. What else runs does not count, but it makes the same work dearer (caches, clock). Calls a core is its inverse.

``ours``       receive, jitter buffer, decode, conceal, resample to 16 kHz; resample from 16 kHz, encode, send; and
               Python that keeps the rings fed and read
``aiortp``     asyncio with aiortp: playout buffer, concealment, mu-law, no resampling
``rtpengine``  Debian's, in user space: it relays both ways between two telephones, which is a call for it
``bare``       a receive/send loop in C, built like the engine, that does nothing with the packets; it and ours run
               in turns, and the median round of each counts

Then lateness: the same with every core busy and the interpreter held in turns. It is taken from the kernel's stamps
of what was sent, against the most punctual grid of each stream. ``sleep`` is a bare thread that sleeps to absolute
times.

``--hold 1000 --minutes 10`` holds many calls and looks for lost packets and growing memory.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from benchmarks import media_picture
from benchmarks.report import Row, as_json, machine, table

ROOT = Path(__file__).parent.parent
SOURCE = Path(__file__).with_name("media_load.c")
PROGRAM = ROOT / "build" / "media_load"
PEER = "from benchmarks.media_peers import main; main()"
WARM = 2.0
OURS, THEIRS = 12000, 22000
"""First port of the calls, and of the telephones; two for each call."""


def compiled() -> Path:
    """The telephones, compiled when their source has changed."""
    PROGRAM.parent.mkdir(exist_ok=True)
    if not PROGRAM.exists() or PROGRAM.stat().st_mtime < SOURCE.stat().st_mtime:
        subprocess.run(["cc", "-O2", "-std=gnu11", "-o", str(PROGRAM), str(SOURCE)], check=True)
    return PROGRAM


def lines(pairs: list[tuple[int, int]]) -> str:
    """As the programs read them."""
    return "".join(f"{a} {b}\n" for a, b in pairs)


def threads_time(pid: int) -> dict[int, float]:
    """Seconds that each thread of a process has run."""
    found = {}
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            found[int(path.parent.name)] = int(path.read_text().split()[0]) / 1e9
        except OSError:
            continue
    return found


def resident(pid: int) -> float:
    """Resident memory in MB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@dataclass(slots=True)
class Outcome:
    """What a run cost and what came of it."""

    calls: int
    cpu: float = 0.0
    """Seconds of a core for each second of a call."""
    busiest: float = 0.0
    """The same for the busiest thread alone."""
    sent: int = 0
    received: int = 0
    lost: int = 0
    late: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """p50, p99 and the most, ms."""
    memory: tuple[float, float] = (0.0, 0.0)
    facts: dict[str, Any] = field(default_factory=dict)


def start_load(kind: str, seconds: float, pairs: list[tuple[int, int]]) -> subprocess.Popen[str]:
    """Telephones, under way."""
    command = [str(compiled()), kind, str(seconds)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdin.write(lines(pairs))
    process.stdin.close()
    process.stdin = None
    assert process.stderr.readline().startswith("ready")
    return process


def measured(pid: int, load: subprocess.Popen[str], seconds: float, outcome: Outcome) -> None:
    """Wait for the load's end; charge what the process's threads ran meanwhile, after the warm-up."""
    time.sleep(WARM)
    before, began, memory = threads_time(pid), time.monotonic(), resident(pid)
    time.sleep(max(0.5, seconds - WARM - 0.5))
    took, after = time.monotonic() - began, threads_time(pid)
    spent = {tid: t - before.get(tid, 0.0) for tid, t in after.items()}
    outcome.cpu = sum(spent.values()) / took / outcome.calls
    outcome.busiest = max(spent.values()) / took / outcome.calls
    outcome.memory = (memory, resident(pid))
    taken(load, outcome)


def taken(load: subprocess.Popen[str], outcome: Outcome) -> None:
    """The telephones' own account."""
    out, _ = load.communicate(timeout=60)
    sent, received, lost, p50, p99, most = out.split()
    outcome.sent, outcome.received, outcome.lost = int(sent), int(received), int(lost)
    outcome.late = (float(p50), float(p99), float(most))


def run_peer(name: str, calls: int, seconds: float, *, hog: bool = False) -> Outcome:
    """One of our own programs."""
    outcome = Outcome(calls)
    pairs = [(OURS + 2 * i, THEIRS + 2 * i) for i in range(calls)]
    command = [sys.executable, "-c", PEER, name, str(seconds + 3.0), *(["--hog"] if hog else [])]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(lines(pairs))
        process.stdin.close()
        told = json.loads(read_line(process.stdout))
        if "ports" in told:
            pairs = list(zip(told["ports"], [theirs for _, theirs in pairs], strict=True))
        load = start_load("load", seconds, [(theirs, ours) for ours, theirs in pairs])
        measured(process.pid, load, seconds, outcome)
        rest = process.stdout.read()
        outcome.facts = json.loads(rest) if rest.strip() else {}
    finally:
        process.kill()
        process.wait()
    return outcome


def read_line(stream: IO[str]) -> str:
    """The next line that is an object; libraries print others."""
    for line in stream:
        if line.startswith("{"):
            return line
    raise SystemExit("a peer ended before it was ready")


def run_bare(calls: int, seconds: float) -> Outcome:
    """The receive/send loop."""
    outcome = Outcome(calls)
    pairs = [(OURS + 2 * i, THEIRS + 2 * i) for i in range(calls)]
    bare = start_load("bare", seconds + 2.0, pairs)
    load = start_load("load", seconds, [(b, a) for a, b in pairs])
    measured(bare.pid, load, seconds, outcome)
    bare.communicate(timeout=30)
    return outcome


def run_sleep(calls: int, seconds: float) -> Outcome:
    """The absolute-sleep thread, with the same hogs beside it in a process of their own."""
    outcome = Outcome(calls)
    code = "from benchmarks.media_peers import hog; import time; hog(); time.sleep(600)"
    hogs = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"})
    try:
        pairs = [(OURS + 2 * i, THEIRS + 2 * i) for i in range(calls)]
        load = start_load("load", seconds, [(b, a) for a, b in pairs])
        sender = start_load("sleep", seconds, pairs)
        taken(load, outcome)
        sender.communicate(timeout=30)
    finally:
        hogs.kill()
        hogs.wait()
    return outcome


def middle(rounds: list[Outcome]) -> Outcome:
    """The round of median cost, with the packets of all."""
    found = sorted(rounds, key=lambda outcome: outcome.cpu)[len(rounds) // 2]
    found.sent = sum(outcome.sent for outcome in rounds)
    found.received = sum(outcome.received for outcome in rounds)
    found.lost = sum(outcome.lost for outcome in rounds)
    return found


def alternating(calls: int, seconds: float, rounds: int) -> tuple[Outcome, Outcome]:
    """Ours and the bare loop in turns: on a shared machine the cost of a packet changes within a minute."""
    ours, bare = [], []
    for number in range(rounds):
        ours.append(run_peer("ours", calls, seconds))
        bare.append(run_bare(calls, seconds))
        print(
            f"round {number + 1}: ours {ours[-1].cpu * 20_000:.1f}, bare {bare[-1].cpu * 20_000:.1f} us for 20 ms of a "
            f"call, {bare[-1].cpu / ours[-1].cpu:.2f} x",
            flush=True,
        )
    return middle(ours), middle(bare)


# ---------------------------------------------------------------------------------------------------- rtpengine


def bencode(value: object) -> bytes:
    """As the ng protocol of rtpengine has it."""
    if isinstance(value, dict):
        return b"d" + b"".join(bencode(k) + bencode(value[k]) for k in sorted(value)) + b"e"
    if isinstance(value, list):
        return b"l" + b"".join(map(bencode, value)) + b"e"
    text = str(value).encode()
    return str(len(text)).encode() + b":" + text


def relayed_port(control: socket.socket, cookie: int, command: str, call: str, port: int) -> int:
    """Offer or answer a telephone's port; the port that the relay opens for the other side."""
    sdp = f"v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio {port} RTP/AVP 0\r\n"
    message: dict[str, object] = {"command": command, "call-id": call, "from-tag": f"{call}a", "sdp": sdp}
    message |= {"flags": ["trust-address"], "replace": ["origin"], "ICE": "remove"}
    if command == "answer":
        message["to-tag"] = f"{call}b"
    control.send(f"{cookie} ".encode() + bencode(message))
    reply = ""
    while not reply.startswith(f"{cookie} "):
        reply = control.recv(65536).decode(errors="replace")
    found = re.search(r"m=audio (\d+)", reply)
    if found is None:
        raise SystemExit(f"rtpengine refused an {command}")
    return int(found[1])


def run_rtpengine(calls: int, seconds: float) -> Outcome | None:
    """Relayed calls: two telephones each; None where it is not installed."""
    path = shutil.which("rtpengine")
    if path is None:
        return None
    outcome = Outcome(calls)
    command = [path, "--table=-1", "--interface=127.0.0.1", "--listen-ng=127.0.0.1:11223", "--foreground"]
    command += ["--log-stderr", "--log-level=2", "--port-min=14000", "--port-max=21998", "--num-threads=2"]
    command += ["--config-file=none"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        pairs = []
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            control.settimeout(2.0)
            control.connect(("127.0.0.1", 11223))
            wait_for(control)
            for i in range(calls):
                a, b = THEIRS + 4 * i, THEIRS + 4 * i + 2
                for_b = relayed_port(control, 2 * i, "offer", f"call{i}", a)
                for_a = relayed_port(control, 2 * i + 1, "answer", f"call{i}", b)
                pairs += [(a, for_a), (b, for_b)]
        load = start_load("load", seconds, pairs)
        measured(process.pid, load, seconds, outcome)
    finally:
        process.kill()
        process.wait()
    return outcome


def wait_for(control: socket.socket) -> None:
    """Until the relay answers."""
    deadline = time.monotonic() + 10
    while True:
        try:
            control.send(b"ping d7:command4:pinge")
            control.recv(65536)
        except (TimeoutError, ConnectionRefusedError):
            if time.monotonic() > deadline:
                raise SystemExit("rtpengine does not answer") from None
            time.sleep(0.1)
        else:
            return


# ------------------------------------------------------------------------------------------------------ command


def many(results: dict[str, Outcome | None]) -> list[Row]:
    """Rows of the first table."""
    rows = []
    for name, outcome in results.items():
        said = None if outcome is None or not outcome.cpu else 1.0 / outcome.cpu
        rows.append(Row(f"calls a core, {name}", "", said))
        if outcome is not None:
            share = outcome.received / max(1, outcome.sent)
            rows.append(Row(f"  lost on the way back, {name} (came back: {share:.1%})", "packets", float(outcome.lost)))
    ours = results["ours"]
    assert ours is not None

    def ratio(peer: str) -> float | None:
        other = results.get(peer)
        return None if other is None else other.cpu / ours.cpu

    rows.append(Row("ours to asyncio with aiortp", "x", ratio("aiortp"), 10.0, at_least=True))
    rows.append(Row("ours to rtpengine, which only relays", "x", ratio("rtpengine"), 1.5, at_least=True))
    rows.append(Row("ours to the bare receive/send loop", "x", ratio("bare"), 0.6, at_least=True))
    bare = results["bare"]
    alone = None if bare is None else bare.busiest / ours.busiest
    rows.append(Row("  the media thread alone, to the bare loop", "x", alone))
    return rows


def hold(calls: int, minutes: float) -> list[Row]:
    """Many calls for long."""
    seconds = 60 * minutes
    outcome = run_peer("ours", calls, seconds)
    facts = outcome.facts
    expected = calls * seconds * 50
    print(f"{calls} calls, {seconds:.0f} s: {outcome.sent} packets in, {outcome.received} out; {facts}")
    first, last = outcome.memory
    return [
        Row("packets of ours missing at the telephones", "", float(outcome.lost), 0.0),
        Row("packets of theirs missing at the engine", "", float(outcome.sent - facts["packets_received"]), 0.0),
        Row("ticks given up", "", float(facts["skipped"]), 0.0),
        Row("sent by us, of what the time asks for", "%", 100.0 * outcome.received / expected),
        Row("growth of memory after the warm-up", "MB", last - first, 2.0),
        Row("memory in the engine for a call", "KB", facts["call_bytes"] / 1024, 256.0),
        Row("resident memory", "MB", last),
        Row("seconds of a core for a second of a call", "ms", 1000 * outcome.cpu),
        Row("lateness p99", "ms", outcome.late[1]),
    ]


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.media_calls", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="for each program")
    parser.add_argument("--rounds", type=int, default=3, help="of ours and the bare loop, in turns")
    parser.add_argument("--calls", type=int, default=200, help="for ours, the relay and the bare loop")
    parser.add_argument("--few", type=int, default=12, help="for programs in Python")
    parser.add_argument("--hold", type=int, help="only hold so many calls")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--skip-lateness", action="store_true")
    parser.add_argument("--skip-calls", action="store_true")
    parser.add_argument("--json", type=Path, help="write the results here as well")
    parser.add_argument("--pictures", action="store_true", help="draw docs/media_calls.svg anew")
    arguments = parser.parse_args()
    print(machine(), flush=True)
    rows: list[Row] = []
    groups: dict[str, dict[str, float | None]] = {}
    if arguments.hold:
        rows = hold(arguments.hold, arguments.minutes)
    if not arguments.hold and not arguments.skip_calls:
        ours, bare = alternating(arguments.calls, arguments.seconds, arguments.rounds)
        results = {
            "ours": ours,
            "bare": bare,
            "rtpengine": run_rtpengine(arguments.calls // 2, arguments.seconds),
            "aiortp": run_peer("aiortp", arguments.few, arguments.seconds),
        }
        rows += many(results)
        groups["calls a core"] = {n: None if o is None else 1 / o.cpu for n, o in results.items()}
    if not arguments.hold and not arguments.skip_lateness:
        late: dict[str, float | None] = {}
        for name in ("ours", "asyncio", "aiortp", "pjsua2"):
            outcome = run_peer(name, arguments.few, arguments.seconds, hog=True)
            late[name] = outcome.late[1] if outcome.received else None
            p50, p99, most = outcome.late
            print(
                f"late, {name}: p50 {p50:.2f}, p99 {p99:.2f}, max {most:.2f} ms, {outcome.received} packets", flush=True
            )
        outcome = run_sleep(arguments.few, arguments.seconds)
        late["sleep"] = outcome.late[1]
        print(f"late, sleep: p50 {outcome.late[0]:.2f}, p99 {outcome.late[1]:.2f}, max {outcome.late[2]:.2f} ms")
        groups["lateness p99, everything busy, ms"] = late
        for name in ("asyncio", "pjsua2"):
            value = late[name] / late["ours"] if late[name] and late["ours"] else None
            rows.append(Row(f"lateness p99, {name} to ours", "x", value, 10.0, at_least=True))
        value = late["ours"] / late["sleep"] if late["ours"] and late["sleep"] else None
        rows.append(Row("lateness p99, ours to a bare absolute-sleep thread", "x", value, 2.0))
    print("\n" + table(rows))
    if arguments.pictures:
        for number, (title, group) in enumerate(groups.items()):
            name = ("media_calls.svg", "media_lateness.svg")[number]
            media_picture.bars(ROOT / "docs" / name, title, {"": group}, "")
    if arguments.json:
        arguments.json.write_text(as_json(rows) + "\n")
    return 1 if any(row.short for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
