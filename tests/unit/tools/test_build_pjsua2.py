"""The pjsua2 build without building: what decides its version, the cache, the wheel it writes, its exit status."""

from __future__ import annotations

import io
import json
import os
import zipfile
from dataclasses import replace
from importlib.metadata import distributions
from pathlib import Path

import build_pjsua2
import pytest
from build_pjsua2 import BuildError, Features, Progress, Recipe

RECIPE = Recipe(
    1, "#define PJSUA_MAX_CALLS 1024\n", ("--disable-video",), Features(True, True), "cp311-cp311-linux_x86_64"
)


def put(wheels: Path, name: str, age: float, **facts: str) -> Path:
    wheel = wheels / f"pjsua2_python-{name}.whl"
    wheel.write_bytes(b"wheel")
    os.utime(wheel, (age, age))
    wheel.with_name(wheel.name + ".json").write_text(json.dumps(facts), encoding="utf-8")
    return wheel


@pytest.mark.parametrize(
    "changed",
    [
        replace(RECIPE, number=2),
        replace(RECIPE, config="#define PJSUA_MAX_CALLS 4\n"),
        replace(RECIPE, configure=()),
        replace(RECIPE, features=Features(False, True)),
        replace(RECIPE, tag="cp312-cp312-linux_x86_64"),
    ],
)
def test_everything_that_changes_the_result_changes_the_version(changed: Recipe) -> None:
    assert changed.local_version("aa") != RECIPE.local_version("aa")


def test_the_version_depends_on_the_source_and_is_stable() -> None:
    assert RECIPE.local_version("aa") == RECIPE.local_version("aa")
    assert RECIPE.local_version("aa") != RECIPE.local_version("bb")
    assert RECIPE.local_version("aa").startswith("aiphone.1.")


def test_cache_gives_the_newest_wheel_of_the_same_recipe(tmp_path: Path) -> None:
    tag = build_pjsua2.wheel_tag()
    recipe = replace(RECIPE, tag=tag)
    put(tmp_path, "old", 100, recipe=recipe.key(), tag=tag, source="s1")
    new = put(tmp_path, "new", 200, recipe=recipe.key(), tag=tag, source="s2")
    put(tmp_path, "other-recipe", 300, recipe="else", tag=tag, source="s1")
    put(tmp_path, "other-python", 400, recipe=recipe.key(), tag="cp38-cp38-linux_x86_64", source="s1")
    assert build_pjsua2.cached(tmp_path, recipe, None) == new


def test_cache_respects_a_named_source(tmp_path: Path) -> None:
    tag = build_pjsua2.wheel_tag()
    recipe = replace(RECIPE, tag=tag)
    old = put(tmp_path, "old", 100, recipe=recipe.key(), tag=tag, source="s1")
    put(tmp_path, "new", 200, recipe=recipe.key(), tag=tag, source="s2")
    assert build_pjsua2.cached(tmp_path, recipe, "s1") == old
    assert build_pjsua2.cached(tmp_path, recipe, "s3") is None


def test_cache_without_a_compiler_takes_any_wheel_for_this_python(tmp_path: Path) -> None:
    wheel = put(tmp_path, "any", 100, recipe="whatever", tag=build_pjsua2.wheel_tag(), source="s1")
    assert build_pjsua2.cached(tmp_path, None, None) == wheel


def test_cache_ignores_a_note_without_its_wheel_and_a_damaged_note(tmp_path: Path) -> None:
    tag = build_pjsua2.wheel_tag()
    put(tmp_path, "gone", 100, recipe=RECIPE.key(), tag=tag, source="s").unlink()
    broken = put(tmp_path, "broken", 100, tag=tag)
    broken.with_name(broken.name + ".json").write_text("{", encoding="utf-8")
    assert build_pjsua2.cached(tmp_path, None, None) is None


@pytest.mark.parametrize(
    ("rev", "suffix", "expected"), [("", "", "2.17"), ("1", "", "2.17.1"), ("", "-dev", "2.17.dev0")]
)
def test_version_is_read_from_version_mak(tmp_path: Path, rev: str, suffix: str, expected: str) -> None:
    (tmp_path / "version.mak").write_text(
        "export PJ_VERSION_MAJOR  := 2\nexport PJ_VERSION_MINOR  := 17\n"
        f"export PJ_VERSION_REV    :={' ' + rev if rev else ''}\nexport PJ_VERSION_SUFFIX := {suffix}\n\n"
        "export PJ_VERSION := $(PJ_VERSION_MAJOR).$(PJ_VERSION_MINOR)\n",
        encoding="utf-8",
    )
    assert build_pjsua2.read_version(tmp_path) == expected


def test_version_mak_without_a_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "version.mak").write_text("nothing\n", encoding="utf-8")
    with pytest.raises(BuildError, match="names no version"):
        build_pjsua2.read_version(tmp_path)


def test_wheel_is_whole_and_reproducible(tmp_path: Path) -> None:
    module = tmp_path / "pjsua2.py"
    module.write_text("VALUE = 1\n", encoding="utf-8")
    licence = tmp_path / "COPYING"
    licence.write_text("licence\n", encoding="utf-8")
    target = tmp_path / "wheels" / "pjsua2_python-2.17+aiphone.1.ab-py3-none-any.whl"
    build_pjsua2.write_wheel(target, "2.17+aiphone.1.ab", "py3-none-any", [module], licence)
    first = target.read_bytes()
    build_pjsua2.write_wheel(target, "2.17+aiphone.1.ab", "py3-none-any", [module], licence)
    assert target.read_bytes() == first
    assert list(target.parent.iterdir()) == [target]
    with zipfile.ZipFile(target) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "installed")
    (distribution,) = distributions(path=[str(tmp_path / "installed")])
    assert distribution.metadata["Name"] == "pjsua2-python"
    assert distribution.version == "2.17+aiphone.1.ab"
    recorded = {str(file): file.hash for file in distribution.files or []}
    assert set(recorded) == set(names)
    assert all(recorded[name] for name in recorded if not name.endswith("RECORD"))


def test_without_a_compiler_the_status_is_3_and_one_sentence_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert build_pjsua2.main([]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "there is no make on this machine" in captured.err


def test_a_source_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(build_pjsua2, "recipe_for_this_machine", lambda: RECIPE)
    assert build_pjsua2.main(["--source", str(tmp_path / "none.tar.gz")]) == 3
    assert f"{tmp_path / 'none.tar.gz'} does not exist" in capsys.readouterr().err


def test_progress_off_a_terminal_is_a_line_for_each_stage_and_fifth() -> None:
    out = io.StringIO()
    progress = Progress(out, live=False)
    progress.stage("compiling")
    for i in range(101):
        progress.fraction(i / 100)
    lines = out.getvalue().splitlines()
    assert len(lines) == 5
    assert lines[0].endswith("compiling")
    assert lines[-1].endswith("80 %")


def test_configuration_lifts_the_limit_of_calls() -> None:
    text = build_pjsua2.CONFIG_SITE.read_text(encoding="utf-8")
    assert "PJSUA_MAX_CALLS              1024" in text
