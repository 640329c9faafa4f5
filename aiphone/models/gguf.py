"""Is this a whole GGUF language model that llama.cpp will load? Found from its header and its tensor table.

GGUF (ggml ``docs/gguf.md``): magic, version, counts, key-value pairs, then the table of tensors with their types,
shapes and offsets, padding to the alignment, and the data. The table tells how long the file must be.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from aiphone.errors import ModelError
from aiphone.models.ggml import BLOCKS
from aiphone.models.kinds import GGUF_MAGIC, open_model, truncated, wrong_kind

WHAT = "language model"

# Value types of the key-value pairs: numbers by their struct code; 8 is a string, 9 an array.
_NUMBERS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_STRING, _ARRAY = 8, 9
_READ = 1 << 22
_NO_CHAT = {
    "clip": "an image encoder (mmproj)",
    "whisper": "a Whisper model in GGUF, which whisper.cpp does not read",
}
_SPLIT = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")


@dataclass(frozen=True, slots=True)
class GgufFile:
    """What the header of a language model says. ``context_length`` is in tokens, 0 when it is not given."""

    architecture: str
    name: str
    context_length: int
    chat_template: bool
    tensors: int


def check_gguf_file(path: Path) -> GgufFile:
    """Make sure that ``path`` is a whole GGUF language model; what its header says. Any thread, under a second.

    ``ModelError``, one sentence, for a file that is missing, a directory, unreadable, empty, cut short, of another
    kind, one of several parts whose siblings are not there, or a GGUF that is no language model.
    """
    file, head, size = open_model(path, WHAT)
    with file:
        if not head.startswith(GGUF_MAGIC):
            raise wrong_kind(path, WHAT, head)
        try:
            return _examine(_Reader(file), path, size)
        except (_EndError, UnicodeDecodeError):
            raise truncated(path, WHAT, size) from None


def _examine(reader: _Reader, path: Path, size: int) -> GgufFile:
    reader.skip(4)
    version = reader.number("<I")
    if version not in (2, 3):
        raise ModelError(
            f"{path} is GGUF {f'version {version}' if version < 1 << 16 else 'for big-endian machines'}, where "
            "versions 2 and 3, little-endian, are read; get a newer file of this model."
        )
    tensors, pairs = reader.number("<Q"), reader.number("<Q")
    if tensors > 1 << 20 or pairs > 1 << 20:
        raise ModelError(f"the {WHAT} {path} has a header that makes no sense; download it again.")
    values: dict[str, Any] = {}
    for _ in range(pairs):
        key = reader.string()
        values[key] = reader.value(reader.number("<I"), path)
    end = 0
    for _ in range(tensors):
        end = max(end, _tensor_end(reader, path))
    alignment = int(values.get("general.alignment", 32)) or 32
    expected = -(-reader.position // alignment) * alignment + end
    if size < expected:
        raise truncated(path, WHAT, size, expected)
    return _judge(path, values, tensors)


def _tensor_end(reader: _Reader, path: Path) -> int:
    """Where the next tensor of the table ends, in bytes from the start of the data."""
    reader.string()
    dimensions = reader.number("<I")
    if dimensions > 8:
        raise ModelError(f"the {WHAT} {path} has a tensor table that makes no sense; download it again.")
    shape = [reader.number("<Q") for _ in range(dimensions)]
    kind, offset = reader.number("<I"), reader.number("<Q")
    # A type newer than this table: its length is not known, its start still is.
    values, block = BLOCKS.get(kind, (1, 0))
    end: int = offset + math.prod(shape) // values * block
    return end


def _judge(path: Path, values: dict[str, Any], tensors: int) -> GgufFile:
    architecture = str(values.get("general.architecture", ""))
    what = _NO_CHAT.get(architecture)
    if values.get("general.type") == "adapter":
        what = "a LoRA adapter"
    elif "bert" in architecture or architecture.startswith("t5enc"):
        what = f"an embedding model ({architecture})"
    elif tensors == 0 and "split.count" not in values:
        what = "a vocabulary without weights"
    if what:
        raise ModelError(f"{path} is {what}, not a {WHAT} to talk to; give an instruct or chat model in GGUF.")
    parts = int(values.get("split.count", 0))
    if parts > 1:
        _check_siblings(path, int(values.get("split.no", 0)), parts)
    return GgufFile(
        architecture=architecture,
        name=str(values.get("general.name", "")),
        context_length=int(values.get(f"{architecture}.context_length", 0)),
        chat_template="tokenizer.chat_template" in values,
        tensors=tensors,
    )


def _check_siblings(path: Path, number: int, parts: int) -> None:
    """llama.cpp opens the first part and finds the others by their names."""
    match = _SPLIT.search(path.name)
    if match is None:
        raise ModelError(
            f"{path} is part {number + 1} of {parts} but is not named NAME-{number + 1:05d}-of-{parts:05d}.gguf, "
            "so the others cannot be found; give it its name back."
        )
    stem = path.name[: match.start()]
    if number != 0:
        raise ModelError(f"{path} is part {number + 1} of {parts}; give the first, {stem}-00001-of-{parts:05d}.gguf.")
    names = [f"{stem}-{index:05d}-of-{parts:05d}.gguf" for index in range(1, parts + 1)]
    missing = [name for name in names if not path.with_name(name).is_file()]
    if missing:
        raise ModelError(f"{path} needs {', '.join(missing)} beside it; download all {parts} parts.")


class _EndError(Exception):
    """The header goes beyond the end of the file."""


class _Reader:
    """Reads values one after another from a growing window of the file.

    A vocabulary is hundreds of thousands of strings; walking them in memory is ten times faster than in reads.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._data = b""
        self._at = 0
        self._base = 0

    @property
    def position(self) -> int:
        """Bytes from the start of the file."""
        return self._base + self._at

    def _need(self, count: int) -> None:
        if self._at + count <= len(self._data):
            return
        self._base += self._at
        self._data = self._data[self._at :] + self._file.read(max(_READ, count))
        self._at = 0
        if count > len(self._data):
            raise _EndError

    def skip(self, count: int) -> None:
        while count > 0:
            step = min(count, _READ)
            self._need(step)
            self._at += step
            count -= step

    def number(self, layout: str) -> Any:
        count = struct.calcsize(layout)
        self._need(count)
        (value,) = struct.unpack_from(layout, self._data, self._at)
        self._at += count
        return value

    def string(self) -> str:
        length = self.number("<Q")
        if length > 1 << 26:
            raise _EndError
        self._need(length)
        text = self._data[self._at : self._at + length].decode(errors="replace")
        self._at += length
        return text

    def value(self, kind: int, path: Path) -> Any:
        """A value; long arrays are passed over and come back as None."""
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            of, count = self.number("<I"), self.number("<Q")
            if of in _NUMBERS:
                self.skip(count * struct.calcsize(_NUMBERS[of]))
                return None
            if of == _STRING:
                self._skip_strings(count)
                return None
        raise ModelError(f"the {WHAT} {path} has a header that makes no sense; download it again.")

    def _skip_strings(self, count: int) -> None:
        unpack = struct.Struct("<Q").unpack_from
        for _ in range(count):
            self._need(8)
            (length,) = unpack(self._data, self._at)
            self._at += 8
            self.skip(length)
