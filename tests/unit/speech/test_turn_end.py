"""The features, and the thread that asks the network; the network itself is in the integration tests."""

from __future__ import annotations

import queue
import threading
from pathlib import Path

import numpy as np
import pytest

from aiphone.clock import ManualClock
from aiphone.errors import ModelError
from aiphone.events import Event, Pcm, TurnEndEstimated
from aiphone.speech.mel import BANDS, FRAMES, SAMPLES, LogMel, mel_filters
from aiphone.speech.turn_end import SmartTurn, TurnEndDetector

WAIT = 10.0


def tone(seconds: float, hertz: float = 440.0) -> Pcm:
    return (8000 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * 16_000)) / 16_000)).astype(np.int16)


def test_bands_are_triangles_of_one_area() -> None:
    filters = mel_filters()
    assert filters.shape == (BANDS, 201)
    assert (filters >= 0).all()
    # Slaney: the area of each band is 1 over its width in bins of 40 Hz; wide bands show it well.
    np.testing.assert_allclose(filters[40:].sum(axis=1) * 40.0, 1.0, rtol=0.1)


def test_a_tone_is_where_it_belongs_and_silence_is_as_low_as_it_gets() -> None:
    features = LogMel().features(tone(1.0, 1000.0))
    assert features.shape == (BANDS, FRAMES)
    assert features.dtype == np.float32
    loudest = features[:, -50].argmax()
    assert 20 < loudest < 32
    assert features.max() - features[:, 10].max() == pytest.approx(2.0, abs=1e-4)


@pytest.mark.parametrize("seconds", [0.3, 1.0, 7.99, 8.0])
def test_what_is_repeated_for_silence_is_what_would_be_computed(seconds: float) -> None:
    pcm = tone(seconds)
    whole = np.zeros(SAMPLES, np.int16)
    whole[-pcm.size :] = pcm
    np.testing.assert_allclose(LogMel().features(pcm), LogMel().features(whole), atol=1e-4)


def test_of_long_audio_the_end_counts() -> None:
    pcm = np.concatenate([tone(3.0, 300.0), tone(8.0)])
    np.testing.assert_array_equal(LogMel().features(pcm), LogMel().features(pcm[-SAMPLES:]))


def test_nothing_at_all_has_features() -> None:
    assert np.isfinite(LogMel().features(np.empty(0, np.int16))).all()


def test_a_missing_model_is_named_with_the_cure(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="models pull smart-turn"):
        SmartTurn(tmp_path / "nothing.onnx")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no network")
    with pytest.raises(ModelError, match="fetch it again"):
        SmartTurn(broken)


class Network:
    """Answers when the test says so; the answer is the first sample."""

    def __init__(self) -> None:
        self.asked: queue.Queue[int] = queue.Queue()
        self.go = threading.Semaphore(0)

    def probability(self, pcm: Pcm) -> float:
        self.asked.put(int(pcm[0]))
        assert self.go.acquire(timeout=WAIT)
        if pcm[0] == 99:
            raise RuntimeError("broken")
        return int(pcm[0]) / 100


class Bench:
    def __init__(self) -> None:
        self.network = Network()
        self.posted: queue.Queue[Event] = queue.Queue()
        self.detector = TurnEndDetector(self.network, post=self.posted.put, clock=ManualClock())

    def ask(self, call_id: str, generation: int, value: int) -> None:
        self.detector.submit(call_id, generation, np.array([value], np.int16))

    def answer(self) -> Event:
        self.network.go.release()
        return self.posted.get(timeout=WAIT)


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    bench.network.go.release(10)
    bench.detector.close()


def test_an_estimate_is_posted(bench: Bench) -> None:
    bench.ask("c1", 3, 90)
    assert bench.answer() == TurnEndEstimated("c1", 3, 0.9, 0.0)


def test_a_newer_question_takes_the_place_of_one_that_waits(bench: Bench) -> None:
    bench.ask("c1", 1, 10)
    assert bench.network.asked.get(timeout=WAIT) == 10
    bench.ask("c2", 1, 20)
    bench.ask("c2", 2, 30)
    assert bench.answer() == TurnEndEstimated("c1", 1, 0.1, 0.0)
    assert bench.answer() == TurnEndEstimated("c2", 2, 0.3, 0.0)


def test_what_was_cancelled_or_released_is_not_posted(bench: Bench) -> None:
    bench.ask("c1", 1, 10)
    assert bench.network.asked.get(timeout=WAIT) == 10
    bench.ask("c2", 1, 20)
    bench.ask("c3", 1, 30)
    bench.detector.cancel("c1", 1)
    bench.detector.cancel("c2", 1)
    bench.network.go.release()
    assert bench.answer() == TurnEndEstimated("c3", 1, 0.3, 0.0)
    bench.ask("c4", 1, 40)
    assert bench.network.asked.get(timeout=WAIT) == 30
    assert bench.network.asked.get(timeout=WAIT) == 40
    bench.detector.release("c4")
    bench.ask("c5", 1, 50)
    bench.network.go.release()
    assert bench.answer() == TurnEndEstimated("c5", 1, 0.5, 0.0)


def test_a_failure_is_logged_and_the_next_call_served(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.ask("c1", 1, 99)
    bench.network.go.release()
    bench.ask("c2", 1, 20)
    assert bench.answer() == TurnEndEstimated("c2", 1, 0.2, 0.0)
    assert "could not be estimated" in caplog.text
