"""What was freed goes back to the system."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

from aiphone.inference.allocator import return_freed_memory


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1])


def test_freed_blocks_leave_the_process() -> None:
    return_freed_memory()  # whatever the system is, it may be called
    libc = ctypes.CDLL(None)
    if sys.platform != "linux" or not hasattr(libc, "malloc_trim"):
        return
    libc.malloc.restype = ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]
    # Small enough for the heap, so many that they fill 60 MB; the last one keeps its top from shrinking.
    blocks = [libc.malloc(60_000) for _ in range(1001)]
    for block in blocks:
        ctypes.memset(block, 1, 60_000)
    full = resident()
    for block in blocks[:-1]:
        libc.free(block)
    return_freed_memory()
    assert full - resident() > 50_000_000 // 4096
    libc.free(blocks[-1])
