"""Turn-taking as a caller hears it: latency on the wire, turns cut short, interruptions, phantoms; beside a peer.

    python -m benchmarks.turns [--quick] [--json FILE] [--picture FILE] [--no-peer] [--listen FOLDER] [--seed N]
    python -m benchmarks.turns --install-peer

The real server, the starter models, and simulated callers over real SIP and RTP (``turn_callers``) that speak from a
corpus made from a seed and labelled by construction (``turn_corpus``). Decoding is greedy, answers are at most 16
tokens where latency is measured (so that a turn ends soon) and of the usual length where answers are talked over.
Latency runs from the sending of the packet with the caller's last voiced 20 ms to the arrival of the first packet of
the answer above -45 dBFS, both stamped by the callers' process. A latency stands beside the share of turns cut short.

The trade-off curves (``turn_tradeoff``) are computed from the same recordings in this process; the peer
(``turn_peer``) is Pipecat with the same models, recordings and definition of latency.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tornado.websocket import WebSocketError

from aiphone.conversation.latency import PARTS
from aiphone.errors import AiphoneError
from aiphone.persona import Persona
from aiphone.speech.patience import Limits
from benchmarks import turn_listening, turn_peer, turn_scenes, turn_tradeoff
from benchmarks.report import Row, machine, percentile, table
from benchmarks.server import Server, ServerError
from benchmarks.stt_corpus import MUSIC
from benchmarks.turn_callers import start, write
from benchmarks.turn_corpus import Corpus, build
from benchmarks.turn_peer import PeerMissingError, PeerResult
from benchmarks.turn_picture import Column, draw
from benchmarks.turn_scenes import Scene
from benchmarks.turn_score import Tally, judge_call
from benchmarks.turn_tradeoff import Point

FLAGS = ("--greeting", "Good morning.", "--idle-after", "0", "--max-calls", "32", "--filler", "")
"""Without a filler: "one moment" is no answer, and on the wire it would pass for one."""
SHORT = ("--reply-tokens", "16")
PARTS_OF_IT = ("turns", "lines", "overlaps", "peer", "curves")
PATIENT = 600.0
"""Seconds that a plan may take at most."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    turns: dict[int, int]
    """How many, with so many calls at once."""
    in_turn: dict[int, int]
    """The same, where one caller speaks at a time."""
    special: int
    interruptions: int
    listening: int
    quiet_lines: int
    quiet_seconds: float
    echo_seconds: float
    peer_turns: int
    curve_turns: int
    """Of each kind."""


FULL = Size({1: 36, 2: 36, 4: 48, 8: 64, 12: 72}, {4: 32, 8: 32}, 9, 24, 39, 15, 118.0, 30.0, 24, 40)
QUICK = Size({1: 8, 4: 12}, {4: 8}, 3, 4, 6, 10, 12.0, 5.0, 6, 8)


@dataclass(slots=True)
class Results:
    """Everything measured."""

    levels: dict[int, Tally] = field(default_factory=dict)
    parts: dict[int, dict[str, list[float]]] = field(default_factory=dict)
    """By the number of calls: the server's own parts of each turn, ms."""
    in_turn: dict[int, Tally] = field(default_factory=dict)
    special: Tally = field(default_factory=Tally)
    overlaps: Tally = field(default_factory=Tally)
    quiet: Tally = field(default_factory=Tally)
    listening_cost: float | None = None
    """Percent of a core for each call with nothing but the line's noise."""
    sounding_cost: float | None = None
    """The same with music or a ringing telephone."""
    peer: PeerResult | None = None
    peer_missing: str = ""
    """Why there is no peer."""
    curves: dict[str, list[Point]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    """Listening examples that could not be kept."""
    shipped: Point | None = None
    """On the recordings of the curves."""


def carry_out(scene: Scene, server: Server, record: str = "") -> tuple[Tally, list[dict[str, Any]]]:
    """Make all calls of a scene; what became of the turns, and the callers' reports."""
    tally, reports = Tally(), []
    with tempfile.TemporaryDirectory(prefix="aiphone-turns-") as name:
        for plan in scene.plans(server.sip_uri, record):
            write(Path(name), plan, scene.sounds())
            process = start(Path(name))
            out, _ = process.communicate(timeout=PATIENT)
            if process.returncode:
                raise ServerError(f"the callers of {scene.name} failed")
            for report in json.loads(out):
                reports.append(report)
                tally.extend(judge_call(report, scene.kinds()))
            server.wait_idle()
    if record:
        turn_listening.keep(server, reports, scene.turns, Path(record))
    return tally, reports


def cpu_seconds(server: Server) -> float:
    """What the server has used so far, all threads (Linux)."""
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def server_parts(server: Server, reports: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """The server's own parts of the turns of these calls, by name, ms."""
    wanted = {report.get("sip_call_id") for report in reports}
    found: dict[str, list[float]] = {}
    for record in server.status()["recent_calls"]:
        if record["sip_call_id"] not in wanted:
            continue
        for turn, work in zip(record["turns"], record["work"], strict=True):
            for part, seconds in (*turn.items(), ("floor", work["floor"])):
                found.setdefault(part, []).append(1000 * seconds)
    return found


def say(text: str) -> None:
    """Progress, to standard error."""
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)


def warm_up(server: Server, corpus: Corpus) -> None:
    """The first call of all pays for what is made once."""
    scene = Scene("warm-up")
    scene.calls.append([turn_scenes.call("warm-up", 0, [scene.step(corpus.questions[0])])])
    carry_out(scene, server)


def measure(corpus: Corpus, size: Size, seed: int, listen: str = "", parts: Collection[str] = PARTS_OF_IT) -> Results:
    """What is measured on our own server."""
    results = Results()
    if "turns" in parts or "lines" in parts:
        with Server(*FLAGS, *SHORT) as server:
            warm_up(server, corpus)
            take_turns(
                server, corpus, size if "turns" in parts else replace(size, turns={}, in_turn={}), results, listen
            )
            if "lines" in parts:
                listen_to_lines(server, corpus, size, seed, results, listen)
    if "overlaps" in parts:
        with Server(*FLAGS) as server:
            warm_up(server, corpus)
            say("answers that are talked over")
            scene = turn_scenes.overlaps(corpus, size.interruptions, size.listening)
            results.overlaps, _ = carry_out(scene, server, listen)
    return results


def take_turns(server: Server, corpus: Corpus, size: Size, results: Results, listen: str) -> None:
    """Questions and turns with pauses, by more and more callers at once."""
    for callers, turns in size.turns.items():
        say(f"{turns} turns, {callers} calls at once")
        scene = turn_scenes.level(corpus, callers, turns, offset=3 * callers)
        tally, reports = carry_out(scene, server, listen if callers == 1 else "")
        results.levels[callers] = tally
        results.parts[callers] = server_parts(server, reports)
    for callers, turns in size.in_turn.items():
        say(f"{turns} turns, {callers} calls that speak in turn")
        scene = turn_scenes.in_turn(corpus, callers, turns, offset=3 * callers)
        results.in_turn[callers], _ = carry_out(scene, server)


def listen_to_lines(server: Server, corpus: Corpus, size: Size, seed: int, results: Results, listen: str) -> None:
    """What is said otherwise, and lines on which nobody speaks."""
    say("digits, spelling, two people, keys")
    results.special, _ = carry_out(turn_scenes.special(corpus, size.special), server, listen)
    lines = {False: size.quiet_lines // 2, True: -(-size.quiet_lines // 2)}
    say(f"{size.quiet_lines} lines on which nobody speaks, for {size.quiet_seconds:g} s")
    cost: dict[bool, float | None] = {}
    for sounding, count in lines.items():
        before = cpu_seconds(server) if sys.platform == "linux" else 0.0
        tally, _ = carry_out(turn_scenes.quiet(size.quiet_seconds, count, seed, sounding=sounding), server)
        if sys.platform == "linux" and tally.quiet_seconds:
            cost[sounding] = 100 * (cpu_seconds(server) - before) / tally.quiet_seconds
        results.quiet.extend(tally)
    results.listening_cost, results.sounding_cost = cost.get(False), cost.get(True)
    say("echo, and nobody speaks")
    tally, _ = carry_out(turn_scenes.echoes(corpus, size.echo_seconds), server, listen)
    results.quiet.extend(tally)


def compare(corpus: Corpus, size: Size, results: Results) -> None:
    """The peer, with turns that one of our callers said too."""
    source = turn_scenes.mix(corpus, 3)
    try:
        turns = [next(source) for _ in range(size.peer_turns)]
        results.peer = turn_peer.measure(turns, int(SHORT[1]), say)
    except (PeerMissingError, WebSocketError, OSError) as error:
        results.peer_missing = str(error) or type(error).__name__


def trade_off(corpus: Corpus, size: Size, seed: int, results: Results) -> None:
    """The curves, and where the shipped setting lies."""
    say("trade-off: recordings through the detector and the models")
    chosen = [*corpus.questions[: size.curve_turns], *corpus.paused[: size.curve_turns]]
    turns = turn_tradeoff.measure(chosen, seed)
    results.curves = turn_tradeoff.curves(turns)
    persona = Persona()
    limits = Limits(persona.patience_floor, persona.patience, persona.patience_ceiling)
    results.shipped = turn_tradeoff.chosen(turns, limits)


def share(part: int, whole: int) -> float | None:
    """A percentage; None of nothing."""
    return 100 * part / whole if whole else None


def rows_of(results: Results) -> list[Row]:
    """The table: what the issue asks for, in its order."""
    rows: list[Row] = []
    one = results.levels.get(1, Tally())
    base = one.at(0.95)
    for callers, tally in results.levels.items():
        half, most = (450.0, 800.0) if callers == 1 else (None, None)
        name = f"{callers} call{'s' if callers > 1 else ''}"
        rows += [
            Row(f"{name}: wire to wire, p50", "ms", tally.at(0.5), half),
            Row(f"{name}: wire to wire, p95", "ms", tally.at(0.95), most),
            Row(f"{name}: wire to wire, p99", "ms", tally.at(0.99)),
            Row(f"{name}: cut short (of {len(tally.turns)})", "%", tally.share("cut_short")),
            Row(f"{name}: lost", "%", tally.share("lost"), 0),
        ]
        if callers == 1:
            rows += [
                Row(f"  its {part.replace('_', ' ')}, p50", "ms", percentile(times, 0.5))
                for part, times in results.parts.get(1, {}).items()
                if part in PARTS
            ]
            floor = results.parts.get(1, {}).get("floor", [])
            rows += [
                Row("  the floor: the models' own times, one after the other, p50", "ms", percentile(floor, 0.5)),
                Row("  the floor, p95", "ms", percentile(floor, 0.95)),
            ]
    for callers, tally in results.in_turn.items():
        name, most = f"{callers} calls that speak in turn", {4: 1.2, 8: 1.5}.get(callers)
        rows += [
            Row(f"{name}: wire to wire, p50", "ms", tally.at(0.5)),
            Row(f"{name}: wire to wire, p95", "ms", tally.at(0.95), base and most and most * base),
            Row(f"{name}: cut short (of {len(tally.turns)})", "%", tally.share("cut_short")),
            Row(f"{name}: lost", "%", tally.share("lost"), 0),
        ]
    everything = Tally()
    for tally in (*results.levels.values(), *results.in_turn.values()):
        everything.extend(tally)
    inside = [turn for turn in everything.turns if turn.kind == "pause"]
    after = [turn for turn in everything.turns if turn.kind == "afterthought"]
    pauses = [*inside, *after]
    questions = [turn for turn in everything.turns if turn.kind == "question"]
    rows += [
        Row(f"with a pause inside: cut short (of {len(pauses)})", "%",
            share(sum(t.cut_short for t in pauses), len(pauses)), 3),
        Row(f"  between words that belong together (of {len(inside)})", "%",
            share(sum(t.cut_short for t in inside), len(inside))),
        Row(f"  before an afterthought (of {len(after)})", "%", share(sum(t.cut_short for t in after), len(after))),
        Row(f"without: cut short (of {len(questions)})", "%",
            share(sum(t.cut_short for t in questions), len(questions))),
        Row("second answers to one turn", "", sum(t.phantoms for t in everything.turns)),
    ]  # fmt: skip
    for kind in ("digits", "spelling", "two people", "keys"):
        turns = [turn for turn in results.special.turns if turn.kind == kind]
        rows.append(
            Row(f"{kind}: cut short (of {len(turns)})", "%", share(sum(t.cut_short for t in turns), len(turns)))
        )
        rows.append(Row(f"{kind}: lost", "%", share(sum(t.lost for t in turns), len(turns))))
    rows += peer_rows(results) + curve_rows(results)
    stops, through = results.overlaps.stops(), results.overlaps.unstopped()
    false, sounds = results.overlaps.false_stops()
    rows += [
        Row("interruption to silence, p50", "ms", percentile(stops, 0.5)),
        Row("interruption to silence, p95", "ms", percentile(stops, 0.95), 300),
        Row(
            f"interruptions talked through (of {len(stops) + len(through)})",
            "",
            len(through) if stops or through else None,
            0,
        ),
        Row(f"false interruptions (of {sounds})", "%", share(len(false), sounds), 2),
        Row("quiet lines, minutes", "min", results.quiet.quiet_seconds / 60 or None),
        Row("phantom turns on them", "", results.quiet.phantoms if results.quiet.quiet_seconds else None, 0),
        Row("cost of listening, each silent call", "% of a core", results.listening_cost, 1),
        Row("  each call with music or ringing", "% of a core", results.sounding_cost),
    ]
    return rows


def peer_rows(results: Results) -> list[Row]:
    """The peer beside one call of ours."""
    if results.peer is None:
        return []
    tally, ours = results.peer.tally, results.levels.get(1, Tally()).at(0.5)
    theirs = tally.at(0.5)
    return [
        Row("peer: wire to wire, p50", "ms", theirs),
        Row("peer: wire to wire, p95", "ms", tally.at(0.95)),
        Row(f"peer: cut short (of {len(tally.turns)})", "%", tally.share("cut_short")),
        Row("peer: lost", "%", tally.share("lost")),
        Row("ours, one call, over the peer's p50", "x", ours / theirs if ours and theirs else None, 0.4),
    ]


def curve_rows(results: Results) -> list[Row]:
    """Mean wait for the end of a turn at the same share cut short."""
    rows = []
    for most in (10.0, 5.0, 3.0, 1.0) if results.curves else ():
        for name, points in results.curves.items():
            latency = turn_tradeoff.latency_at(points, most)
            rows.append(Row(f"mean wait with at most {most:g} % cut short: {name}", "ms", latency))
    if results.shipped:
        name = f"as shipped ({results.shipped.setting})"
        rows.append(Row(f"{name}: mean wait", "ms", results.shipped.latency))
        rows.append(Row(f"{name}: cut short", "%", results.shipped.cut_short))
    return rows


def picture(results: Results, note: str) -> str:
    """The figures as SVG."""
    columns = [
        Column(
            f"{n} call{'s' if n > 1 else ''}", t.at(0.5), t.at(0.95), t.at(0.99), t.share("cut_short"), t.share("lost")
        )
        for n, t in results.levels.items()
    ]
    if results.peer:
        tally = results.peer.tally
        columns.insert(1, Column("Pipecat, 1 call", tally.at(0.5), tally.at(0.95), None,
                                 tally.share("cut_short"), tally.share("lost"), peer=True))  # fmt: skip
    lines = {name: [(p.latency, p.cut_short) for p in points] for name, points in results.curves.items()}
    shipped = (results.shipped.latency, results.shipped.cut_short) if results.shipped else None
    return draw(columns, lines, shipped, note)


def troubles(results: Results) -> list[str]:
    """Calls that did not go as planned."""
    tallies = [*results.levels.values(), *results.in_turn.values(), results.special, results.overlaps, results.quiet]
    invalid = sum(not overlap.valid for overlap in results.overlaps.overlaps)
    found = [text for tally in tallies for text in tally.failed]
    found += [f"{times} phantom turns on the line '{name}'" for name, times in Counter(results.quiet.haunted).items()]
    if not MUSIC.is_dir():
        found.append("no music on the quiet lines: install asterisk-moh-opsound-wav")
    return [*found, f"{invalid} sounds had no answer to be laid over"] if invalid else found


def outcomes(results: Results) -> dict[str, Any]:
    """Everything, for programs."""
    return {
        "levels": {str(n): {**asdict(t), "parts": results.parts.get(n, {})} for n, t in results.levels.items()},
        "in_turn": {str(n): asdict(t) for n, t in results.in_turn.items()},
        "special": asdict(results.special),
        "overlaps": asdict(results.overlaps),
        "quiet": asdict(results.quiet),
        "peer": results.peer.as_dict() if results.peer else {"missing": results.peer_missing},
        "curves": {name: [asdict(point) for point in points] for name, points in results.curves.items()},
        "shipped": asdict(results.shipped) if results.shipped else None,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when every target is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few turns only: whether it works, not how well")
    parser.add_argument("--json", metavar="FILE", help="write everything that was measured")
    parser.add_argument("--picture", metavar="FILE", help="write the picture (SVG)")
    parser.add_argument("--listen", metavar="FOLDER", default="", help="keep ten calls here: sound, words, index")
    parser.add_argument(
        "--only", metavar="PARTS", default=",".join(PARTS_OF_IT), help=f"some of {', '.join(PARTS_OF_IT)} (all)"
    )
    parser.add_argument("--no-peer", action="store_true", help="leave the peer out")
    parser.add_argument("--install-peer", action="store_true", help="make the peer's environment, and nothing else")
    parser.add_argument("--seed", type=int, default=7, help="of the corpus (7)")
    options = parser.parse_args(arguments)
    if options.install_peer:
        turn_peer.install()
        return 0
    size = QUICK if options.quick else FULL
    chosen = options.only.split(",")
    if not set(chosen) <= set(PARTS_OF_IT):
        parser.error(f"--only takes some of {', '.join(PARTS_OF_IT)}, with commas between them")
    before, began = machine(), time.monotonic()
    say("making the corpus")
    try:
        corpus = build(options.seed)
    except AiphoneError as error:
        print(error, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="aiphone-listening-") as kept:
        results = measure(corpus, size, options.seed, kept if options.listen else "", chosen)
        results.missing = turn_listening.publish(Path(kept), Path(options.listen)) if options.listen else []
    if options.no_peer or "peer" not in chosen:
        results.peer_missing = "left out"
    else:
        compare(corpus, size, results)
    if "curves" in chosen:
        trade_off(corpus, size, options.seed, results)
    rows = [row for row in rows_of(results) if row.measured is not None or options.only == ",".join(PARTS_OF_IT)]
    print(f"{before}\n\n{table(rows)}\n")
    print(f"peer: {results.peer.setup}" if results.peer else f"peer missing: {results.peer_missing}")
    for trouble in [*troubles(results), *results.missing]:
        print(f"not as planned: {trouble}")
    print(f"took {(time.monotonic() - began) / 60:.1f} minutes")
    if options.picture:
        Path(options.picture).write_text(picture(results, before), encoding="utf-8")
    if options.json:
        text = json.dumps({"machine": before, "rows": [asdict(row) for row in rows], **outcomes(results)}, indent=1)
        Path(options.json).write_text(text + "\n", encoding="utf-8")
    return 1 if any(row.short for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
