"""Is this a whole Piper voice? An ONNX file, and beside it the JSON that says how to speak with it.

ONNX is a protocol buffer without magic or checksum. Its top level is a handful of fields with their lengths, and the
graph is one of them: walking those tells whether the file is whole without reading the weights.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from aiphone.errors import ModelError
from aiphone.models.kinds import kind_of, open_model, truncated, wrong_kind

WHAT = "Piper voice"

_GRAPH_FIELD = 7
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class VoiceFile:
    """What the JSON of a voice says. ``sample_rate`` is in Hz, ``language`` like "en_US" or empty."""

    sample_rate: int
    language: str
    speakers: int


def check_voice(path: Path) -> VoiceFile:
    """Make sure that ``path`` (NAME.onnx) is a whole Piper voice with its NAME.onnx.json. Any thread, milliseconds.

    ``ModelError``, one sentence, for either that is missing, unreadable, empty, cut short or something else.
    """
    check_onnx_file(path, WHAT)
    config = path.with_name(path.name + ".json")
    if not config.exists():
        raise ModelError(f"the {WHAT} {path} has no {config.name} beside it; download that too, both belong together.")
    file, head, _ = open_model(config, "description of a Piper voice")
    with file:
        try:
            document = json.load(file)
        except ValueError:
            raise wrong_kind(config, "description of a Piper voice", head) from None
    return _voice(config, document)


def check_onnx_file(path: Path, what: str) -> None:
    """Make sure that ``path`` is a whole ONNX file; ``what`` is what it is meant to be, for the message."""
    file, head, size = open_model(path, what)
    with file:
        kind = kind_of(head)
        if kind is None or kind.key != "onnx":
            raise wrong_kind(path, what, head)
        at, seen = 0, False
        while at < size:
            file.seek(at)
            number, at = _field(file, path, what, size)
            seen = seen or number == _GRAPH_FIELD
        if at > size or not seen:
            raise truncated(path, what, size, at if at > size else None)


def _field(file: BinaryIO, path: Path, what: str, size: int) -> tuple[int, int]:
    """The number of the field that begins here, and where it ends."""
    tag = _varint(file)
    number, wire = tag >> 3, tag & 7
    if wire == _VARINT:
        _varint(file)
        return number, file.tell()
    if wire == _BYTES:
        length = _varint(file)
        return number, file.tell() + length
    if wire in (_FIXED32, _FIXED64):
        return number, file.tell() + (4 if wire == _FIXED32 else 8)
    raise ModelError(f"the {what} {path} is damaged at byte {file.tell()} of {size}; download it again.")


def _varint(file: BinaryIO) -> int:
    """A base-128 number; what is missing at the end of the file reads as zero, and the caller sees the end."""
    value = shift = 0
    while (byte := file.read(1)) and shift < 64:
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            break
        shift += 7
    return value


def _voice(path: Path, document: Any) -> VoiceFile:
    try:
        rate, phonemes = int(document["audio"]["sample_rate"]), len(document["phoneme_id_map"])
        language = document.get("language") or {}
        voice = VoiceFile(rate, str(language.get("code", "")), int(document.get("num_speakers", 1)))
    except (KeyError, TypeError, ValueError, AttributeError):
        rate = phonemes = 0
    if not phonemes or not 8000 <= rate <= 48000:
        raise ModelError(
            f"{path} does not describe a {WHAT} (sample rate and phonemes are missing); download the one that belongs "
            "to the voice."
        )
    return voice
