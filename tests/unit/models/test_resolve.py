from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_models import RecordedProgress, ggml_whisper, gguf_llm, onnx, write_voice

from aiphone.errors import ModelError
from aiphone.models.catalogue import Catalogue, HubFile, Model, ModelFile, Role
from aiphone.models.resolve import resolve_llm, resolve_onnx, resolve_voice, resolve_whisper
from aiphone.models.store import ModelStore

HUB = HubFile("r", "v", "f")


def entry(name: str, role: Role, file: str, content: bytes) -> Model:
    return Model(name, role, "", "", "", (ModelFile(file, len(content), hashlib.sha256(content).hexdigest(), (), HUB),))


class Converter:
    """Stands for the conversion: writes a Whisper model and counts."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, directory: Path, target: Path, progress: Callable[[int, int], None] | None) -> None:
        self.calls += 1
        assert (directory / "model.bin").is_file()
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(ggml_whisper())
        if progress:
            progress(1, 1)


@pytest.fixture
def converter() -> Converter:
    return Converter()


@pytest.fixture
def store(tmp_path: Path, converter: Converter) -> ModelStore:
    catalogue = Catalogue(
        [
            entry("base.en", "whisper", "ggml-base.en.bin", ggml_whisper()),
            entry("small.en", "whisper", "ggml-small.en.bin", ggml_whisper()),
            entry("tiny-llm", "llm", "tiny.gguf", gguf_llm()),
            entry("silero", "vad", "silero_vad.onnx", onnx()),
        ]
    )
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "ggml-base.en.bin").write_bytes(ggml_whisper())
    (tmp_path / "models" / "tiny.gguf").write_bytes(gguf_llm())
    (tmp_path / "models" / "silero_vad.onnx").write_bytes(onnx())
    return ModelStore(tmp_path / "models", catalogue=catalogue, convert=converter)


def ct2_directory(path: Path) -> Path:
    path.mkdir()
    for name in ("model.bin", "config.json", "tokenizer.json"):
        (path / name).write_text("x" * 100)
    return path


def test_names(store: ModelStore) -> None:
    assert resolve_whisper("base.en", store) == store.directory / "ggml-base.en.bin"
    assert resolve_llm("tiny-llm", store) == store.directory / "tiny.gguf"
    assert resolve_onnx("silero", "vad", store) == store.directory / "silero_vad.onnx"


def test_paths(store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whisper, llm = tmp_path / "mine.bin", tmp_path / "mine.gguf"
    whisper.write_bytes(ggml_whisper())
    llm.write_bytes(gguf_llm())
    voice = write_voice(tmp_path / "mine.onnx")
    assert resolve_whisper(str(whisper), store) == whisper
    assert resolve_llm(str(llm), store) == llm
    assert resolve_voice(str(voice), store) == voice
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_llm("~/mine.gguf", store) == llm


def test_a_name_of_another_role(store: ModelStore) -> None:
    with pytest.raises(ModelError, match=r"tiny-llm is a language model \(-ml\), not a Whisper model \(-mw\)"):
        resolve_whisper("tiny-llm", store)


def test_a_name_that_is_not_pulled(store: ModelStore) -> None:
    with pytest.raises(ModelError, match=r"`whisper-talk-llama models pull small\.en`"):
        resolve_whisper("small.en", store)


def test_neither_a_name_nor_a_file(store: ModelStore) -> None:
    with pytest.raises(ModelError, match=r"there is no file bse\.en, and no model called that, did you mean base\.en"):
        resolve_whisper("bse.en", store)


def test_a_missing_file_that_the_catalogue_knows(store: ModelStore) -> None:
    says = (
        r"there is no file \./ggml-small\.en\.bin; that model is in the catalogue: .* models pull small\.en` and give"
    )
    with pytest.raises(ModelError, match=says):
        resolve_whisper("./ggml-small.en.bin", store)


def test_models_that_were_mixed_up(store: ModelStore) -> None:
    with pytest.raises(ModelError, match="is not a Whisper model but a GGUF language model; give it with -ml"):
        resolve_whisper(str(store.directory / "tiny.gguf"), store)
    with pytest.raises(ModelError, match=r"is not a language model but a whisper\.cpp ggml model; give it with -mw"):
        resolve_llm(str(store.directory / "ggml-base.en.bin"), store)


def test_a_faster_whisper_directory_is_converted_once(
    store: ModelStore, tmp_path: Path, converter: Converter, progress: RecordedProgress
) -> None:
    directory = ct2_directory(tmp_path / "faster-whisper-base")
    first = resolve_whisper(str(directory), store, progress)
    assert first.parent == store.directory / "converted"
    assert first.name.startswith("ggml-faster-whisper-base-")
    assert resolve_whisper(str(directory), store) == first
    assert resolve_whisper(str(directory / "model.bin"), store) == first, "its model.bin means the directory"
    assert converter.calls == 1
    assert progress.titles == ["converting faster-whisper-base"]


def test_a_directory_that_changed_is_converted_again(store: ModelStore, tmp_path: Path, converter: Converter) -> None:
    directory = ct2_directory(tmp_path / "model")
    first = resolve_whisper(str(directory), store)
    os.utime(directory / "model.bin", ns=(1, 1))
    assert resolve_whisper(str(directory), store) != first
    assert converter.calls == 2


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ([], "is a directory without a model.bin in it"),
        (["model.safetensors", "config.json"], "is a directory with a Transformers checkpoint in it"),
        (["ggml-a.bin"], r"is a directory \(with ggml-a\.bin in it\)"),
    ],
)
def test_a_directory_of_something_else(store: ModelStore, tmp_path: Path, files: list[str], says: str) -> None:
    directory = tmp_path / "d"
    directory.mkdir()
    for name in files:
        (directory / name).write_text("x")
    with pytest.raises(ModelError, match=f"{says}.*give a ggml file or a faster-whisper directory"):
        resolve_whisper(str(directory), store)


def test_a_language_model_is_no_directory(store: ModelStore, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is a directory, not a language model; give the file in it"):
        resolve_llm(str(tmp_path), store)
