"""Fuzz the parsers and the engine under sanitizers: ``python -m tests.fuzz [TARGET ...] [--seconds 600]``.

Builds the sanitized extensions when they are out of date (``tools/sanitized.py``). A finding ends the run: the
report of the sanitizer is printed, the input is kept in ``build/fuzz``, and ``--replay FILE`` runs it again.
``--corpus DIR`` keeps what was found interesting and begins with it the next time. Exit status 0: nothing found.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "tools"))

import sanitized

from tests.fuzz.targets import PARSERS_AND_ENGINE, TARGETS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; otherwise all")
    parser.add_argument("--seconds", type=float, default=60.0, help="for all targets together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--corpus", type=Path, help="a folder for what is found")
    parser.add_argument("--replay", type=Path, help="run this input of one target, once")
    arguments = parser.parse_args()
    targets = arguments.targets or PARSERS_AND_ENGINE
    unknown = [name for name in targets if name not in TARGETS]
    if unknown:
        parser.error(f"there is no target {unknown[0]}; there are {', '.join(TARGETS)}")
    died = sanitized.ROOT / "build" / "fuzz" / f"died-{os.getpid()}.bin"
    died.parent.mkdir(parents=True, exist_ok=True)
    command = ["-m", "tests.fuzz.fuzzer", *targets, "--seconds", str(arguments.seconds), "--died", str(died)]
    command += ["--seed", str(arguments.seed)]
    if arguments.corpus:
        command += ["--corpus", str(arguments.corpus.resolve())]
    if arguments.replay:
        command += ["--replay", str(arguments.replay.resolve())]
    status = sanitized.run(command).returncode
    if status and died.is_file():
        print(f"a finding; its input is {died}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
