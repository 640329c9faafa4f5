"""Writing big files so that a name only ever stands for a whole, checked file.

A download grows in ``NAME.part`` beside its target. It is flushed to the disk, hashed, and only then renamed, so
a model that has its name is complete, whatever happened in between. The disk is asked for room before the first
byte, and a disk that fills up all the same is reported with the numbers that matter.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Protocol

from aiphone.errors import StorageError

SPARE_BYTES = 64 << 20
"""Room left on the disk after a download: a disk filled to the last byte breaks more than the download."""

_BLOCK = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)


class DiskUsage(Protocol):
    """What ``shutil.disk_usage`` returns, as far as it is used here."""

    @property
    def free(self) -> int: ...


DiskUsageOf = Callable[[Path], DiskUsage]


def megabytes(count: int) -> str:
    """``count`` bytes as people read them: "812 B", "4.9 KB", "63.2 MB", "2.50 GB". Powers of ten."""
    if count < 1000:
        return f"{count} B"
    if count < 1_000_000:
        return f"{count / 1e3:.1f} KB"
    if count < 1_000_000_000:
        return f"{count / 1e6:.1f} MB"
    return f"{count / 1e9:.2f} GB"


def make_directory(directory: Path) -> None:
    """Create ``directory`` with its parents. ``StorageError`` when that is not allowed or not possible."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(error, directory) from error


def require_free(directory: Path, needed: int, disk_usage: DiskUsageOf = shutil.disk_usage) -> None:
    """Check that ``needed`` bytes, and a little to spare, are free where ``directory`` is.

    Raises ``StorageError`` naming the directory, the bytes needed and the bytes free.
    """
    make_directory(directory)
    free = disk_usage(directory).free
    if free < needed + SPARE_BYTES:
        raise StorageError(
            f"{directory} has {megabytes(free)} free but this needs {megabytes(needed + SPARE_BYTES)}; "
            "make room there or choose another models directory."
        )


def write_error(
    error: OSError, path: Path, needed: int = 0, disk_usage: DiskUsageOf = shutil.disk_usage
) -> StorageError:
    """The ``StorageError`` that says what an ``OSError`` while writing ``path`` means. For ``raise ... from``."""
    directory = path if path.is_dir() else path.parent
    if error.errno in _FULL:
        free = "no room"
        with contextlib.suppress(OSError):
            free = megabytes(disk_usage(directory).free)
        more = f", and {megabytes(needed)} more are needed" if needed else ""
        return StorageError(
            f"the disk is full: {directory} has {free} free{more}; make room there and run the same command "
            "again, it goes on where it stopped."
        )
    reason = (error.strerror or str(error)).lower()
    return StorageError(f"{path} cannot be written ({reason}); check the directory and its permissions.")


def digests(path: Path, names: Iterable[str], progress: Callable[[int], None] | None = None) -> dict[str, str]:
    """Hashes of a file in hex, read once: "sha256", "md5", or "git" (the SHA-1 of its git blob).

    ``progress`` gets the bytes read so far. ``OSError`` as it comes.
    """
    running = {name: hashlib.sha1(usedforsecurity=False) if name == "git" else hashlib.new(name) for name in names}
    if "git" in running:
        running["git"].update(b"blob %d\0" % path.stat().st_size)
    done = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            for digest in running.values():
                digest.update(block)
            done += len(block)
            if progress is not None:
                progress(done)
    return {name: digest.hexdigest() for name, digest in running.items()}


def sync(file: IO[bytes]) -> None:
    """Flush ``file`` to the disk itself, so that the rename that follows cannot overtake the data."""
    file.flush()
    os.fsync(file.fileno())


def publish(part: Path, target: Path) -> None:
    """Give a finished ``part`` its real name, and make the renaming itself durable."""
    part.replace(target)
    directory = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextlib.contextmanager
def exclusive(directory: Path, on_wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the one lock of a models directory, so that two pulls do not write the same file.

    When another process has it, ``on_wait`` is called once with that process's id and then this waits. The lock
    is the kernel's (``flock``): it ends with the process that held it, however that ended. Any thread.
    """
    make_directory(directory)
    path = directory / ".lock"
    try:
        handle = path.open("a+", encoding="ascii")
    except OSError as error:
        raise write_error(error, path) from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            if on_wait is not None:
                on_wait(handle.read().strip() or "unknown")
            fcntl.flock(handle, fcntl.LOCK_EX)
        handle.seek(0)
        handle.truncate()
        handle.write(f"{os.getpid()}\n")
        handle.flush()
        yield
