"""What a model file is, and whether it is whole: every wrong file gets one sentence, never a crash."""

from __future__ import annotations

import errno
import json
import random
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from tiny_models import VOICE, ggml_whisper, gguf_llm, onnx, string, write_voice

from aiphone.errors import ModelError
from aiphone.models.ggml import check_whisper_file
from aiphone.models.gguf import check_gguf_file
from aiphone.models.voice import check_onnx_file, check_voice

Check = Callable[[Path], object]


def check_onnx(path: Path) -> None:
    check_onnx_file(path, "voice-activity model")


WHOLE: list[tuple[Check, Callable[[], bytes]]] = [
    (check_whisper_file, ggml_whisper),
    (check_gguf_file, gguf_llm),
    (check_onnx, onnx),
]
IDS = ["ggml", "gguf", "onnx"]


def test_a_whole_whisper_model(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(ggml_whisper(layers=2, vocabulary=51865))
    found = check_whisper_file(path)
    assert found.multilingual
    assert (found.n_audio_layer, found.n_text_layer, found.ftype) == (2, 2, 1)
    path.write_bytes(ggml_whisper())
    assert not check_whisper_file(path).multilingual


def test_a_whole_language_model(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_llm())
    found = check_gguf_file(path)
    assert (found.architecture, found.name, found.context_length) == ("llama", "Tiny", 2048)
    assert found.chat_template
    assert found.tensors == 2


def test_a_whole_voice(tmp_path: Path) -> None:
    found = check_voice(write_voice(tmp_path / "voice.onnx"))
    assert (found.sample_rate, found.language, found.speakers) == (22050, "en_US", 1)


@pytest.mark.parametrize(("check", "build"), WHOLE, ids=IDS)
def test_cut_anywhere_it_is_refused(check: Check, build: Callable[[], bytes], tmp_path: Path) -> None:
    whole, path = build(), tmp_path / "model"
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        with pytest.raises(ModelError, match=r"cut short|is empty|is not a|no sense"):
            check(path)
    path.write_bytes(whole[:-1])
    with pytest.raises(ModelError, match="cut short"):
        check(path)
    path.write_bytes(whole)
    check(path)


@pytest.mark.parametrize(("check", "build"), WHOLE, ids=IDS)
def test_bent_anyhow_it_is_judged_without_a_crash(check: Check, build: Callable[[], bytes], tmp_path: Path) -> None:
    whole, path, dice = build(), tmp_path / "model", random.Random(7)
    refused = 0
    for _ in range(400):
        bent = bytearray(whole)
        for _ in range(dice.randint(1, 4)):
            bent[dice.randrange(len(bent))] = dice.choice([0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)])
        path.write_bytes(bent)
        try:
            check(path)
        except ModelError:
            refused += 1
    assert refused


@pytest.mark.parametrize(("check", "build"), WHOLE, ids=IDS)
def test_a_file_that_cannot_be_opened(
    check: Check, build: Callable[[], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match=r"there is no .* at .*/gone; check the path"):
        check(tmp_path / "gone")
    with pytest.raises(ModelError, match="is a directory"):
        check(tmp_path)
    with pytest.raises(ModelError, match="cannot be read"):
        check(tmp_path / ("x" * 300))

    def refuse(self: Path, *_: Any, **__: Any) -> BinaryIO:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ModelError, match=r"may not be read by this user; change its permissions"):
        check(tmp_path / "model")


SAFETENSORS = struct.pack("<Q", 100) + b'{"__metadata__":{}'
OTHERS = [
    (gguf_llm(), "a GGUF language model; give it with -ml"),
    (ggml_whisper(), "a whisper.cpp ggml model; give it with -mw"),
    (onnx(), "an ONNX model"),
    (b"lmgg\x0a\0\0\0silero-16k" + bytes(600), "a voice-activity model for whisper.cpp"),
    (b"tjgg" + bytes(600), "a llama.cpp model from before GGUF"),
    (struct.pack("<IH", 6, 12) + b"WhisperSpec\0" + bytes(600), "the model.bin of a CTranslate2 model"),
    (b"<!DOCTYPE html><html>not found", r"a web page \(a failed download\?\)"),
    (b"\n <html lang=en>", "a web page"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "a Git LFS pointer"),
    (b'{"error": "Entry not found"}', "a JSON text"),
    (SAFETENSORS + bytes(600), "a safetensors checkpoint; convert it first"),
    (b"PK\x03\x04" + bytes(600), "a zip archive or a PyTorch checkpoint"),
    (b"\x80\x02\x8a\nl\xfc" + bytes(600), "a PyTorch checkpoint"),
    (b"\x1f\x8b\x08" + bytes(600), "a compressed archive; unpack it first"),
    (b"RIFF" + bytes(600), "a sound file"),
    (bytes(600), "nor any kind of file known here"),
    (b"x", "nor any kind of file known here"),
]


@pytest.mark.parametrize(("content", "says"), OTHERS)
def test_a_file_of_another_kind_is_named(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(content)
    own = {"GGUF": check_gguf_file, "ggml model": check_whisper_file, "ONNX": check_onnx}
    for name, check in own.items():
        if name in says and "from before" not in says:
            check(path)
            continue
        with pytest.raises(ModelError, match=says) as caught:
            check(path)
        assert str(caught.value).count(". ") == 0, "one sentence"


def test_a_whisper_header_that_makes_no_sense(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(ggml_whisper(vocabulary=-5))
    with pytest.raises(ModelError, match="makes no sense"):
        check_whisper_file(path)


def test_a_whisper_model_cut_between_two_tensors(tmp_path: Path) -> None:
    whole = ggml_whisper()
    last = 4 * 3 + 4 + len("tensor.49") + 8
    path = tmp_path / "model.bin"
    path.write_bytes(whole[:-last])
    with pytest.raises(ModelError, match=r"49 of its 50 tensors"):
        check_whisper_file(path)


@pytest.mark.parametrize(
    ("pairs", "says"),
    [
        ({"general.architecture": "clip"}, "an image encoder"),
        ({"general.architecture": "whisper"}, "which whisper.cpp does not read"),
        ({"general.architecture": "nomic-bert"}, "an embedding model"),
        ({"general.type": "adapter"}, "a LoRA adapter"),
    ],
)
def test_a_gguf_that_does_not_talk(pairs: dict[str, Any], says: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_llm(pairs))
    with pytest.raises(ModelError, match=f"{re.escape(says)}.*give an instruct or chat model"):
        check_gguf_file(path)


def test_a_gguf_without_weights(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_llm(tensors=0))
    with pytest.raises(ModelError, match="a vocabulary without weights"):
        check_gguf_file(path)


@pytest.mark.parametrize(("version", "says"), [(1, "GGUF version 1, where"), (3 << 24, "for big-endian machines")])
def test_a_gguf_of_another_version(version: int, says: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<I", version) + gguf_llm()[8:])
    with pytest.raises(ModelError, match=says):
        check_gguf_file(path)


def test_a_gguf_in_parts(tmp_path: Path) -> None:
    first = gguf_llm({"split.count": 2, "split.no": 0})
    second = gguf_llm({"split.count": 2, "split.no": 1})
    paths = [tmp_path / f"big-0000{number}-of-00002.gguf" for number in (1, 2)]
    paths[0].write_bytes(first)
    with pytest.raises(ModelError, match=r"needs big-00002-of-00002\.gguf beside it; download all 2 parts"):
        check_gguf_file(paths[0])
    paths[1].write_bytes(second)
    check_gguf_file(paths[0])
    with pytest.raises(ModelError, match=r"is part 2 of 2; give the first, big-00001-of-00002\.gguf"):
        check_gguf_file(paths[1])
    (tmp_path / "renamed.gguf").write_bytes(first)
    with pytest.raises(ModelError, match="give it its name back"):
        check_gguf_file(tmp_path / "renamed.gguf")


def test_a_long_vocabulary_is_walked_across_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiphone.models.gguf._READ", 64)
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_llm({"tokenizer.ggml.merges": [f"token {number}" for number in range(500)]}))
    assert check_gguf_file(path).tensors == 2
    assert string("ab") == b"\x02" + bytes(7) + b"ab"


def test_a_voice_without_its_description(tmp_path: Path) -> None:
    path = write_voice(tmp_path / "voice.onnx")
    (tmp_path / "voice.onnx.json").unlink()
    with pytest.raises(ModelError, match=r"has no voice\.onnx\.json beside it; download that too"):
        check_voice(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("<!doctype html>", "a web page"),
        ("{", "a JSON text"),
        ("[]", "does not describe a Piper voice"),
        (json.dumps({**VOICE, "audio": {"sample_rate": 0}}), "does not describe a Piper voice"),
        (json.dumps({**VOICE, "phoneme_id_map": {}}), "does not describe a Piper voice"),
        (json.dumps({**VOICE, "language": 5}), "does not describe a Piper voice"),
    ],
)
def test_a_voice_with_a_wrong_description(text: str, says: str, tmp_path: Path) -> None:
    path = write_voice(tmp_path / "voice.onnx")
    (tmp_path / "voice.onnx.json").write_text(text)
    with pytest.raises(ModelError, match=says):
        check_voice(path)
