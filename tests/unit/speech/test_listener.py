from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest

from aiphone.errors import MediaError
from aiphone.events import Event, Pcm, Stage, VoiceContinues, VoiceFaded, VoiceStarted, VoiceStopped, WorkFailed
from aiphone.speech.echo import EchoGate
from aiphone.speech.listener import Listener

TIMEOUT = 10.0


@dataclass
class Frames:
    pcm: Pcm
    arrival: npt.NDArray[np.float64]
    flags: npt.NDArray[np.uint8]


class Call:
    """A call that is fed by the test."""

    def __init__(self) -> None:
        self.frames: list[tuple[int, float, int]] = []
        self.reads = 0
        self.broken = False
        self.played = 0
        self._count = 0

    def feed(self, count: int, amplitude: int, flag: int = 0) -> None:
        for _ in range(count):
            self.frames.append((amplitude, self._count * 0.02, flag))
            self._count += 1

    def read(self, max_frames: int) -> Frames:
        self.reads += 1
        if self.broken:
            raise MediaError("the call is closed")
        taken, self.frames = self.frames[:max_frames], self.frames[max_frames:]
        pcm = np.array([[amplitude] * 320 for amplitude, _, _ in taken], np.int16).reshape(-1, 320)
        return Frames(pcm, np.array([at for _, at, _ in taken]), np.array([flag for *_, flag in taken], np.uint8))


class Engine:
    """Lets the listener make a round when the test says so, and says when it is back for the next one."""

    def __init__(self) -> None:
        self._rounds: queue.Queue[bool] = queue.Queue()
        self._waiting = threading.Semaphore(0)
        self._closed = False

    def wait_frames(self, timeout: float) -> bool:
        self._waiting.release()
        return self._closed or self._rounds.get()

    def round(self) -> None:
        """One full round: returns when the listener has done it and waits again."""
        assert self._waiting.acquire(timeout=TIMEOUT)
        self._rounds.put(True)
        assert self._waiting.acquire(timeout=TIMEOUT)
        self._waiting.release()

    def close(self) -> None:
        self._closed = True
        self._rounds.put(False)


class LoudnessVad:
    """Says voice where there is sound; counts what it was asked."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.fail = False

    def new_state(self) -> object:
        return _State()

    def probabilities(self, windows: npt.NDArray[np.float32], states: Sequence[object]) -> npt.NDArray[np.float32]:
        self.batches.append(len(states))
        if self.fail:
            raise RuntimeError("the network is broken")
        return (np.abs(windows).max(axis=1) > 0.01).astype(np.float32)


class _State:
    def reset(self) -> None:
        pass


@dataclass
class Bench:
    engine: Engine
    vad: LoudnessVad
    listener: Listener
    events: list[Event]
    fades: list[VoiceFaded]


@pytest.fixture
def bench() -> Iterator[Bench]:
    engine, vad, events, fades = Engine(), LoudnessVad(), [], []

    def post(event: Event) -> None:
        if isinstance(event, VoiceFaded):
            fades.append(event)
        else:
            events.append(event)

    listener = Listener(engine, vad, post)
    listener.start()
    yield Bench(engine, vad, listener, events, fades)
    engine.close()
    listener.stop()


def test_a_voice_is_posted_with_its_audio(bench: Bench) -> None:
    call = Call()
    bench.listener.attach("c1", call)
    call.feed(20, 0)
    call.feed(30, 3000)
    call.feed(20, 0)
    bench.engine.round()
    bench.engine.round()
    started, stopped = bench.events
    assert started == VoiceStarted("c1", pytest.approx(20 * 0.02))
    assert isinstance(stopped, VoiceStopped)
    assert stopped.at == pytest.approx(49 * 0.02)
    assert stopped.pcm.dtype == np.int16
    assert np.count_nonzero(stopped.pcm) == 30 * 320
    assert not stopped.pcm[:3840].any()
    assert stopped.pcm[3840]
    (fade,) = bench.fades
    assert fade.at == stopped.at
    assert fade.pcm.size < stopped.pcm.size
    assert (fade.pcm == stopped.pcm[: fade.pcm.size]).all()


def test_when_many_speak_nobody_s_fade_is_told(bench: Bench) -> None:
    calls = [Call() for _ in range(4)]
    for number, call in enumerate(calls):
        bench.listener.attach(f"c{number}", call)
        call.feed(20, 0)
        call.feed(30, 3000)
    bench.engine.round()
    for call in calls:
        call.feed(4, 0)
    bench.engine.round()
    assert [type(event) for event in bench.events] == [VoiceStarted] * 4
    assert bench.fades == []


def test_a_long_voice_is_reported_while_it_lasts(bench: Bench) -> None:
    call = Call()
    bench.listener.attach("c1", call)
    call.feed(20, 0)
    bench.engine.round()
    for _ in range(10):
        call.feed(10, 3000)
        bench.engine.round()
    going_on = [event for event in bench.events if isinstance(event, VoiceContinues)]
    assert len(going_on) == 3
    assert [event.at for event in going_on] == sorted(event.at for event in going_on)
    assert going_on[-1].pcm.size - going_on[0].pcm.size >= 2 * 9_600
    assert np.array_equal(going_on[-1].pcm[: going_on[0].pcm.size], going_on[0].pcm)


def test_when_many_speak_none_is_reported_before_the_pause(bench: Bench) -> None:
    calls = [Call() for _ in range(4)]
    for number, call in enumerate(calls):
        bench.listener.attach(f"c{number}", call)
        call.feed(64, 3000)
    bench.engine.round()
    for call in calls:
        call.feed(40, 3000)
    bench.engine.round()
    assert {type(event) for event in bench.events} == {VoiceStarted}


def test_while_we_speak_the_network_is_asked_about_silence_too(bench: Bench) -> None:
    call, echo = Call(), EchoGate()
    bench.listener.attach("c1", call, None, echo)
    call.feed(64, 0)
    bench.engine.round()
    asked = len(bench.vad.batches)
    echo.queued(0, np.full(20 * 320, 20_000, np.int16))
    call.feed(16, 0)
    call.played += 16 * 320
    bench.engine.round()
    assert sum(bench.vad.batches[asked:]) == 10
    assert bench.events == []


def test_our_own_echo_is_no_voice(bench: Bench) -> None:
    call, echo = Call(), EchoGate()
    bench.listener.attach("c1", call, None, echo)
    echo.queued(0, np.full(60 * 320, 20_000, np.int16))
    for _ in range(6):
        call.feed(10, 3000)
        call.played += 3200
        bench.engine.round()
    assert bench.events == []
    call.feed(20, 15_000)
    bench.engine.round()
    assert isinstance(bench.events[0], VoiceStarted)


@pytest.mark.parametrize("speaking", [True, False])
def test_somebody_far_away_is_nobody_while_we_speak(bench: Bench, speaking: bool) -> None:
    call, echo = Call(), EchoGate()
    bench.listener.attach("c1", call, None, echo)
    call.feed(20, 0)
    call.feed(30, 15_000)
    call.feed(30, 0)
    bench.engine.round()
    bench.engine.round()
    heard = len(bench.events)
    assert heard == 2
    # The line has no echo, and the gate knows it.
    echo.queued(0, np.full(100 * 320, 3000 if speaking else 0, np.int16))
    for _ in range(8):
        call.feed(10, 0)
        call.played += 3200
        bench.engine.round()
    call.feed(20, 1200)
    call.played += 20 * 320
    bench.engine.round()
    bench.engine.round()
    assert (len(bench.events) == heard) is speaking
    if speaking:
        call.feed(10, 12_000)
        bench.engine.round()
        bench.engine.round()
        assert next(type(event) for event in bench.events[heard:]) is VoiceStarted


def test_frames_without_a_packet_are_silence(bench: Bench) -> None:
    call = Call()
    bench.listener.attach("c1", call)
    call.feed(60, 3000, flag=1)
    bench.engine.round()
    assert bench.events == []


def test_calls_share_a_batch_and_silent_ones_cost_nothing(bench: Bench) -> None:
    calls = {f"c{i}": Call() for i in range(4)}
    for name, call in calls.items():
        bench.listener.attach(name, call)
        call.feed(16, 3000 if name != "c3" else 0)
    bench.engine.round()
    bench.engine.round()
    assert max(bench.vad.batches) == 3
    assert {event.call_id for event in bench.events} == {"c0", "c1", "c2"}


def test_after_detach_a_call_is_not_read(bench: Bench) -> None:
    first, second = Call(), Call()
    bench.listener.attach("c1", first)
    bench.listener.attach("c2", second)
    bench.engine.round()
    bench.listener.detach("c1")
    reads = first.reads
    bench.engine.round()
    assert first.reads == reads
    assert second.reads > 1
    assert bench.listener.calls == 1


def test_a_call_that_cannot_be_read_is_left_alone(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    broken, good = Call(), Call()
    broken.broken = True
    bench.listener.attach("c1", broken)
    bench.listener.attach("c2", good)
    good.feed(20, 3000)
    bench.engine.round()
    bench.engine.round()
    assert VoiceStarted("c2", pytest.approx(0.0)) in bench.events
    assert bench.listener.calls == 1
    assert "c1" in caplog.text


def test_a_broken_network_is_told_once_and_the_rest_goes_on(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    call = Call()
    bench.listener.attach("c1", call)
    bench.vad.fail = True
    for _ in range(3):
        call.feed(8, 3000)
        bench.engine.round()
    failures = [event for event in bench.events if isinstance(event, WorkFailed)]
    assert [(event.call_id, event.stage) for event in failures] == [("c1", Stage.TRANSCRIBE)]
    assert "broken" in failures[0].reason
    bench.vad.fail = False
    call.feed(40, 3000)
    call.feed(20, 0)
    for _ in range(4):
        bench.engine.round()
    assert [type(event) for event in bench.events[1:]] == [VoiceStarted, VoiceStopped]
    assert "listening failed" in caplog.text


def test_stop_without_start_or_calls() -> None:
    listener = Listener(Engine(), LoudnessVad(), print)
    listener.stop()
    listener = Listener(Engine(), LoudnessVad(), print)
    listener.start()
    listener.stop()


def test_the_listener_comes_seldom_while_nothing_can_be_late(bench: Bench) -> None:
    """Often while somebody speaks or we do, less often after a pause, seldom when nobody's turn can be going on."""
    call, echo = Call(), EchoGate()
    bench.listener.attach("c1", call, echo=echo)
    spacings = []
    for frames, amplitude in ((10, 0), (20, 3000), (20, 0), (10, 0), (100, 0), (1, 0)):
        call.feed(frames, amplitude)
        bench.engine.round()
        bench.engine.round()
        spacings.append(bench.listener._spacing)
    calm, speaking, pausing, resting, later, still = spacings
    assert speaking < resting < calm
    assert speaking <= pausing <= resting
    assert later == still == calm
    echo.queued(call.played, np.full(20 * 320, 3000, np.int16))
    call.played += 20 * 320
    call.feed(20, 0)
    bench.engine.round()
    assert bench.listener._spacing == speaking
