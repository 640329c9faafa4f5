# Native allocations of the media engine, counted, so that a test can assert that all were given back.

cdef void* counted_calloc(size_t size) noexcept nogil
# Accepts NULL.
cdef void counted_free(void* p) noexcept nogil
# For objects that another module allocates and we own (resamplers, concealment): +1 or -1.
cdef void allocation_noted(int change) noexcept nogil
