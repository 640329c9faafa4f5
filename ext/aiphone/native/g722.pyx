"""ITU-T G.722: wideband speech (50 Hz to 7 kHz) in the 64 kbit/s of a G.711 call, by libspandsp.

RTP calls its clock 8000 Hz although it samples at 16 kHz (RFC 3551 section 4.5.2), so a packet has as many bytes and
timestamp units as one of G.711. Both directions are adaptive: what a decoder makes of a byte depends on all that came
before. After a loss it finds back within some milliseconds.

The library is opened when the first call asks for it and not linked: it is a whole fax machine, with the libraries of
four image formats behind it, of which a wheel should not depend for 300 lines of codec. Where it is not installed
(Debian: libspandsp2), ``available`` says so and G.722 is not offered.
"""

import numpy as np

from aiphone.errors import MediaError

cdef extern from *:
    """
    #include <dlfcn.h>
    #include <pthread.h>
    #include <stdint.h>

    /* The library's own declarations (spandsp/g722.h), as pointers. */
    static struct {
        void *(*encode_init)(void *, int, int);
        int (*encode_free)(void *);
        int (*encode)(void *, uint8_t *, const int16_t *, int);
        void *(*decode_init)(void *, int, int);
        int (*decode_free)(void *);
        int (*decode)(void *, int16_t *, const uint8_t *, int);
        int complete;
    } lib;

    static void lib_open(void) {
        static const char *const names[] = {"libspandsp.so.2", "libspandsp.so.3", "libspandsp.2.dylib",
                                            "libspandsp.3.dylib"};
        void *handle = NULL;
        for (unsigned i = 0; i < sizeof names / sizeof *names && handle == NULL; i++)
            handle = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
        if (handle == NULL) return;
        *(void **)&lib.encode_init = dlsym(handle, "g722_encode_init");
        *(void **)&lib.encode_free = dlsym(handle, "g722_encode_free");
        *(void **)&lib.encode = dlsym(handle, "g722_encode");
        *(void **)&lib.decode_init = dlsym(handle, "g722_decode_init");
        *(void **)&lib.decode_free = dlsym(handle, "g722_decode_free");
        *(void **)&lib.decode = dlsym(handle, "g722_decode");
        lib.complete = lib.encode_init && lib.encode_free && lib.encode && lib.decode_init && lib.decode_free
            && lib.decode;
    }

    static int lib_ready(void) {
        static pthread_once_t once = PTHREAD_ONCE_INIT;
        pthread_once(&once, lib_open);
        return lib.complete;
    }

    static void *encoder_new(void) { return lib_ready() ? lib.encode_init(NULL, 64000, 0) : NULL; }
    static void *decoder_new(void) { return lib_ready() ? lib.decode_init(NULL, 64000, 0) : NULL; }
    static void encoder_free(void *e) { if (e) lib.encode_free(e); }
    static void decoder_free(void *d) { if (d) lib.decode_free(d); }
    static void encoder_reset(void *e) { lib.encode_init(e, 64000, 0); }
    static void decoder_reset(void *d) { lib.decode_init(d, 64000, 0); }
    static int encode(void *e, const short *src, unsigned char *dst, int n) { return lib.encode(e, dst, src, n); }
    static int decode(void *d, const unsigned char *src, short *dst, int n) { return lib.decode(d, dst, src, n); }
    """
    int lib_ready() noexcept nogil
    void* encoder_new() noexcept nogil
    void* decoder_new() noexcept nogil
    void encoder_free(void* e) noexcept nogil
    void decoder_free(void* d) noexcept nogil
    void encoder_reset(void* e) noexcept nogil
    void decoder_reset(void* d) noexcept nogil
    int encode(void* e, const short* src, unsigned char* dst, int n) noexcept nogil
    int decode(void* d, const unsigned char* src, short* dst, int n) noexcept nogil


def available():
    """Whether this machine has libspandsp. Any thread; the first call looks for it."""
    return bool(lib_ready())


cdef void* g722_encoder_new() noexcept nogil:
    return encoder_new()


cdef void* g722_decoder_new() noexcept nogil:
    return decoder_new()


cdef void g722_encoder_free(void* e) noexcept nogil:
    encoder_free(e)


cdef void g722_decoder_free(void* d) noexcept nogil:
    decoder_free(d)


cdef void g722_encoder_reset(void* e) noexcept nogil:
    encoder_reset(e)


cdef void g722_decoder_reset(void* d) noexcept nogil:
    decoder_reset(d)


cdef int g722_encode(void* e, const short* src, unsigned char* dst, int n) noexcept nogil:
    return encode(e, src, dst, n)


cdef int g722_decode(void* d, const unsigned char* src, short* dst, int n) noexcept nogil:
    return decode(d, src, dst, n)


cdef class G722:
    """Both directions of a G.722 stream. One thread at a time; MediaError when it was not built in."""

    cdef void* _encoder
    cdef void* _decoder

    def __cinit__(self):
        if not lib_ready():
            raise MediaError("this machine does not speak G.722; install libspandsp (Debian: libspandsp2)")
        self._encoder = encoder_new()
        self._decoder = decoder_new()
        if self._encoder is NULL or self._decoder is NULL:
            raise MemoryError("no memory for a G.722 stream")

    def __dealloc__(self):
        encoder_free(self._encoder)
        decoder_free(self._decoder)

    def encode(self, const short[::1] pcm not None):
        """Linear PCM (int16, 16 kHz) to bytes, one for two samples; ValueError for an odd number of samples."""
        cdef int n = <int>pcm.shape[0]
        if n % 2:
            raise ValueError("G.722 codes samples in pairs; hand over an even number")
        out = np.empty(n // 2, np.uint8)
        cdef unsigned char[::1] view = out
        if n:
            encode(self._encoder, &pcm[0], &view[0], n)
        return out.tobytes()

    def decode(self, const unsigned char[::1] data not None):
        """Bytes to linear PCM, int16 at 16 kHz, two samples for each byte."""
        cdef int n = <int>data.shape[0]
        out = np.empty(2 * n, np.int16)
        cdef short[::1] view = out
        if n:
            decode(self._decoder, &data[0], &view[0], n)
        return out
