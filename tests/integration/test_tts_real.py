"""Piper for real: the same samples as its own runtime, earlier."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from aiphone.clock import SystemClock
from aiphone.errors import ModelError
from aiphone.events import Event, SpeechChunk
from aiphone.inference.piper_voice import PiperVoice
from aiphone.inference.tts import SpeechSynthesiser

piper = pytest.importorskip("piper")
from piper.config import PiperConfig  # noqa: E402

pytestmark = pytest.mark.integration

MODEL = Path.home() / ".cache/aiphone/models/en_US-joe-medium.onnx"
LONG = (
    "The museum opens at nine in the morning and closes at six, but on Thursdays you can stay until ten, "
    "and children do not have to pay."
)


@pytest.fixture(scope="module")
def voice() -> PiperVoice:
    return PiperVoice(MODEL, threads=1, noise=False)


@pytest.fixture(scope="module")
def reference() -> object:
    config = PiperConfig.from_dict(json.loads(Path(f"{MODEL}.json").read_text(encoding="utf-8")))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return piper.PiperVoice(onnxruntime.InferenceSession(str(MODEL), options), config)


@pytest.mark.parametrize("text", ["Sure.", "Good morning. How are you today?", LONG])
def test_pieces_are_the_samples_of_the_whole(voice: PiperVoice, reference: object, text: str) -> None:
    config = piper.SynthesisConfig(noise_scale=0.0, noise_w_scale=0.0, normalize_audio=False)
    whole = np.concatenate([chunk.audio_float_array for chunk in reference.synthesize(text, config)])  # type: ignore[attr-defined]
    pieces = list(voice.samples(text))
    assert voice.in_pieces
    assert [last for _, last in pieces] == [False] * (len(pieces) - 1) + [True]
    joined = np.concatenate([piece for piece, _ in pieces])
    assert joined.shape == whole.shape
    assert np.abs(joined - whole).max() < 1e-4
    if text == LONG:
        assert len(pieces[0][0]) < 0.1 * len(whole)


def test_a_voice_of_another_kind_is_used_whole(
    voice: PiperVoice, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("aiphone.inference.piper_voice._FLOW", "/none/")
    with caplog.at_level("INFO"):
        other = PiperVoice(MODEL, threads=1, noise=False)
    assert not other.in_pieces
    assert "used whole" in caplog.text
    (whole,) = [piece.pcm for piece in other.synthesise("Sure.")]
    np.testing.assert_array_equal(whole, np.concatenate([piece.pcm for piece in voice.synthesise("Sure.")]))


def test_pcm_is_as_long_as_the_speech_and_at_a_telephones_level(voice: PiperVoice) -> None:
    made = sum(len(piece) for piece, _ in voice.samples(LONG)) / voice.rate
    pcm = np.concatenate([piece.pcm for piece in voice.synthesise(LONG)])
    assert pcm.dtype == np.int16
    assert len(pcm) / 16_000 == pytest.approx(made, abs=0.001)
    level = 10 * np.log10(np.mean(pcm.astype(float) ** 2) / 32768**2)
    assert -30 < level < -18
    assert np.abs(pcm).max() < 32767


@pytest.mark.parametrize("text", ["", "...", "  "])
def test_nothing_to_say(voice: PiperVoice, text: str) -> None:
    assert list(voice.synthesise(text)) == []


def test_two_threads_share_a_voice(voice: PiperVoice) -> None:
    alone = np.concatenate([piece.pcm for piece in voice.synthesise(LONG)])
    out: list[np.ndarray] = []

    def speak() -> None:
        out.append(np.concatenate([piece.pcm for piece in voice.synthesise(LONG)]))

    threads = [threading.Thread(target=speak) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for pcm in out:
        np.testing.assert_array_equal(pcm, alone)


def test_one_calls_long_sentence_does_not_delay_anothers_first_word(voice: PiperVoice) -> None:
    events: list[Event] = []
    done = threading.Semaphore(0)

    def post(event: Event) -> None:
        events.append(event)
        if isinstance(event, SpeechChunk) and event.last:
            done.release()

    speech = SpeechSynthesiser([voice], post=post, clock=SystemClock())
    try:
        speech.submit("c1", 1, 0, LONG)
        speech.submit("c1", 1, 1, LONG)
        speech.submit("c2", 1, 0, "Of course.")
        for _ in range(3):
            assert done.acquire(timeout=60)
    finally:
        speech.close()
    order = [(event.call_id, event.phrase) for event in events if isinstance(event, SpeechChunk)]
    assert order.index(("c2", 0)) <= 1
    assert order[-1] == ("c1", 1)


def test_a_voice_whose_files_are_gone_speaks_on(tmp_path: Path) -> None:
    for source in (MODEL, Path(f"{MODEL}.json")):
        shutil.copyfile(source, tmp_path / source.name)
    copy = PiperVoice(tmp_path / MODEL.name, threads=1, noise=False)
    for path in tmp_path.iterdir():
        with path.open("r+b") as file:
            file.truncate(100)
        path.unlink()
    assert sum(len(piece.pcm) for piece in copy.synthesise("Sure.")) > 3000


def test_a_persona_may_speak_faster_or_slower(voice: PiperVoice) -> None:
    own, fast, slow = (
        sum(len(piece.pcm) for piece in one.synthesise(LONG))
        for one in (voice, voice.at_speed(1.25, "@1.25"), voice.at_speed(0.8, "@0.8"))
    )
    assert 1.1 < own / fast < 1.25
    assert 1.1 < slow / own < 1.25


def test_files_that_are_no_voice(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"there is no .*amy\.onnx"):
        PiperVoice(tmp_path / "amy.onnx")
    description = Path(f"{MODEL}.json").read_text(encoding="utf-8")
    for name, data in [
        ("cut", MODEL.read_bytes()[:1_000_000]),
        ("empty", b""),
        ("text", b"hello there\n" * 9),
    ]:
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(data)
        (tmp_path / f"{name}.onnx.json").write_text(description)
        with pytest.raises(ModelError, match=name):
            PiperVoice(path)
    (tmp_path / "text.onnx.json").write_text("{}")
    with pytest.raises(ModelError, match="description"):
        PiperVoice(tmp_path / "text.onnx")
