"""Is this a whole Whisper model that whisper.cpp will load? Found by walking its headers, not its weights.

The file (whisper.cpp ``models/convert-pt-to-ggml.py``): magic, eleven hyper-parameters, the mel filter bank, the
vocabulary, then one tensor after another: dimensions, name length, type, shape, name, data. All little-endian 32-bit.
There is no table of contents, so the walk skips from header to header; that is some two hundred small reads.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from aiphone.errors import ModelError
from aiphone.models.kinds import kind_of, open_model, truncated, wrong_kind

WHAT = "Whisper model"

# ggml type -> (values in a block, bytes of a block), from ggml's type table.
BLOCKS: dict[int, tuple[int, int]] = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 36),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292),
    16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82),
    23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2),
    34: (256, 54), 35: (256, 66), 39: (32, 17), 40: (64, 36), 41: (128, 18), 42: (64, 18),
}  # fmt: skip

_MULTILINGUAL_VOCABULARY = 51865
_HYPER = struct.Struct("<11i")
_PAIR = struct.Struct("<2i")
_TENSOR = struct.Struct("<3i")
_INT = struct.Struct("<i")


@dataclass(frozen=True, slots=True)
class WhisperFile:
    """What the header of a whisper.cpp model says. ``n_mels`` is 80, or 128 from large-v3 on."""

    n_vocab: int
    n_audio_ctx: int
    n_audio_state: int
    n_audio_layer: int
    n_text_layer: int
    n_mels: int
    ftype: int

    @property
    def multilingual(self) -> bool:
        """Whether it knows other languages than English (and the language tokens)."""
        return self.n_vocab >= _MULTILINGUAL_VOCABULARY


def check_whisper_file(path: Path) -> WhisperFile:
    """Make sure that ``path`` is a whole whisper.cpp ggml model; what its header says. Any thread, milliseconds.

    ``ModelError``, one sentence, for a file that is missing, a directory, unreadable, empty, cut short or of
    another kind.
    """
    file, head, size = open_model(path, WHAT)
    with file:
        kind = kind_of(head)
        if kind is None or kind.key != "whisper":
            raise wrong_kind(path, WHAT, head)
        try:
            return _walk(file, path, size)
        except struct.error:
            raise truncated(path, WHAT, size) from None


def _walk(file: BinaryIO, path: Path, size: int) -> WhisperFile:
    file.seek(4)
    hyper = _HYPER.unpack(file.read(_HYPER.size))
    n_vocab, n_audio_ctx, n_audio_state, _, n_audio_layer, _, _, _, n_text_layer, n_mels, ftype = hyper
    header = WhisperFile(n_vocab, n_audio_ctx, n_audio_state, n_audio_layer, n_text_layer, n_mels, ftype)
    filters, bins = _PAIR.unpack(file.read(_PAIR.size))
    if not (
        0 < n_vocab < 1 << 20 and 0 < n_audio_layer < 256 and 0 < n_text_layer < 256 and 0 < filters == n_mels < 1024
    ):
        raise ModelError(
            f"the {WHAT} {path} has a header that makes no sense; it is damaged or of a format whisper.cpp does not "
            "read: download it again."
        )
    _skip(file, path, size, filters * bins * 4)
    (words,) = _INT.unpack(file.read(4))
    for _ in range(words):
        (length,) = _INT.unpack(file.read(4))
        _skip(file, path, size, length)
    tensors = 0
    while file.tell() < size:
        _skip_tensor(file, path, size)
        tensors += 1
    # Five parts around the encoder, two around the decoder, 15 and 24 tensors a layer: a file that was cut
    # between two tensors is found by their number.
    expected = 11 + 15 * n_audio_layer + 24 * n_text_layer
    if tensors < expected:
        raise ModelError(f"the {WHAT} {path} is cut short ({tensors} of its {expected} tensors); download it again.")
    return header


def _skip(file: BinaryIO, path: Path, size: int, count: int) -> None:
    """Pass over ``count`` bytes, which must be there."""
    if count < 0:
        raise ModelError(f"the {WHAT} {path} is damaged at byte {file.tell()}; download it again.")
    if file.tell() + count > size:
        raise truncated(path, WHAT, size)
    file.seek(count, 1)


def _skip_tensor(file: BinaryIO, path: Path, size: int) -> None:
    dimensions, name_length, kind = _TENSOR.unpack(file.read(_TENSOR.size))
    if not (0 < dimensions <= 4 and 0 < name_length < 256 and kind in BLOCKS):
        raise ModelError(f"the {WHAT} {path} is damaged at byte {file.tell()}; download it again.")
    shape = struct.unpack(f"<{dimensions}i", file.read(4 * dimensions))
    values, block = BLOCKS[kind]
    _skip(file, path, size, name_length + math.prod(shape) // values * block)
