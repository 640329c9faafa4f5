"""Who hears a caller over our own echo, and who takes our echo for a caller: the gate, beside a real canceller.

One minute and more of our voice goes out over each line and comes back at -6 to -30 dB, 60 to 300 ms late, through a
hybrid's impulse response and G.711. First nobody speaks: every voice that is reported is our own. Then callers speak
over it: how long until a voice is reported, from their first voiced 20 ms, and how often none is within a second.

The same detector (Silero and levels) listens in three ways: to the line as it is; behind the echo gate
(``aiphone.speech.echo``); and to what speexdsp's echo canceller leaves (512 ms of filter, which reaches over all
delays here, and its residual echo suppression), with the reference aligned to the sample. Our voice plays on, whoever
speaks: a telephone call would be silent by then. Sounds and arithmetic only: no call is made, nothing depends on the
machine's speed.
"""

from __future__ import annotations

import argparse
import ctypes
import ctypes.util
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from aiphone.caller.audio import to_line_rate
from aiphone.caller.rtp import RATE, VOICED_DBFS, decode, encode
from aiphone.config import default_models_dir
from aiphone.events import FRAME_SAMPLES, INTERNAL_RATE, Pcm
from aiphone.inference.piper_voice import PiperVoice
from aiphone.models.resolve import resolve_onnx, resolve_voice
from aiphone.models.store import ModelStore
from aiphone.native.resample import StreamResampler
from aiphone.speech.echo import EchoGate, frame_levels
from aiphone.speech.vad import SileroVad
from aiphone.speech.voice_detector import WINDOW_SAMPLES, Started, VoiceDetector
from benchmarks import report
from benchmarks.turn_callers import HYBRID
from benchmarks.turn_corpus import OVER, Speaker
from benchmarks.turn_sounds import levels, line_noise

LINES: tuple[tuple[float | None, float], ...] = (
    (None, 0.0), (-30.0, 0.06), (-20.0, 0.16), (-12.0, 0.11), (-12.0, 0.3), (-6.0, 0.06), (-6.0, 0.22),
)  # fmt: skip
"""Echo in dB relative to our voice, and its delay in seconds."""
OURS = (
    "Once upon a time there lived a very old king in a castle by the sea, and he had a dragon for a friend.",
    "We are open from nine to five, Monday to Friday, and on Saturday from ten to two.",
    "The capital of France is Paris, which is also its largest city, on the river Seine.",
    "I can connect you to the sales department, or take a message, whatever you prefer.",
)
EVERY = 6.0
"""Seconds between two callers' words."""
WITHIN = 1.0
"""Seconds after which a caller was not heard."""
FRAME = RATE // 50

_SET_RATE, _SET_ECHO_STATE = 24, 24


class Canceller:
    """speexdsp's, at 8 kHz. OSError where the library is not installed."""

    def __init__(self) -> None:
        name = ctypes.util.find_library("speexdsp") or "libspeexdsp.so.1"
        self._native: Any = ctypes.CDLL(name)
        for function in ("speex_echo_state_init", "speex_preprocess_state_init"):
            getattr(self._native, function).restype = ctypes.c_void_p
        self._echo = ctypes.c_void_p(self._native.speex_echo_state_init(FRAME, RATE * 512 // 1000))
        self._post = ctypes.c_void_p(self._native.speex_preprocess_state_init(FRAME, RATE))
        rate = ctypes.c_int(RATE)
        self._native.speex_echo_ctl(self._echo, _SET_RATE, ctypes.byref(rate))
        self._native.speex_preprocess_ctl(self._post, _SET_ECHO_STATE, self._echo)

    def clean(self, line: Pcm, ours: Pcm) -> Pcm:
        """``line`` without the echo of ``ours``: int16 at 8 kHz, whole frames."""
        out = np.zeros_like(line)
        short = ctypes.POINTER(ctypes.c_int16)
        for at in range(0, len(line), FRAME):
            near, far = (np.ascontiguousarray(part[at : at + FRAME]) for part in (line, ours))
            frame = np.zeros(FRAME, np.int16)
            pointers = [part.ctypes.data_as(short) for part in (near, far, frame)]
            self._native.speex_echo_cancellation(self._echo, *pointers)
            self._native.speex_preprocess_run(self._post, pointers[2])
            out[at : at + FRAME] = frame
        return out

    def close(self) -> None:
        """Give the states back."""
        self._native.speex_echo_state_destroy(self._echo)
        self._native.speex_preprocess_state_destroy(self._post)


@dataclass(slots=True)
class Tally:
    """What one way made of one line."""

    false: int = 0
    minutes: float = 0.0
    after: list[float] = field(default_factory=list)
    """Milliseconds from a caller's first voiced frame to the report of a voice."""
    missed: int = 0

    def cells(self) -> str:
        """As a row of the table."""
        p50, p95 = (report.percentile(self.after, share) for share in (0.5, 0.95))
        times = "   -    - " if p50 is None or p95 is None else f"{p50:4.0f} {p95:4.0f} "
        return f"{self.false / self.minutes:6.1f}  {times} {self.missed:3}/{self.missed + len(self.after)}"


def line(ours: Pcm, caller: Pcm, db: float | None, delay: float, draw: np.random.Generator) -> Pcm:
    """What comes in, int16 at 8 kHz."""
    total = line_noise(len(ours) / RATE + 1, -66.0, draw)[: len(ours)].astype(np.float64) + caller
    if db is not None:
        taps = np.zeros(4 * len(HYBRID))
        taps[::4] = HYBRID
        back = np.convolve(ours, taps / np.sqrt(np.sum(taps**2)) * 10 ** (db / 20))[: len(ours)]
        total[round(delay * RATE) :] += back[: len(ours) - round(delay * RATE)]
    return decode("PCMU", encode("PCMU", np.clip(np.round(total), -32768, 32767).astype(np.int16)))


def starts(vad: SileroVad, incoming: Pcm, ours: Pcm, gate: EchoGate | None) -> Iterator[float]:
    """When voices are reported, seconds of the line's audio: both int16 at 8 kHz."""
    heard = StreamResampler(RATE, INTERNAL_RATE).process(incoming)
    playing = StreamResampler(RATE, INTERNAL_RATE).process(ours)
    detector, state = VoiceDetector(), vad.new_state()
    if gate is not None:
        gate.queued(0, playing)
    taken = 0
    for number, level in enumerate(frame_levels(heard)):
        now = number + 1
        masked = gate is not None and gate.mask([level], now * FRAME_SAMPLES)[0]
        detector.add_frame(level, number * 0.02, masked=masked)
        while taken + WINDOW_SAMPLES <= now * FRAME_SAMPLES:
            window = heard[taken : taken + WINDOW_SAMPLES].astype(np.float32)[np.newaxis] / 32768.0
            taken += WINDOW_SAMPLES
            probability = float(vad.probabilities(window, [state])[0])
            if any(isinstance(what, Started) for what in detector.add_window(probability)):
                yield now * 0.02


def callers(clips: Sequence[Pcm], length: int, draw: np.random.Generator) -> tuple[Pcm, list[float]]:
    """Their words over ``length`` samples, and when each is first voiced (s)."""
    said, begins = np.zeros(length, np.int16), []
    at = EVERY
    while (at + EVERY) * RATE < length:
        clip = clips[len(begins) % len(clips)]
        begin = round((at + draw.uniform(0, 1.5)) * RATE)
        said[begin : begin + len(clip)] = clip[: length - begin]
        first = next(i for i, level in enumerate(levels(clip[: len(clip) // FRAME * FRAME])) if level > VOICED_DBFS)
        begins.append(begin / RATE + first * 0.02)
        at += EVERY
    return said, begins


def measure(vad: SileroVad, ours: Pcm, clips: Sequence[Pcm], seed: int) -> dict[str, list[Tally]]:
    """A tally for each line, by way."""
    found: dict[str, list[Tally]] = {"nothing": [], "the gate": [], "speexdsp": []}
    for db, delay in LINES:
        draw = np.random.default_rng(seed)
        said, begins = callers(clips, len(ours), draw)
        alone = line(ours, np.zeros_like(ours), db, delay, draw)
        both = line(ours, said, db, delay, draw)
        for way, tallies in found.items():
            tally = _judge(vad, way, ours, alone, both, begins)
            if tally is not None:
                tallies.append(tally)
    return {way: tallies for way, tallies in found.items() if tallies}


def _judge(vad: SileroVad, way: str, ours: Pcm, alone: Pcm, both: Pcm, begins: Sequence[float]) -> Tally | None:
    gate: Callable[[], EchoGate | None] = EchoGate if way == "the gate" else lambda: None
    if way == "speexdsp":
        try:
            alone, both = (_cleaned(incoming, ours) for incoming in (alone, both))
        except OSError:
            return None
    tally = Tally(minutes=len(ours) / RATE / 60)
    tally.false = sum(1 for _ in starts(vad, alone, ours, gate()))
    reported = list(starts(vad, both, ours, gate()))
    for begin in begins:
        # A voice that was reported before it began, and still is, is not this one: it counts as not heard.
        after = next((at - begin for at in reported if begin <= at <= begin + WITHIN), None)
        if after is None:
            tally.missed += 1
        else:
            tally.after.append(1000 * after)
    return tally


def _cleaned(incoming: Pcm, ours: Pcm) -> Pcm:
    canceller = Canceller()
    try:
        return canceller.clean(incoming, ours)
    finally:
        canceller.close()


def main(arguments: Sequence[str]) -> int:
    """Measure and print; 1 when the gate falls short."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.echo", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="half a minute of each line")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args(arguments)
    store = ModelStore(default_models_dir(os.environ))
    piper = PiperVoice(resolve_voice("en_US-joe-medium", store), threads=1, noise=False)
    voice = np.concatenate([_ours(piper, text) for text in OURS])
    speaker = Speaker()
    ours = np.resize(voice, (30 if options.quick else 120) * RATE // FRAME * FRAME).astype(np.int16)
    clips = [speaker.say(text, 1.07).pcm for text in OVER]
    vad = SileroVad(resolve_onnx("silero", "vad", store))
    found = measure(vad, ours, clips, options.seed)
    if "speexdsp" not in found:
        print("peer missing: install libspeexdsp1")
    print(f"{report.machine()}\n")
    print("of each: our echo taken for a voice, a minute; a caller's first voiced frame to the report, p50 and p95 ms;")
    print(f"callers not heard within {WITHIN:g} s\n")
    print(f"{'echo':>14}  " + "  ".join(f"{way:^26}" for way in found))
    for number, (db, delay) in enumerate(LINES):
        name = "none" if db is None else f"{db:g} dB {1000 * delay:.0f} ms"
        print(f"{name:>14}  " + "  ".join(f"{tallies[number].cells():>26}" for tallies in found.values()))
    rows = _rows(found)
    print("\n" + report.table(rows))
    if options.json:
        options.json.write_text(report.as_json(rows, machine=report.machine()), encoding="utf-8")
    return 1 if any(row.short for row in rows) else 0


def _rows(found: dict[str, list[Tally]]) -> list[report.Row]:
    rows = []
    for way, tallies in found.items():
        ours = way == "the gate"
        after = [value for tally in tallies for value in tally.after]
        rows += [
            report.Row(f"{way}: echo taken for a voice, a minute", "",
                       sum(t.false for t in tallies) / sum(t.minutes for t in tallies), 0.0 if ours else None),
            report.Row(f"{way}: caller heard after, p95", "ms", report.percentile(after, 0.95), None),
            report.Row(f"{way}: callers not heard", "%",
                       100 * sum(t.missed for t in tallies) / max(1, sum(t.missed + len(t.after) for t in tallies))),
        ]  # fmt: skip
    return rows


def _ours(voice: PiperVoice, text: str) -> Pcm:
    """A phrase of ours as it leaves, at 8 kHz and at the level the synthesiser gives it."""
    pcm = np.concatenate([*(piece.pcm for piece in voice.synthesise(text)), np.zeros(INTERNAL_RATE // 5, np.int16)])
    return to_line_rate(pcm, INTERNAL_RATE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
