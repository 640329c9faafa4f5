"""Whatever calls ask of speech to text, and in any order: partials, early finals and their certainty, finals, hang-ups.

The model stands at a gate. While that is shut no transcription ends, so what was asked for until it opens decides what
comes: each final that is still wanted once, what was given up never, and finals have the workers before partials.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

from fake_whisper import RATE, WAIT, Bench, FakeModel, better_with_context, segment, voice
from hypothesis import given, settings
from hypothesis import strategies as st

from aiphone.cores import Cores
from aiphone.errors import InferenceError
from aiphone.events import PartialTranscript, Transcribed, Urgency, WorkFailed
from aiphone.inference.stt_states import KEPT
from aiphone.inference.whisper_cpp import DecodeParams, Segment

SECONDS = {Urgency.PARTIAL: 1.0, Urgency.FINAL: 2.0, Urgency.EARLY: 3.0, Urgency.ONCE: 4.0}
"""By which the model's runs can be told apart."""

Key = tuple[str, int]


def until(what: Callable[[], bool], said: Callable[[], object]) -> None:
    pause = threading.Event()
    for _ in range(int(WAIT / 0.001)):
        if what():
            return
        pause.wait(0.001)
    raise AssertionError(said())


class Callers:
    """Asks, and knows what has to come of it."""

    def __init__(self, workers: int, cores: int) -> None:
        self.bench = Bench(workers=workers, cores=Cores(cores))
        self.workers = workers
        self.enough_cores = cores > 2 * workers
        self.stt, self.model = self.bench.stt, self.bench.model
        self.gate = self.model.hold()
        self.generation = 0
        self.early: dict[str, int] = {}
        """The last early final of each call, if it can still be insisted on."""
        self.wanted: dict[str, int] = {}
        """The final of each call that must be answered."""
        self.live: dict[str, int] = {}
        """The final of each call, early or not, that was asked for since the gate is shut."""
        self.given_up: set[Key] = set()
        self.partials: set[Key] = set()

    def give_up(self, call: str) -> None:
        if call in self.live:
            self.given_up.add((call, self.live.pop(call)))
        self.early.pop(call, None)
        self.wanted.pop(call, None)

    def do(self, step: str, call: str) -> None:
        self.generation += 1
        generation = self.generation
        match step:
            case "final" | "early" | "once":
                self.give_up(call)
                self.live[call] = generation
                (self.early if step == "early" else self.wanted)[call] = generation
                self.stt.submit(call, generation, voice(SECONDS[Urgency(step)]), Urgency(step))
            case "insist" if call in self.early:
                wanted = self.wanted[call] = self.early.pop(call)
                if not self.outcomes()[call, wanted]:
                    self.live[call] = wanted
                self.stt.insist(call, wanted, voice(SECONDS[Urgency.EARLY]))
            case "partial":
                self.partials.add((call, generation))
                self.stt.submit(call, generation, voice(SECONDS[Urgency.PARTIAL]), Urgency.PARTIAL)
            case "cancel":
                self.give_up(call)
                self.stt.cancel(call, generation)
            case "release":
                self.give_up(call)
                self.stt.release(call)
            case "doubt":
                self.model.answer = better_with_context
            case "believe":
                self.model.answer = lambda _params, _stop: [segment("hello there")]
            case "fail":
                self.model.answer = failing_once(self.model)
            case "open":
                self.open()
        if self.enough_cores:
            until(self.finals_have_the_workers, lambda: (self.live, self.model.running))

    def finals_have_the_workers(self) -> bool:
        running = {urgency: self.model.running[int(seconds * RATE)] for urgency, seconds in SECONDS.items()}
        finals = running[Urgency.FINAL] + running[Urgency.EARLY] + running[Urgency.ONCE]
        return finals == min(self.workers, len(self.live)) and running[Urgency.PARTIAL] <= self.workers - finals

    def outcomes(self) -> Counter[Key]:
        events = [event for event in list(self.bench.inbox.events) if isinstance(event, Transcribed | WorkFailed)]
        return Counter((event.call_id, event.generation) for event in events)

    def open(self) -> None:
        """Let all that was asked for come to its end."""
        self.gate.set()
        until(lambda: not self.stt._queue.waiting and not self.stt._queue._running, self.stt.status)
        until(lambda: all(self.outcomes()[key] for key in self.wanted.items()), lambda: (self.wanted, self.outcomes()))
        self.gate.clear()
        self.live.clear()
        self.wanted.clear()

    def check(self) -> None:
        assert all(count == 1 for count in self.outcomes().values()), self.outcomes()
        assert not self.given_up & set(self.outcomes())
        told = Counter(
            (event.call_id, event.generation)
            for event in self.bench.inbox.events
            if isinstance(event, PartialTranscript)
        )
        assert set(told) <= self.partials
        assert all(count == 1 for count in told.values()), told


def failing_once(model: FakeModel) -> Callable[..., list[Segment]]:
    before = model.answer

    def fail(_params: DecodeParams, _stop: object) -> list[Segment]:
        model.answer = before
        raise InferenceError("whisper.cpp failed.")

    return fail


ASKED = ["partial", "final", "early", "insist", "partial", "final", "early", "insist"]
STEPS = st.sampled_from([*ASKED, "cancel", "release", "once", "open", "open", "doubt", "believe", "fail"])


@settings(max_examples=120, deadline=None, derandomize=True)
@given(
    steps=st.lists(st.tuples(STEPS, st.sampled_from("abc")), max_size=40),
    workers=st.integers(1, 3),
    cores=st.sampled_from([1, 16]),
)
def test_in_any_order_each_final_is_answered_once_and_every_state_comes_back(
    steps: list[tuple[str, str]], workers: int, cores: int
) -> None:
    callers = Callers(workers, cores)
    try:
        for step, call in steps:
            callers.do(step, call)
        callers.open()
        callers.check()
        status = callers.stt.status()
        assert status["waiting"] == 0
        assert status["states"] == status["states_free"] <= KEPT
        assert sum(not state.closed for state in callers.model.states) == status["states"]
    finally:
        callers.gate.set()
        callers.stt.close()
    assert callers.model.closed
