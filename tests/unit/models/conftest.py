"""What the tests of the models share: the stand-in of the hub and a recorder of progress."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]

from hub_stand_in import HubStandIn, running_hub  # noqa: E402
from tiny_models import RecordedProgress  # noqa: E402


@pytest.fixture
def progress() -> RecordedProgress:
    return RecordedProgress()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStandIn]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with running_hub() as stand_in:
        yield stand_in
