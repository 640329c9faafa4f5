"""G.711 and resampling beside their peers: ``python -m benchmarks.codec [--quick] [--json FILE]``.

G.711: samples a second of ours, ``audioop``, the ``g711`` package and a table in numpy (65,536 entries to encode,
256 to decode, ``take``), each called from Python as a program would, on one second-long array of a million samples
and on the 160 of a packet. Ours and numpy's table decode into an array that is there, as a program with a stream of
packets does; ours into a new one is printed beside it. Each is given its own native type (bytes, int16, float32 in
-1..1) so that no one pays for a conversion that is not its own.

Resampling: blocks of 20 ms, the eight directions a call can need, each library as a stream with its state: ours,
soxr HQ, libsamplerate's best sinc, ``audioop.ratecv``. Then the frequency response of ours, measured with tones:
how flat the passband is and how far down the loudest alias or image lies; the picture shows it for 16 to 8 kHz.

The ways take turns and the best of many rounds counts, so a machine that does other things slows all alike.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aiphone.native import g711
from aiphone.native.resample import StreamResampler
from benchmarks import media_picture
from benchmarks.report import Row, as_json, machine, table

DOCS = Path(__file__).parent.parent / "docs"
PAIRS = [(8, 16), (16, 8), (22.05, 8), (22.05, 16), (24, 8), (24, 16), (48, 8), (48, 16)]
Way = Callable[[], object]
Times = dict[str, float | None]


def module(name: str) -> Any | None:
    """A peer, or None when this Python does not have it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # audioop says that it will leave the standard library
        try:
            return __import__(name)
        except ImportError:
            return None


def race(ways: Mapping[str, Way | None], seconds: float) -> Times:
    """Seconds a call, the best of many short rounds in turns; None for a peer that is not there."""
    present = {name: way for name, way in ways.items() if way is not None}
    loops = {}
    for name, way in present.items():
        way()
        began = time.perf_counter()
        way()
        loops[name] = max(1, int(0.002 / max(time.perf_counter() - began, 1e-7)))
    best = dict.fromkeys(present, math.inf)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, way in present.items():
            began = time.perf_counter()
            for _ in range(loops[name]):
                way()
            best[name] = min(best[name], (time.perf_counter() - began) / loops[name])
    return {name: best.get(name) for name in ways}


def fastest_peer(times: Times) -> float | None:
    """The best of all but ours."""
    found = [t for name, t in times.items() if not name.startswith("ours") and t is not None]
    return min(found, default=None)


def ratio(times: Times, peer: str | None = None) -> float | None:
    """How many times faster than a peer (or the fastest) ours is."""
    other = fastest_peer(times) if peer is None else times.get(peer)
    ours = times["ours"]
    return None if other is None or ours is None else other / ours


def companding(samples: int, seconds: float) -> dict[str, Times]:
    """Seconds for each way to encode and decode so many samples."""
    audioop, package = module("audioop"), module("g711")
    rng = np.random.default_rng(1)
    pcm = np.clip(rng.laplace(0, 2500, samples), -32768, 32767).astype(np.int16)
    raw, floats = pcm.tobytes(), (pcm / 32768.0).astype(np.float32)
    code = g711.encode_ulaw(pcm)
    codes = np.frombuffer(code, np.uint8)
    every = np.arange(65536, dtype=np.uint16).view(np.int16)
    to_code = np.frombuffer(g711.encode_ulaw(np.ascontiguousarray(every)), np.uint8).copy()
    to_pcm = g711.decode_ulaw(bytes(range(256)))
    room = np.empty(samples, np.int16)
    return {
        "encode": race(
            {
                "ours": lambda: g711.encode_ulaw(pcm),
                "audioop": audioop and (lambda: audioop.lin2ulaw(raw, 2)),
                "g711": package and (lambda: package.encode_ulaw(floats)),
                "numpy table": lambda: to_code.take(pcm.view(np.uint16)).tobytes(),
            },
            seconds,
        ),
        "decode": race(
            {
                "ours": lambda: g711.decode_ulaw(code, room),
                "ours, new array": lambda: g711.decode_ulaw(code),
                "audioop": audioop and (lambda: audioop.ulaw2lin(code, 2)),
                "g711": package and (lambda: package.decode_ulaw(code)),
                "numpy table": lambda: to_pcm.take(codes, out=room, mode="wrap"),
            },
            seconds,
        ),
    }


def resamplers(rate_in: int, rate_out: int) -> dict[str, Way | None]:
    """Each way to convert the next 20 ms of a stream."""
    audioop, soxr, samplerate = module("audioop"), module("soxr"), module("samplerate")
    rng = np.random.default_rng(2)
    pcm = np.clip(rng.laplace(0, 2500, rate_in // 50), -32768, 32767).astype(np.int16)
    raw, floats = pcm.tobytes(), (pcm / 32768.0).astype(np.float32)
    ours = StreamResampler(rate_in, rate_out)
    ways: dict[str, Way | None] = {"ours": lambda: ours.process(pcm), "soxr HQ": None, "samplerate best": None}
    if soxr is not None:
        stream = soxr.ResampleStream(rate_in, rate_out, 1, dtype="int16", quality="HQ")
        ways["soxr HQ"] = lambda: stream.resample_chunk(pcm)
    if samplerate is not None:
        best = samplerate.Resampler("sinc_best", channels=1)
        ways["samplerate best"] = lambda: best.process(floats, rate_out / rate_in)
    ways["audioop.ratecv"] = None
    if audioop is not None:
        state: list[Any] = [None]

        def ratecv() -> None:
            _, state[0] = audioop.ratecv(raw, 2, 1, rate_in, rate_out, state[0])

        ways["audioop.ratecv"] = ratecv
    return ways


def in_engine(rate_in: int, rate_out: int, seconds: float) -> float:
    """Seconds for 20 ms as the engine pays them: 100 blocks in one call."""
    pcm = np.clip(np.random.default_rng(2).laplace(0, 2500, 2 * rate_in), -32768, 32767).astype(np.int16)
    ours = StreamResampler(rate_in, rate_out)
    return (race({"ours": lambda: ours.process(pcm)}, seconds)["ours"] or math.nan) / 100


def tone_out(rate_in: int, rate_out: int, hz: float, seconds: float = 0.5) -> npt.NDArray[np.float64]:
    """A tone of half of full scale after our resampler, without its edges."""
    t = np.arange(int(seconds * rate_in)) / rate_in
    pcm = np.round(16384 * np.sin(2 * np.pi * hz * t)).astype(np.int16)
    out = StreamResampler(rate_in, rate_out).process(pcm).astype(np.float64)
    return out[rate_out // 20 :] / 16384


def response(rate_in: int, rate_out: int) -> tuple[list[tuple[float, float]], float, float]:
    """Level over frequency in dB, the ripple up to 3.4 kHz (or its share of the band), the loudest alias in dB."""
    curve: list[tuple[float, float]] = []
    flat, alias = 0.0, -200.0
    edge = 0.425 * min(rate_in, rate_out)
    for hz in np.arange(100.0, rate_in / 2, rate_in / 320):
        out = tone_out(rate_in, rate_out, float(hz))
        t = np.arange(len(out)) / rate_out
        wave = np.exp(-2j * np.pi * hz * t)
        window = np.hanning(len(out))
        at_tone = 2 * abs(np.dot(out * window, wave)) / window.sum() if hz < rate_out / 2 else 0.0
        if hz <= edge:
            flat = max(flat, abs(20 * math.log10(at_tone)))
        spectrum = np.abs(np.fft.rfft(out * np.blackman(len(out)))) / (len(out) * 0.21)
        bins = np.fft.rfftfreq(len(out), 1 / rate_out)
        # What is not the tone: images when the rate rises, aliases when it falls (the tone itself beyond the band).
        beside = spectrum[np.abs(bins - hz) > 40.0]
        alias = max(alias, 20 * math.log10(beside.max() + 1e-12)) if hz < edge or hz >= rate_out / 2 else alias
        level = at_tone if hz < rate_out / 2 else float(beside.max())
        curve.append((float(hz), 20 * math.log10(level + 1e-7)))
    return curve, flat, alias


def show(title: str, times: Mapping[str, Times], samples: int) -> None:
    """Times as millions of samples a second, and ratios."""
    print(f"\n{title}")
    for what, row in times.items():
        parts = [f"{n} {'missing' if t is None else f'{samples / t / 1e6:.1f} M/s'}" for n, t in row.items()]
        print(f"  {what:<12}" + "   ".join(parts))


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.codec", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the time")
    parser.add_argument("--json", type=Path, help="write the results here as well")
    parser.add_argument("--pictures", action="store_true", help="draw docs/codec.svg and docs/resample.svg anew")
    arguments = parser.parse_args()
    seconds = 0.2 if arguments.quick else 2.0
    print(machine())
    rows, groups = [], {}
    for samples, encode_target in ((1_000_000, 10.0), (160, 4.0)):
        times = companding(samples, seconds)
        show(f"G.711 mu-law, {samples:,} samples", times, samples)
        said = f"{samples:,} samples, the fastest peer"
        rows.append(Row(f"G.711 encode, {said}", "x", ratio(times["encode"]), encode_target, at_least=True))
        rows.append(Row(f"G.711 decode, {said}", "x", ratio(times["decode"]), 1.2, at_least=True))
        for peer in ("audioop", "g711", "numpy table"):
            rows += [Row(f"  {what} against {peer}", "x", ratio(row, peer)) for what, row in times.items()]
        for what, row in times.items():
            groups[f"{what}, {samples:,} samples"] = {n: t and samples / t / 1e6 for n, t in row.items()}
    targets = {"soxr HQ": 4.0, "samplerate best": 100.0, "audioop.ratecv": 3.0}
    worst = dict.fromkeys(targets, math.inf)
    curves = {}
    flattest, loudest = 0.0, -200.0
    for rate_in, rate_out in ((round(a * 1000), round(b * 1000)) for a, b in PAIRS):
        times_of = race(resamplers(rate_in, rate_out), seconds / 2)
        curve, flat, alias = response(rate_in, rate_out)
        flattest, loudest = max(flattest, flat), max(loudest, alias)
        if rate_in > rate_out and rate_out == 8000:
            curves[f"{rate_in / 1000:g} to {rate_out / 1000:g} kHz"] = curve
        parts = [f"{n} {'missing' if t is None else f'{t * 1e6:.1f} us'}" for n, t in times_of.items()]
        parts.append(f"ours without the Python call {in_engine(rate_in, rate_out, seconds / 4) * 1e6:.2f} us")
        name = f"{rate_in / 1000:g} to {rate_out / 1000:g} kHz"
        print(f"  {name:<16}" + "   ".join(parts) + f"   ripple {flat:.3f} dB   alias {alias:.0f} dB")
        groups[f"20 ms, {name}"] = {n: t and rate_in / 50 / t / 1e6 for n, t in times_of.items()}
        for peer in targets:
            found = ratio(times_of, peer)
            rows.append(Row(f"  {name} against {peer}", "x", found))
            worst[peer] = min(worst[peer], math.nan if found is None else found)
    for peer, target in targets.items():
        value = None if math.isnan(worst[peer]) else worst[peer]
        rows.append(Row(f"resampling 20 ms, the worst pair, {peer}", "x", value, target, at_least=True))
    rows.append(Row("ripple up to 0.425 of the narrower rate (3.4 kHz)", "dB", flattest, 0.05))
    rows.append(Row("loudest alias or image", "dB", loudest, -80.0))
    print("\n" + table(rows))
    if arguments.pictures:
        media_picture.bars(DOCS / "codec.svg", "Million samples a second, one core, called from Python", groups, "M/s")
        media_picture.lines(
            DOCS / "resample.svg", "Resamplers: level over frequency (aliases beyond 4 kHz)", curves, "Hz", "dB"
        )
    if arguments.json:
        arguments.json.write_text(as_json(rows) + "\n")
    return 1 if any(row.short for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
