"""What a file is, by its first bytes: enough to say "that is a GGUF language model" instead of "bad magic".

``open_model`` is where every check of a model file begins: it answers for what is wrong before the first byte
(missing, a directory, not ours to read, empty) and returns the head for the rest.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from aiphone.errors import ModelError

HEAD_BYTES = 512

GGML_MAGIC = b"lmgg"
"""0x67676d6c, the way whisper.cpp writes it (little-endian)."""
GGUF_MAGIC = b"GGUF"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of file: its key here, what people call it, and what to do with one that is in the wrong place."""

    key: str
    name: str
    cure: str = ""


_DOWNLOAD = "download the file itself again"
_GGUF = Kind("gguf", "a GGUF language model", "give it with -ml")
_WHISPER = Kind("whisper", "a whisper.cpp ggml model", "give it with -mw")
_ONNX = Kind("onnx", "an ONNX model", "a Piper voice is given with --voice")
_VAD = Kind("ggml-vad", "a voice-activity model for whisper.cpp", "give a Whisper model")
_CT2 = Kind("ct2", "the model.bin of a CTranslate2 model", "give the directory it is in, with -mw")
_HTML = Kind("html", "a web page (a failed download?)", _DOWNLOAD)
_LFS = Kind("lfs", "a Git LFS pointer, not the file it stands for", "run `git lfs pull` or download the file itself")
_JSON = Kind("json", "a JSON text", "give the model file itself")
_SAFETENSORS = Kind("safetensors", "a safetensors checkpoint", "convert it first (to GGUF for -ml, to ggml for -mw)")
_TORCH = Kind("torch", "a PyTorch checkpoint", "convert it first (to GGUF for -ml, to ggml for -mw)")
_ZIP = Kind("zip", "a zip archive or a PyTorch checkpoint", "unpack or convert it first")
_ARCHIVE = Kind("archive", "a compressed archive", "unpack it first")
_OLD = Kind("old-ggml", "a llama.cpp model from before GGUF", "get a GGUF file of it")
_WAV = Kind("wav", "a sound file", "give a model file")

_PREFIXES: tuple[tuple[bytes, Kind], ...] = (
    (GGUF_MAGIC, _GGUF),
    (b"tjgg", _OLD),
    (b"fmgg", _OLD),
    (b"algg", _OLD),
    (b"version https://git-lfs", _LFS),
    (b"PK\x03\x04", _ZIP),
    (b"\x80\x02", _TORCH),
    (b"\x1f\x8b", _ARCHIVE),
    (b"BZh", _ARCHIVE),
    (b"\xfd7zXZ", _ARCHIVE),
    (b"\x28\xb5\x2f\xfd", _ARCHIVE),
    (b"7z\xbc\xaf", _ARCHIVE),
    (b"RIFF", _WAV),
)


def kind_of(head: bytes) -> Kind | None:
    """The kind of a file that begins with ``head``, or None when it looks like nothing we know."""
    for prefix, kind in _PREFIXES:
        if head.startswith(prefix):
            return kind
    if head.startswith(GGML_MAGIC):
        # whisper.cpp's voice-activity models share the magic; a length-prefixed name follows.
        return _VAD if head[8:14] == b"silero" else _WHISPER
    if head[6:17] == b"WhisperSpec" or (len(head) > 8 and head[0] in (3, 4, 5, 6) and head[6:40].find(b"Spec\0") > 0):
        return _CT2
    if len(head) > 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 30:
        return _SAFETENSORS
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text[:15].lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return _HTML
    if text.startswith((b"{", b"[")):
        return _JSON
    # Protocol buffers have no magic: an ONNX file begins with field 1 (ir_version), a small number.
    if head[:1] == b"\x08" and len(head) > 2 and head[1] < 0x20:
        return _ONNX
    return None


def open_model(path: Path, what: str) -> tuple[BinaryIO, bytes, int]:
    """Open ``path`` to look at it: the file (yours to close), its first bytes and its size in bytes.

    ``what`` is what the file is meant to be ("Whisper model"). ``ModelError`` for a path that is missing, a
    directory, not readable by us, empty or no regular file.
    """
    file = None
    try:
        file = path.open("rb")
        head = file.read(HEAD_BYTES)
        file.seek(0, 2)
        size = file.tell()
        file.seek(0)
    except OSError as error:
        if file is not None:
            file.close()
        raise ModelError(_trouble(error, path, what)) from error
    if size == 0:
        file.close()
        raise ModelError(f"the {what} {path} is empty; download it again.")
    return file, head, size


def wrong_kind(path: Path, what: str, head: bytes) -> ModelError:
    """The error for a file that is not ``what``: names what it is instead, when that can be told."""
    kind = kind_of(head)
    if kind is None:
        return ModelError(f"{path} is not a {what}, nor any kind of file known here; check the path.")
    return ModelError(f"{path} is not a {what} but {kind.name}; {kind.cure}.")


def truncated(path: Path, what: str, size: int, expected: int | None = None) -> ModelError:
    """The error for a file that ends too early: ``size`` bytes where there should be ``expected``."""
    lengths = f" ({size} bytes of {expected})" if expected else f" (after {size} bytes)"
    return ModelError(f"the {what} {path} is cut short{lengths}; download it again.")


def _trouble(error: OSError, path: Path, what: str) -> str:
    if error.errno == errno.ENOENT:
        return f"there is no {what} at {path}; check the path."
    if error.errno == errno.EISDIR:
        return f"{path} is a directory, not a {what}; give the file in it."
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"the {what} {path} may not be read by this user; change its permissions (`chmod a+r`) or its owner."
    return f"the {what} {path} cannot be read ({(error.strerror or str(error)).lower()}); check the path."
