"""The smallest files that are true to their formats, for the checks to accept and, cut or bent, to refuse.

And what else the tests of the models share.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zipfile
from pathlib import Path

from aiphone.models.catalogue import HubFile, ModelFile
from aiphone.models.progress import Progress
from aiphone.models.wheels import WheelFetcher


def ggml_whisper(*, layers: int = 1, vocabulary: int = 51864) -> bytes:
    """A whisper.cpp model of one layer each side, with all its tensors, of two values each."""
    out = [b"lmgg", struct.pack("<11i", vocabulary, 1500, 8, 2, layers, 448, 8, 2, layers, 4, 1)]
    out += [struct.pack("<2i", 4, 3), bytes(4 * 3 * 4), struct.pack("<i", 2)]
    out += [struct.pack("<i", len(word)) + word for word in (b"a", b"hello")]
    for number in range(11 + 39 * layers):
        name = f"tensor.{number}".encode()
        kind, data = (0, bytes(8)) if number % 2 else (1, bytes(4))
        out += [struct.pack("<3i", 1, len(name), kind), struct.pack("<i", 2), name, data]
    return b"".join(out)


def string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def gguf_llm(pairs: dict[str, str | int | list[str] | list[float]] | None = None, *, tensors: int = 2) -> bytes:
    """A GGUF with an F32 and a Q4_0 tensor behind its header."""
    values: dict[str, str | int | list[str] | list[float]] = {
        "general.architecture": "llama",
        "general.name": "Tiny",
        "llama.context_length": 2048,
        "tokenizer.ggml.tokens": ["<s>", "hello", "w" * 300],
        "tokenizer.ggml.scores": [0.0, 1.0],
        "tokenizer.chat_template": "{{ messages }}",
        **(pairs or {}),
    }
    head = [b"GGUF", struct.pack("<IQQ", 3, tensors, len(values))]
    for key, value in values.items():
        head.append(string(key))
        if isinstance(value, str):
            head.append(struct.pack("<I", 8) + string(value))
        elif isinstance(value, int):
            head.append(struct.pack("<II", 4, value))
        elif value and isinstance(value[0], str):
            head.append(struct.pack("<IIQ", 9, 8, len(value)) + b"".join(string(str(text)) for text in value))
        else:
            head.append(struct.pack("<IIQ", 9, 6, len(value)) + struct.pack(f"<{len(value)}f", *value))
    for number in range(tensors):
        kind, offset = ((0, 0), (2, 64))[number % 2]
        head.append(string(f"blk.{number}.weight") + struct.pack("<IQ", 1, 32 if kind else 16))
        head.append(struct.pack("<IQ", kind, offset))
    header = b"".join(head)
    data = bytes(64) + bytes(18) if tensors else b""
    return header + bytes(-len(header) % 32) + data


def onnx(graph: bytes = bytes(500)) -> bytes:
    """A protocol buffer with the fields an ONNX file has: version, producer, graph, opset."""
    length = bytes([len(graph) & 0x7F | 0x80, len(graph) >> 7])
    return b"\x08\x07" + b"\x12\x05torch" + b"\x3a" + length + graph + b"\x42\x02\x10\x0f"


VOICE = {
    "audio": {"sample_rate": 22050},
    "espeak": {"voice": "en-us"},
    "phoneme_id_map": {"_": [0]},
    "language": {"code": "en_US"},
    "num_speakers": 1,
}


def write_voice(path: Path) -> Path:
    path.write_bytes(onnx())
    path.with_name(path.name + ".json").write_text(json.dumps(VOICE))
    return path


class RecordedProgress:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.titles: list[str] = []
        self.started: list[tuple[str, int, int]] = []
        self.updates: list[int] = []
        self.notes: list[str] = []
        self.lines: list[str] = []

    def start(self, title: str, total: int, done: int = 0) -> None:
        self.titles.append(title)
        self.started.append((title, total, done))

    def update(self, done: int) -> None:
        self.updates.append(done)

    def finish(self, note: str = "") -> None:
        self.notes.append(note)

    def say(self, text: str) -> None:
        self.lines.append(text)


def content_of(size: int, seed: int = 1) -> bytes:
    """Bytes that look like nothing and are always the same."""
    block = hashlib.sha256(str(seed).encode()).digest()
    return (block * (size // len(block) + 1))[:size]


def hub_file(name: str, content: bytes, *, sha256: str | None = None, md5: str = "") -> ModelFile:
    """A catalogue's file that is in the repository "acme/models" at "v1"."""
    known = hashlib.sha256(content).hexdigest() if sha256 is None else sha256
    return ModelFile(name, len(content), known, (), HubFile("acme/models", "v1", name), md5)


def make_wheel(directory: Path, project: str, members: dict[str, bytes], version: str = "1.0") -> Path:
    """A wheel that pip accepts for a download."""
    name = project.replace("-", "_")
    path = directory / f"{name}-{version}-py3-none-any.whl"
    directory.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


class CopyingWheels(WheelFetcher):
    """Brings wheels from a directory without starting pip, which takes most of a second."""

    def __init__(self, index: Path) -> None:
        super().__init__()
        self._index = index

    def fetch(
        self, project: str, version: str, directory: Path, size: int, progress: Progress, title: str = ""
    ) -> Path:
        target = directory / f"{project.replace('-', '_')}-{version}-py3-none-any.whl"
        if not target.exists():
            directory.mkdir(parents=True, exist_ok=True)
            progress.start(title, size)
            target.write_bytes((self._index / target.name).read_bytes())
            progress.finish()
        return target
