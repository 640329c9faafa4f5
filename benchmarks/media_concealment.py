"""Concealment of lost packets on real telephone speech: ``python -m benchmarks.media_concealment [--prompts 40]``.

Recorded prompts (as in ``benchmarks.stt``) go through mu-law in packets of 20 ms; 3, 5 and 10 % of the packets are
lost, one by one or in bursts of three on average (Gilbert-Elliott, seeded; the same losses for every way). Ways:
silence, the last packet again, pjsua2's own concealment (``benchmarks.pjmedia``), and ours (``aiphone.native.plc``),
once with nothing known of what follows (one-sided) and once with the packets that a jitter buffer of 40 ms holds.

Measured: PESQ (ITU-T P.862, narrow band, by the ``pesq`` package) against the speech without loss, and how many
more words tiny.en gets wrong than without loss. Targets: 0.4 PESQ over silence, half of silence's added errors.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aiphone.clock import SystemClock
from aiphone.inference.stt import SpeechToText
from aiphone.native import g711
from aiphone.native.plc import Concealer
from benchmarks import media_picture, pjmedia, stt_corpus
from benchmarks.jitter_traces import gilbert_elliott
from benchmarks.report import Row, as_json, machine, table

DOCS = Path(__file__).parent.parent / "docs"
FRAME = 160
Pcm = npt.NDArray[np.int16]
Lost = npt.NDArray[np.bool_]
Way = Callable[[Pcm, Lost], Pcm]


def frames(pcm: Pcm) -> npt.NDArray[np.int16]:
    """As rows of 20 ms, the rest cut."""
    return pcm[: len(pcm) // FRAME * FRAME].reshape(-1, FRAME)


def silence(pcm: Pcm, lost: Lost) -> Pcm:
    """Nothing in its place."""
    out = frames(pcm).copy()
    out[lost] = 0
    return out.reshape(-1)


def repeat_last(pcm: Pcm, lost: Lost) -> Pcm:
    """The packet before it, again."""
    out = frames(pcm).copy()
    for i in np.flatnonzero(lost):
        out[i] = out[i - 1] if i else 0
    return out.reshape(-1)


def one_sided(pcm: Pcm, lost: Lost) -> Pcm:
    """As the media engine does it while the next packet is not there; aligned (its output lags by 3.75 ms)."""
    return concealed(pcm, lost, 0)


def ours(pcm: Pcm, lost: Lost) -> Pcm:
    """As the media engine does it with the packets that wait in a jitter buffer of 40 ms."""
    return concealed(pcm, lost, 2)


def concealed(pcm: Pcm, lost: Lost, ahead: int) -> Pcm:
    """Concealed by our own; the first packet after a gap is known when it is at most ``ahead`` packets away."""
    plc, rows, out = Concealer(8000), frames(pcm), []
    for i, row in enumerate(rows):
        if not lost[i]:
            out.append(plc.good(row))
            continue
        distance = next((d for d in range(1, ahead + 1) if i + d < len(rows) and not lost[i + d]), 0)
        out.append(plc.bridge(FRAME, rows[i + distance], distance * FRAME) if distance else plc.conceal(FRAME))
    return np.concatenate([*out, plc.good(np.zeros(plc.delay, np.int16))])[plc.delay :]


def pjsua2(pcm: Pcm, lost: Lost) -> Pcm:
    """pjmedia_plc, as pjsua2 does it."""
    library = pjmedia.load()
    assert library is not None
    plc = pjmedia.Concealer(library)
    out = [plc.conceal() if gone else plc.good(row) for row, gone in zip(frames(pcm), lost, strict=True)]
    return np.concatenate(out)


def losses(count: int, share: float, burst: float, seed: list[int]) -> Lost:
    """Which packets are lost; the first two never are."""
    lost = gilbert_elliott(np.random.default_rng(seed), count, share, burst)
    lost[:2] = False
    return lost


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.media_concealment", description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--model", type=Path, default=Path.home() / ".cache/aiphone/models/ggml-tiny.en.bin")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--without-words", action="store_true", help="PESQ only")
    parser.add_argument("--json", type=Path, help="write the results here as well")
    parser.add_argument("--pictures", action="store_true", help="draw docs/concealment.svg anew")
    arguments = parser.parse_args()
    try:
        from pesq import PesqError, pesq
    except ImportError:
        print("the pesq package is missing: pip install aiphone[bench]", file=sys.stderr)
        return 2
    ways: dict[str, Way | None] = {"silence": silence, "repeat last": repeat_last, "pjsua2": pjsua2}
    ways |= {"ours, one-sided": one_sided, "ours": ours}
    if pjmedia.load() is None:
        ways["pjsua2"] = None
    corpus = [prompt for prompt in stt_corpus.prompts(0) if 2.5 <= prompt.seconds <= 12]
    corpus = corpus[:: max(1, len(corpus) // arguments.prompts)][: arguments.prompts]
    speech = []
    for prompt in corpus:
        pcm = stt_corpus.read_wav(stt_corpus.SOUNDS / f"{prompt.name}.wav")
        speech.append(frames(g711.decode_ulaw(g711.encode_ulaw(np.ascontiguousarray(pcm)))).reshape(-1))
    engine = None
    if not arguments.without_words and arguments.model.is_file():
        engine = SpeechToText(arguments.model, post=lambda _event: None, clock=SystemClock(), threads=arguments.threads)

    def wrong(number: int, pcm: Pcm) -> int:
        if engine is None:
            return 0
        text = engine.transcribe(stt_corpus.upsample(pcm), language="en").text
        return stt_corpus.edits(stt_corpus.words(corpus[number].text), stt_corpus.words(text))

    print(machine())
    print(f"{len(corpus)} prompts, {sum(p.seconds for p in corpus):.0f} s")
    clean = sum(wrong(i, pcm) for i, pcm in enumerate(speech))
    total = sum(len(stt_corpus.words(p.text)) for p in corpus)
    if engine is not None:
        print(f"without loss: {clean} of {total} words wrong")
    scores: dict[str, dict[str, float | None]] = {}
    added: dict[str, dict[str, float | None]] = {}
    for share in (0.03, 0.05, 0.10):
        for burst, kind in ((1.0, "random"), (3.0, "bursts of 3")):
            name = f"{share:.0%} {kind}"
            scores[name], added[name] = {}, {}
            for way_name, way in ways.items():
                if way is None:
                    scores[name][way_name] = added[name][way_name] = None
                    continue
                found, errors = [], 0
                for i, pcm in enumerate(speech):
                    heard = way(pcm, losses(len(pcm) // FRAME, share, burst, [i, round(share * 100), round(burst)]))
                    score = pesq(8000, pcm, heard, "nb", on_error=PesqError.RETURN_VALUES)
                    found += [score] if score > 0 else []
                    errors += wrong(i, heard)
                scores[name][way_name] = float(np.mean(found))
                added[name][way_name] = float(errors - clean)
            line = "   ".join(
                f"{w} {'missing' if s is None else f'{s:.2f}'} ({added[name][w] or 0:+.0f})"
                for w, s in scores[name].items()
            )
            print(f"{name:<16}{line}", flush=True)
    rows = []
    for name, row in scores.items():
        gain = (row["ours"] or 0) - (row["silence"] or 0)
        rows.append(Row(f"PESQ over silence, {name}", "MOS-LQO", gain, 0.4, at_least=True))
        if row["pjsua2"] is not None:
            rows.append(Row(f"  over pjsua2, {name}", "MOS-LQO", (row["ours"] or 0) - row["pjsua2"]))
    if engine is not None:
        sums = {way: sum(row[way] or 0.0 for row in added.values()) for way in ways}
        print("added word errors, all conditions: " + ", ".join(f"{w} {n:.0f}" for w, n in sums.items()))
        ratio = sums["ours"] / sums["silence"] if sums["silence"] > 0 else None
        rows.append(Row("added word errors, ours to silence, all conditions", "x", ratio, 0.5))
    print("\n" + table(rows))
    if arguments.pictures:
        media_picture.bars(DOCS / "concealment.svg", "PESQ (MOS-LQO) with lost packets concealed", scores, "")
    if arguments.json:
        arguments.json.write_text(as_json(rows, pesq=scores, added_errors=added, words=total) + "\n")
    if engine is not None:
        engine.close()
    return 1 if any(row.short for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
