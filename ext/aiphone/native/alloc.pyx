"""Counted native memory. The counter costs one atomic addition for each allocation, and none happens in a call's
steady state, so it is always on."""

from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free

from aiphone.native.platform cimport fetch_add, load_acquire

cdef int64_t live = 0


cdef void* counted_calloc(size_t size) noexcept nogil:
    cdef void* p = calloc(1, size)
    if p is not NULL:
        fetch_add(&live, 1)
    return p


cdef void counted_free(void* p) noexcept nogil:
    if p is not NULL:
        fetch_add(&live, -1)
        free(p)


cdef void allocation_noted(int change) noexcept nogil:
    fetch_add(&live, change)


def live_allocations():
    """Native blocks and objects that the media engine holds now. Any thread."""
    return load_acquire(&live)
