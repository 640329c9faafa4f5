"""Delay that jitter buffers add at 1 % late loss: ``python -m benchmarks.jitter [--seconds 120] [--json FILE]``.

Nine delay traces (``jitter_traces``), four buffers (``jitter_players``) and the bound of Moon, Kurose and Towsley.
A buffer has settings, so each is tried with a range of them on each trace; what counts is the lowest mean delay of
any setting that loses at most 1 % of the speech packets by lateness: dropped, or waited for in silence. Printed
with it is what the buffer does as it comes (its default setting). Delays count from the shortest transit, over
speech packets; the peers wait 10 ms of each for the next tick of 20 ms, ours 1 ms for the next slot, the bound in its
pure form for nothing. ``optimum, ticks`` is the bound for one who plays in ticks of 20 ms,
``fixed`` the best of all delays that never change, known afterwards too.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

from benchmarks import media_picture
from benchmarks.jitter_players import NetEq, Ours, Result, candidates, play
from benchmarks.jitter_traces import best_fixed, optimum, traces
from benchmarks.report import Row, as_json, machine, table

DOCS = Path(__file__).parent.parent / "docs"
PHASE = 0.010
LATE = 0.01


def least(results: list[Result], late: float, *, by_length: bool = False) -> float | None:
    """The least delay (ms) among the results that are good enough; None when none is."""
    good = [r.delay for r in results if (r.late_by_length if by_length else r.late) <= late]
    return 1000 * min(good) if good else None


def mean_ratio(pairs: list[tuple[float | None, float | None]]) -> float | None:
    """Geometric mean of ratios; None when there is nothing to compare."""
    logs = [math.log(a / b) for a, b in pairs if a and b]
    return math.exp(sum(logs) / len(logs)) if logs else None


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.jitter", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=120.0, help="length of each trace")
    parser.add_argument("--quick", action="store_true", help="traces of 60 s")
    parser.add_argument("--seed", type=int, default=1050)
    parser.add_argument("--json", type=Path, help="write the results here as well")
    parser.add_argument("--pictures", action="store_true", help="draw docs/jitter.svg anew")
    arguments = parser.parse_args()
    players = candidates()
    found: dict[str, dict[str, float | None]] = {}
    by_length: dict[str, float | None] = {}
    print(machine())
    print(
        f"{'mean delay added, ms':<26}"
        + "".join(f"{name:>15}" for name in (*players, "fixed", "optimum", "optimum, ticks"))
    )
    for trace in traces(60.0 if arguments.quick else arguments.seconds, arguments.seed):
        row: dict[str, float | None] = {}
        for name, makers in players.items():
            results = [play(make(trace), trace, PHASE) for make in makers or ()]
            row[name] = least(results, LATE)
            if name == "ours":
                by_length[trace.name] = least(results, LATE, by_length=True)
        row["fixed"] = 1000 * best_fixed(trace, LATE)
        row["optimum"] = 1000 * optimum(trace, LATE)
        row["optimum, ticks"] = 1000 * optimum(trace, LATE, 0.020, PHASE)
        found[trace.name] = row
        print(
            f"{trace.name:<26}" + "".join(f"{'-' if v is None else f'{v:.1f}':>15}" for v in row.values()), flush=True
        )
        ours, neteq = play(Ours(trace), trace, PHASE), play(NetEq(), trace, PHASE)
        print(f"{'  as they come':<26}{1000 * ours.delay:>8.1f} {100 * ours.late:>4.1f} %", end="")
        print(f"{'':>33}{1000 * neteq.delay:>8.1f} {100 * neteq.late:>4.1f} %", flush=True)
    peers = [name for name in players if name != "ours"]
    rows = []
    pairs = []
    for row in found.values():
        good = [value for name in peers if (value := row[name]) is not None]
        pairs.append((row["ours"], min(good, default=None)))
    rows.append(Row("ours to the best peer on each trace, geometric mean", "x", mean_ratio(pairs), 0.75))
    rows += [Row(f"  ours to {n}", "x", mean_ratio([(r["ours"], r[n]) for r in found.values()])) for n in peers]
    lengths = [(by_length[name], peer) for name, (_, peer) in zip(found, pairs, strict=True)]
    rows.append(Row("  the same, our waits counted by their length", "x", mean_ratio(lengths)))
    bound = mean_ratio([(r["ours"], r["optimum"]) for r in found.values()])
    ticks = mean_ratio([(r["ours"], r["optimum, ticks"]) for r in found.values()])
    rows.append(Row("ours to the optimum of the trace, geometric mean", "x", bound, 1.25))
    rows.append(Row("  ours to the optimum in ticks of 20 ms", "x", ticks))
    fixed = mean_ratio([(r["fixed"], r["optimum"]) for r in found.values()])
    rows.append(Row("  the best fixed delay, known afterwards, to the optimum", "x", fixed))
    worst = [r["ours"] / r["optimum"] for r in found.values() if r["ours"] and r["optimum"]]
    rows.append(Row("  the worst trace, to the optimum", "x", max(worst, default=None)))
    rows.append(Row("traces on which ours keeps to 1 %", "", float(len(worst)), float(len(found)), at_least=True))
    print("\n" + table(rows))
    if arguments.pictures:
        title = "Mean delay added by the jitter buffer at 1 % late loss (shorter is better)"
        media_picture.bars(DOCS / "jitter.svg", title, found, "ms", missing="never below 1 % late")
    if arguments.json:
        arguments.json.write_text(as_json(rows, traces=found) + "\n")
    return 1 if any(row.short for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
