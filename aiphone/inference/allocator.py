"""Memory of the C library: kept in one heap, and given back to the system once it is free."""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable
from typing import Any


def return_freed_memory() -> None:
    """Hand the free pages of the C library's heaps back. Any thread; milliseconds, the GIL released.

    A phrase or a transcript takes tens of megabytes for a moment, in pieces that glibc keeps for the next one: they
    stay with the process for ever although they are empty. Other C libraries do this by themselves.
    """
    trim = _glibc("malloc_trim", ctypes.c_size_t)
    if trim is not None:
        trim(0)


def share_one_heap() -> None:
    """Let all threads take their memory from one heap. Before threads start; those that run keep theirs.

    glibc gives each thread that computes a heap of its own, and what one has freed no other can use: speech,
    transcription and turn-taking would each keep their largest moment, though they seldom have it at once. Their
    tensors are few and large, so they do not wait for each other's allocations.

    What one layer of a network frees is kept for the next one until ``return_freed_memory``; glibc would give it back
    and fetch it again page by page, a seventh of the time that speech takes.
    """
    option = _glibc("mallopt", ctypes.c_int, ctypes.c_int)
    if option is not None:
        for name, value in _SETTINGS:
            option(name, value)


_SETTINGS = ((-8, 1), (-3, 32 << 20), (-1, 1 << 30))
"""``M_ARENA_MAX``, ``M_MMAP_THRESHOLD`` (the most it takes) and ``M_TRIM_THRESHOLD`` of mallopt(3)."""


@functools.cache
def _glibc(name: str, *arguments: type[Any]) -> Callable[..., int] | None:
    """A function of glibc that takes ``arguments`` and gives an int; None where there is none (macOS, musl)."""
    if sys.platform != "linux":
        return None
    function = getattr(ctypes.CDLL(None), name, None)
    if function is not None:
        function.argtypes, function.restype = arguments, ctypes.c_int
    return function
