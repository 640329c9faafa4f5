# Native allocations of the media engine, counted, so that a test can assert that all were given back.

cdef enum:
    CHUNK = 1 << 21         # the size of a large page, of most processors
    BLOCKS = 8              # in a chunk
    BLOCK = 254016          # not near a power of 2: the same field of many calls would meet in one set of a cache
    COLOURS = 16            # for the same reason chunks begin with a gap, and this many of them with different ones
    COLOUR = 4160

cdef void* counted_calloc(size_t size) noexcept nogil
# Accepts NULL.
cdef void counted_free(void* p) noexcept nogil
# Zeroed memory for a call, `size` at most BLOCK. Eight of them share a large page: the media thread goes through the
# memory of all calls in each tick, and with pages of 4 KB most of its time went by in looking them up. With the GIL.
cdef void* block_new(size_t size) noexcept
# Accepts NULL.
cdef void block_free(void* p) noexcept
# For objects that another module allocates and we own (resamplers, concealment): +1 or -1.
cdef void allocation_noted(int change) noexcept nogil
