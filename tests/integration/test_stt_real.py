"""Whisper for real: the starter model on recorded telephone speech, on noise, and under cancelling."""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from inbox import Inbox

from aiphone.clock import SystemClock
from aiphone.events import Event, PartialTranscript, Transcribed, Urgency, WorkFailed
from aiphone.inference.piper_voice import PiperVoice
from aiphone.inference.stt import SpeechToText
from aiphone.inference.stt_guard import FLASH_QUANTUM
from aiphone.inference.stt_states import StatePool
from aiphone.inference.whisper_cpp import Aborted, DecodeParams, WhisperModel
from aiphone.persona import Persona
from benchmarks.stt_corpus import PACKAGE, SOUNDS, read_wav, upsample

pytestmark = pytest.mark.integration

RATE = 16_000


def recording(name: str) -> np.ndarray:
    """A prompt at 16 kHz."""
    path = SOUNDS / f"{name}.wav"
    if not path.is_file():
        pytest.skip(f"needs recorded speech: apt-get install {PACKAGE}")
    return upsample(read_wav(path))


@pytest.fixture(scope="module")
def tiny(model_file: Callable[[str], Path]) -> Path:
    return model_file("ggml-tiny.en.bin")


@pytest.fixture(scope="module")
def shared(tiny: Path) -> Iterator[tuple[SpeechToText, Inbox]]:
    inbox = Inbox(60.0)
    stt = SpeechToText(tiny, post=inbox.post, clock=SystemClock(), threads=2, workers=2, use_gpu=False)
    yield stt, inbox
    stt.close()


@pytest.fixture
def stt(shared: tuple[SpeechToText, Inbox]) -> Iterator[tuple[SpeechToText, Inbox]]:
    shared[1].events.clear()
    yield shared
    for call in ("c1", "c2", "c3"):
        shared[0].release(call)


def text_of(event: Event) -> str:
    assert isinstance(event, Transcribed), event
    return event.text.lower()


def test_recorded_telephone_speech_is_understood(stt: tuple[SpeechToText, Inbox]) -> None:
    stt[0].submit("c1", 1, recording("vm-intro"))
    (event,) = stt[1].wait(1)
    assert "leave your message after the tone" in text_of(event)
    assert "pound key" in text_of(event)


def test_two_calls_at_once_keep_their_words_apart(stt: tuple[SpeechToText, Inbox]) -> None:
    for _ in range(3):
        stt[1].events.clear()
        stt[0].submit("c1", 1, recording("conf-getpin"))
        stt[0].submit("c2", 1, recording("vm-intro"))
        words = {event.call_id: text_of(event) for event in stt[1].wait(2)}
        assert "conference" in words["c1"]
        assert "message" not in words["c1"]
        assert "message" in words["c2"]
        assert "conference" not in words["c2"]


@pytest.mark.parametrize(("flash", "contexts"), [(False, (384, 200)), (True, (512, 256)), (True, (192, 192))])
def test_a_state_keeps_nothing_of_what_it_heard_before(tiny: Path, flash: bool, contexts: tuple[int, int]) -> None:
    """Two states, one fresh and one that served other audio, give the same text with the same probabilities."""
    model = WhisperModel(tiny, use_gpu=False, flash_attn=flash)
    pool = StatePool(model.new_state, FLASH_QUANTUM if flash else 1)
    pcm = recording("conf-invalid").astype(np.float32) / 32768
    other = recording("vm-intro").astype(np.float32) / 32768
    params = DecodeParams(audio_ctx=contexts[1], timestamps=True)
    fresh = model.new_state()
    try:
        with pool.lend(contexts[0]) as used:
            used.full(other, DecodeParams(audio_ctx=contexts[0], timestamps=True))
        with pool.lend(contexts[1]) as used:
            assert pool.free == 0  # the same one
            assert used.full(pcm, params) == fresh.full(pcm, params)
    finally:
        fresh.close()
        pool.close()
        model.close()


def test_a_recycled_state_gives_the_next_call_the_same_text(stt: tuple[SpeechToText, Inbox]) -> None:
    pcm = recording("conf-invalid")
    for call in ("c1", "c2"):
        stt[0].submit(call, 1, pcm)
    stt[1].wait(2)
    stt[0].release("c1")
    stt[0].submit("c3", 1, pcm)  # with the state of c1
    assert len({text_of(event) for event in stt[1].wait(3)}) == 1


@pytest.mark.parametrize("kind", ["silence", "noise", "hum", "dial tone", "short click"])
def test_no_word_comes_of_what_is_not_speech(stt: tuple[SpeechToText, Inbox], kind: str) -> None:
    t = np.arange(3 * RATE) / RATE
    signal = {
        "silence": np.zeros_like(t),
        "noise": np.random.default_rng(3).standard_normal(len(t)) * 0.01,
        "hum": 0.1 * np.sin(2 * np.pi * 50 * t),
        "dial tone": 0.1 * (np.sin(2 * np.pi * 350 * t) + np.sin(2 * np.pi * 440 * t)),
        "short click": 0.5 * (t < 0.002),
    }[kind]
    stt[0].submit("c1", 1, (signal * 32767).astype(np.int16))
    assert text_of(stt[1].wait(1)[0]) == ""


def test_speech_longer_than_the_context_is_heard_to_its_end(stt: tuple[SpeechToText, Inbox]) -> None:
    pause = np.zeros(RATE // 2, np.int16)
    names = ("conf-adminmenu-18", "vm-intro", "conf-invalid", "vm-intro", "conf-adminmenu-18")
    pcm = np.concatenate([piece for name in names for piece in (recording(name), pause)])
    assert len(pcm) > 45 * RATE
    stt[0].submit("c1", 1, pcm)
    event = stt[1].wait(1)[0]
    text = text_of(event)
    assert text.startswith("please press")
    assert "not a valid conference number" in text
    assert text.count("after the tone") == 2
    assert isinstance(event, Transcribed)
    assert " ".join(word.text for word in event.words).lower() == text
    tones = [word.start for word in event.words if word.text.startswith("tone")]
    first = len(recording(names[0])) / RATE
    assert first < tones[0] < first + 5 < tones[1] < len(pcm) / RATE
    assert all(before.start <= after.start for before, after in itertools.pairwise(event.words))


def test_partials_agree_with_each_other_and_with_the_final(stt: tuple[SpeechToText, Inbox]) -> None:
    pcm = recording("vm-intro")
    partials = []
    for number in range(1, 5):
        stt[0].submit("c1", 1, pcm[: number * RATE], Urgency.PARTIAL)
        partials.append(stt[1].wait(number)[-1])
    stt[0].submit("c1", 2, pcm)
    final = re.findall(r"\w+", text_of(stt[1].wait(5)[-1]))
    for partial in partials:
        assert isinstance(partial, PartialTranscript)
        assert partial.text.startswith(partial.stable)
        stable = re.findall(r"\w+", partial.stable.lower())
        assert stable == final[: len(stable)]
    assert stable


def test_a_model_file_that_is_damaged_while_it_is_in_use_changes_nothing(tiny: Path, tmp_path: Path) -> None:
    recording("auth-thankyou")
    path = tmp_path / "ggml-tiny.en.bin"
    shutil.copyfile(tiny, path)
    inbox = Inbox(60.0)
    stt = SpeechToText(path, post=inbox.post, clock=SystemClock(), threads=2, use_gpu=False)
    try:
        with path.open("r+b") as file:
            file.truncate(1000)
        path.unlink()
        stt.submit("c1", 1, recording("auth-thankyou"))
        assert "thank you" in text_of(inbox.wait(1)[0])
    finally:
        stt.close()


def test_names_that_the_persona_expects_are_understood(
    stt: tuple[SpeechToText, Inbox], model_file: Callable[[str], Path]
) -> None:
    voice = PiperVoice(model_file("en_US-joe-medium.onnx"), threads=1, noise=False)
    said = [piece.pcm for piece in voice.synthesise("Can I talk to Siobhan in accounting?")]
    pcm = np.pad(np.concatenate(said), RATE // 5)
    stt[0].begin("c1", language="en", prompt=Persona(vocabulary="Siobhan, Kowalczyk").initial_prompt())
    stt[0].submit("c1", 1, pcm)
    stt[0].submit("c2", 1, pcm)
    heard = {event.call_id: text_of(event) for event in stt[1].wait(2)}
    assert "siobhan" in heard["c1"]
    assert "siobhan" not in heard["c2"]


def test_cancelling_stops_whisper_and_frees_the_worker(stt: tuple[SpeechToText, Inbox]) -> None:
    long = np.concatenate([recording("conf-adminmenu-18")] * 4)
    stt[0].submit("c1", 1, long)
    stt[0].submit("c2", 1, long)
    stt[0].cancel("c1", 1)
    stt[0].cancel("c2", 1)
    stt[0].submit("c3", 1, recording("auth-thankyou"))
    (event,) = stt[1].wait(1)
    assert event.call_id == "c3"
    assert not any(isinstance(other, WorkFailed) for other in stt[1].events)


def test_abort_is_heeded_within_one_encoding(tiny: Path, stt: tuple[SpeechToText, Inbox]) -> None:
    model = WhisperModel(tiny, use_gpu=False, flash_attn=True)
    state = model.new_state()
    asked = 0

    def abort() -> bool:
        nonlocal asked
        asked += 1
        return True

    try:
        pcm = np.concatenate([recording("conf-adminmenu-18")] * 3).astype(np.float32) / 32768
        with pytest.raises(Aborted):
            state.full(pcm, DecodeParams(single_segment=False, timestamps=True), abort=abort)
        assert asked <= 2
        assert state.full(recording("auth-thankyou").astype(np.float32) / 32768, DecodeParams())[0].text.strip()
    finally:
        state.close()
        model.close()
    assert model.open_states == 0


def test_calls_one_after_the_other_share_their_states(stt: tuple[SpeechToText, Inbox]) -> None:
    pcm = recording("auth-thankyou")
    before = stt[0].status()["states"]
    for number in range(20):
        stt[1].events.clear()
        stt[0].submit(f"n{number}", 1, pcm)
        stt[1].wait(1)
        stt[0].release(f"n{number}")
    status = stt[0].status()
    assert status["states"] <= before + 1
    assert status["states_free"] == status["states"]
