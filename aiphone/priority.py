"""The place of threads that compute behind the media thread, and their names in ``top -H``."""

from __future__ import annotations

import logging
import os
import sys
import threading
from pathlib import Path

INFERENCE = 5
"""Steps by which transcription, the language model and speech give way."""

TURN_END = 3
"""Fewer, since its answer is waited for."""

_log = logging.getLogger(__name__)


def lower_priority(steps: int) -> None:
    """Make the calling thread, and those that it starts, give way to the process's others. At the top of a worker.

    ``steps`` of niceness below the main thread. Best effort: on Linux a thread has a priority of its own, elsewhere
    this would slow the whole process.
    """
    show_name()
    if sys.platform != "linux":
        return
    try:
        usual = os.getpriority(os.PRIO_PROCESS, os.getpid())
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), usual + steps)
    except OSError as error:
        _log.debug("%s keeps its priority: %s", threading.current_thread().name, error)


def show_name() -> None:
    """Give the calling thread its name in the operating system's eyes too. At the top of a thread; Linux only.

    The threads that it starts, those of a model among them, inherit it: ``top -H`` then shows what the time goes to.
    """
    thread = threading.current_thread()
    if sys.platform != "linux":
        return
    try:
        Path(f"/proc/self/task/{thread.native_id}/comm").write_text(thread.name[:15], encoding="utf-8")
    except OSError as error:
        _log.debug("%s keeps its name: %s", thread.name, error)
