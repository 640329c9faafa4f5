"""Lock-free single-producer single-consumer ring (the way between the media thread and Python)."""

from libc.stdint cimport int64_t
from libc.string cimport memcpy

from aiphone.native.alloc cimport counted_calloc, counted_free
from aiphone.native.platform cimport load_acquire, load_relaxed, store_release


cdef void ring_place(Ring* r, int64_t item, int64_t capacity, void* memory) noexcept nogil:
    r.item = item
    r.capacity = capacity
    r.head = 0
    r.tail = 0
    r.data = <unsigned char*>memory


cdef int ring_init(Ring* r, int64_t item, int64_t capacity) noexcept nogil:
    ring_place(r, item, capacity, counted_calloc(<size_t>(item * capacity)))
    return 0 if r.data is not NULL else -1


cdef void ring_free(Ring* r) noexcept nogil:
    counted_free(r.data)
    r.data = NULL


cdef int64_t ring_put(Ring* r, const void* src, int64_t n) noexcept nogil:
    cdef int64_t tail = load_relaxed(&r.tail)
    cdef int64_t room = r.capacity - (tail - load_acquire(&r.head))
    cdef int64_t start, first
    if n > room:
        n = room
    if n <= 0:
        return 0
    start = tail % r.capacity
    first = min(n, r.capacity - start)
    memcpy(r.data + start * r.item, src, <size_t>(first * r.item))
    memcpy(r.data, <const unsigned char*>src + first * r.item, <size_t>((n - first) * r.item))
    store_release(&r.tail, tail + n)
    return n


cdef int64_t ring_get(Ring* r, void* dst, int64_t n) noexcept nogil:
    cdef int64_t head = load_relaxed(&r.head)
    cdef int64_t used = load_acquire(&r.tail) - head
    cdef int64_t start, first
    if n > used:
        n = used
    if n <= 0:
        return 0
    start = head % r.capacity
    first = min(n, r.capacity - start)
    memcpy(dst, r.data + start * r.item, <size_t>(first * r.item))
    memcpy(<unsigned char*>dst + first * r.item, r.data, <size_t>((n - first) * r.item))
    store_release(&r.head, head + n)
    return n


cdef void ring_skip_to(Ring* r, int64_t head) noexcept nogil:
    if head > load_relaxed(&r.head):
        store_release(&r.head, head)


cdef class ByteRing:
    """The ring for tests and tools: items of ``item`` bytes, ``capacity`` of them.

    One thread may call ``put`` and one other ``get``.
    """

    cdef Ring _ring

    def __cinit__(self, int item, int capacity):
        if item < 1 or capacity < 1:
            raise ValueError("a ring needs items of at least one byte and room for at least one")
        if ring_init(&self._ring, item, capacity) != 0:
            raise MemoryError("no memory for a ring")

    def __dealloc__(self):
        ring_free(&self._ring)

    def __len__(self):
        return ring_used(&self._ring)

    def put(self, const unsigned char[::1] items not None):
        """Put whole items; how many were taken. Producer thread only."""
        cdef int64_t n = items.shape[0] // self._ring.item
        if n * self._ring.item != items.shape[0]:
            raise ValueError(f"not a whole number of items of {self._ring.item} bytes")
        if n == 0:
            return 0
        with nogil:
            n = ring_put(&self._ring, &items[0], n)
        return n

    def get(self, int64_t n):
        """Take up to ``n`` items as bytes. Consumer thread only."""
        # The producer may add items meanwhile: take no more than there is room for.
        cdef int64_t wanted = max(<int64_t>0, min(n, ring_used(&self._ring)))
        cdef bytearray out = bytearray(wanted * self._ring.item)
        cdef unsigned char[::1] view = out
        cdef int64_t took = 0
        if wanted:
            with nogil:
                took = ring_get(&self._ring, &view[0], wanted)
        return bytes(out[: took * self._ring.item])
