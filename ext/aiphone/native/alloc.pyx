"""Counted native memory. The counter costs one atomic addition for each allocation, and none happens in a call's
steady state, so it is always on."""

from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from aiphone.native.platform cimport aligned_new, fetch_add, load_acquire

cdef struct Chunk:
    Chunk* next
    unsigned char* memory
    unsigned char* blocks
    bint taken[BLOCKS]
    int used

cdef int64_t live = 0
cdef Chunk* chunks = NULL   # guarded by the GIL
cdef int made = 0           # chunks so far


cdef void* counted_calloc(size_t size) noexcept nogil:
    cdef void* p = calloc(1, size)
    if p is not NULL:
        fetch_add(&live, 1)
    return p


cdef void counted_free(void* p) noexcept nogil:
    if p is not NULL:
        fetch_add(&live, -1)
        free(p)


cdef Chunk* chunk_new() noexcept:
    global chunks, made
    cdef Chunk* chunk = <Chunk*>counted_calloc(sizeof(Chunk))
    if chunk is NULL:
        return NULL
    chunk.memory = <unsigned char*>aligned_new(CHUNK)
    if chunk.memory is NULL:
        counted_free(chunk)
        return NULL
    chunk.blocks = chunk.memory + made % COLOURS * COLOUR
    made = (made + 1) % COLOURS
    chunk.next = chunks
    chunks = chunk
    return chunk


cdef void* block_new(size_t size) noexcept:
    cdef Chunk* chunk = chunks
    cdef void* p
    cdef int i = 0
    if size > BLOCK:
        return NULL
    while chunk is not NULL and chunk.used == BLOCKS:
        chunk = chunk.next
    if chunk is NULL:
        chunk = chunk_new()
    if chunk is NULL:
        return NULL
    while chunk.taken[i]:
        i += 1
    chunk.taken[i] = True
    chunk.used += 1
    fetch_add(&live, 1)
    p = chunk.blocks + i * BLOCK
    memset(p, 0, size)
    return p


cdef void block_free(void* p) noexcept:
    cdef Chunk** place = &chunks
    cdef Chunk* chunk
    if p is NULL:
        return
    while not place[0].memory <= <unsigned char*>p < place[0].memory + CHUNK:
        place = &place[0].next
    chunk = place[0]
    chunk.taken[(<unsigned char*>p - chunk.blocks) // BLOCK] = False
    chunk.used -= 1
    fetch_add(&live, -1)
    if chunk.used == 0:
        place[0] = chunk.next
        free(chunk.memory)
        counted_free(chunk)


cdef void allocation_noted(int change) noexcept nogil:
    fetch_add(&live, change)


def live_allocations():
    """Native blocks and objects that the media engine holds now. Any thread."""
    return load_acquire(&live)
