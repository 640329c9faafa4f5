"""What goes over loopback in a module of tests; and the table of SIP behaviours, whose rows are tests.

Rows are those marked with ``behaviour``.

With ``AIPHONE_SIP_TABLE`` set to a file, the rows of this run are written there (``make test-sip``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from captures import Capture

INTRODUCTION = """\
# SIP conformance

What the program does as a SIP user agent, where it is asked for, and the scenario that shows it. The table is
written by `make test-sip`, which runs all of them; `make test` runs the quick ones. Names of scenarios are files of
`tests/sipp/` (run by sipp) or tests in `tests/integration/`.

| behaviour | standard | scenario | result |
|---|---|---|---|
"""

_rows: dict[str, tuple[str, str, str, str]] = {}


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Capture]:
    """What goes over loopback while the tests of a module run, for tshark to look at."""
    with Capture(tmp_path_factory.mktemp("wire") / "loopback.pcap") as capture:
        yield capture


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", "behaviour(title, standard, scenario=''): a row of docs/sip-conformance.md")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Note how a behaviour's test ended."""
    report: pytest.TestReport = yield  # type: ignore[assignment]
    for marker in item.iter_markers("behaviour"):
        title, standard, *rest = marker.args
        scenario = rest[0] if rest else item.name
        known = _rows.get(title, ("", "", "", ""))[3]
        if report.failed:
            outcome = "**fails**"
        elif report.skipped:
            outcome = "not run: " + str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        elif report.when == "call":
            outcome = "pass"
        else:
            outcome = known
        _rows[title] = (title, standard, scenario, known if known.startswith("**") else outcome)
    return report


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what only ``make test-sip`` runs."""
    if os.environ.get("AIPHONE_SIP_ALL") == "1":
        return
    left_out = [item for item in items if item.get_closest_marker("sip_all")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def pytest_sessionfinish() -> None:
    """Write the table."""
    target = os.environ.get("AIPHONE_SIP_TABLE")
    if not target or not _rows:
        return
    notes = Path(__file__).resolve().parents[1] / "sipp" / "not-done.md"
    rows = [f"| {title} | {standard} | `{scenario}` | {result} |" for title, standard, scenario, result in
            _rows.values()]  # fmt: skip
    rest = "\n" + notes.read_text(encoding="utf-8") if notes.exists() else ""
    Path(target).write_text(INTRODUCTION + "\n".join(rows) + "\n" + rest, encoding="utf-8")
