"""The fuzzer proper, run with sanitized extensions by ``python -m tests.fuzz``: mutate, run, keep what is new.

Coverage-guided in the classical way: an input that takes an edge between basic blocks which no input took before
(or takes it in another order of magnitude of times) joins the corpus, and new inputs are mutations of the corpus.
Everything is drawn from a seed. When the process dies, the input is written by a callback of the sanitizer.
"""

from __future__ import annotations

import argparse
import ctypes
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

from aiphone.errors import MediaError
from tests.fuzz.targets import TARGETS, Target

LONGEST = 2048
INTERESTING = [
    *(bytes([b]) for b in (0, 1, 0x7F, 0x80, 0x81, 0x90, 0xA0, 0xB0, 0xC8, 0xC9, 0xCA, 0xCB, 0xFF)),
    *(n.to_bytes(2, "big") for n in (0, 1, 0x7FFF, 0x8000, 0xFFFF, 0x80C8, 0x81C9, 480, 481, 1400)),
    *(n.to_bytes(4, "big") for n in (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x01020304)),
]


class Coverage:
    """The table of edges, kept by ``coverage.c``."""

    EDGES = 1 << 14

    def __init__(self) -> None:
        self.native = ctypes.CDLL(None)
        self.seen = (ctypes.c_uint8 * self.EDGES)()
        self.begin: Callable[[], None] = self.native.fuzz_begin
        self.found = 0

    def novel(self) -> int:
        """How much of the run since ``begin`` no run before had done."""
        new = int(self.native.fuzz_novel(self.seen))
        self.found += new
        return new

    def planted(self, data: bytes) -> None:
        """The parser with a fault."""
        self.native.fuzz_planted(data, len(data))


def mutate(rng: random.Random, corpus: list[bytes]) -> bytes:
    """A descendant of one or two members of the corpus; the newest are chosen more often."""
    index = len(corpus) - 1 - int(len(corpus) * rng.random() ** 2)
    data = bytearray(corpus[max(0, index)])
    for _ in range(1 << rng.randrange(5)):
        kind = rng.randrange(8) if data else 4
        at = rng.randrange(len(data) + 1)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(data):
            data[at] = rng.randrange(256)
        elif kind == 2:
            value = rng.choice(INTERESTING)
            data[at : at + len(value)] = value
        elif kind == 3:
            del data[at : at + 1 + rng.randrange(16)]
        elif kind == 4:
            data[at:at] = rng.randbytes(1 + rng.randrange(12))
        elif kind == 5:
            begin = rng.randrange(len(data) + 1)
            data[at:at] = data[begin : begin + 1 + rng.randrange(32)]
        elif kind == 6 and at < len(data):
            data[at] = (data[at] + rng.randint(-8, 8)) & 0xFF
        elif kind == 7:
            other = rng.choice(corpus)
            data[at:] = other[rng.randrange(len(other) + 1) :]
    return bytes(data[:LONGEST])


def fuzz(target: Target, seconds: float, seed: int, died: Path, corpus_folder: Path | None) -> tuple[int, int, int]:
    """Runs done, edges found, corpus kept. The first finding ends the process; its input is left in ``died``."""
    coverage = Coverage()
    native = coverage.native
    native.fuzz_input.argtypes = [ctypes.c_char_p, ctypes.c_int]
    native.fuzz_on_death(str(died).encode())
    run = coverage.planted if target.name == "planted" else target.run
    rng = random.Random(seed)
    corpus = target.seeds()
    if corpus_folder is not None and corpus_folder.is_dir():
        corpus += [path.read_bytes() for path in sorted(corpus_folder.iterdir())]
    waiting = list(corpus)
    runs, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        data = waiting.pop() if waiting else mutate(rng, corpus)
        native.fuzz_input(data, len(data))
        coverage.begin()
        try:
            run(data)
        except (ValueError, MediaError):
            pass
        except BaseException:
            died.write_bytes(data)
            raise
        runs += 1
        if coverage.novel() and data not in corpus:
            corpus.append(data)
    if corpus_folder is not None:
        corpus_folder.mkdir(parents=True, exist_ok=True)
        for number, data in enumerate(corpus):
            (corpus_folder / f"{number:05d}").write_bytes(data)
    return runs, coverage.found, len(corpus)


def main() -> int:
    """The command; see ``python -m tests.fuzz -h``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("targets", nargs="+")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--died", type=Path, required=True)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--replay", type=Path)
    arguments = parser.parse_args()
    for name in arguments.targets:
        target = TARGETS[name]
        if arguments.replay:
            target.run(arguments.replay.read_bytes())
            continue
        folder = arguments.corpus / name if arguments.corpus else None
        share = arguments.seconds / len(arguments.targets)
        runs, edges, kept = fuzz(target, share, arguments.seed, arguments.died, folder)
        print(f"{name}: {runs} runs, {edges} edges, {kept} inputs in the corpus", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
