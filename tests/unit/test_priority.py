"""Inference gives way to the media thread."""

import os
import sys
import threading
from pathlib import Path

import pytest

from aiphone.priority import INFERENCE, lower_priority, show_name


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a priority for each thread")
def test_a_worker_and_what_it_starts_are_lowered_and_nobody_else() -> None:
    found: list[int] = []

    def note() -> None:
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    def work() -> None:
        lower_priority(INFERENCE)
        note()
        child = threading.Thread(target=note)
        child.start()
        child.join()

    before = os.getpriority(os.PRIO_PROCESS, 0)
    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    assert found == [max(before, 5)] * 2
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_the_operating_system_knows_a_thread_by_its_name() -> None:
    found: list[str] = []

    def work() -> None:
        show_name()
        found.append(Path(f"/proc/self/task/{threading.get_native_id()}/comm").read_text())

    worker = threading.Thread(target=work, name="a-rather-long-name")
    worker.start()
    worker.join()
    assert found == ["a-rather-long-n\n"]
