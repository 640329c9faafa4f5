"""The scenes of the bench of the turns: who calls, what each caller says and when, over which line.

Pure: a corpus goes in, plans for ``turn_callers`` come out. Lines rotate over the callers: clean, with noise 20 dB
under the speech, A-law, 3 % of the packets lost, and with the assistant's own voice coming back at -6 to -30 dB.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from aiphone.caller import load
from aiphone.events import Pcm
from benchmarks.stt_corpus import MUSIC
from benchmarks.turn_callers import CallPlan, Plan, Step
from benchmarks.turn_corpus import Corpus, Turn
from benchmarks.turn_sounds import at_level, hum, line_noise, looped, ringback, silence

LINES: tuple[dict[str, float | str], ...] = (
    {},
    {"noise_dbfs": -40.0},
    {"codec": "PCMA", "echo_db": -30.0},
    {"loss": 0.03},
    {"echo_db": -12.0},
    {"codec": "PCMA", "noise_dbfs": -46.0},
    {"echo_db": -20.0, "echo_delay": 0.16},
    {"loss": 0.03, "codec": "PCMA"},
    {"echo_db": -6.0},
)
"""What the lines do, beside the noise of -66 dBFS that every line has. Noise of -40 is 20 dB under the speech."""
CYCLE = 9.0
"""Seconds from one turn of a caller to its next, when each speaks when it likes."""
GAP = 1.2
"""Seconds from the end of one caller's turn to the next caller's, when they speak in turn."""


@dataclass(slots=True)
class Scene:
    """Plans to carry out one after the other, and the turns they are made of."""

    name: str
    calls: list[list[CallPlan]] = field(default_factory=list)
    """The calls of each plan."""
    turns: dict[str, Turn] = field(default_factory=dict)
    """By the label of the step, which is also the name of its sound."""

    def step(self, turn: Turn, what: str = "say", **more: float) -> Step:
        """A step that says this."""
        label = f"{self.name}-{len(self.turns)}"
        self.turns[label] = turn
        behind = f"{label}-behind" if turn.behind is not None else ""
        return Step(what, label, label, behind, **more)

    def sounds(self) -> dict[str, Pcm]:
        """All that is said and picked up in it."""
        found = {label: turn.pcm for label, turn in self.turns.items()}
        found |= {f"{label}-behind": t.behind for label, t in self.turns.items() if t.behind is not None}
        return found

    def kinds(self) -> dict[str, str]:
        """The kind of each label."""
        return {label: turn.kind for label, turn in self.turns.items()}

    def plans(self, uri: str, record: str = "") -> Iterator[Plan]:
        """To be carried out against this server; with ``record``, a folder, both sides of each call are kept."""
        for calls in self.calls:
            kept = [replace(call, record=f"{record}/{call.name}.wav") if record else call for call in calls]
            yield Plan(uri, tuple(kept))


def line(number: int) -> dict[str, float | str]:
    """The properties of the ``number``-th line."""
    return LINES[number % len(LINES)]


def call(name: str, number: int, steps: Sequence[Step], **more: object) -> CallPlan:
    """A call over the ``number``-th line."""
    return CallPlan(name, tuple(steps), seed=number + 1, **{**line(number), **more})  # type: ignore[arg-type]


def mix(corpus: Corpus, offset: int) -> Iterator[Turn]:
    """Plain questions and turns with a pause inside, by turns, from one's own place in the corpus on."""
    plain = itertools.cycle(corpus.questions[offset:] + corpus.questions[:offset])
    paused = itertools.cycle(corpus.paused[offset:] + corpus.paused[:offset])
    while True:
        yield next(plain)
        yield next(paused)


def level(corpus: Corpus, callers: int, turns: int, offset: int = 0) -> Scene:
    """``turns`` by ``callers`` calls at once, each without regard for the others; one caller makes several calls."""
    scene = Scene(f"{callers} calls")
    if callers == 1:
        source = mix(corpus, offset)
        for number in range(-(-turns // 6)):
            count = min(6, turns - 6 * number)
            steps = [scene.step(next(source)) for _ in range(count)]
            scene.calls.append([call(f"one-{number}", number, steps)])
        return scene
    calls = []
    for caller in range(callers):
        source = mix(corpus, (offset + 5 * caller) % len(corpus.paused))
        if caller % 2:
            next(source)
        steps = [
            scene.step(next(source), at=3.0 + CYCLE * (turn + caller / callers))
            for turn in range(turns // callers + (caller < turns % callers))
        ]
        calls.append(call(f"{callers}-{caller}", caller, steps, start=0.1 * caller))
    scene.calls.append(calls)
    return scene


def in_turn(corpus: Corpus, callers: int, turns: int, offset: int = 0) -> Scene:
    """``callers`` calls at once that speak in turn: the next caller begins while the one before is answered."""
    scene = Scene(f"{callers} calls in turn")
    source = mix(corpus, offset)
    steps: list[list[Step]] = [[] for _ in range(callers)]
    at = 3.0
    for number in range(turns):
        turn = next(source)
        steps[number % callers].append(scene.step(turn, at=at))
        at += turn.seconds + GAP
    scene.calls.append([call(f"turn-{number}", number, part, start=0.1 * number) for number, part in enumerate(steps)])
    return scene


def special(corpus: Corpus, count: int) -> Scene:
    """Digit strings, spelled names, two people on the line, keys; four callers in turn."""
    scene = Scene("special")
    steps: list[list[Step]] = [[] for _ in range(4)]
    for number, turn in enumerate(corpus.special[:count]):
        steps[number % 4].append(scene.step(turn, at=3.0 + 14 * (number // 4) + 3 * (number % 4)))
    keys = Turn("keys 42#", "keys", "42#", silence(0.02))
    last = max((len(part) for part in steps), default=0)
    pressed = [replace(scene.step(keys, "keys", at=3.0 + 14 * last + 3 * n), sound="42#") for n in range(2)]
    steps[2].append(pressed[0])
    steps[3].append(pressed[1])
    scene.calls.append([call(f"special-{number}", number, part) for number, part in enumerate(steps)])
    return scene


def overlaps(corpus: Corpus, interruptions: int, listening: int, at_once: int = 3) -> Scene:
    """Answers that are talked over: on purpose, and by what people do who listen."""
    scene = Scene("overlaps")
    calls: list[CallPlan] = []
    over, back = itertools.cycle(corpus.over), itertools.cycle(corpus.back)
    for number in range(-(-interruptions // 2)):
        steps: list[Step] = []
        for turn in range(2):
            steps.append(scene.step(corpus.story, seconds=-1.0))
            steps.append(scene.step(next(over), "over", at=1.2 + 0.35 * ((number + turn) % 5), seconds=3.5))
        calls.append(call(f"over-{number}", number, steps))
    for number in range(-(-listening // 3)):
        steps = [scene.step(corpus.story, seconds=-1.0)]
        steps += [scene.step(next(back), "over", at=1.5 + 4.5 * place, seconds=3.0) for place in range(3)]
        calls.append(call(f"back-{number}", number, steps))
    quiet = Turn("only the line", "line", "", silence(6.0))
    for number in range(len(LINES)) if listening > 8 else range(1, 5, 3):
        steps = [scene.step(corpus.story, seconds=-1.0), scene.step(quiet, "over", at=1.0, seconds=3.0)]
        calls.append(call(f"line-{number}", number, steps))
    for start in range(0, len(calls), at_once):
        group = calls[start : start + at_once]
        scene.calls.append([replace(plan, start=1.7 * place) for place, plan in enumerate(group)])
    return scene


def echoes(corpus: Corpus, seconds: float) -> Scene:
    """One question, its answer with echo, and then nobody says anything."""
    scene = Scene("echo")
    calls = []
    for number, db in enumerate((-6.0, -12.0, -20.0, -30.0)):
        question = scene.step(corpus.questions[number % len(corpus.questions)], at=2.0 + 2 * number)
        steps = (question, Step("stay", seconds=seconds))
        delay = 0.06 + 0.05 * number
        calls.append(CallPlan(f"echo {db:g} dB", steps, seed=number + 1, echo_db=db, echo_delay=delay))
    scene.calls.append(calls)
    return scene


def quiet(seconds: float, lines: int, seed: int, *, sounding: bool) -> Scene:
    """Lines on which nobody speaks: silence, noise and hum; or, ``sounding``, music on hold and a ringing telephone."""
    draw = np.random.default_rng(seed)
    noisy: list[tuple[str, Pcm]] = [
        ("silence", silence(1)),
        ("noise -50 dBFS", line_noise(10, -50, draw)),
        ("hum", hum(4, -38)),
        ("noise -35 dBFS", line_noise(10, -35, draw)),
    ]
    if sounding:
        music = sorted(MUSIC.glob("*.wav"))
        noisy = [("ringback", ringback(6, -22))]
        noisy += [(path.stem, at_level(load(path)[: 8000 * 200].astype(np.float64), -24.0)) for path in music]
    scene = Scene("sounding" if sounding else "quiet")
    calls = []
    for number, (name, pcm) in zip(range(lines), itertools.cycle(noisy), strict=False):
        # A second round of the same music starts elsewhere in it.
        pcm = np.roll(pcm, -8000 * 37 * (number // len(noisy)))
        turn = Turn(name, "quiet", "", looped(pcm, seconds))
        steps = [replace(scene.step(turn, "stay"), seconds=seconds)]
        calls.append(CallPlan(f"{name} ({number})", tuple(steps), start=0.15 * number, seed=number + 1))
    scene.calls.append(calls)
    return scene
