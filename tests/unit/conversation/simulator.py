"""A conversation in virtual time, with stages that take as long as they are told to.

Scenario files (``tests/scenarios/conversation/*.txt``) are read by people first:

    persona patience=0.7 greeting="Hello."
    stages transcribe=0.15 first_token=0.06 speak=0.08
    answer "What is the capital of France?" -> "The capital of France is Paris."

    0.0 confirm
    2.0 caller "What is the capital of France?" for 1.5
    5.0 end

    expect assistant "Hello."
    expect caller "What is the capital of France?"
    expect assistant "The capital of France is Paris."
    expect latency 0.70 0.75

``expect read ahead "..."`` is what the model was given to read while the caller spoke, ``expect silence S`` when the
assistant was silenced, ``expect sound S`` when it was heard again; where there is none of them, anything is right.

An answer's audio lasts 60 ms a letter. ``caller "..." for S`` is S seconds of voice; a turn in several stretches is
several such lines, and the recogniser is given their words joined. ``noise for S`` is voice without words.
``keys "4 2 #"`` are keys, 0.4 s apart. While a voice lasts, what of it has been said is transcribed now and then.
``stages turn_end=0.9`` makes the turn-end model sure that the turn is over; without it there is no such model. In the
same way ``by_words=0.9`` is what the language model says. Words in parentheses are doubted where they are decoded once.
"""

from __future__ import annotations

import heapq
import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from aiphone import events as ev
from aiphone.conversation import commands as cmd
from aiphone.conversation.latency import TurnTimes
from aiphone.conversation.machine import Conversation
from aiphone.conversation.transitions import State
from aiphone.persona import Persona

CALL = "c1"
SECONDS_PER_LETTER = 0.06
VOICE_SURE = 0.08
"""How long after the first voiced frame the detector reports it."""
PAUSE_SURE = 0.12
"""How long after the last voiced frame the detector reports it."""


STEADY = Persona(greeting="Hello.", idle_after=0.0, patience=0.7, patience_floor=0.7, patience_ceiling=0.7, filler="")
"""Waits the same time whatever is said: for tests of everything else."""


SPEAKS = (State.THINKING, State.SPEAKING, State.INTERRUPTING, State.CLOSING)


@dataclass
class Stages:
    """How long each stage takes, and which of them fail."""

    transcribe: float = 0.15
    first_token: float = 0.06
    token: float = 0.01
    speak: float = 0.08
    fail: str = ""
    turn_end: float = -1.0
    """Probability that every turn is over; below 0 there is no turn-end model."""
    by_words: float = -1.0
    """The same by the language model, told with the first token at the latest; below 0 it tells nothing."""
    partial: float = 0.6
    """Seconds of voice between two partial transcripts; 0 is none."""
    busy: bool = False
    """No core is free: early transcripts are dropped."""
    fade: float = 0.0
    """Seconds after a voice in which the detector tells that it may have ended; 0 is never."""
    closure: float = 0.0
    """Seconds from its begin in which a voice seems to end and goes on; 0 is never."""


@dataclass
class Simulator:
    """Runs one conversation. ``log`` is what was said, ``audible`` when the caller heard the assistant."""

    persona: Persona = STEADY
    stages: Stages = field(default_factory=Stages)
    answers: dict[str, str] = field(default_factory=dict)
    log: list[cmd.Said] = field(default_factory=list)
    turns: list[TurnTimes] = field(default_factory=list)
    prompts: list[tuple[str, ...]] = field(default_factory=list)
    hung_up: str = ""
    stopped: list[float] = field(default_factory=list)
    resumed: list[float] = field(default_factory=list)
    """When it was heard again after each of those."""
    read_ahead: list[str] = field(default_factory=list)
    echoes: int = 0
    decoded_once: list[bool] = field(default_factory=list)
    """For each transcript that was asked for, whether it was not to be decoded again."""
    done: list[tuple[float, cmd.Command]] = field(default_factory=list)
    """Besides talking, and when."""

    def __post_init__(self) -> None:
        self.conversation = Conversation(CALL, self.persona)
        self.now = 0.0
        self._queue: list[tuple[float, int, object]] = []
        self._order = 0
        self._words: dict[int, str] = {}
        self._lengths: dict[int, int] = {}
        self._heard: list[str] = []
        self._played = 0
        self._buffered = 0
        self._cancelled = 0
        self._stt: dict[int, str] = {}
        self._timers: dict[str, int] = {}
        self.gains: list[float] = []

    # ------------------------------------------------------------------------------ the caller's side

    def at(self, when: float, event: object) -> None:
        """Deliver an event (or call a function) at a time."""
        self._order += 1
        heapq.heappush(self._queue, (when, self._order, event))

    def confirm(self, when: float = 0.0) -> None:
        self.at(when, ev.CallConfirmed(CALL, when))

    def caller(self, when: float, words: str, seconds: float) -> None:
        """The caller speaks; ``words`` is what the recogniser will make of it."""
        length = round(seconds * ev.INTERNAL_RATE)
        key = len(self._words) + 1
        self._words[key] = words
        end = when + seconds
        self.at(when + VOICE_SURE, ev.VoiceStarted(CALL, when))
        step = self.stages.partial
        for number in range(1, int(seconds / step) + 1 if step else 0):
            so_far = np.full(round(number * step * ev.INTERNAL_RATE), key, np.int16)
            self.at(when + number * step, ev.VoiceContinues(CALL, when + number * step, so_far))
        self._lengths[key] = length
        if 0 < self.stages.closure < seconds:
            so_far = np.full(round(self.stages.closure * ev.INTERNAL_RATE), key, np.int16)
            self.at(when + self.stages.closure + 0.07, ev.VoiceFaded(CALL, when + self.stages.closure, so_far))
        if self.stages.fade:
            self.at(end + self.stages.fade, ev.VoiceFaded(CALL, end, np.full(length, key, np.int16)))
        self.at(end + PAUSE_SURE, ev.VoiceStopped(CALL, end, np.full(length, key, np.int16)))

    def keys(self, when: float, keys: str) -> None:
        """The caller presses keys, 0.4 s apart."""
        for number, key in enumerate(keys.split()):
            self.at(when + 0.4 * number, ev.DigitReceived(CALL, key, when + 0.4 * number))

    # -------------------------------------------------------------------------------------- running

    def run(self, until: float) -> None:
        """Let time pass."""
        while True:
            drained = self.now + self._buffered / ev.INTERNAL_RATE if self._buffered else float("inf")
            due = self._queue[0][0] if self._queue else float("inf")
            if min(drained, due) > until:
                break
            if drained <= due:
                self._played += self._buffered
                self._buffered = 0
                self.now = drained
                self.deliver(ev.PlayoutDrained(CALL, self._played, self.now))
                continue
            when, _, event = heapq.heappop(self._queue)
            self._advance(when)
            if callable(event):
                event()
            else:
                self.deliver(event)
        self._advance(until)

    def deliver(self, event: object) -> None:
        for command in self.conversation.handle(event, self.now, self._played):
            self._carry_out(command)

    def _advance(self, when: float) -> None:
        # Rounded down: only ``run`` may empty the buffer, since it tells of it.
        samples = max(0, min(self._buffered - 1, int((when - self.now) * ev.INTERNAL_RATE)))
        self._buffered -= samples
        self._played += samples
        self.now = max(self.now, when)

    def _carry_out(self, command: cmd.Command) -> None:
        match command:
            case cmd.Transcribe(generation, pcm, urgency):
                self.decoded_once.append(urgency is ev.Urgency.ONCE)
                text = self._recognised(pcm)
                if urgency is ev.Urgency.EARLY and self.stages.busy:
                    return
                if urgency is ev.Urgency.PARTIAL:
                    stable = " ".join(text.split()[:-1])
                    self.at(
                        self.now + self.stages.transcribe, ev.PartialTranscript(CALL, generation, text, stable, 0.1)
                    )
                    return
                heard = ev.Transcribed(CALL, generation, text.strip("()"), 0.1, 0.0)
                if urgency is ev.Urgency.ONCE and text.startswith("("):
                    heard = replace(heard, text="", doubted=text.strip("()"))
                self._answer("transcribe", self.stages.transcribe, generation, heard)
            case cmd.Insist(generation, pcm):
                if self.stages.busy:
                    text = self._recognised(pcm)
                    heard = ev.Transcribed(CALL, generation, text, 0.1, 0.0)
                    self._answer("transcribe", self.stages.transcribe, generation, heard)
            case cmd.EstimateTurnEnd(generation):
                if self.stages.turn_end >= 0:
                    self.at(self.now + 0.06, ev.TurnEndEstimated(CALL, generation, self.stages.turn_end, 0.06))
            case cmd.ReadAhead(_, messages):
                self.read_ahead.append(messages[-1].content)
            case cmd.EchoHeard():
                self.echoes += 1
            case cmd.Generate(generation, messages, speculative):
                self.prompts.append(tuple(message.content for message in messages))
                if speculative and self.stages.by_words >= 0:
                    verdict = ev.TurnEndByWords(CALL, generation, self.stages.by_words)
                    self.at(self.now + self.stages.first_token, verdict)
                self._generate(generation, messages[-1].content)
            case cmd.Speak(generation, phrase, text):
                pcm = np.full(round(len(text) * SECONDS_PER_LETTER * ev.INTERNAL_RATE), 8000, np.int16)
                half = pcm.size // 2
                self._answer(
                    "speak",
                    self.stages.speak,
                    generation,
                    ev.SpeechChunk(CALL, generation, phrase, pcm[:half], False, 0.1),
                    ev.SpeechChunk(CALL, generation, phrase, pcm[half:], True, 0.1),
                )
            case cmd.Play(pcm):
                # Never two voices at once: the assistant plays only while it has the floor.
                assert self.state in SPEAKS, f"played while {self.state}"
                overlap = self.conversation._overlap
                assert overlap is None or not overlap.held, "played while held"
                if len(self.resumed) < len(self.stopped):
                    self.resumed.append(self.now)
                if not self._buffered:
                    self.at(self.now, ev.PlayoutStarted(CALL, self._played, self.now))
                self._buffered += pcm.size
            case cmd.StopPlayout():
                self.stopped.append(self.now)
                if self._buffered:
                    self.at(self.now + 0.01, ev.PlayoutDrained(CALL, self._played, self.now))
                self._buffered = 0
            case cmd.SetGain(db):
                self.gains.append(db)
            case cmd.CancelWork(generation):
                self._cancelled = max(self._cancelled, generation)
            case cmd.SetTimer(name, serial, at):
                self._timers[name] = serial
                self.at(max(at, self.now), lambda: self._fire(name, serial))
            case cmd.CancelTimer(name):
                self._timers.pop(name, None)
            case cmd.Said():
                self.log.append(command)
            case cmd.TurnMeasured(times):
                self.turns.append(times)
            case cmd.HangUp(reason):
                self.hung_up = reason
            case cmd.Transfer() | cmd.SendDigits() | cmd.Hold() | cmd.Resume():
                self.done.append((self.now, command))

    def _recognised(self, pcm: ev.Pcm) -> str:
        """The words of the stretches in the audio; of one that is not complete, as many as there is of it."""
        words: list[str] = []
        for key, samples in zip(*np.unique(pcm, return_counts=True), strict=True):
            if key:
                all_of_it = self._words[int(key)].split()
                words += all_of_it[: round(len(all_of_it) * samples / self._lengths[int(key)])]
        return " ".join(words)

    def _fire(self, name: str, serial: int) -> None:
        if self._timers.get(name) == serial:
            self.deliver(ev.TimerFired(CALL, name, serial))

    def _answer(self, stage: str, delay: float, generation: int, *events: object) -> None:
        if self.stages.fail == stage:
            events = (ev.WorkFailed(CALL, generation, ev.Stage(stage), "as told"),)
        for event in events:
            self.at(self.now + delay, event)

    def _generate(self, generation: int, question: str) -> None:
        if self.stages.fail == "generate":
            self._answer("generate", self.stages.first_token, generation)
            return
        answer = self.answers.get(question, f"You said {question}")
        when = self.now + self.stages.first_token
        for word in answer.split(" "):
            self.at(when, ev.ReplyText(CALL, generation, word + " ", when))
            when += self.stages.token
        self.at(when, ev.ReplyEnded(CALL, generation, "stop", 10, 0, 10, 0.05, 0.1))

    @property
    def said(self) -> list[tuple[str, str]]:
        """Who said what, in order."""
        return [(line.role, line.text) for line in self.log]

    @property
    def silent(self) -> bool:
        """True when no audio is queued."""
        return self._buffered == 0

    @property
    def state(self) -> State:
        return self.conversation.state


def run_scenario(path: Path) -> None:
    """Run a scenario file and check what it expects."""
    simulator: Simulator | None = None
    persona, stages, answers = STEADY, Stages(), {}
    expected: list[tuple[str, str]] = []
    latencies: list[tuple[float, float]] = []
    read_ahead: list[str] = []
    stops: list[float] = []
    sounds: list[float] = []
    final = ""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        words = shlex.split(line, comments=True)
        if not words:
            continue
        match words:
            case ["persona", *settings]:
                persona = replace(persona, **_settings(settings, persona))
            case ["stages", *settings]:
                stages = replace(stages, **_settings(settings, stages))
            case ["answer", question, "->", answer]:
                answers[question] = answer
            case ["expect", "latency", low, high]:
                latencies.append((float(low), float(high)))
            case ["expect", "read", "ahead", text]:
                read_ahead.append(text)
            case ["expect", "silence", at]:
                stops.append(float(at))
            case ["expect", "sound", at]:
                sounds.append(float(at))
            case ["expect", "hangup", reason]:
                final = reason
            case ["expect", who, text]:
                expected.append(({"caller": "user", "assistant": "assistant"}[who], text))
            case [when, *rest]:
                simulator = simulator or Simulator(persona, stages, answers)
                _step(simulator, float(when), rest, f"{path.name}:{number}")
            case _:
                raise AssertionError(f"{path.name}:{number}: not understood: {line}")
    assert simulator is not None
    assert simulator.said == expected
    assert len(simulator.turns) == len(latencies), [turn.total for turn in simulator.turns]
    for turn, (low, high) in zip(simulator.turns, latencies, strict=True):
        assert low - 1e-9 <= turn.total <= high, turn.parts()
        assert abs(sum(turn.parts().values()) - turn.total) < 1e-9
    assert simulator.hung_up == final
    assert not read_ahead or simulator.read_ahead == read_ahead
    assert not stops or [round(at, 2) for at in simulator.stopped] == stops
    assert not sounds or [round(at, 2) for at in simulator.resumed] == sounds


def _step(simulator: Simulator, when: float, words: list[str], where: str) -> None:
    match words:
        case ["confirm"]:
            simulator.confirm(when)
        case ["caller", text, "for", seconds]:
            simulator.caller(when, text, float(seconds))
        case ["noise", "for", seconds]:
            simulator.caller(when, "", float(seconds))
        case ["keys", keys]:
            simulator.keys(when, keys)
        case ["time", "up"]:
            simulator.at(when, ev.TimeUp(CALL))
        case ["timeout"]:
            simulator.at(when, ev.MediaTimedOut(CALL, 30.0))
        case ["bye"]:
            simulator.at(when, ev.CallEnded(CALL, 200, "Normal", when))
        case ["stage", setting]:
            simulator.at(
                when,
                lambda: simulator.__setattr__(
                    "stages", replace(simulator.stages, **_settings([setting], simulator.stages))
                ),
            )
        case ["end"]:
            simulator.run(when)
        case _:
            raise AssertionError(f"{where}: not understood")


def _settings(words: list[str], target: object) -> dict[str, object]:
    settings = {}
    for word in words:
        name, _, value = word.partition("=")
        kind = type(getattr(target, name))
        settings[name] = kind(value)
    return settings
