"""A look at a ggml Whisper file before whisper.cpp reads it.

whisper.cpp says "failed to load" for everything, and loads a file whose last tensor is cut short without a
word. Walking over the tensor headers takes milliseconds and gives a sentence that helps.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO

from aiphone.errors import ModelError

_MAGIC = 0x67676D6C
_N_HEADER = 11

# Bytes of a block and elements in it, for the tensor types that whisper.cpp's quantizer writes.
_BLOCKS = {
    0: (4, 1),  # F32
    1: (2, 1),  # F16
    2: (18, 32),  # Q4_0
    3: (20, 32),  # Q4_1
    6: (22, 32),  # Q5_0
    7: (24, 32),  # Q5_1
    8: (34, 32),  # Q8_0
    10: (84, 256),  # Q2_K
    11: (110, 256),  # Q3_K
    12: (144, 256),  # Q4_K
    13: (176, 256),  # Q5_K
    14: (210, 256),  # Q6_K
}

_KINDS = {
    b"GGUF": "a GGUF language model (that is for -ml)",
    b"PK\x03\x04": "a PyTorch or zip file (convert it to ggml first)",
    b"\x08\x00\x00\x00": "an ONNX file",
}


def check_whisper_file(path: Path) -> None:
    """Raise ``ModelError`` when ``path`` is not a whole ggml Whisper file that we may read. Any thread."""
    if path.is_dir():
        raise ModelError(f"{path} is a directory; a CTranslate2 model must be converted first, give it to -mw.")
    try:
        with path.open("rb") as file:
            _walk(file, path, os.fstat(file.fileno()).st_size)
    except FileNotFoundError as error:
        raise ModelError(
            f"{path} does not exist; see 'whisper-talk-llama models list' for what can be pulled."
        ) from error
    except PermissionError as error:
        raise ModelError(f"{path} may not be read by this user; change its mode or owner.") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}).") from error


def _walk(file: BinaryIO, path: Path, size: int) -> None:
    magic = file.read(4)
    if magic != struct.pack("<I", _MAGIC):
        found = _KINDS.get(magic, "of another kind")
        raise ModelError(f"{path} is not a ggml Whisper file, it is {found}; give a ggml-*.bin file.")
    try:
        header = _ints(file, _N_HEADER)
        layers, text_layers, mels = header[4], header[8], header[9]
        if mels not in (80, 128) or not 0 < layers <= 64 or not 0 < text_layers <= 64:
            raise ModelError(f"{path} is a ggml file, but not a Whisper model; give a ggml-*.bin file of Whisper.")
        filters = _ints(file, 2)
        file.seek(4 * filters[0] * filters[1], os.SEEK_CUR)
        for _ in range(_ints(file, 1)[0]):
            file.seek(_ints(file, 1)[0], os.SEEK_CUR)
        tensors = 0
        while file.tell() < size:
            dims, length, kind = _ints(file, 3)
            if not 0 < dims <= 4 or not 0 < length < 256 or kind not in _BLOCKS:
                raise ModelError(f"{path} is damaged at byte {file.tell()}; download it again.")
            elements = 1
            for dim in _ints(file, dims):
                elements *= dim
            block, per_block = _BLOCKS[kind]
            file.seek(length + elements // per_block * block, os.SEEK_CUR)
            tensors += 1
    except struct.error as error:
        raise _truncated(path, size) from error
    # 11 tensors around the layers, 15 in each of the encoder and 24 in each of the decoder.
    if file.tell() != size or tensors < 11 + 15 * layers + 24 * text_layers:
        raise _truncated(path, size)


def _ints(file: BinaryIO, count: int) -> tuple[int, ...]:
    return struct.unpack(f"<{count}i", file.read(4 * count))


def _truncated(path: Path, size: int) -> ModelError:
    return ModelError(f"{path} is truncated (it ends after {size} bytes); download it again.")
