"""The binding: where the library is looked for, when it is refused, and which files are."""

from __future__ import annotations

import ctypes
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aiphone.errors import InferenceError, ModelError
from aiphone.inference import whisper_library as wl
from aiphone.inference.whisper_cpp import WhisperModel

# ------------------------------------------------------------------ finding the library


def tree(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            ["pywhispercpp.libs/libwhisper-1ab89ae8.so.1.8.5", "libwhisper.so", "libwhisper.so.1"],
            "pywhispercpp.libs/libwhisper-1ab89ae8.so.1.8.5",
        ),
        (["libwhisper.so", "libwhisper.so.1", "libwhisper.so.1.8.5"], "libwhisper.so.1.8.5"),
        (["pywhispercpp/.dylibs/libwhisper.1.8.5.dylib"], "pywhispercpp/.dylibs/libwhisper.1.8.5.dylib"),
        ([".dylibs/libwhisper.1.dylib", ".dylibs/libggml.dylib"], ".dylibs/libwhisper.1.dylib"),
        (["pywhispercpp/lib/libwhisper.dylib"], "pywhispercpp/lib/libwhisper.dylib"),
        (["libggml.so", "pywhispercpp/model.py"], None),
    ],
)
def test_the_library_is_found_where_wheels_and_builds_put_it(
    tmp_path: Path, files: list[str], expected: str | None
) -> None:
    tree(tmp_path, *files)
    found = next(wl.library_candidates(tmp_path), None)
    assert found == (tmp_path / expected if expected else None)


# ------------------------------------------------------------------ refusing another layout


class FakeLibrary:
    """Answers with default parameters as another version of whisper.cpp would have them."""

    def __init__(self, full: wl.FullParams, context: wl.ContextParams, version: bytes = b"1.9.9") -> None:
        self.full, self.context, self.version = full, context, version
        self.freed = 0

    def whisper_version(self) -> bytes:
        return self.version

    def whisper_full_default_params_by_ref(self, _strategy: int) -> Any:
        return ctypes.pointer(self.full)

    def whisper_context_default_params_by_ref(self) -> Any:
        return ctypes.pointer(self.context)

    def whisper_free_params(self, _params: object) -> None:
        self.freed += 1

    def whisper_free_context_params(self, _params: object) -> None:
        self.freed += 1


@pytest.fixture
def library() -> FakeLibrary:
    real = wl.load_library()
    full = real.whisper_full_default_params_by_ref(wl.SAMPLING_GREEDY)
    context = real.whisper_context_default_params_by_ref()
    fake = FakeLibrary(
        wl.FullParams.from_buffer_copy(full.contents), wl.ContextParams.from_buffer_copy(context.contents)
    )
    real.whisper_free_context_params(context)
    # The language string in it is the library's own constant; the structure itself is a copy.
    real.whisper_free_params(full)
    return fake


def witness(fake: FakeLibrary) -> Any:
    seen = SimpleNamespace(**{name: getattr(fake.full, name) for name in wl._WITNESSED})
    return SimpleNamespace(WHISPER_SAMPLING_GREEDY=0, whisper_full_default_params=lambda _strategy: seen)


def test_the_library_of_this_environment_has_the_layout(library: FakeLibrary) -> None:
    wl.check_layout(library, witness(library))
    assert library.freed == 2
    assert wl.library_version().count(".") == 2


def test_a_field_that_moved_is_refused_with_version_and_cure(library: FakeLibrary) -> None:
    # As if four bytes had been put in before the last field: everything behind them has moved.
    raw = bytearray(bytes(library.full))
    at = wl.FullParams.vad_params.offset
    raw[at:] = b"\0\0\0\0" + raw[at:-4]
    library.full = wl.FullParams.from_buffer_copy(bytes(raw))
    with pytest.raises(InferenceError, match=r"1\.9\.9 lays out whisper_full_params .*pip install"):
        wl.check_layout(library, witness(library))
    assert library.freed == 2


def test_another_context_layout_is_refused(library: FakeLibrary) -> None:
    library.context.dtw_mem_size = 7
    with pytest.raises(InferenceError, match="whisper_context_params"):
        wl.check_layout(library, witness(library))


def test_the_compiled_view_must_agree(library: FakeLibrary) -> None:
    other = witness(library)
    other.whisper_full_default_params(0).entropy_thold = 9.0
    with pytest.raises(InferenceError, match="entropy_thold"):
        wl.check_layout(library, other)


# ------------------------------------------------------------------ what the build can do, what it says


def test_accelerators_are_read_from_the_build() -> None:
    cpu = "WHISPER : COREML = 0 | OPENVINO = 0 | CPU : AVX2 = 1 | OPENMP = 1 |"
    assert wl.accelerators(cpu) == ()
    assert wl.accelerators(cpu + " Metal : EMBED_LIBRARY = 1 |") == ("Metal",)
    assert wl.accelerators("CUDA : ARCHS = 890 | USE_GRAPHS = 1 | " + cpu) == ("CUDA",)
    assert "CPU" in wl.system_info()


def test_the_log_goes_to_logging(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="aiphone.whisper.cpp"):
        wl._log_line(2, b"whisper_init: hello\n", None)
        wl._log_line(4, b"bad \xff thing\n", None)
        wl._log_line(5, b"\n", None)
        wl._log_line(2, None, None)
    assert [record.levelname for record in caplog.records] == ["DEBUG", "WARNING"]
    assert caplog.records[0].message == "whisper_init: hello"


# ------------------------------------------------------------------ files that are no model


@pytest.mark.parametrize("name", ["none.bin", "m.bin"])
def test_what_whisper_cpp_refuses_is_named(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "m.bin").write_bytes(b"GGUF\3\0\0\0")
    with caplog.at_level(logging.DEBUG), pytest.raises(ModelError, match=rf"{name} was refused by whisper.cpp"):
        WhisperModel(tmp_path / name, use_gpu=False)
    assert any("failed to" in record.message or "invalid model" in record.message for record in caplog.records)
