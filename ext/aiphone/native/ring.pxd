# A bounded ring for one producer thread and one consumer thread, without locks. The two positions only grow, so
# that the whole capacity is usable and "how much" is a subtraction.

from libc.stdint cimport int64_t
from libc.string cimport memcpy

from aiphone.native.platform cimport load_acquire, load_relaxed, store_release

cdef struct Ring:
    # Settings.
    unsigned char* data
    int64_t item           # bytes in one item
    int64_t capacity       # items
    # The two positions stand on cache lines of their own, or the two threads would fight for one.
    int64_t pad0[5]
    int64_t head           # items taken; written by the consumer
    int64_t pad1[7]
    int64_t tail           # items put; written by the producer
    int64_t pad2[7]

# 0, or -1 when there is no memory.
cdef int ring_init(Ring* r, int64_t item, int64_t capacity) noexcept nogil
cdef void ring_free(Ring* r) noexcept nogil
# In memory of the caller's, item * capacity bytes; such a ring is not freed.
cdef void ring_place(Ring* r, int64_t item, int64_t capacity, void* memory) noexcept nogil

cdef inline int64_t ring_used(const Ring* r) noexcept nogil:
    # Any thread; a snapshot.
    cdef int64_t head = load_acquire(&r.head)
    return load_acquire(&r.tail) - head

# Producer: items taken, 0 to n. What does not fit is left out (the oldest stays).
cdef int64_t ring_put(Ring* r, const void* src, int64_t n) noexcept nogil
# Consumer: items copied, 0 to n.
cdef int64_t ring_get(Ring* r, void* dst, int64_t n) noexcept nogil
# Consumer: pass over items without reading them.
cdef void ring_skip_to(Ring* r, int64_t head) noexcept nogil
