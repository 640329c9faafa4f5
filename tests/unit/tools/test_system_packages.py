"""What is missing, and the command that a person is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import system_packages
from system_packages import Need

ABSENT = Need("a thing", "thing-dev", "thing", command="no-such-command-here")


def test_needs_are_met_by_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_packages, "HEADER_PLACES", (str(tmp_path),))
    (tmp_path / "some.h").touch()
    assert Need("shell", "dash", command="sh").is_met()
    assert Need("json", "python3", module="json").is_met()
    assert Need("header", "some-dev", header="some.h").is_met()
    assert Need("folder", "some", folder=str(tmp_path)).is_met()
    assert not ABSENT.is_met()
    assert not Need("header", "none-dev", header="no/such.h").is_met()
    assert not Need("folder", "none", folder=str(tmp_path / "none")).is_met()


def test_the_command_is_the_machines_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_packages.shutil, "which", lambda name: "/usr/bin/apt-get" if name == "apt-get" else None)
    needs = [ABSENT, Need("more", "a-dev", command="none-either")]
    assert (
        system_packages.command_for(needs, root=False) == "sudo apt-get install --no-install-recommends a-dev thing-dev"
    )
    monkeypatch.setattr(system_packages.shutil, "which", lambda name: None)
    monkeypatch.setattr(system_packages.sys, "platform", "darwin")
    assert system_packages.command_for([ABSENT], root=False) == "brew install thing"


def test_not_being_root_is_no_failure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(system_packages.NEEDS, "test", [ABSENT])
    monkeypatch.setattr(system_packages.os, "geteuid", lambda: 1000)
    assert system_packages.main(["test"]) == 0
    assert "missing here: a thing" in capsys.readouterr().out


def test_an_unknown_group_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert system_packages.main(["tests"]) == 2
    assert "usage" in capsys.readouterr().err


def test_services_are_kept_off_only_for_the_length_of_the_installation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tmp_path / "policy-rc.d"
    monkeypatch.setattr(system_packages, "POLICY", policy)
    with system_packages.services_stay_off():
        assert policy.read_text(encoding="utf-8").endswith("exit 101\n")
    assert not policy.exists()
    policy.write_text("the machine's own", encoding="utf-8")
    with system_packages.services_stay_off():
        assert policy.read_text(encoding="utf-8") == "the machine's own"
    assert policy.exists()
