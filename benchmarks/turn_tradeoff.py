"""How long to wait: the latency of a decision against the share of turns it cuts short, computed from recordings.

Live, one setting takes minutes; here every setting is tried on the same recordings. Each turn passes mu-law and the
line's noise, the detector (``aiphone.speech.voice_detector``) finds its pauses, and at each of them Smart Turn, Whisper
and the language model say what they would have said at that moment. Then a policy decides how long to wait after the
last voiced sound, and the label says whether that was too early. Three kinds of policy, each over a grid of its own
settings, of which only those stand that no other of the same kind betters in both respects:

fixed timer       the same patience always
smart turn alone  the shortest patience when its probability reaches a threshold, else a longer one
ours              ``aiphone.speech.patience``: voice, words and language model, between a floor and a ceiling

Latency here is that of the decision alone, from the end of the turn by its label: what is still to be done when it
falls (nothing, when the answer was prepared meanwhile) is in the live figures.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import mean

import numpy as np

from aiphone.caller.rtp import FRAME, RATE, level_dbfs
from aiphone.clock import SystemClock
from aiphone.config import default_models_dir
from aiphone.events import FRAME_SAMPLES, FRAME_SECONDS, INTERNAL_RATE, Event, Pcm, TurnEndByWords
from aiphone.inference.llama_cpp_api import LlamaCpp
from aiphone.inference.llm_backend import BackendOptions
from aiphone.inference.llm_scheduler import Limits as SchedulerLimits
from aiphone.inference.llm_scheduler import Scheduler
from aiphone.inference.stt import SpeechToText
from aiphone.native.g711 import decode_ulaw, encode_ulaw
from aiphone.native.resample import StreamResampler
from aiphone.persona import Message, Persona
from aiphone.speech.patience import Limits, seconds
from aiphone.speech.turn_end import SmartTurn
from aiphone.speech.vad import WINDOW_SAMPLES, SileroVad
from aiphone.speech.voice_detector import Started, Stopped, VoiceDetector
from benchmarks.turn_corpus import Turn
from benchmarks.turn_sounds import line_noise, mixed, silence

LEAD = 0.4
"""Seconds of line noise before a turn."""
TAIL = 1.0
"""... and behind it."""
WORK = 0.15
"""Seconds from a pause's detection until the models have spoken, which no policy that asks them can undercut."""


@dataclass(frozen=True, slots=True)
class Pause:
    """A place where the detector heard the voice stop. Seconds from the start of the recording."""

    voice_ended: float
    known: float
    """When the detector said so."""
    resumed: float | None
    """When it said that the voice was there again; None for good."""
    probability: float
    """Smart Turn's, that the turn is over."""
    text: str
    """Whisper's, of the turn so far."""
    by_words: float | None = None
    """The language model's, that the words end here."""


@dataclass(frozen=True, slots=True)
class Listened:
    """A turn as the detector and the models heard it."""

    kind: str
    over: float
    """When the turn was over by its label."""
    pauses: tuple[Pause, ...]


Policy = Callable[[Pause], float]
"""Seconds to wait after ``voice_ended``."""


@dataclass(frozen=True, slots=True)
class Point:
    """What a setting of a policy does."""

    setting: str
    latency: float
    """Mean of the decisions that were not too early, ms after the end of the turn."""
    p95: float
    cut_short: float
    """Percent of the turns."""


class Models:
    """The detector's and the deciders' models. One thread at a time; ``close`` gives Whisper back."""

    def __init__(self) -> None:
        folder = default_models_dir(os.environ)
        self.vad = SileroVad(folder / "silero_vad.onnx")
        self.smart_turn = SmartTurn(folder / "smart-turn-v3.2-cpu.onnx")
        self.stt = SpeechToText(folder / "ggml-tiny.en.bin", post=lambda _: None, clock=SystemClock(), threads=1)
        options = BackendOptions(threads=1, n_seq_max=4, n_ctx_per_call=1024, max_calls=1)
        self._llama = LlamaCpp(folder / "SmolLM2-135M-Instruct.Q4_1.gguf", options)
        self._told: list[Event] = []
        limits = SchedulerLimits(n_ctx_per_call=1024)
        self._writer = Scheduler(self._llama, post=self._told.append, clock=SystemClock(), limits=limits)
        self._persona = Persona()
        self._writer.open("turn", self._persona, None, None)

    def by_words(self, text: str) -> float | None:
        """How probable the language model finds it that the words end here; None when there are none."""
        if not text.strip():
            return None
        self._told.clear()
        messages = [self._persona.system_message(), Message("user", text)]
        self._writer.generate("turn", 1, messages, speculative=True)
        while not self._told and self._writer.step():
            pass
        self._writer.cancel("turn", 1)
        return next((told.probability for told in self._told if isinstance(told, TurnEndByWords)), None)

    def close(self) -> None:
        """End Whisper's thread, and free the language model."""
        self.stt.close()
        self._llama.close()


def received(turn: Turn, draw: np.random.Generator, noise_dbfs: float = -66.0) -> Pcm:
    """The turn as it leaves the media engine: mu-law, noise, 16 kHz; silence of the line before and behind it."""
    speech = np.concatenate([silence(LEAD), turn.pcm, silence(TAIL + 0.02)])
    speech = speech[: len(speech) // FRAME * FRAME]
    line = decode_ulaw(encode_ulaw(mixed(speech, line_noise(len(speech) / RATE, noise_dbfs, draw)[: len(speech)])))
    resampler = StreamResampler(RATE, INTERNAL_RATE)
    delay = round(resampler.delay * INTERNAL_RATE)
    return np.concatenate([resampler.process(line), resampler.flush()])[delay:]


def pauses(pcm: Pcm, vad: SileroVad) -> list[tuple[float, float, float | None, int, int]]:
    """What the detector says: voice ended, known at, resumed at, and the samples of the stretch before the pause."""
    detector, state = VoiceDetector(), vad.new_state()
    found: list[tuple[float, float, float | None, int, int]] = []
    fed = 0
    for window in range(len(pcm) // WINDOW_SAMPLES):
        end = (window + 1) * WINDOW_SAMPLES
        while fed < end and fed + FRAME_SAMPLES <= len(pcm):
            detector.add_frame(level_dbfs(pcm[fed : fed + FRAME_SAMPLES]), fed / INTERNAL_RATE + FRAME_SECONDS)
            fed += FRAME_SAMPLES
        if fed < end:
            break
        part = pcm[end - WINDOW_SAMPLES : end].astype(np.float32)[np.newaxis] / np.float32(32768)
        probability = 0.0 if detector.quiet() else float(vad.probabilities(part, [state])[0])
        for change in detector.add_window(probability):
            now = fed / INTERNAL_RATE
            if isinstance(change, Stopped):
                found.append((change.at, now, None, change.first, change.end))
            elif isinstance(change, Started) and found and found[-1][2] is None:
                found[-1] = (*found[-1][:2], now, *found[-1][3:])
    return found


def listen(turn: Turn, models: Models, draw: np.random.Generator) -> Listened:
    """Put a turn through the detector and ask the models at every pause."""
    pcm = received(turn, draw)
    heard: list[Pause] = []
    stretches: list[Pcm] = []
    for ended, known, resumed, first, end in pauses(pcm, models.vad):
        stretches.append(pcm[first:end])
        so_far = pcm[max(0, first if len(stretches) == 1 else 0) : end]
        text = models.stt.transcribe(so_far).text
        voice = models.smart_turn.probability(so_far)
        heard.append(Pause(ended, known, resumed, voice, text, models.by_words(text)))
    over = LEAD + (max(i for i, voiced in enumerate(turn.voiced()) if voiced) + 1) * FRAME_SECONDS
    return Listened(turn.kind, over, tuple(heard))


def judge(turn: Listened, policy: Policy) -> tuple[bool, float | None]:
    """Whether the policy cuts the turn short, and its latency (seconds) when it does not."""
    for pause in turn.pauses:
        at = max(pause.voice_ended + policy(pause), pause.known)
        if pause.resumed is not None and at >= pause.resumed:
            continue
        early = at < turn.over
        return early, None if early else at - turn.over
    return False, None


def fixed(patience: float) -> Policy:
    """Always the same."""
    return lambda _: patience


def smart_turn(threshold: float, longest: float) -> Policy:
    """As soon as the model is sure, else after ``longest`` seconds."""

    def wait(pause: Pause) -> float:
        return pause.known - pause.voice_ended + WORK if pause.probability >= threshold else longest

    return wait


def ours(limits: Limits) -> Policy:
    """Voice, words and language model."""

    def wait(pause: Pause) -> float:
        patience = seconds(limits, pause.probability, pause.text, pause.by_words)
        return max(pause.known - pause.voice_ended + WORK, patience)

    return wait


def point(setting: str, policy: Policy, turns: Sequence[Listened]) -> Point:
    """What one setting does to all turns."""
    judged = [judge(turn, policy) for turn in turns]
    late = sorted(1000 * latency for _, latency in judged if latency is not None)
    cut = 100 * sum(early for early, _ in judged) / len(judged)
    return Point(setting, mean(late) if late else 0.0, late[int(0.95 * (len(late) - 1))] if late else 0.0, cut)


def front(points: Iterable[Point]) -> list[Point]:
    """Those that no other one betters in both respects, by latency."""
    best: list[Point] = []
    for candidate in sorted(points, key=lambda p: (p.latency, p.cut_short)):
        if not best or candidate.cut_short < best[-1].cut_short:
            best.append(candidate)
    return best


def curves(turns: Sequence[Listened]) -> dict[str, list[Point]]:
    """The three kinds, each over its grid."""
    grid = itertools.product((0.2, 0.25, 0.3, 0.4, 0.5), (0.5, 0.6, 0.7, 0.8, 1.0), (0.8, 1.0, 1.2, 1.5, 2.0))
    limits = [Limits(*three) for three in grid if three[0] <= three[1] <= three[2]]
    shares = [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98]
    return {
        "fixed timer": front(point(f"{p:.2f} s", fixed(p), turns) for p in np.arange(0.2, 1.8, 0.05).tolist()),
        "smart turn alone": front(
            point(f"{t:g} or {most:g} s", smart_turn(t, most), turns)
            for t in shares
            for most in (0.5, 0.6, 0.8, 1.0, 1.2, 1.5, 2.0, 3.0)
        ),
        "ours": front(
            point(f"{each.shortest:g}, {each.usual:g}, {each.longest:g} s", ours(each), turns) for each in limits
        ),
    }


def chosen(turns: Sequence[Listened], limits: Limits) -> Point:
    """The setting that is shipped."""
    return point(f"{limits.shortest:g}, {limits.usual:g}, {limits.longest:g} s", ours(limits), turns)


def latency_at(points: Sequence[Point], cut_short: float) -> float | None:
    """The least latency (ms) of a curve at no more than this share cut short (%); None when it never gets there."""
    return min((p.latency for p in points if p.cut_short <= cut_short), default=None)


def measure(turns: Sequence[Turn], seed: int) -> list[Listened]:
    """All turns through the models."""
    draw = np.random.default_rng(seed)
    models = Models()
    try:
        return [listen(turn, models, draw) for turn in turns]
    finally:
        models.close()
