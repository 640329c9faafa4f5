"""What is asked of pip, and when a compiled wheel is taken from the cache."""

from __future__ import annotations

from pathlib import Path

import install_dependencies
import pytest


def test_requirements_are_pyprojects_own_with_the_extra(tmp_path: Path) -> None:
    pyproject = tmp_path / "pyproject.toml"
    pyproject.write_text(
        '[build-system]\nrequires = ["numpy>=2"]\n[project]\ndependencies = ["numpy>=2", "tornado>=6"]\n'
        '[project.optional-dependencies]\ntest = ["pytest>=8"]\n',
        encoding="utf-8",
    )
    assert install_dependencies.requirements([], pyproject) == ["numpy>=2", "tornado>=6"]
    assert install_dependencies.requirements(["test"], pyproject) == ["numpy>=2", "tornado>=6", "pytest>=8"]
    with pytest.raises(KeyError):
        install_dependencies.requirements(["docs"], pyproject)


def test_the_repositorys_requirements_can_be_read() -> None:
    names = {install_dependencies.name_of(r) for r in install_dependencies.requirements(["test"])}
    assert {"llama-cpp-python", "pjsua2-python", "tornado", "pytest", "cython"} <= names
    assert set(install_dependencies.BUILT_HERE) <= names


def test_a_cached_wheel_counts_only_in_the_pinned_version(tmp_path: Path) -> None:
    (tmp_path / "llama_cpp_python-0.0.1-py3-none-any.whl").touch()
    assert not install_dependencies.has_wheel(tmp_path, "llama-cpp-python>=0.3.30")
    pinned = next(
        line.split("==")[1]
        for line in install_dependencies.CONSTRAINTS.read_text(encoding="utf-8").splitlines()
        if line.startswith("llama-cpp-python==")
    )
    (tmp_path / f"llama_cpp_python-{pinned}-py3-none-any.whl").touch()
    assert install_dependencies.has_wheel(tmp_path, "llama-cpp-python>=0.3.30")


def test_another_processor_has_another_key(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("flags\t\t: fpu avx2\n", encoding="utf-8")
    one = install_dependencies.processor_key(info)
    info.write_text("flags\t\t: fpu avx2 avx512f\n", encoding="utf-8")
    assert install_dependencies.processor_key(info) != one
    info.write_text("flags\t\t: avx2 fpu\n", encoding="utf-8")
    assert install_dependencies.processor_key(info) == one
