"""What the simulated callers say, made from a seed and labelled by construction.

Two sources: speech recorded for telephony (Debian's asterisk-core-sounds-en-wav) and questions spoken by Piper, at
three speeds so that not all callers sound alike. Each is brought to one level and cut to its first and last voiced
20 ms, so the end of a turn is where the speech ends and needs no ear to be found.

A pause inside a turn is made in two ways. A recording is cut between two words and spaced: the cuts are listed in
turn_cuts.toml; each lies in a dip of the sound between two words of the transcript, and Whisper heard the words
before it and behind it as the transcript has them. Or two parts are joined whose first is spoken with the
intonation of a comma. The pauses last 0.3 to 1.0 s and hold nothing but the noise of the line.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from aiphone.caller import load
from aiphone.caller.audio import to_line_rate
from aiphone.caller.rtp import FRAME, RATE, VOICED_DBFS
from aiphone.config import default_models_dir
from aiphone.events import INTERNAL_RATE, Pcm
from aiphone.inference.piper_voice import PiperVoice
from aiphone.models.resolve import resolve_voice
from aiphone.models.store import ModelStore
from benchmarks.stt_corpus import SOUNDS
from benchmarks.turn_sounds import at_level, breath, cough, joined, knock, levels, normalised, silence, trimmed

CUTS = Path(__file__).with_name("turn_cuts.toml")
PAUSES = (0.3, 1.0)
"""Shortest and longest pause inside a turn, seconds."""
QUIET_DIP = -35.0
"""A cut is not made where the recording is louder than this, in dB under its own level."""
SPEEDS = (1.0, 1.07, 0.95)

QUESTIONS = (
    "Can you please tell me, what is the capital of France?",
    "Good morning, how many days are there in one week?",
    "I would like to know, what is the color of a banana?",
    "Could you tell me who wrote the play Romeo and Juliet?",
    "What is the largest animal that lives in the ocean?",
    "What time do you open tomorrow?",
    "Do you speak English?",
    "How much does it cost to send a letter?",
    "I need to change my appointment to Friday.",
    "Where is the nearest hospital?",
    "Is it going to rain this afternoon?",
    "My internet connection is not working.",
)
HALVES = (
    ("I would like to know,", "what is the color of a banana?"),
    ("Can you please tell me,", "what is the capital of France?"),
    ("I am calling because,", "my telephone bill is too high."),
    ("My name is,", "John Smith."),
    ("Could you tell me who wrote,", "the play Romeo and Juliet?"),
    ("I need to speak to, um,", "the person in charge of repairs."),
    ("If I send a letter today, and,", "it is heavy, when will it arrive?"),
    ("The address is,", "twelve Main Street."),
    ("What is the, uh,", "largest animal in the ocean?"),
    ("I want to book a table for,", "four people."),
    ("So, I was wondering,", "how many days are there in a year?"),
    ("Please send it to my office, or,", "to my home in London."),
)
STORY = "Tell me a long story about a dragon and a king."
OVER = (
    "Stop. What is the capital of Italy?",
    "Wait a moment, I have another question.",
    "No, that is not what I meant.",
    "Excuse me, can I ask you something else?",
    "Okay, stop talking now please.",
)
BACK_CHANNELS = ("Mm-hm.", "Yeah.", "Uh-huh.", "Okay.", "Right.", "Mm.")
DIGITS = (("555", "012", "34"), ("800", "26", "26"), ("071", "946", "0958"), ("1", "800", "7724"))
SPELLED = (("s", "m", "i", "t", "h"), ("b", "a", "k", "e", "r"))


@dataclass(frozen=True, slots=True)
class Clip:
    """A piece of speech at 8 kHz, normalised and trimmed."""

    name: str
    text: str
    pcm: Pcm = field(repr=False)
    recorded: bool
    """By a person; otherwise Piper spoke it."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What a caller says in one go, with its label: the turn is over where ``pcm`` is."""

    name: str
    kind: str
    """``"question"``, ``"pause"``, ``"afterthought"``, ``"digits"``, ``"spelling"``, ``"two people"``, or what is laid
    over an answer."""
    text: str
    pcm: Pcm = field(repr=False)
    pauses: tuple[tuple[float, float], ...] = ()
    """Begin and end of each pause that was made, seconds from the start of ``pcm``."""
    behind: Pcm | None = field(default=None, repr=False)
    """What else the microphone picks up meanwhile and shortly after: another person."""

    @property
    def seconds(self) -> float:
        """How long it takes to say."""
        return len(self.pcm) / RATE

    def voiced(self) -> list[bool]:
        """For each 20 ms (the last filled up) whether the caller's own voice is in it."""
        padded = np.zeros(-(-len(self.pcm) // FRAME) * FRAME, np.int16)
        padded[: len(self.pcm)] = self.pcm
        return [level > VOICED_DBFS for level in levels(padded)]


@dataclass(frozen=True, slots=True)
class Cut:
    """Where a recording may be parted."""

    name: str
    text: str
    at: float
    """Seconds from the start of the file."""
    kind: str = "pause"
    """``"afterthought"`` where the words before it could stand alone."""


class Speaker:
    """Piper, as a source of callers' speech. One thread at a time."""

    def __init__(self) -> None:
        path = resolve_voice("en_US-joe-medium", ModelStore(default_models_dir(os.environ)))
        self._voice = PiperVoice(path, threads=1, noise=False)

    def say(self, text: str, speed: float = 1.0) -> Clip:
        """Speak a text, a little faster or slower (and higher or lower) than the voice itself."""
        pcm = np.concatenate([piece.pcm for piece in self._voice.synthesise(text)])
        return Clip(text, text, normalised(trimmed(to_line_rate(pcm, round(INTERNAL_RATE * speed)))), recorded=False)


def recording(name: str, text: str) -> Clip:
    """A recorded prompt. MediaError when the package with the recordings is not installed."""
    return Clip(name, text, normalised(trimmed(load(SOUNDS / f"{name}.wav"))), recorded=True)


def cuts() -> list[Cut]:
    """All places of turn_cuts.toml."""
    table = tomllib.loads(CUTS.read_text(encoding="utf-8"))
    return [
        Cut(name, entry["text"], at, kind)
        for name, entry in table.items()
        for key, kind in (("at", "pause"), ("after", "afterthought"))
        for at in entry.get(key, ())
    ]


def whole() -> list[tuple[str, str]]:
    """The recordings of turn_cuts.toml with their text."""
    table = tomllib.loads(CUTS.read_text(encoding="utf-8"))
    return sorted((name, entry["text"]) for name, entry in table.items())


def spaced(parts: Sequence[Pcm], pauses: Sequence[float]) -> tuple[Pcm, tuple[tuple[float, float], ...]]:
    """Parts with pauses of so many seconds between them, and where those lie."""
    pieces: list[Pcm] = [parts[0]]
    places: list[tuple[float, float]] = []
    for pause, part in zip(pauses, parts[1:], strict=True):
        begin = sum(map(len, pieces)) / RATE
        pieces += [silence(pause), part]
        places.append((begin, begin + pause))
    return joined(pieces), tuple(places)


def faded(pcm: Pcm, *, start: bool, end: bool) -> Pcm:
    """With 4 ms of fading where it was cut, so that the cut does not click."""
    ramp = np.linspace(0.0, 1.0, RATE * 4 // 1000)
    shape = np.ones(len(pcm))
    if start:
        shape[: len(ramp)] *= ramp[: len(pcm)]
    if end:
        shape[-len(ramp) :] *= ramp[::-1][-len(pcm) :]
    return np.round(pcm * shape).astype(np.int16)


def parted(pcm: Pcm, places: Sequence[float]) -> list[Pcm]:
    """A recording cut at these seconds; the parts without the quiet beside the cuts. ValueError where it is loud."""
    for at in places:
        around = pcm[max(0, round((at - 0.005) * RATE)) : round((at + 0.005) * RATE)]
        dip = float(np.sqrt(np.mean(around.astype(np.float64) ** 2))) if len(around) else 1.0
        if 20 * np.log10(max(dip, 1.0) / 32768) > QUIET_DIP:
            raise ValueError(f"there is sound {at:g} s into the recording: it cannot be cut there")
    edges = [0, *(round(at * RATE) for at in places), len(pcm)]
    last = len(places)
    return [
        trimmed(faded(pcm[edges[number] : edges[number + 1]], start=number > 0, end=number < last))
        for number in range(last + 1)
    ]


def paused_recording(cut: Cut, draw: np.random.Generator) -> Turn:
    """A recording with a pause between two words."""
    pcm = normalised(load(SOUNDS / f"{cut.name}.wav"))
    pause = float(draw.uniform(*PAUSES))
    speech, places = spaced(parted(pcm, [cut.at]), [pause])
    return Turn(f"{cut.name} cut at {cut.at:g}", cut.kind, cut.text, speech, places)


def paused_speech(speaker: Speaker, halves: tuple[str, str], speed: float, draw: np.random.Generator) -> Turn:
    """Two spoken parts with a pause between them."""
    pause = float(draw.uniform(*PAUSES))
    parts = [speaker.say(text, speed).pcm for text in halves]
    speech, places = spaced(parts, [pause])
    return Turn(" ".join(halves), "pause", " ".join(halves), speech, places)


def digit_string(groups: Sequence[str], draw: np.random.Generator) -> Turn:
    """A number as people say it: groups of digits with pauses between them, behind a recorded beginning."""
    parts = [recording("vm-num-i-have", "the number i have is").pcm]
    for group in groups:
        said: list[Pcm] = []
        for digit in group:
            said += [recording(f"digits/{digit}", digit).pcm, silence(float(draw.uniform(0.05, 0.14)))]
        parts.append(joined(said[:-1]))
    speech, places = spaced(parts, [float(draw.uniform(0.4, 0.9)) for _ in groups])
    return Turn(
        "number " + "-".join(groups), "digits", "the number i have is " + " ".join("".join(groups)), speech, places
    )


def spelling(letters: Sequence[str], draw: np.random.Generator) -> Turn:
    """A name, letter by letter."""
    parts = [recording(f"letters/{letter}", letter).pcm for letter in letters]
    speech, places = spaced(parts, [float(draw.uniform(0.25, 0.6)) for _ in letters[1:]])
    return Turn("spelled " + "".join(letters), "spelling", " ".join(letters), speech, places)


def two_people(question: Clip, other: Clip, level: float = -22.0) -> Turn:
    """A question while somebody else, further away, talks to somebody else, and goes on for a second behind it."""
    begin = np.zeros(RATE // 2, np.int16)
    far = np.resize(other.pcm, len(question.pcm) + RATE - len(begin))
    behind = joined([begin, np.round(far * 10 ** (level / 20)).astype(np.int16)])
    return Turn(f"{question.name} beside {other.name}", "two people", question.text, question.pcm, (), behind)


def question(clip: Clip) -> Turn:
    """A clip as a turn of its own."""
    return Turn(clip.name, "question", clip.text, clip.pcm)


@dataclass(frozen=True, slots=True)
class Corpus:
    """Everything that callers may say."""

    questions: tuple[Turn, ...]
    paused: tuple[Turn, ...]
    """Turns with a pause inside."""
    special: tuple[Turn, ...]
    """Digit strings, spelled names, two people on the line."""
    story: Turn
    """Its answer is long."""
    over: tuple[Turn, ...]
    """Meant to stop the assistant."""
    back: tuple[Turn, ...]
    """Not meant to."""


def build(seed: int, speaker: Speaker | None = None, *, longest: float = 4.5) -> Corpus:
    """The corpus of a seed. Turns longer than ``longest`` seconds of speech are left out. Some 10 s of work."""
    draw = np.random.default_rng(seed)
    speaker = speaker or Speaker()
    clips = [speaker.say(text, SPEEDS[number % len(SPEEDS)]) for number, text in enumerate(QUESTIONS)]
    clips += [recording(name, text) for name, text in whole()]
    asked = [question(clip) for clip in clips if len(clip.pcm) < longest * RATE]
    paused = [paused_recording(cut, draw) for cut in cuts()]
    paused += [paused_speech(speaker, pair, SPEEDS[n % len(SPEEDS)], draw) for n, pair in enumerate(HALVES)]
    paused = [turn for turn in paused if turn.seconds < longest + PAUSES[1]]
    special = [digit_string(groups, draw) for groups in DIGITS] + [spelling(letters, draw) for letters in SPELLED]
    special += [two_people(clips[number], clips[-1 - number]) for number in range(3)]
    return Corpus(
        questions=tuple(asked[i] for i in draw.permutation(len(asked))),
        paused=tuple(paused[i] for i in draw.permutation(len(paused))),
        special=tuple(special),
        story=question(speaker.say(STORY)),
        over=tuple(Turn(text, "over", text, speaker.say(text, 1.07).pcm) for text in OVER),
        back=back_sounds(speaker, draw),
    )


def back_sounds(speaker: Speaker, draw: np.random.Generator) -> tuple[Turn, ...]:
    """What is heard of somebody who listens."""
    made = [
        Turn(text, "back-channel", text, speaker.say(text, SPEEDS[n % 3]).pcm) for n, text in enumerate(BACK_CHANNELS)
    ]
    for number in range(3):
        made += [
            Turn(f"cough {number}", "cough", "", cough(draw)),
            Turn(f"breath {number}", "breath", "", breath(draw)),
            Turn(f"knock {number}", "knock", "", knock(draw)),
        ]
    far = at_level(recording("vm-goodbye", "goodbye").pcm.astype(np.float64), -42.0)
    made.append(Turn("somebody far away", "background speech", "", far))
    return tuple(made[i] for i in draw.permutation(len(made)))
