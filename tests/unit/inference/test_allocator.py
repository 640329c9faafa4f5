"""What was freed goes back to the system."""

from __future__ import annotations

import ctypes
import subprocess
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


def test_what_is_freed_is_kept_until_it_is_given_back() -> None:
    """In a process of its own, as it cannot be undone."""
    program = """
import ctypes
from aiphone.inference.allocator import return_freed_memory, share_one_heap
share_one_heap()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
block = libc.malloc(30_000_000)
ctypes.memset(block, 1, 30_000_000)
full = resident()
libc.free(block)
kept = resident()
return_freed_memory()
print(full - kept < 1_000_000, full - resident() > 25_000_000)
"""
    if sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"):
        return
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["True", "True"]


def test_threads_share_one_heap() -> None:
    """In a process of its own, as it cannot be undone."""
    program = """
import ctypes, threading
from aiphone.inference.allocator import share_one_heap
share_one_heap()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
def take():
    libc.malloc(1000)
threads = [threading.Thread(target=take) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
libc.malloc_stats()
"""
    libc = ctypes.CDLL(None)
    if sys.platform != "linux" or not hasattr(libc, "malloc_stats"):
        return
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert "Arena 0:" in done.stderr
    assert "Arena 1:" not in done.stderr
