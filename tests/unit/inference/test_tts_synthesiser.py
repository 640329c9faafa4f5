from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from aiphone.clock import ManualClock
from aiphone.errors import SpeechError
from aiphone.events import Event, SpeechChunk, Stage, WorkFailed
from aiphone.inference.phrase_cache import PhraseCache
from aiphone.inference.tts import SpeechSynthesiser
from aiphone.inference.voice import Piece, Voice

TIMEOUT = 10.0


class ScriptedVoice:
    """Each word of a text is one piece of ten samples. Waits for ``go`` before a piece when told to."""

    def __init__(self, name: str = "joe", language: str = "en-us") -> None:
        self.name = name
        self.language = language
        self.asked: list[str] = []
        self.error: Exception | None = None
        self.gate: threading.Semaphore | None = None
        self.waiting = threading.Semaphore(0)
        self.saw_unwanted = threading.Event()

    def synthesise(self, text: str, wanted: Callable[[], bool]) -> Iterator[Piece]:
        words = text.split()
        for number, word in enumerate(words, start=1):
            self.asked.append(word)
            if self.gate is not None:
                self.waiting.release()
                while not self.gate.acquire(timeout=0.01):
                    if not wanted():
                        self.saw_unwanted.set()
                        raise SpeechError("stopped")
            if self.error is not None:
                raise self.error
            yield Piece(np.full(10, len(word), np.int16), number == len(words))


class Box:
    """Collects events and lets a test wait for a number of them."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._arrived = threading.Semaphore(0)

    def post(self, event: Event) -> None:
        self.events.append(event)
        self._arrived.release()

    def wait(self, count: int) -> list[Event]:
        for _ in range(count):
            assert self._arrived.acquire(timeout=TIMEOUT)
        return self.events


def chunks(events: list[Event]) -> list[tuple[str, int, int, int, bool]]:
    out = []
    for event in events:
        assert isinstance(event, SpeechChunk)
        out.append((event.call_id, event.generation, event.phrase, len(event.pcm), event.last))
    return out


class Bench:
    def __init__(self) -> None:
        self.box = Box()
        self.clock = ManualClock(50.0)
        self.voice = ScriptedVoice()
        self.made: list[SpeechSynthesiser] = []

    def synthesiser(self, *more: Voice, fallback: Voice | None = None, **options: object) -> SpeechSynthesiser:
        made = SpeechSynthesiser(
            [self.voice, *more],
            post=self.box.post,
            clock=self.clock,
            fallback=fallback,
            **options,  # type: ignore[arg-type]
        )
        self.made.append(made)
        return made


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    for made in bench.made:
        made.close()


def test_a_phrase_comes_in_pieces_the_last_one_marked(bench: Bench) -> None:
    speech = bench.synthesiser()
    speech.submit("c1", 3, 0, "one two three")
    events = bench.box.wait(3)
    assert chunks(events) == [("c1", 3, 0, 10, False), ("c1", 3, 0, 10, False), ("c1", 3, 0, 10, True)]


def test_phrases_of_a_call_keep_their_order(bench: Bench) -> None:
    speech = bench.synthesiser(workers=3)
    for phrase in range(6):
        speech.submit("c1", 1, phrase, f"a{phrase} b{phrase}")
    events = bench.box.wait(12)
    assert [phrase for _, _, phrase, _, _ in chunks(events)] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def test_a_first_phrase_goes_before_the_rest_of_others_and_calls_take_turns(bench: Bench) -> None:
    bench.voice.gate = threading.Semaphore(0)
    speech = bench.synthesiser()
    speech.submit("c1", 1, 0, "long1 long2 long3")
    speech.submit("c1", 1, 1, "more1 more2")
    assert bench.voice.waiting.acquire(timeout=TIMEOUT)
    speech.submit("c2", 1, 4, "late1 late2")
    speech.submit("c3", 1, 0, "first1 first2")
    for _ in range(20):
        bench.voice.gate.release()
    bench.box.wait(9)
    assert bench.voice.asked == [
        "long1",
        "first1",  # c3 has heard nothing yet
        "late1",  # c2 was never served, then in turn
        "long2",
        "first2",
        "late2",
        "long3",
        "more1",
        "more2",
    ]


def test_cancel_drops_what_waits_and_stops_what_runs(bench: Bench) -> None:
    bench.voice.gate = threading.Semaphore(0)
    speech = bench.synthesiser()
    speech.submit("c1", 1, 0, "a1 a2")
    speech.submit("c1", 1, 1, "b1 b2")
    assert bench.voice.waiting.acquire(timeout=TIMEOUT)
    speech.cancel("c1", 1)
    assert bench.voice.saw_unwanted.wait(TIMEOUT)
    speech.submit("c1", 1, 2, "c1 c2")
    speech.submit("c1", 2, 0, "d1")
    bench.voice.gate.release()
    assert chunks(bench.box.wait(1)) == [("c1", 2, 0, 10, True)]
    assert bench.voice.asked == ["a1", "d1"]
    assert speech.status().voices[0].failures == 0


def test_release_forgets_a_call(bench: Bench) -> None:
    bench.voice.gate = threading.Semaphore(0)
    speech = bench.synthesiser()
    speech.submit("c1", 1, 0, "a1 a2")
    assert bench.voice.waiting.acquire(timeout=TIMEOUT)
    speech.release("c1")
    assert bench.voice.saw_unwanted.wait(TIMEOUT)
    assert speech.status().waiting == 0
    assert bench.box.events == []


def test_text_is_prepared_and_nothing_to_say_is_an_empty_last_chunk(bench: Bench) -> None:
    speech = bench.synthesiser(
        prepare=lambda text, language: text.replace("🙂", "").strip() + ("" if text == "🙂" else language)
    )
    speech.submit("c1", 1, 0, "hello")
    speech.submit("c1", 1, 1, "🙂")
    assert chunks(bench.box.wait(2)) == [("c1", 1, 0, 10, True), ("c1", 1, 1, 0, True)]
    assert bench.voice.asked == ["helloen-us"]


def test_a_phrase_said_before_is_answered_at_once(bench: Bench) -> None:
    speech = bench.synthesiser()
    greeting = speech.speak_now("Hello there")
    assert len(greeting) == 20
    assert speech.cached("Hello there") is greeting
    assert speech.cached("Hello you") is None
    assert speech.speak_now("Hello there") is greeting
    speech.submit("c1", 1, 0, "Hello there")
    assert chunks(bench.box.events) == [("c1", 1, 0, 20, True)]
    assert bench.voice.asked == ["Hello", "there"]
    with pytest.raises(ValueError, match="read-only"):
        greeting[0] = 1


def test_a_short_phrase_is_kept_when_it_was_spoken(bench: Bench) -> None:
    speech = bench.synthesiser()
    speech.submit("c1", 1, 0, "one two")
    bench.box.wait(2)
    speech.submit("c2", 1, 0, "one two")
    event = bench.box.wait(1)[-1]
    assert chunks([event]) == [("c2", 1, 0, 20, True)]
    assert bench.voice.asked == ["one", "two"]


def test_seconds_are_from_the_request(bench: Bench) -> None:
    bench.voice.gate = threading.Semaphore(0)
    speech = bench.synthesiser()
    speech.submit("c1", 1, 0, "one")
    assert bench.voice.waiting.acquire(timeout=TIMEOUT)
    bench.clock.advance(0.25)
    bench.voice.gate.release()
    event = bench.box.wait(1)[0]
    assert isinstance(event, SpeechChunk)
    assert event.seconds == pytest.approx(0.25)


def test_a_voice_by_name_and_an_unknown_one(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    other = ScriptedVoice("amy")
    speech = bench.synthesiser(other)
    speech.submit("c1", 1, 0, "one", "amy")
    speech.submit("c1", 1, 1, "two", "bob")
    bench.box.wait(2)
    assert (other.asked, bench.voice.asked) == (["one"], ["two"])
    assert "'bob'" in caplog.text


def test_a_voice_may_come_later(bench: Bench) -> None:
    speech = bench.synthesiser()
    speech.submit("c1", 1, 0, "one", "amy")
    bench.box.wait(1)
    assert not speech.knows("amy")
    amy = ScriptedVoice("amy")
    speech.add(amy)
    assert speech.knows("amy")
    speech.submit("c1", 1, 1, "one", "amy")
    bench.box.wait(1)
    assert (bench.voice.asked, amy.asked) == (["one"], ["one"])
    assert [voice.name for voice in speech.status().voices] == ["joe", "amy"]


def test_the_fallback_speaks_when_a_voice_fails_and_then_rests(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    fallback = ScriptedVoice("piper")
    speech = bench.synthesiser(fallback=fallback)
    bench.voice.error = SpeechError("the speech command 'x' failed with status 1")
    for generation in range(1, 4):
        for phrase in range(2):
            speech.submit("c1", generation, phrase, f"w{generation}{phrase}")
            bench.box.wait(1)
    assert [event.phrase for event in bench.box.events if isinstance(event, SpeechChunk)] == [0, 1] * 3
    assert fallback.asked == ["w10", "w11", "w20", "w21", "w30", "w31"]
    assert bench.voice.asked == ["w10", "w20"]  # once in each answer, and it rests after two failures
    status = speech.status().voices[0]
    assert (status.name, status.failures, status.resting) == ("joe", 2, True)
    assert "status 1" in status.last_error
    assert "status 1" in caplog.text
    bench.voice.error = None
    bench.clock.advance(61)
    speech.submit("c1", 4, 0, "w4")
    bench.box.wait(1)
    assert bench.voice.asked[-1] == "w4"


def test_without_a_fallback_the_call_is_told(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    speech = bench.synthesiser()
    bench.voice.error = SpeechError("the voice is gone")
    speech.submit("c1", 2, 0, "one")
    assert bench.box.wait(1) == [WorkFailed("c1", 2, Stage.SPEAK, "the voice is gone")]
    with pytest.raises(SpeechError, match="gone"):
        speech.speak_now("hello")
    assert "gone" in caplog.text


def test_speak_now_uses_the_fallback(bench: Bench) -> None:
    fallback = ScriptedVoice("piper")
    speech = bench.synthesiser(fallback=fallback)
    bench.voice.error = SpeechError("no")
    assert len(speech.speak_now("good day")) == 20
    assert fallback.asked == ["good", "day"]


def test_a_bug_in_a_voice_does_not_end_the_worker(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    speech = bench.synthesiser()
    bench.voice.error = ZeroDivisionError("oops")
    speech.submit("c1", 1, 0, "one")
    failed = bench.box.wait(1)[0]
    assert isinstance(failed, WorkFailed)
    assert "oops" in failed.reason
    bench.voice.error = None
    speech.submit("c1", 1, 1, "two")
    assert isinstance(bench.box.wait(1)[1], SpeechChunk)
    assert "speaking failed" in caplog.text


def test_a_bug_in_a_voice_is_not_heard_where_there_is_another(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    fallback = ScriptedVoice("piper")
    speech = bench.synthesiser(fallback=fallback)
    bench.voice.error = ZeroDivisionError("oops")
    speech.submit("c1", 1, 0, "one")
    assert chunks(bench.box.wait(1)) == [("c1", 1, 0, 10, True)]
    assert fallback.asked == ["one"]
    assert "speaking failed" in caplog.text


def test_close_gives_up_what_runs_and_takes_no_more(bench: Bench) -> None:
    bench.voice.gate = threading.Semaphore(0)
    speech = bench.synthesiser()
    speech.submit("c1", 1, 0, "one")
    assert bench.voice.waiting.acquire(timeout=TIMEOUT)
    speech.close()
    speech.submit("c1", 1, 1, "two")
    assert bench.box.events == []


def test_no_voice_at_all() -> None:
    with pytest.raises(SpeechError, match="--voice"):
        SpeechSynthesiser([], post=lambda event: None, clock=ManualClock())


def test_the_cache_drops_the_least_recently_used() -> None:
    cache = PhraseCache(100)
    for name in "abc":
        cache.put(("v", name), np.zeros(20, np.int16))
        cache.get(("v", "a"))
    assert cache.get(("v", "b")) is None
    assert cache.get(("v", "a")) is not None
    assert (len(cache), cache.bytes) == (2, 80)
    cache.put(("v", "large"), np.zeros(51, np.int16))
    assert cache.get(("v", "large")) is None
    cache.put(("v", "a"), np.zeros(10, np.int16))
    assert cache.bytes == 60
