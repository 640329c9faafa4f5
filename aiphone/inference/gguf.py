"""A first look at a GGUF file, before llama.cpp maps it.

llama.cpp says "failed to load model" for a picture, an empty file and a speech model alike. The header tells them
apart in a millisecond. Source: the GGUF specification in ggml's ``docs/gguf.md`` (little-endian, versions 2 and 3).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from aiphone.errors import ModelError

_STRING = 8
_SPEECH_OR_IMAGE = ("whisper", "clip", "wav2vec", "mmproj")


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What the first bytes say."""

    version: int
    tensor_count: int
    architecture: str
    """``general.architecture``; empty when it is not among the first entries."""


def read_header(path: Path) -> GgufHeader:
    """Check that ``path`` is a GGUF language model and return its header. Any thread, a few kilobytes of reading.

    Raises ``ModelError`` with one sentence that names the file and the cure.
    """
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except FileNotFoundError:
        raise ModelError(
            f"The language model {path} does not exist: give a GGUF file with -ml, "
            "or fetch one with 'whisper-talk-llama models pull'."
        ) from None
    except IsADirectoryError:
        raise ModelError(f"The language model {path} is a directory: give the GGUF file in it with -ml.") from None
    except PermissionError:
        raise ModelError(f"The language model {path} may not be read: give this user read permission.") from None
    except OSError as error:
        raise ModelError(f"The language model {path} cannot be read: {error.strerror}.") from None
    if len(head) < 24 and head[:4] == b"GGUF":
        raise ModelError(f"The language model {path} is cut off after {len(head)} bytes: download it again.")
    if head[:4] in (b"lmgg", b"tjgg"):
        raise ModelError(
            f"The language model {path} is an old ggml file or a Whisper model, not GGUF: "
            "give a GGUF file with -ml (a Whisper model goes with -mw)."
        )
    if head[:4] != b"GGUF":
        raise ModelError(f"The language model {path} is not a GGUF file: give a model in llama.cpp's format with -ml.")
    version, tensors, entries = struct.unpack_from("<IQQ", head, 4)
    if version not in (2, 3):
        raise ModelError(
            f"The language model {path} has GGUF version {version}, and versions 2 and 3 can be read: "
            "convert it again with a current llama.cpp."
        )
    if tensors == 0:
        raise ModelError(f"The language model {path} holds no weights (a vocabulary only?): give the whole model.")
    architecture = _architecture(head, entries)
    if architecture.startswith(_SPEECH_OR_IMAGE):
        raise ModelError(
            f"The model {path} is of the kind '{architecture}', not a language model: give a text model with -ml."
        )
    return GgufHeader(version, tensors, architecture)


def _architecture(head: bytes, entries: int) -> str:
    """``general.architecture``, looked for among the leading string entries (writers put it first)."""
    at = 24
    try:
        for _ in range(min(entries, 8)):
            key, at = _string(head, at)
            (kind,) = struct.unpack_from("<I", head, at)
            at += 4
            if kind != _STRING:
                return ""
            value, at = _string(head, at)
            if key == "general.architecture":
                return value
    except (struct.error, UnicodeDecodeError):
        pass
    return ""


def _string(data: bytes, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<Q", data, at)
    end = at + 8 + length
    if end > len(data):
        raise struct.error("string reaches beyond what was read")
    return data[at + 8 : end].decode("utf-8"), end
