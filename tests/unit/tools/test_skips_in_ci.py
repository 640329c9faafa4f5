"""A skip is a skip on a desk, and a failure where CI=true."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[2]

QUICK = [part for name in ("cacheprovider", "hypothesispytest", "benchmark") for part in ("-p", f"no:{name}")]

SKIPPING = """
import pytest

def test_without_its_program(needs):
    needs("thing-package", "no-such-command-here")

@pytest.mark.xfail(reason="known", strict=True)
def test_known_to_fail():
    assert False
"""

SKIPPED_MODULE = 'import pytest\npytest.skip("not on this machine", allow_module_level=True)\n'


def suite(tmp_path: Path, ci: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "conftest.py").write_text((TESTS / "conftest.py").read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "test_one.py").write_text(SKIPPING, encoding="utf-8")
    (tmp_path / "test_two.py").write_text(SKIPPED_MODULE, encoding="utf-8")
    path = os.pathsep.join([str(TESTS.parent), str(TESTS.parent / "tools")])
    return subprocess.run(
        [sys.executable, "-m", "pytest", *QUICK, "-rA", "--rootdir", tmp_path, tmp_path],
        cwd=tmp_path, env={**os.environ, "CI": ci, "PYTHONPATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_skips_pass_on_a_desk_and_say_how_to_install(tmp_path: Path) -> None:
    done = suite(tmp_path, "")
    assert done.returncode == 0, done.stdout
    assert "2 skipped, 1 xfailed" in done.stdout
    assert "no-such-command-here is not installed; " in done.stdout


def test_skips_fail_in_ci(tmp_path: Path) -> None:
    done = suite(tmp_path, "true")
    assert done.returncode == 1, done.stdout
    assert "1 failed, 1 xfailed, 1 error" in done.stdout
    assert "counts as a failure because CI=true" in done.stdout
