"""Giving memory that was freed back to the system."""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable


def return_freed_memory() -> None:
    """Hand the free pages of the C library's heaps back. Any thread; milliseconds, the GIL released.

    A phrase takes tens of megabytes for a moment, in pieces that glibc keeps for the next one: they stay with the
    process for ever although they are empty. Other C libraries do this by themselves.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@functools.cache
def _trim() -> Callable[[int], int] | None:
    """glibc's ``malloc_trim``, where there is one."""
    if sys.platform != "linux":
        return None
    function = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
    if function is not None:
        function.argtypes, function.restype = [ctypes.c_size_t], ctypes.c_int
    return function
