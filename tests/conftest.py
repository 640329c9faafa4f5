"""What all tests share.

- ``needs``: a test that talks to a program this machine may lack says so; it is then skipped with the command
  that installs the program. With ``CI=true`` a skip of any kind is a failure: what is not tested must not look
  as if it were.
- unit tests run first, so that a mistake in the small shows before the minutes of the large are spent.
- a module of integration tests that leaves a thread running fails.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import system_packages

from aiphone.config import default_models_dir
from aiphone.cores import wait_gently

wait_gently()

ORDER = ("unit", "scenarios", "integration")
THREAD_GRACE = 5.0
"""Seconds that a thread which is on its way out gets."""

# A busy machine is slow now and then: that must not look like a mistake.
hypothesis.settings.register_profile("aiphone", deadline=None)
hypothesis.settings.load_profile("aiphone")

Needs = Callable[[str, str], str]


def in_ci() -> bool:
    """Whether a skipped test counts as a failed one."""
    return os.environ.get("CI") == "true"


@pytest.fixture(scope="session")
def needs() -> Needs:
    """``needs(package, command)``: the path of ``command``, which Debian's ``package`` brings, or a skip."""

    def check(package: str, command: str) -> str:
        path = shutil.which(command)
        if path is None:
            need = system_packages.Need(command, package, package, command=command)
            root = os.geteuid() == 0
            pytest.skip(f"{command} is not installed; {system_packages.command_for([need], root=root)}")
        return path

    return check


@pytest.fixture(scope="session")
def models_dir() -> Path:
    """The directory of the starter models (``make models`` fills it)."""
    directory = default_models_dir(os.environ)
    if not directory.is_dir():
        pytest.skip(f"there are no models in {directory}; make models")
    return directory


@pytest.fixture(scope="session")
def model_file(models_dir: Path) -> Callable[[str], Path]:
    """``model_file("ggml-tiny.en.bin")``: a starter model's path, or a skip."""

    def check(name: str) -> Path:
        path = models_dir / name
        if not path.is_file():
            pytest.skip(f"there is no {path}; make models")
        return path

    return check


@pytest.fixture(scope="module", autouse=True)
def no_stray_threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """After a module of integration tests, no thread that would keep a process alive is left."""
    if "integration" not in request.path.parts:
        yield
        return
    before = set(threading.enumerate())
    yield
    stray = [t for t in threading.enumerate() if t not in before and not t.daemon]
    for thread in stray:
        thread.join(THREAD_GRACE)
    alive = [thread.name for thread in stray if thread.is_alive()]
    assert not alive, f"threads still running after {request.path.name}: {', '.join(alive)}"


def pytest_configure(config: pytest.Config) -> None:
    """A module that skips itself fails in CI, but must not keep the others from being run."""
    if in_ci():
        config.option.continue_on_collection_errors = True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Unit tests, then scenarios, then integration; the order within each stays."""

    def place(item: pytest.Item) -> int:
        return next((i for i, name in enumerate(ORDER) if name in item.path.parts), len(ORDER))

    items.sort(key=place)


def _fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and in_ci() and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"{reason}\n(a skip, which counts as a failure because CI=true)"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    """A skipped test fails in CI."""
    report: pytest.TestReport = yield  # type: ignore[assignment]
    _fail_if_skipped(report)
    return report  # type: ignore[return-value]


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Iterator[None]:
    """A module that skips itself fails in CI."""
    report: pytest.CollectReport = yield  # type: ignore[assignment]
    _fail_if_skipped(report)
    return report  # type: ignore[return-value]
