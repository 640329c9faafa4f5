"""Silero itself on a spoken question, through the listener: when the voice began and ended, to the packet."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from aiphone.events import Event, Pcm, VoiceContinues, VoiceFaded, VoiceStarted, VoiceStopped
from aiphone.native.resample import StreamResampler
from aiphone.speech.listener import Listener
from aiphone.speech.vad import SileroVad

pytestmark = pytest.mark.integration

MODELS = Path.home() / ".cache/aiphone/models"
RATE = 16_000
GAP = 12_800


@dataclass
class _Frames:
    pcm: Pcm
    arrival: npt.NDArray[np.float64]
    flags: npt.NDArray[np.uint8]


class _ScriptedCall:
    """A call whose audio is known: frame i arrives at i * 20 ms."""

    def __init__(self, pcm: Pcm, per_read: int = 1) -> None:
        self._pcm = pcm[: len(pcm) // 320 * 320].reshape(-1, 320)
        self._at = 0
        self._per_read = per_read

    def read(self, max_frames: int) -> _Frames:
        first = self._at
        self._at = min(len(self._pcm), first + min(max_frames, self._per_read))
        return _Frames(
            self._pcm[first : self._at],
            np.arange(first, self._at, dtype=np.float64) * 0.02,
            np.zeros(self._at - first, np.uint8),
        )

    @property
    def done(self) -> bool:
        return self._at >= len(self._pcm)


class _ScriptedEngine:
    def __init__(self, calls: list[_ScriptedCall]) -> None:
        self._calls = calls
        self.finished = threading.Event()

    def wait_frames(self, timeout: float) -> bool:
        if all(call.done for call in self._calls):
            self.finished.set()
            time.sleep(0.01)
        return True


@pytest.fixture(scope="module")
def vad() -> SileroVad:
    return SileroVad(MODELS / "silero_vad.onnx")


@pytest.fixture(scope="module")
def sentences() -> list[Pcm]:
    """Sentences at a telephone's level (Piper's samples, spoken with fixed noise)."""
    piper = pytest.importorskip("piper")
    voice = piper.PiperVoice.load(str(MODELS / "en_US-joe-medium.onnx"))
    out = []
    for text in ("What is the capital of France?", "Yes.", "Please transfer me to the sales department."):
        pcm = np.concatenate([chunk.audio_int16_array for chunk in voice.synthesize(text)])
        out.append((StreamResampler(22_050, RATE).process(pcm) * 0.3).astype(np.int16))
    return out


def _spoken(sentence: Pcm) -> tuple[int, int]:
    """First and last frame within 35 dB of the loudest one."""
    frames = sentence[: len(sentence) // 320 * 320].reshape(-1, 320).astype(float)
    level = 10 * np.log10((frames**2).mean(axis=1) + 1e-9)
    loud = np.flatnonzero(level > level.max() - 35)
    return int(loud[0]), int(loud[-1])


def _listen(vad: SileroVad, calls: dict[str, Pcm], per_read: int = 1) -> list[Event]:
    scripted = {name: _ScriptedCall(pcm, per_read) for name, pcm in calls.items()}
    engine = _ScriptedEngine(list(scripted.values()))
    events: list[Event] = []
    listener = Listener(engine, vad, events.append)
    for name, call in scripted.items():
        listener.attach(name, call)
    listener.start()
    assert engine.finished.wait(60)
    listener.stop()
    return events


def _line(sentences: list[Pcm], noise: float) -> tuple[Pcm, list[tuple[float, float]]]:
    """The sentences with pauses, on a line with noise of this RMS, and the times of their voiced frames."""
    parts: list[Pcm] = [np.zeros(GAP, np.int16)]
    spoken = []
    at = GAP
    for sentence in sentences:
        whole = sentence[: len(sentence) // 320 * 320]
        first, last = _spoken(whole)
        spoken.append(((at // 320 + first) * 0.02, (at // 320 + last) * 0.02))
        parts += [whole, np.zeros(GAP, np.int16)]
        at += len(whole) + GAP
    pcm = np.concatenate(parts).astype(float)
    pcm += np.random.default_rng(1).standard_normal(len(pcm)) * noise
    return np.clip(pcm, -32768, 32767).astype(np.int16), spoken


@pytest.mark.parametrize("noise", [0.0, 8.0, 60.0], ids=["clean", "-72 dB", "-55 dB"])
def test_begin_and_end_of_each_sentence_are_the_packets_that_carried_them(
    vad: SileroVad, sentences: list[Pcm], noise: float
) -> None:
    pcm, spoken = _line(sentences, noise)
    events = _listen(vad, {"c1": pcm}, per_read=8)
    started = [event.at for event in events if isinstance(event, VoiceStarted)]
    stopped = [event for event in events if isinstance(event, VoiceStopped)]
    assert len(started) == len(stopped) == len(sentences)
    for (begin, end), start, stop in zip(spoken, started, stopped, strict=True):
        assert start == pytest.approx(begin, abs=0.061)
        assert stop.at == pytest.approx(end, abs=0.061)
        seconds = len(stop.pcm) / RATE
        assert end - begin + 0.2 <= seconds <= end - begin + 0.6


def test_calls_in_one_batch_hear_what_they_hear_alone(vad: SileroVad, sentences: list[Pcm]) -> None:
    lines = {f"c{i}": np.roll(_line(sentences, 8.0)[0], i * 7000) for i in range(6)}
    together = _listen(vad, lines, per_read=4)
    for name, pcm in lines.items():
        alone = _listen(vad, {name: pcm}, per_read=4)
        # When a voice that goes on is reported depends on the round in which its audio was read, and may; and where
        # many speak at once it is not told at all, nor that a voice fades.
        assert [e for e in together if e.call_id == name and not isinstance(e, VoiceContinues | VoiceFaded)] == [
            e for e in alone if not isinstance(e, VoiceContinues | VoiceFaded)
        ]
        assert alone


def test_no_voice_in_silence_noise_hum_and_ringing(vad: SileroVad) -> None:
    t = np.arange(60 * RATE) / RATE
    rng = np.random.default_rng(2)
    ringing = 4000 * np.sin(2 * np.pi * 440 * t) * ((t % 6) < 2) + 4000 * np.sin(2 * np.pi * 480 * t) * ((t % 6) < 2)
    lines = {
        "silence": np.zeros(len(t)),
        "noise": rng.standard_normal(len(t)) * 200,
        "hum": 1000 * np.sin(2 * np.pi * 50 * t) + 300 * np.sin(2 * np.pi * 150 * t),
        "ringing": ringing,
    }
    events = _listen(vad, {name: pcm.astype(np.int16) for name, pcm in lines.items()}, per_read=16)
    assert events == []
