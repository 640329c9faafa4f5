"""The place of inference behind the media thread."""

from __future__ import annotations

import logging
import os
import sys
import threading

_NICENESS = 5

_log = logging.getLogger(__name__)


def lower_priority() -> None:
    """Make the calling thread, and those that it starts, give way to the media thread. At the top of a worker.

    Best effort: on Linux a thread has a priority of its own, elsewhere this would slow the whole process.
    """
    if sys.platform != "linux":
        return
    try:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
    except OSError as error:
        _log.debug("%s keeps its priority: %s", threading.current_thread().name, error)
