"""Smart Turn and the echo gate on real voices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aiphone.events import FRAME_SAMPLES, INTERNAL_RATE, Pcm
from aiphone.native.resample import StreamResampler
from aiphone.speech.echo import EchoGate, frame_levels
from aiphone.speech.turn_end import SmartTurn
from aiphone.speech.vad import SileroVad
from aiphone.speech.voice_detector import WINDOW_SAMPLES, Started, VoiceDetector

pytestmark = pytest.mark.integration

MODELS = Path.home() / ".cache/aiphone/models"


@pytest.fixture(scope="module")
def say():
    piper = pytest.importorskip("piper")
    voice = piper.PiperVoice.load(str(MODELS / "en_US-joe-medium.onnx"))

    def speak(text: str) -> Pcm:
        pcm = np.concatenate([chunk.audio_int16_array for chunk in voice.synthesize(text)])
        return (StreamResampler(22_050, INTERNAL_RATE).process(pcm) * 0.3).astype(np.int16)

    return speak


def test_a_finished_question_is_likelier_over_than_its_half(say) -> None:
    turn_end = SmartTurn(MODELS / "smart-turn-v3.2-cpu.onnx")
    whole = say("Could you please transfer me to the sales department?")
    half = say("My name is Katherine and I live in the")
    assert turn_end.probability(whole) > 0.9
    assert turn_end.probability(half) < turn_end.probability(whole)
    assert turn_end.probability(np.zeros(1600, np.int16)) < 1.0


def _voices(vad: SileroVad, line: Pcm, playing: Pcm) -> int:
    """How often a voice starts on a line while we play, as the listener would decide it."""
    gate, detector, state = EchoGate(), VoiceDetector(), vad.new_state()
    gate.queued(0, playing)
    pending, started = np.empty(0, np.int16), 0
    for number in range(line.size // FRAME_SAMPLES):
        frame = line[number * FRAME_SAMPLES : (number + 1) * FRAME_SAMPLES]
        levels = frame_levels(frame)
        played = min((number + 1) * FRAME_SAMPLES, playing.size)
        (masked,) = gate.mask(levels, played)
        detector.add_frame(levels[0], number * 0.02, masked=masked)
        pending = np.concatenate((pending, frame))
        if pending.size >= WINDOW_SAMPLES:
            window, pending = pending[:WINDOW_SAMPLES], pending[WINDOW_SAMPLES:]
            probability = vad.probabilities((window / 32768.0).astype(np.float32)[np.newaxis], [state])[0]
            started += sum(isinstance(what, Started) for what in detector.add_window(float(probability)))
    return started


@pytest.mark.parametrize("delay", [0.05, 0.15, 0.3])
@pytest.mark.parametrize("loss", [6, 12, 18, 30])
def test_our_voice_that_comes_back_is_nobody(say, loss: int, delay: float) -> None:
    playing = say("The opening hours are from nine to five, Monday to Friday, and on Saturday from ten to two.")
    line = np.zeros(playing.size + INTERNAL_RATE, np.int16)
    at = round(delay * INTERNAL_RATE)
    line[at : at + playing.size] = playing * 10 ** (-loss / 20)
    line = (line + np.random.default_rng(3).standard_normal(line.size) * 6).astype(np.int16)
    vad = SileroVad(MODELS / "silero_vad.onnx")
    assert _voices(vad, line, playing[:0]) > 0, "the echo is too weak to show anything"
    assert _voices(vad, line, playing) == 0


def test_a_caller_is_heard_over_our_echo(say) -> None:
    playing = say("The opening hours are from nine to five, Monday to Friday, and on Saturday from ten to two.")
    line = (playing * 10 ** (-18 / 20)).astype(np.int16)
    caller = say("Stop, please, that is not what I asked.")
    at = 3 * INTERNAL_RATE // 2
    line[at : at + caller.size] += caller[: line.size - at]
    assert _voices(SileroVad(MODELS / "silero_vad.onnx"), line, playing) >= 1
