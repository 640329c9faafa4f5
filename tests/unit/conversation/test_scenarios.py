"""Every scenario file, in virtual time."""

from __future__ import annotations

from pathlib import Path

import pytest
from simulator import run_scenario

SCENARIOS = sorted((Path(__file__).parents[2] / "scenarios" / "conversation").glob("*.txt"))


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario(path: Path) -> None:
    run_scenario(path)


def test_there_are_scenarios() -> None:
    assert len(SCENARIOS) >= 10
