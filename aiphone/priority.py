"""The place of threads that compute behind the media thread."""

from __future__ import annotations

import logging
import os
import sys
import threading

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
    if sys.platform != "linux":
        return
    try:
        usual = os.getpriority(os.PRIO_PROCESS, os.getpid())
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), usual + steps)
    except OSError as error:
        _log.debug("%s keeps its priority: %s", threading.current_thread().name, error)
