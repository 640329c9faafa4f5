"""First audio and total time of a sentence, against Piper's own synthesis in the same run.

    python -m benchmarks.tts [--voice FILE.onnx] [--threads N] [--rounds N] [--json FILE]

Both run the same weights with the same number of threads, in turn, so that a busy machine hits both. Noise is
off, so that both speak the same samples. Figures are medians; the ratio is what counts. The last lines are the
cost of listening to silent calls, and of a call that speaks all the time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import piper
from piper.config import PiperConfig

from aiphone.events import Event, Pcm
from aiphone.inference.allocator import share_one_heap
from aiphone.inference.piper_voice import PiperVoice
from aiphone.speech.listener import Listener
from aiphone.speech.vad import SileroVad

MODELS = Path.home() / ".cache/aiphone/models"
SENTENCES = {
    "a word": "Sure.",
    "a phrase": "The capital of France is Paris.",
    "a 7 s sentence": (
        "The museum opens at nine in the morning and closes at six, but on Thursdays you can stay until ten, "
        "and children do not have to pay."
    ),
}
FIRST_AUDIO_TARGET = 0.35
TOTAL_TARGET = 1.15
DIFFERENCE_TARGET = 1e-4


@dataclass
class Row:
    """Medians for one sentence: seconds of audio, and seconds of work."""

    name: str
    audio: float
    piper: float
    first: float
    total: float
    difference: float


def compare(model: Path, threads: int, rounds: int) -> list[Row]:
    """Piper's own synthesis and ours, in turn, on the same sentences."""
    ours = PiperVoice(model, threads=threads, noise=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    description = json.loads(Path(f"{model}.json").read_text(encoding="utf-8"))
    session = onnxruntime.InferenceSession(str(model), options)
    theirs = piper.PiperVoice(session, PiperConfig.from_dict(description))
    config = piper.SynthesisConfig(noise_scale=0.0, noise_w_scale=0.0, normalize_audio=False)
    rows = []
    for name, text in SENTENCES.items():
        whole_times, first_times, total_times = [], [], []
        for attempt in range(rounds + 1):
            begin = time.perf_counter()
            whole = np.concatenate([chunk.audio_float_array for chunk in theirs.synthesize(text, config)])
            whole_time = time.perf_counter() - begin
            begin = time.perf_counter()
            pieces, first = [], 0.0
            for piece, _ in ours.samples(text):
                first = first or time.perf_counter() - begin
                pieces.append(piece)
            total = time.perf_counter() - begin
            if attempt:  # the first round warms both up
                whole_times.append(whole_time)
                first_times.append(first)
                total_times.append(total)
        difference = float(np.abs(np.concatenate(pieces) - whole).max())
        rows.append(
            Row(
                name,
                len(whole) / ours.rate,
                statistics.median(whole_times),
                statistics.median(first_times),
                statistics.median(total_times),
                difference,
            )
        )
    return rows


@dataclass
class _Frames:
    pcm: Pcm
    arrival: npt.NDArray[np.float64]
    flags: npt.NDArray[np.uint8]


class _Line:
    """A call that brings a frame with every tick."""

    def __init__(self, frames: Pcm, engine: _Ticks) -> None:
        self._frames = frames
        self._engine = engine
        self._read = 0

    def read(self, max_frames: int) -> _Frames:
        numbers = np.arange(self._read, min(self._engine.ticks, self._read + max_frames))
        self._read += len(numbers)
        return _Frames(self._frames[numbers % len(self._frames)], numbers * 0.02, np.zeros(len(numbers), np.uint8))


class _Ticks:
    """A media engine in real time: a frame every 20 ms."""

    def __init__(self) -> None:
        self.ticks = 0
        self._next = time.monotonic()

    def wait_frames(self, timeout: float) -> bool:
        time.sleep(min(timeout, max(0.0, self._next - time.monotonic())))
        while self._next <= time.monotonic():
            self._next += 0.02
            self.ticks += 1
        return True


def listening_cost(vad: SileroVad, frames: Pcm, calls: int, seconds: float) -> float:
    """Share of a core that a call costs, with so many calls alike."""
    engine = _Ticks()
    events: list[Event] = []
    listener = Listener(engine, vad, events.append)
    for number in range(calls):
        listener.attach(f"c{number}", _Line(frames, engine))
    wait = threading.Event()
    listener.start()
    wait.wait(0.5)
    begin, used = time.monotonic(), time.process_time()
    wait.wait(seconds)
    share = (time.process_time() - used) / (time.monotonic() - begin)
    listener.stop()
    return share / calls


def listening(voice: Path, vad_model: Path, seconds: float) -> dict[str, float]:
    """What listening costs, by the kind of line."""
    vad = SileroVad(vad_model)
    silence = np.zeros((50, 320), np.int16)
    noise = (np.random.default_rng(0).standard_normal((500, 320)) * 20).astype(np.int16)
    speech = np.concatenate(
        [piece.pcm for piece in PiperVoice(voice, noise=False).synthesise(SENTENCES["a 7 s sentence"])]
    )
    speech = speech[: len(speech) // 320 * 320].reshape(-1, 320)
    return {
        "1 call, digital silence": listening_cost(vad, silence, 1, seconds),
        "1 call, line noise at -64 dBFS": listening_cost(vad, noise, 1, seconds),
        "8 calls, line noise, each": listening_cost(vad, noise, 8, seconds),
        "1 call that speaks": listening_cost(vad, speech, 1, seconds),
        "8 calls that speak, each": listening_cost(vad, speech, 8, seconds),
    }


def main() -> int:
    """The console entry; 0 when the targets are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voice", type=Path, default=MODELS / "en_US-joe-medium.onnx")
    parser.add_argument("--vad", type=Path, default=MODELS / "silero_vad.onnx")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=4.0, help="for each measurement of listening")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    share_one_heap()  # as the server does

    rows = compare(options.voice, options.threads, options.rounds)
    print(f"speech, {options.threads} threads, medians of {options.rounds}")
    print(f"{'':16}{'audio':>8}{'Piper':>10}{'first':>10}{'total':>10}{'first/P':>9}{'total/P':>9}{'differ':>10}")
    for row in rows:
        print(
            f"{row.name:16}{row.audio:7.2f}s{row.piper * 1e3:8.0f}ms{row.first * 1e3:8.0f}ms{row.total * 1e3:8.0f}ms"
            f"{row.first / row.piper:9.2f}{row.total / row.piper:9.2f}{row.difference:10.1e}"
        )
    costs = listening(options.voice, options.vad, options.seconds)
    print("listening, share of one core for a call")
    for name, cost in costs.items():
        print(f"{name:36}{cost * 100:6.2f} %")
    if options.json:
        result = {"speech": [vars(row) for row in rows], "listening": costs}
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    long = rows[-1]
    met = (
        long.first <= FIRST_AUDIO_TARGET * long.piper
        and long.total <= TOTAL_TARGET * long.piper
        and long.difference <= DIFFERENCE_TARGET
    )
    print(
        f"targets (first {FIRST_AUDIO_TARGET}x, total {TOTAL_TARGET}x, samples within {DIFFERENCE_TARGET:g}): "
        + ("met" if met else "MISSED")
    )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
