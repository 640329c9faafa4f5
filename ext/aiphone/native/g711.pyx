"""ITU-T G.711: companded 8-bit telephony audio, mu-law (PCMU) and A-law (PCMA).

Each conversion is arithmetic on single samples with no table and no branch, so that the C compiler turns the
loops into SIMD code on any processor; where there is AVX2, encoding is written for it by hand. Both laws are
floating-point formats with a 3-bit exponent and a 4-bit mantissa; the portable encoders therefore let the hardware's
int-to-float conversion find the segment.

16-bit input is taken to G.711's 14 bits (mu-law) or 13 bits (A-law) as the ITU-T's reference software does it
(G.191): the magnitude of a negative sample is its one's complement, so both signs have segments of one size.
"""

import numpy as np

cimport numpy as cnp
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

cnp.import_array()

cdef enum:
    WITHOUT_GIL = 65536     # samples from which on others may run meanwhile

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    /* The loops are compiled for wider vectors too where the loader can choose between versions at start. */
    #if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
    #define AIPHONE_CLONES __attribute__((target_clones("avx2", "default")))
    #else
    #define AIPHONE_CLONES
    #endif

    /* Segment 0 of both laws begins at 2^7 in a float whose exponent is biased by 127. */
    #define SEGMENT_0 ((127 + 7) << 4)

    static inline int32_t segment_and_step(int32_t magnitude) {
        float f = (float)magnitude;
        int32_t bits;
        memcpy(&bits, &f, sizeof bits);
        return (bits >> 19) - SEGMENT_0;  /* 3 bits of exponent, 4 of mantissa */
    }

    static inline void ulaw_encode_portable(const int16_t *restrict src, uint8_t *restrict dst, Py_ssize_t n) {
        for (Py_ssize_t i = 0; i < n; i++) {
            int32_t x = src[i], negative = x >> 31;
            int32_t magnitude = (x ^ negative) + 132;  /* 33 on the 14-bit scale: makes segments powers of 2 */
            magnitude = magnitude > 32767 ? 32767 : magnitude;
            dst[i] = (uint8_t)((segment_and_step(magnitude) ^ 0xFF) ^ (negative & 0x80));
        }
    }

    static inline void alaw_encode_portable(const int16_t *restrict src, uint8_t *restrict dst, Py_ssize_t n) {
        for (Py_ssize_t i = 0; i < n; i++) {
            int32_t x = src[i], negative = x >> 31;
            int32_t magnitude = x ^ negative;
            int32_t code = magnitude < 256 ? magnitude >> 4 : segment_and_step(magnitude);
            dst[i] = (uint8_t)(code ^ 0xD5 ^ (negative & 0x80));  /* even bits inverted, sign bit 1 for positive */
        }
    }

    #if defined(__x86_64__) && defined(__GNUC__)
    #include <immintrin.h>
    #define FOR_AVX2 __attribute__((target("avx2")))

    /* 32 samples in lanes of 16 bits, which are half as wide as floats. The segment is the place of the highest bit of
       magnitude >> 7, a byte: looked up by its halves. The shift by a variable is a multiplication by a power of 2,
       looked up likewise; `quiet` is that of segment 0, which in A-law is shifted as segment 1 is. */
    FOR_AVX2 static inline __attribute__((always_inline)) __m256i encode_32(const int16_t *src, int bias, char quiet,
                                                                           char inverted) {
        const __m256i half = _mm256_set1_epi8(15), zero = _mm256_setzero_si256(), ones = _mm256_set1_epi8(-1);
        const __m256i segment_low = _mm256_broadcastsi128_si256(
            _mm_setr_epi8(0, 0, 16, 16, 32, 32, 32, 32, 48, 48, 48, 48, 48, 48, 48, 48));
        const __m256i segment_high = _mm256_broadcastsi128_si256(
            _mm_setr_epi8(0, 64, 80, 80, 96, 96, 96, 96, 112, 112, 112, 112, 112, 112, 112, 112));
        const __m256i power_low = _mm256_broadcastsi128_si256(
            _mm_setr_epi8(quiet, quiet, 64, 64, 32, 32, 32, 32, 16, 16, 16, 16, 16, 16, 16, 16));
        const __m256i power_high = _mm256_broadcastsi128_si256(
            _mm_setr_epi8(-1, 8, 4, 4, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1));
        __m256i x = _mm256_loadu_si256((const __m256i *)src), y = _mm256_loadu_si256((const __m256i *)(src + 16));
        /* The larger of x and its complement is the magnitude, one's complement where x is negative. */
        __m256i a = _mm256_adds_epi16(_mm256_max_epi16(x, _mm256_xor_si256(x, ones)), _mm256_set1_epi16((short)bias));
        __m256i b = _mm256_adds_epi16(_mm256_max_epi16(y, _mm256_xor_si256(y, ones)), _mm256_set1_epi16((short)bias));
        __m256i top = _mm256_packus_epi16(_mm256_srli_epi16(a, 7), _mm256_srli_epi16(b, 7));
        __m256i low = _mm256_and_si256(top, half), high = _mm256_and_si256(_mm256_srli_epi16(top, 4), half);
        __m256i segment = _mm256_max_epu8(_mm256_shuffle_epi8(segment_low, low),
                                          _mm256_shuffle_epi8(segment_high, high));
        __m256i power = _mm256_min_epu8(_mm256_shuffle_epi8(power_low, low), _mm256_shuffle_epi8(power_high, high));
        __m256i step = _mm256_packus_epi16(_mm256_mulhi_epu16(a, _mm256_unpacklo_epi8(zero, power)),
                                           _mm256_mulhi_epu16(b, _mm256_unpackhi_epi8(zero, power)));
        __m256i code = _mm256_or_si256(segment, _mm256_and_si256(_mm256_srli_epi16(step, 2), half));
        __m256i negative = _mm256_and_si256(_mm256_packs_epi16(x, y), _mm256_set1_epi8(-128));
        code = _mm256_xor_si256(_mm256_xor_si256(code, _mm256_set1_epi8(inverted)), negative);
        return _mm256_permute4x64_epi64(code, 0xD8);  /* packing is done in halves */
    }

    #define DEFINE_ENCODE(law, bias, quiet, inverted)                                                           \\
        FOR_AVX2 static void law##_encode_avx2(const int16_t *src, uint8_t *dst, Py_ssize_t n) {                \\
            Py_ssize_t i = 0;                                                                                   \\
            for (; i + 32 <= n; i += 32)                                                                        \\
                _mm256_storeu_si256((__m256i *)(dst + i), encode_32(src + i, bias, (char)quiet, (char)inverted));\\
            law##_encode_portable(src + i, dst + i, n - i);                                                     \\
        }                                                                                                       \\
        static void law##_encode_loop(const int16_t *src, uint8_t *dst, Py_ssize_t n) {                         \\
            if (__builtin_cpu_supports("avx2"))                                                                 \\
                law##_encode_avx2(src, dst, n);                                                                 \\
            else                                                                                                \\
                law##_encode_portable(src, dst, n);                                                             \\
        }
    DEFINE_ENCODE(ulaw, 132, 128, 0xFF)
    DEFINE_ENCODE(alaw, 0, 64, 0xD5)
    #else
    #define ulaw_encode_loop ulaw_encode_portable
    #define alaw_encode_loop alaw_encode_portable
    #endif

    /* 1 << segment without a shift by a variable, which narrow SIMD lanes do not have. */
    static inline uint16_t power_of_segment(uint16_t segment) {
        uint16_t a = (uint16_t)(1 + (segment & 1));
        uint16_t b = (uint16_t)(1 + 3 * ((segment >> 1) & 1));
        uint16_t c = (uint16_t)(1 + 15 * ((segment >> 2) & 1));
        return (uint16_t)(a * b * c);
    }

    AIPHONE_CLONES
    static void ulaw_decode_loop(const uint8_t *restrict src, int16_t *restrict dst, Py_ssize_t n) {
        for (Py_ssize_t i = 0; i < n; i++) {
            uint16_t code = (uint16_t)(src[i] ^ 0xFF);
            uint16_t step = (uint16_t)(((code & 0x0F) << 3) + 132);
            uint16_t magnitude = (uint16_t)(step * power_of_segment((uint16_t)(code >> 4)) - 132);
            uint16_t negative = (uint16_t)(0 - (code >> 7));
            dst[i] = (int16_t)(uint16_t)((magnitude ^ negative) - negative);
        }
    }

    AIPHONE_CLONES
    static void alaw_decode_loop(const uint8_t *restrict src, int16_t *restrict dst, Py_ssize_t n) {
        for (Py_ssize_t i = 0; i < n; i++) {
            uint16_t code = (uint16_t)(src[i] ^ 0x55);
            uint16_t segment = (uint16_t)((code >> 4) & 7);
            uint16_t first = (uint16_t)((segment + 7) >> 3);  /* 0 in segment 0, else 1 */
            uint16_t step = (uint16_t)(((code & 0x0F) << 4) + 8 + (first << 8));
            uint16_t magnitude = (uint16_t)(step * power_of_segment((uint16_t)(segment - first)));
            uint16_t negative = (uint16_t)((code >> 7) - 1);
            dst[i] = (int16_t)(uint16_t)((magnitude ^ negative) - negative);
        }
    }
    """
    void ulaw_encode_loop(const short* src, unsigned char* dst, Py_ssize_t n) noexcept nogil
    void alaw_encode_loop(const short* src, unsigned char* dst, Py_ssize_t n) noexcept nogil
    void ulaw_decode_loop(const unsigned char* src, short* dst, Py_ssize_t n) noexcept nogil
    void alaw_decode_loop(const unsigned char* src, short* dst, Py_ssize_t n) noexcept nogil


cdef void ulaw_decode(const unsigned char* src, short* dst, Py_ssize_t n) noexcept nogil:
    ulaw_decode_loop(src, dst, n)


cdef void alaw_decode(const unsigned char* src, short* dst, Py_ssize_t n) noexcept nogil:
    alaw_decode_loop(src, dst, n)


cdef void ulaw_encode(const short* src, unsigned char* dst, Py_ssize_t n) noexcept nogil:
    ulaw_encode_loop(src, dst, n)


cdef void alaw_encode(const short* src, unsigned char* dst, Py_ssize_t n) noexcept nogil:
    alaw_encode_loop(src, dst, n)


ctypedef void (*Decoder)(const unsigned char* src, short* dst, Py_ssize_t n) noexcept nogil
ctypedef void (*Encoder)(const short* src, unsigned char* dst, Py_ssize_t n) noexcept nogil


cdef inline object room_for(cnp.npy_intp n, object out):
    # A new array costs more than decoding a packet.
    if out is None:
        return cnp.PyArray_EMPTY(1, &n, cnp.NPY_INT16, 0)
    if (not cnp.PyArray_CheckExact(out) or cnp.PyArray_TYPE(<cnp.ndarray>out) != cnp.NPY_INT16
            or cnp.PyArray_NDIM(<cnp.ndarray>out) != 1 or not cnp.PyArray_ISCARRAY(<cnp.ndarray>out)
            or cnp.PyArray_SIZE(<cnp.ndarray>out) != n):
        raise ValueError("G.711 decodes into a contiguous int16 array with one sample for each byte")
    return out


cdef inline object decode(object data, object out, Decoder work):
    # A typed memoryview costs more than decoding a packet, and so does letting go of the GIL.
    cdef Py_buffer view
    cdef cnp.npy_intp n
    cdef short* dst
    if PyBytes_CheckExact(data) and PyBytes_GET_SIZE(data) < WITHOUT_GIL:
        n = PyBytes_GET_SIZE(data)
        pcm = room_for(n, out)
        work(<const unsigned char*>PyBytes_AS_STRING(data), <short*>cnp.PyArray_DATA(<cnp.ndarray>pcm), n)
        return pcm
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        n = view.len
        pcm = room_for(n, out)
        dst = <short*>cnp.PyArray_DATA(<cnp.ndarray>pcm)
        if n < WITHOUT_GIL:
            work(<const unsigned char*>view.buf, dst, n)
        else:
            with nogil:
                work(<const unsigned char*>view.buf, dst, n)
    finally:
        PyBuffer_Release(&view)
    return pcm


cdef inline bytes encode(object pcm, Encoder work):
    cdef cnp.ndarray array
    cdef Py_ssize_t n
    cdef bytes out
    cdef const short* src
    cdef unsigned char* dst
    if not cnp.PyArray_CheckExact(pcm):
        pcm = np.asarray(memoryview(pcm))
    array = <cnp.ndarray>pcm
    if (cnp.PyArray_TYPE(array) != cnp.NPY_INT16 or cnp.PyArray_NDIM(array) != 1
            or not cnp.PyArray_ISCARRAY_RO(array)):
        raise ValueError("G.711 encodes contiguous int16 samples in one dimension")
    n = cnp.PyArray_SIZE(array)
    out = PyBytes_FromStringAndSize(NULL, n)
    src = <const short*>cnp.PyArray_DATA(array)
    dst = <unsigned char*>PyBytes_AS_STRING(out)
    if n < WITHOUT_GIL:
        work(src, dst, n)
    else:
        with nogil:
            work(src, dst, n)
    return out


def decode_ulaw(data not None, out=None):
    """PCMU to linear PCM, int16, one sample for each byte, into ``out`` if given. Any thread; GIL released for long data."""
    return decode(data, out, ulaw_decode_loop)


def decode_alaw(data not None, out=None):
    """PCMA to linear PCM, int16, one sample for each byte, into ``out`` if given. Any thread; GIL released for long data."""
    return decode(data, out, alaw_decode_loop)


def encode_ulaw(pcm not None):
    """Linear PCM (int16, contiguous) to PCMU, one byte for each sample. Any thread; GIL released for long data."""
    return encode(pcm, ulaw_encode_loop)


def encode_alaw(pcm not None):
    """Linear PCM (int16, contiguous) to PCMA, one byte for each sample. Any thread; GIL released for long data."""
    return encode(pcm, alaw_encode_loop)
