"""From what a user wrote after ``-mw``, ``-ml`` or ``--voice`` to a file that was looked at.

A name of the catalogue comes first; anything else is a path. Both end in the same checks, so that a library that dies
with "failed to load model" is never the one to tell the user.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from aiphone.errors import ModelError
from aiphone.models.catalogue import ROLES, Role
from aiphone.models.files import exclusive, megabytes, require_free
from aiphone.models.ggml import check_whisper_file
from aiphone.models.gguf import check_gguf_file
from aiphone.models.progress import NoProgress, Progress
from aiphone.models.store import ModelStore
from aiphone.models.voice import check_onnx_file, check_voice

CONVERTED = "converted"
_CONVERSION = 1
"""Raised when the conversion changes what it writes, so that files made before are not taken up again."""
_CT2_FILES = ("model.bin", "config.json", "tokenizer.json", "vocabulary.json", "vocabulary.txt")


def resolve_whisper(ref: str, store: ModelStore, progress: Progress | None = None) -> Path:
    """The ggml file for ``-mw REF``: a name, a ggml file, or a CTranslate2 (faster-whisper) directory. Any thread.

    A directory is converted once; the result is kept below the store's directory. Raises ``ModelError`` with one
    sentence that says what is wrong with REF, ``StorageError`` when a conversion has no room.
    """
    path = _path(ref, "whisper", store)
    if path.is_file() and path.name == "model.bin" and (path.parent / "config.json").is_file():
        path = path.parent  # the directory is meant
    if path.is_dir():
        path = _converted(path, store, progress or NoProgress())
    check_whisper_file(path)
    return path


def resolve_llm(ref: str, store: ModelStore) -> Path:
    """The GGUF file for ``-ml REF``: a name or a file. Any thread. ``ModelError`` as above."""
    path = _path(ref, "llm", store)
    check_gguf_file(path)
    return path


def resolve_voice(ref: str, store: ModelStore) -> Path:
    """The ONNX file for ``--voice REF``: a name, or a NAME.onnx with its NAME.onnx.json. Any thread.

    ``ModelError`` as above.
    """
    path = _path(ref, "voice", store)
    check_voice(path)
    return path


def resolve_onnx(ref: str, role: Role, store: ModelStore) -> Path:
    """The ONNX file of a "vad" or "turn-end" model: a name or a file. Any thread. ``ModelError`` as above."""
    path = _path(ref, role, store)
    check_onnx_file(path, ROLES[role].removeprefix("a "))
    return path


def _path(ref: str, role: Role, store: ModelStore) -> Path:
    """A name's file, or the path that REF is, which exists."""
    if ref in store.catalogue:
        model = store.catalogue.get(ref)
        if model.role != role:
            raise ModelError(
                f"{ref} is {ROLES[model.role]}, not {ROLES[role]}; `whisper-talk-llama models list` shows all."
            )
        return store.path(ref)
    path = Path(ref).expanduser()
    try:
        if path.exists():
            return path
    except OSError:
        return path  # a directory on the way may not be entered: opening it gives the reason
    known = store.catalogue.by_file(path.name)
    if known is not None and known.role == role:
        raise ModelError(
            f"there is no file {ref}; that model is in the catalogue: get it with `whisper-talk-llama models pull "
            f"{known.name}` and give its name, {known.name}."
        )
    raise ModelError(
        f"there is no file {ref}, and no model called that{store.catalogue.hint(ref, role)}; check the path, or see "
        "`whisper-talk-llama models list`."
    )


def _converted(directory: Path, store: ModelStore, progress: Progress) -> Path:
    """The ggml file made from a CTranslate2 directory, made now if it was not."""
    weights = directory / "model.bin"
    if not weights.is_file():
        raise ModelError(
            f"{directory} is a directory{_what_is_in(directory)}; give a ggml file or a faster-whisper directory."
        )
    try:
        key = _key(directory)
        size = weights.stat().st_size
    except OSError as error:
        raise ModelError(f"{directory} cannot be read ({error.strerror}); check its permissions.") from error
    target = store.directory / CONVERTED / f"ggml-{directory.resolve().name}-{key}.bin"
    if not target.is_file():
        with exclusive(store.directory, lambda pid: progress.say(f"waiting for process {pid} ...")):
            if not target.is_file():
                require_free(target.parent, int(size * 1.1))
                progress.say(f"converting {directory} for whisper.cpp, once ({megabytes(size)})")
                store.convert(directory, target, f"converting {directory.name}", progress)
    return target


def _key(directory: Path) -> str:
    """Changes when the directory's files do: their names, sizes and times, and the conversion's version.

    Not the contents: hashing three gigabytes at each start to save nothing is no bargain.
    """
    digest = hashlib.sha256(f"{_CONVERSION} {directory.resolve()}".encode())
    for name in _CT2_FILES:
        path = directory / name
        if path.is_file():
            status = path.stat()
            digest.update(f"\n{name} {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()[:12]


def _what_is_in(directory: Path) -> str:
    """ " with a Transformers checkpoint in it", when it has one: the usual mistake."""
    if any((directory / name).is_file() for name in ("model.safetensors", "pytorch_model.bin")):
        return " with a Transformers checkpoint in it, which has to be converted first"
    ggml = sorted(path.name for path in directory.glob("ggml-*.bin"))
    return f" (with {', '.join(ggml[:3])} in it)" if ggml else " without a model.bin in it"
