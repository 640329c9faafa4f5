# ITU-T G.711, both laws. All functions: any thread, no GIL, src and dst must not overlap.

cdef void ulaw_decode(const unsigned char* src, short* dst, Py_ssize_t n) noexcept nogil
cdef void alaw_decode(const unsigned char* src, short* dst, Py_ssize_t n) noexcept nogil
cdef void ulaw_encode(const short* src, unsigned char* dst, Py_ssize_t n) noexcept nogil
cdef void alaw_encode(const short* src, unsigned char* dst, Py_ssize_t n) noexcept nogil
