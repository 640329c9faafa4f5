"""A CTranslate2 (faster-whisper) Whisper directory, turned into the one file that whisper.cpp reads.

Both hold the same weights under other names, so the work is bookkeeping:

* CTranslate2 fuses the query, key and value projections into one matrix; whisper.cpp wants three, and no key
  bias at all (Whisper's keys have none; the fused bias is zero there).
* whisper.cpp keeps matrices and convolution kernels at 16 bits and everything else, the two position tables
  included, at 32; the biases of the two convolutions have the shape ``[n, 1]``.
* The mel filter bank is not in a CTranslate2 directory. It is the Slaney bank, a formula, computed here.
* The vocabulary holds the 50257 ordinary tokens as bytes; the special ones whisper.cpp makes up itself.

Weights stored as int8, int16 or bfloat16 are read back to numbers first. ``model.bin`` is mapped, never read
whole, so the memory this takes is one tensor's.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from aiphone.errors import ModelError, StorageError

Array = npt.NDArray[Any]

GGML_MAGIC = 0x67676D6C
FTYPE_F16 = 1
TYPE_F32, TYPE_F16 = 0, 1
TEXT_TOKENS = 50257
"""Ordinary tokens of Whisper's vocabulary, English or multilingual: GPT-2's size."""
SAMPLE_RATE, N_FFT = 16_000, 400

# The order is that of CTranslate2's DataType enumeration.
_DTYPES = ("<f4", "<i1", "<i2", "<i4", "<f2", "bfloat16")
_ITEM_SIZES = (4, 1, 2, 4, 2, 2)
_BINARY_VERSIONS = (5, 6)


def is_ct2_directory(path: Path) -> bool:
    """Whether ``path`` is a directory that has CTranslate2's ``model.bin``. Any thread."""
    return path.is_dir() and (path / "model.bin").is_file()


def convert_ct2_whisper(directory: Path, target: Path, progress: Callable[[int, int], None] | None = None) -> None:
    """Write ``target``, a whisper.cpp ggml file (f16), from a CTranslate2 Whisper directory. Any thread.

    The same input gives the same bytes. ``target`` appears by rename, so it is either whole or absent.
    ``progress`` is called with the bytes written so far and in all.

    Raises ``ModelError`` for a directory that is none, is truncated or is stored in a way that cannot be
    read, and ``StorageError`` when the file cannot be written.
    """
    vocabulary = _read_vocabulary(directory)
    with _Weights(directory) as weights:
        plan = list(_plan(weights))
        header = _header(weights, vocabulary)
        total = len(header) + sum(tensor.size for tensor in plan)
        partial = target.with_name(target.name + ".partial")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as out:
                out.write(header)
                done = len(header)
                for tensor in plan:
                    tensor.write(out)
                    done += tensor.size
                    if progress is not None:
                        progress(done, total)
            partial.replace(target)
        except OSError as error:
            raise StorageError(
                f"{target} could not be written ({error.strerror}); it needs {total / 1e6:.0f} MB of free disk "
                "and a directory that may be written to."
            ) from error
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)


# --------------------------------------------------------------------------- reading model.bin


@dataclass(frozen=True, slots=True)
class _Variable:
    shape: tuple[int, ...]
    dtype: str
    offset: int
    size: int


class _Weights:
    """The variables of ``model.bin`` by name, mapped from the file. A context manager."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "model.bin"
        if not directory.is_dir():
            raise ModelError(f"{directory} is not a directory; give the one that holds model.bin.")
        try:
            with self._path.open("rb") as file:
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError as error:
            raise ModelError(
                f"{directory} has no model.bin, so it is not a CTranslate2 model; give a faster-whisper directory."
            ) from error
        except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
            raise ModelError(f"{self._path} cannot be read ({error}); check the file and its mode.") from error
        self._at = 0
        self._variables: dict[str, _Variable] = {}
        self._aliases: dict[str, str] = {}
        try:
            self._index()
        except (ModelError, struct.error, UnicodeDecodeError, IndexError) as error:
            self._data.close()
            if isinstance(error, ModelError):
                raise
            raise ModelError(f"{self._path} is truncated or damaged; download it again.") from error

    def __enter__(self) -> _Weights:
        return self

    def __exit__(self, *_: object) -> None:
        self._data.close()

    def _take(self, layout: str) -> int:
        (value,) = struct.unpack_from(layout, self._data, self._at)
        self._at += struct.calcsize(layout)
        return int(value)

    def _string(self) -> str:
        length = self._take("<H")
        raw = self._data[self._at : self._at + length]
        if len(raw) < length:
            raise IndexError("a name goes beyond the end of the file")
        self._at += length
        return raw.rstrip(b"\0").decode()

    def _index(self) -> None:
        """Note where every variable lies. Layout: binary version 5 and 6 of CTranslate2's model format."""
        version = self._take("<I")
        if version not in _BINARY_VERSIONS:
            raise ModelError(
                f"{self._path} is not a CTranslate2 model of binary version {_BINARY_VERSIONS[0]} or "
                f"{_BINARY_VERSIONS[-1]} (it says {version}); give a faster-whisper directory."
            )
        name = self._string()
        if name != "WhisperSpec":
            raise ModelError(f"{self._path} holds a {name[:40]}, not a Whisper model; give a faster-whisper directory.")
        self._take("<I")  # revision
        for _ in range(self._take("<I")):
            key = self._string()
            shape = tuple(self._take("<I") for _ in range(self._take("<B")))
            kind = self._take("<B")
            if kind >= len(_DTYPES):
                raise ModelError(
                    f"{self._path} stores {key} as data type {kind}, which is unknown here; convert the model "
                    "with --quantization float16."
                )
            size = self._take("<I")
            if size != int(np.prod(shape, dtype=np.int64)) * _ITEM_SIZES[kind]:
                raise ModelError(f"{self._path} gives {key} a wrong size; download it again.")
            if self._at + size > len(self._data):
                raise IndexError("the weights go beyond the end of the file")
            self._variables[key] = _Variable(shape, _DTYPES[kind], self._at, size)
            self._at += size
        for _ in range(self._take("<I")):
            alias = self._string()
            self._aliases[alias] = self._string()

    def __contains__(self, name: str) -> bool:
        return self._resolve(name) in self._variables

    def _resolve(self, name: str) -> str:
        for suffix in ("", "_scale"):
            stem = name.removesuffix(suffix)
            if stem in self._aliases and name.endswith(suffix):
                return self._aliases[stem] + suffix
        return name

    def _variable(self, name: str) -> _Variable:
        try:
            return self._variables[self._resolve(name)]
        except KeyError:
            raise ModelError(
                f"{self._path} has no {name}; its quantisation or its version is not supported, convert the "
                "model with --quantization float16."
            ) from None

    def shape(self, name: str) -> tuple[int, ...]:
        return self._variable(name).shape

    def read(self, name: str) -> Array:
        """The numbers of a variable, float16 as stored or else float32."""
        variable = self._variable(name)
        raw = self._data[variable.offset : variable.offset + variable.size]
        if variable.dtype == "bfloat16":
            wide = np.frombuffer(raw, "<u2").astype("<u4") << np.uint32(16)
            return wide.view("<f4").reshape(variable.shape)
        values: Array = np.frombuffer(raw, variable.dtype).reshape(variable.shape)
        if variable.dtype in ("<i1", "<i2") and f"{name}_scale" in self:
            # int8 has a scale for each row, int16 a single one; both were multiplied by it when stored.
            scale = self.read(f"{name}_scale").astype("<f4").reshape(-1)
            rows = values.reshape(values.shape[0], -1).astype("<f4")
            values = (rows / scale[:, None]).reshape(values.shape)
        return values


# --------------------------------------------------------------------------- the tensors, in whisper.cpp's words


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A tensor of the ggml file: its name and shape, known before its numbers are read."""

    name: str
    shape: tuple[int, ...]
    type: int
    read: Callable[[], Array]

    @property
    def _prefix(self) -> bytes:
        label = self.name.encode()
        dims = struct.pack(f"<{len(self.shape)}i", *reversed(self.shape))
        return struct.pack("<3i", len(self.shape), len(label), self.type) + dims + label

    @property
    def size(self) -> int:
        item = 2 if self.type == TYPE_F16 else 4
        return len(self._prefix) + item * int(np.prod(self.shape, dtype=np.int64))

    def write(self, out: BinaryIO) -> None:
        out.write(self._prefix)
        dtype = "<f2" if self.type == TYPE_F16 else "<f4"
        out.write(np.ascontiguousarray(self.read().reshape(self.shape), dtype=dtype).tobytes())


def _plan(weights: _Weights) -> Iterator[_Tensor]:
    """Every tensor whisper.cpp expects, in the order of the graph."""

    def tensor(
        name: str, source: str, kind: int, rows: slice | None = None, shape: tuple[int, ...] | None = None
    ) -> _Tensor:
        full = weights.shape(source)
        if rows is not None:
            full = (rows.stop - rows.start, *full[1:])
        return _Tensor(name, shape or full, kind, lambda: weights.read(source)[rows] if rows else weights.read(source))

    def norm(name: str, source: str) -> Iterator[_Tensor]:
        yield tensor(f"{name}.weight", f"{source}/gamma", TYPE_F32)
        yield tensor(f"{name}.bias", f"{source}/beta", TYPE_F32)

    def linear(name: str, source: str, rows: slice | None = None, bias: bool = True) -> Iterator[_Tensor]:
        yield tensor(f"{name}.weight", f"{source}/weight", TYPE_F16, rows)
        if bias:
            yield tensor(f"{name}.bias", f"{source}/bias", TYPE_F32, rows)

    def third(index: int, state: int) -> slice:
        return slice(index * state, (index + 1) * state)

    def self_attention(name: str, source: str, state: int) -> Iterator[_Tensor]:
        yield from norm(f"{name}.attn_ln", f"{source}/layer_norm")
        yield from linear(f"{name}.attn.query", f"{source}/linear_0", third(0, state))
        yield from linear(f"{name}.attn.key", f"{source}/linear_0", third(1, state), bias=False)
        yield from linear(f"{name}.attn.value", f"{source}/linear_0", third(2, state))
        yield from linear(f"{name}.attn.out", f"{source}/linear_1")

    def cross_attention(name: str, source: str, state: int) -> Iterator[_Tensor]:
        yield from norm(f"{name}.cross_attn_ln", f"{source}/layer_norm")
        yield from linear(f"{name}.cross_attn.query", f"{source}/linear_0")
        yield from linear(f"{name}.cross_attn.key", f"{source}/linear_1", third(0, state), bias=False)
        yield from linear(f"{name}.cross_attn.value", f"{source}/linear_1", third(1, state))
        yield from linear(f"{name}.cross_attn.out", f"{source}/linear_2")

    def mlp(name: str, source: str) -> Iterator[_Tensor]:
        yield from norm(f"{name}.mlp_ln", f"{source}/layer_norm")
        yield from linear(f"{name}.mlp.0", f"{source}/linear_0")
        yield from linear(f"{name}.mlp.2", f"{source}/linear_1")

    state = weights.shape("encoder/position_encodings/encodings")[1]
    yield tensor("encoder.positional_embedding", "encoder/position_encodings/encodings", TYPE_F32)
    for conv in ("conv1", "conv2"):
        yield tensor(f"encoder.{conv}.weight", f"encoder/{conv}/weight", TYPE_F16)
        yield tensor(f"encoder.{conv}.bias", f"encoder/{conv}/bias", TYPE_F32, shape=(state, 1))
    for layer in range(_layers(weights, "encoder")):
        name, source = f"encoder.blocks.{layer}", f"encoder/layer_{layer}"
        yield from self_attention(name, f"{source}/self_attention", state)
        yield from mlp(name, f"{source}/ffn")
    yield from norm("encoder.ln_post", "encoder/layer_norm")

    yield tensor("decoder.positional_embedding", "decoder/position_encodings/encodings", TYPE_F32)
    yield tensor("decoder.token_embedding.weight", "decoder/embeddings/weight", TYPE_F16)
    for layer in range(_layers(weights, "decoder")):
        name, source = f"decoder.blocks.{layer}", f"decoder/layer_{layer}"
        yield from self_attention(name, f"{source}/self_attention", state)
        yield from cross_attention(name, f"{source}/attention", state)
        yield from mlp(name, f"{source}/ffn")
    yield from norm("decoder.ln", "decoder/layer_norm")


def _layers(weights: _Weights, half: str) -> int:
    count = 0
    while f"{half}/layer_{count}/self_attention/linear_0/weight" in weights:
        count += 1
    return count


def _header(weights: _Weights, vocabulary: list[bytes]) -> bytes:
    audio_ctx, audio_state = weights.shape("encoder/position_encodings/encodings")
    text_ctx, text_state = weights.shape("decoder/position_encodings/encodings")
    n_mels = weights.shape("encoder/conv1/weight")[1]
    filters = mel_filters(n_mels)
    parts = [
        struct.pack(
            "<12i",
            GGML_MAGIC,
            weights.shape("decoder/embeddings/weight")[0],
            audio_ctx,
            audio_state,
            int(weights.read("encoder/num_heads")),
            _layers(weights, "encoder"),
            text_ctx,
            text_state,
            int(weights.read("decoder/num_heads")),
            _layers(weights, "decoder"),
            n_mels,
            FTYPE_F16,
        ),
        struct.pack("<2i", *filters.shape),
        filters.tobytes(),
        struct.pack("<i", len(vocabulary)),
    ]
    for token in vocabulary:
        parts += [struct.pack("<i", len(token)), token]
    return b"".join(parts)


def mel_filters(n_mels: int) -> npt.NDArray[np.float32]:
    """The Slaney mel filter bank, ``[n_mels, 201]``, for 16 kHz and a window of 400 samples.

    Below 1 kHz the scale is linear with 200/3 Hz to a mel, above it is logarithmic with a factor of 6.4 in 27
    mels; each triangle has the area 1 (Slaney, Auditory Toolbox, 1998).
    """
    step, corner, log_step = 200.0 / 3, 1000.0, np.log(6.4) / 27.0
    top = corner / step + np.log(SAMPLE_RATE / 2 / corner) / log_step
    mels = np.linspace(0.0, top, n_mels + 2)
    edges = np.where(
        mels < corner / step,
        mels * step,
        corner * np.exp(log_step * (np.maximum(mels, 15.0) - corner / step)),
    )
    bins = np.linspace(0.0, SAMPLE_RATE / 2, N_FFT // 2 + 1)
    slopes = edges[:, None] - bins[None, :]
    widths = np.diff(edges)[:, None]
    rising = -slopes[:-2] / widths[:-1]
    falling = slopes[2:] / widths[1:]
    bank = np.maximum(0.0, np.minimum(rising, falling)) * (2.0 / (edges[2:] - edges[:-2]))[:, None]
    return bank.astype("<f4")


# --------------------------------------------------------------------------- vocabulary


def _read_vocabulary(directory: Path) -> list[bytes]:
    """The ordinary tokens as bytes, in the order of their ids, from whichever file the directory has."""
    for name, parse in (
        ("tokenizer.json", _parse_tokenizer),
        ("vocabulary.json", _parse_list),
        ("vocabulary.txt", _parse_lines),
    ):
        path = directory / name
        if not path.is_file():
            continue
        try:
            tokens = parse(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{path} is not a Whisper vocabulary ({error}); download it again.") from error
        if len(tokens) < TEXT_TOKENS:
            raise ModelError(f"{path} has {len(tokens)} tokens where Whisper has {TEXT_TOKENS}; download it again.")
        return [_token_bytes(token) for token in tokens[:TEXT_TOKENS]]
    if not directory.is_dir() or not (directory / "model.bin").is_file():
        raise ModelError(f"{directory} is not a CTranslate2 model directory: it has no model.bin.")
    raise ModelError(
        f"{directory} has neither tokenizer.json nor vocabulary.json nor vocabulary.txt; add the one that belongs "
        "to the model."
    )


def _parse_tokenizer(text: str) -> list[str]:
    vocabulary: dict[str, int] = json.loads(text)["model"]["vocab"]
    by_id = {number: token for token, number in vocabulary.items()}
    return [by_id[number] for number in range(min(len(by_id), TEXT_TOKENS))]


def _parse_list(text: str) -> list[str]:
    return [str(token) for token in json.loads(text)]


def _parse_lines(text: str) -> list[str]:
    # Not splitlines(): tokens contain characters it would split at.
    return text.split("\n")


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins for bytes: printable Latin-1 as itself, the rest from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(256 + index): byte for index, byte in enumerate(others)})
    return alphabet


_ALPHABET = _byte_alphabet()


def _token_bytes(token: str) -> bytes:
    try:
        return bytes(_ALPHABET[character] for character in token)
    except KeyError:
        return token.encode()
