"""Stages that write down what they were asked, for tests of the call and the switchboard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiphone.clock import ManualClock
from aiphone.conversation.call import Stages
from aiphone.errors import MediaError
from aiphone.events import Pcm, RtpSockets, RtpStream
from aiphone.persona import Message

STREAM = RtpStream("127.0.0.1", 4000, 0, "PCMU", 101, 20, send=True, receive=True)
SOCKETS = RtpSockets(-1, -1, 10000)


@dataclass
class Journal:
    """What happened, in order, over all stages."""

    lines: list[tuple[Any, ...]] = field(default_factory=list)

    def of(self, stage: str) -> list[tuple[Any, ...]]:
        return [line for line in self.lines if line[0] == stage]


class Recorder:
    """Any method call becomes a line in the journal."""

    def __init__(self, stage: str, journal: Journal) -> None:
        self._stage, self._journal = stage, journal

    def __getattr__(self, name: str) -> Callable[..., None]:
        def note(*arguments: Any, **named: Any) -> None:
            self._journal.lines.append((self._stage, name, *arguments, *named.items()))

        return note


class MediaCall(Recorder):
    """A ring of ``room`` samples that plays when told to."""

    def __init__(self, journal: Journal, room: int = 16_000) -> None:
        super().__init__("media", journal)
        self.room, self.played, self.queued = room, 0, 0

    def write(self, pcm: Pcm) -> int:
        taken = min(pcm.size, self.room - self.queued)
        self.queued += taken
        return taken

    def flush(self) -> None:
        self.queued = 0

    def play(self, samples: int) -> None:
        self.queued -= samples
        self.played += samples


class Engine:
    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.fails = False
        self.calls: dict[str, MediaCall] = {}

    def add(self, call_id: str, sockets: RtpSockets, stream: RtpStream) -> MediaCall:
        if self.fails:
            raise MediaError("the media engine is full; raise --max-calls")
        self.calls[call_id] = MediaCall(self._journal)
        return self.calls[call_id]


class Timer:
    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when, self.callback, self.cancelled = when, callback, False

    def cancel(self) -> None:
        self.cancelled = True


class TimerWheel:
    """Fires what is due when it is asked to."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.timers: list[Timer] = []

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        self.timers.append(Timer(when, callback))
        return self.timers[-1]

    def advance(self, seconds: float) -> None:
        self._clock.advance(seconds)
        for timer in list(self.timers):
            if not timer.cancelled and timer.when <= self._clock.now():
                self.timers.remove(timer)
                timer.callback()

    @property
    def pending(self) -> list[Timer]:
        return [timer for timer in self.timers if not timer.cancelled]


class Memory(Recorder):
    def recall(self, call_id: str, key: str) -> tuple[Message, ...]:
        return (Message("user", "I am Ann."), Message("assistant", "Hello Ann.")) if "ann" in key else ()


@dataclass
class Bench:
    """All stages at once."""

    journal: Journal = field(default_factory=Journal)
    clock: ManualClock = field(default_factory=ManualClock)

    def __post_init__(self) -> None:
        self.timers = TimerWheel(self.clock)
        self.engine = Engine(self.journal)
        self.stages = Stages(
            clock=self.clock,
            timers=self.timers,
            media=self.engine,
            listener=Recorder("listener", self.journal),
            recogniser=Recorder("stt", self.journal),
            model=Recorder("llm", self.journal),
            synthesiser=Recorder("tts", self.journal),
            sip=Recorder("sip", self.journal),
            memory=Memory("memory", self.journal),
        )
