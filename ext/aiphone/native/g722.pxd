# G.722 at 64 kbit/s through libspandsp, where that is installed: 16 kHz sound, two samples in a byte.

# NULL when this machine has no libspandsp, or there is no memory. Accept NULL.
cdef void* g722_encoder_new() noexcept nogil
cdef void* g722_decoder_new() noexcept nogil
cdef void g722_encoder_free(void* e) noexcept nogil
cdef void g722_decoder_free(void* d) noexcept nogil
# Start again with a new stream; no allocation.
cdef void g722_encoder_reset(void* e) noexcept nogil
cdef void g722_decoder_reset(void* d) noexcept nogil
# n samples, an even number; bytes written.
cdef int g722_encode(void* e, const short* src, unsigned char* dst, int n) noexcept nogil
# n bytes; samples written, twice as many.
cdef int g722_decode(void* d, const unsigned char* src, short* dst, int n) noexcept nogil
