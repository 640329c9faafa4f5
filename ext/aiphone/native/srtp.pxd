# SRTP and SRTCP (RFC 3711) through libsrtp2, when the extension was built with it.

from libc.stdint cimport int64_t

cdef enum:
    CRYPTO_TRAILER = 16     # bytes that protection adds at most: the tag, and SRTCP's index

cdef enum CryptoResult:     # negative where a length is expected
    CRYPTO_FORGED = -1      # the tag does not fit: wrong key, damaged, or made by somebody else
    CRYPTO_REPLAYED = -2    # a packet with this number came before, or is too old to tell
    CRYPTO_FAILED = -3

cdef struct Crypto:
    # One direction of one call.
    void* session
    int64_t released        # media thread sets it as the last thing it does with it

cdef class NativeCrypto:
    cdef Crypto* _crypto

# All four work in place on a buffer that is aligned to four bytes; the new length, or a CryptoResult. Protection needs
# CRYPTO_TRAILER bytes of room after n.
cdef int crypto_protect(Crypto* c, unsigned char* packet, int n) noexcept nogil
cdef int crypto_unprotect(Crypto* c, unsigned char* packet, int n) noexcept nogil
cdef int crypto_protect_rtcp(Crypto* c, unsigned char* packet, int n) noexcept nogil
cdef int crypto_unprotect_rtcp(Crypto* c, unsigned char* packet, int n) noexcept nogil
# Accepts NULL.
cdef void crypto_release(Crypto* c) noexcept nogil
