"""Inference gives way to the media thread."""

import os
import sys
import threading

import pytest

from aiphone.priority import INFERENCE, lower_priority


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
