"""Streaming sample rate conversion for speech: a polyphase FIR filter with a Kaiser window.

For a pair of rates in the ratio up/down (L/M), output sample k stands at input time k * M / L. Its filter is the
prototype low-pass taken at every L-th coefficient, starting at phase (k * M) mod L, so only the products that
count are computed. Every output is one dot product of whole numbers, which makes the result bit-identical for any
sizes of blocks, whichever kernel computes it.

Samples and coefficients are 16-bit whole numbers, of which a vector instruction multiplies twice as many as of
floats. The coefficients are scaled so that the tails of the filter use all 16 bits; at its centre, where they would
not fit, a second, coarse coefficient carries the larger part and the fine one the rest. Their error is far below the
stopband's level.

The prototype passes 0 to 0.425 of the narrower rate (3.4 kHz at 8 kHz, 6.8 kHz at 16 kHz) flat within 0.05 dB and
stops aliases by more than 80 dB from half of the narrower rate on: a group delay of 32 samples of that rate, 4 ms at
8 kHz. When the rate rises, nothing can fold back, and the first image of the passband begins only at 0.575: a delay
of 17.5 samples, 2.2 ms, and from 8 to 16 kHz a half-band filter, of which every other output is an input sample.

Pairs with few phases compute eight neighbouring outputs of one phase together; the others four outputs, each with
its own row of coefficients, stored in the order in which the outputs meet them. Half the rate and twice the rate, which
every call needs all the time, have outputs whose samples lie side by side: 32 of them share each load of coefficients,
no sum across a vector is needed, and what a half-band filter leaves as it is is copied.

The kernels exist for AVX2 (asked for at run time), for SSE2, and in C for any processor. To build and test the others
where there is AVX2, in a copy of the checkout: CFLAGS="-DAIPHONE_PORTABLE" leaves AVX2 out, "-DAIPHONE_PORTABLE
-DAIPHONE_PLAIN" SSE2 too.
"""

import numpy as np

cimport numpy as cnp
from aiphone.errors import MediaError

from libc.math cimport M_PI, ceil, fabs, rint, sin, sqrt
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

cnp.import_array()

cdef extern from *:
    """
    #include <stddef.h>
    #include <stdint.h>
    #include <string.h>

    #define AIPHONE_STEP 16         /* coefficients that a vector instruction meets */
    #define AIPHONE_MOST 960        /* input samples in a block */
    #define AIPHONE_MOST_TAPS 512
    #define AIPHONE_WINDOW (AIPHONE_MOST_TAPS + AIPHONE_MOST)
    #define ALWAYS static inline __attribute__((always_inline))

    /* What the kernels need of a filter. A row of coefficients: `steps` times 16 fine ones, then 16 coarse ones for the
       samples from `centre` on. */
    typedef struct {
        const int16_t *coefficients, *places;  /* of each row, and where it begins in a pass through all rows */
        int steps, centre, shift, up, down;
        int first;          /* fine coefficients before it, an even number, are 0, but in the row `same` */
        int same, same_at;  /* a row whose outputs are input samples, or -1, and which ones */
    } Kernel;

    /* To the nearest, from 14 fractional bits. */
    ALWAYS int16_t saturated(int32_t sum) {
        sum = (sum + (1 << 13)) >> 14;
        return (int16_t)(sum > 32767 ? 32767 : sum < -32768 ? -32768 : sum);
    }

    /* One output. All versions shift the same eight sums of neighbouring products, so all give the same bits. */
    #if defined(__SSE2__) && !defined(AIPHONE_PLAIN)
    #include <emmintrin.h>
    #define PRODUCTS(x, c) _mm_madd_epi16(_mm_loadu_si128((const __m128i *)(x)), _mm_loadu_si128((const __m128i *)(c)))

    ALWAYS int16_t one(const Kernel *k, const int16_t *c, const int16_t *x) {
        const __m128i shift = _mm_cvtsi32_si128(k->shift);
        __m128i a = _mm_setzero_si128(), b = a;
        for (int j = 0; j < k->steps; j++, c += 16) {
            a = _mm_add_epi32(a, PRODUCTS(x + 16 * j, c));
            b = _mm_add_epi32(b, PRODUCTS(x + 16 * j + 8, c + 8));
        }
        a = _mm_add_epi32(_mm_sra_epi32(a, shift), PRODUCTS(x + k->centre, c));
        b = _mm_add_epi32(_mm_sra_epi32(b, shift), PRODUCTS(x + k->centre + 8, c + 8));
        a = _mm_add_epi32(a, b);
        a = _mm_add_epi32(a, _mm_shuffle_epi32(a, 0x4E));
        return saturated(_mm_cvtsi128_si32(_mm_add_epi32(a, _mm_shuffle_epi32(a, 0xB1))));
    }
    #else
    typedef int16_t eight_shorts __attribute__((vector_size(16)));
    typedef int32_t eight_ints __attribute__((vector_size(32)));

    ALWAYS void add_products(eight_ints *sum, const int16_t *x, const int16_t *c) {
        eight_shorts u, v;
        memcpy(&u, x, sizeof u);
        memcpy(&v, c, sizeof v);
        *sum += __builtin_convertvector(u, eight_ints) * __builtin_convertvector(v, eight_ints);
    }

    ALWAYS int16_t one(const Kernel *k, const int16_t *c, const int16_t *x) {
        eight_ints a = {0}, b = {0}, coarse = {0};
        int32_t sum = 0;
        for (int j = 0; j < k->steps; j++, c += 16) {
            add_products(&a, x + 16 * j, c);
            add_products(&b, x + 16 * j + 8, c + 8);
        }
        add_products(&coarse, x + k->centre, c);
        add_products(&coarse, x + k->centre + 8, c + 8);
        for (int i = 0; i < 8; i += 2)
            sum += ((a[i] + a[i + 1]) >> k->shift) + ((b[i] + b[i + 1]) >> k->shift) + coarse[i] + coarse[i + 1];
        return saturated(sum);
    }
    #endif

    /* Makes `count` outputs into dst: the first begins at x with the coefficients of `row`. */
    static void filter_portable(const Kernel *k, int row, const int16_t *x, int count, int16_t *dst) {
        const int whole = k->down / k->up, rest = k->down % k->up, length = 16 * (k->steps + 1);
        int phase = (int)((long long)row * k->down % k->up);
        for (int i = 0; i < count; i++) {
            const int carry = phase + rest >= k->up;
            dst[i] = row == k->same ? x[k->same_at] : one(k, k->coefficients + row * length, x);
            x += whole + carry;
            phase += rest - (carry ? k->up : 0);
            row = row + 1 == k->up ? 0 : row + 1;
        }
    }

    #if defined(__x86_64__) && defined(__GNUC__) && !defined(AIPHONE_PORTABLE)
    #define AIPHONE_AVX2 1
    #include <immintrin.h>
    #define FOR_AVX2 __attribute__((target("avx2")))
    #define LOAD(from) _mm256_loadu_si256((const __m256i *)(from))

    ALWAYS int32_t pair_at(const int16_t *from) {
        int32_t pair;
        memcpy(&pair, from, sizeof pair);
        return pair;
    }

    /* The sums of the lanes of four vectors, beside each other. */
    FOR_AVX2 ALWAYS __m128i sums_of_lanes(__m256i a, __m256i b, __m256i c, __m256i d) {
        __m256i halves = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
        return _mm_add_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
    }

    FOR_AVX2 ALWAYS __m128i rounded(__m128i sums) {
        return _mm_srai_epi32(_mm_add_epi32(sums, _mm_set1_epi32(1 << 13)), 14);
    }

    /* Neighbouring outputs: four rows of coefficients, four places in the window. */
    FOR_AVX2 ALWAYS __m128i four_avx2(const int16_t *c0, const int16_t *c1, const int16_t *c2, const int16_t *c3,
                                      const int16_t *x0, const int16_t *x1, const int16_t *x2, const int16_t *x3,
                                      const int steps, int centre, __m128i shift) {
        __m256i s0 = _mm256_setzero_si256(), s1 = s0, s2 = s0, s3 = s0;
        const int end = 16 * steps;
        for (int j = 0; j < end; j += 16) {
            s0 = _mm256_add_epi32(s0, _mm256_madd_epi16(LOAD(x0 + j), LOAD(c0 + j)));
            s1 = _mm256_add_epi32(s1, _mm256_madd_epi16(LOAD(x1 + j), LOAD(c1 + j)));
            s2 = _mm256_add_epi32(s2, _mm256_madd_epi16(LOAD(x2 + j), LOAD(c2 + j)));
            s3 = _mm256_add_epi32(s3, _mm256_madd_epi16(LOAD(x3 + j), LOAD(c3 + j)));
        }
        s0 = _mm256_add_epi32(_mm256_sra_epi32(s0, shift), _mm256_madd_epi16(LOAD(x0 + centre), LOAD(c0 + end)));
        s1 = _mm256_add_epi32(_mm256_sra_epi32(s1, shift), _mm256_madd_epi16(LOAD(x1 + centre), LOAD(c1 + end)));
        s2 = _mm256_add_epi32(_mm256_sra_epi32(s2, shift), _mm256_madd_epi16(LOAD(x2 + centre), LOAD(c2 + end)));
        s3 = _mm256_add_epi32(_mm256_sra_epi32(s3, shift), _mm256_madd_epi16(LOAD(x3 + centre), LOAD(c3 + end)));
        return rounded(sums_of_lanes(s0, s1, s2, s3));
    }

    /* Eight outputs of one phase: each coefficient is loaded once for all of them. */
    FOR_AVX2 ALWAYS __m128i eight_avx2(const int16_t *c, const int16_t *x, int down, const int steps, int centre,
                                       __m128i shift) {
        __m256i s[8];
        for (int i = 0; i < 8; i++)
            s[i] = _mm256_setzero_si256();
        for (int j = 0; j < steps; j++, c += 16) {
            const __m256i v = LOAD(c);
            for (int i = 0; i < 8; i++)
                s[i] = _mm256_add_epi32(s[i], _mm256_madd_epi16(LOAD(x + 16 * j + i * down), v));
        }
        for (int i = 0; i < 8; i++)
            s[i] = _mm256_add_epi32(_mm256_sra_epi32(s[i], shift),
                                    _mm256_madd_epi16(LOAD(x + centre + i * down), LOAD(c)));
        return _mm_packs_epi32(rounded(sums_of_lanes(s[0], s[1], s[2], s[3])),
                               rounded(sums_of_lanes(s[4], s[5], s[6], s[7])));
    }

    /* Few phases: the outputs of one phase together, eight at a time; of two phases in turns. */
    FOR_AVX2 ALWAYS void filter_across(const Kernel *k, int row, const int16_t *x, int count, int16_t *dst,
                                       const int up, const int down) {
        const int steps = k->steps, length = 16 * (steps + 1), centre = k->centre;
        const __m128i shift = _mm_cvtsi32_si128(k->shift);
        int phase = row * down % up, done = 0;
        if (up == 2) {
            const int16_t *c = k->coefficients + row * length, *d = k->coefficients + (1 - row) * length;
            const int ahead = (phase + down) / 2;
            for (; done + 16 <= count; done += 16, x += 8 * down) {
                const __m128i a = eight_avx2(c, x, down, steps, centre, shift);
                const __m128i b = eight_avx2(d, x + ahead, down, steps, centre, shift);
                _mm_storeu_si128((__m128i *)(dst + done), _mm_unpacklo_epi16(a, b));
                _mm_storeu_si128((__m128i *)(dst + done + 8), _mm_unpackhi_epi16(a, b));
            }
        }
        for (int first = done; first < done + up && first < count; first++) {
            const int16_t *c = k->coefficients + row * length, *from = x;
            int i = first;
            for (; i + 7 * up < count; i += 8 * up, from += 8 * down) {
                const __m128i out = eight_avx2(c, from, down, steps, centre, shift);
                int16_t each[8];
                _mm_storeu_si128((__m128i *)(up == 1 ? dst + i : each), out);
                for (int n = 0; up > 1 && n < 8; n++)
                    dst[i + n * up] = each[n];
            }
            for (; i < count; i += up, from += down)
                dst[i] = one(k, c, from);
            phase += down;
            x += phase / up;
            phase %= up;
            row = row + 1 == up ? 0 : row + 1;
        }
    }

    /* Many phases: one output after the other, four at a time, pass after pass through the rows. */
    FOR_AVX2 ALWAYS void filter_along(const Kernel *k, int row, const int16_t *x, int count, int16_t *dst,
                                      const int steps) {
        const int length = 16 * (steps + 1), centre = k->centre;
        const __m128i shift = _mm_cvtsi32_si128(k->shift);
        x -= k->places[row];
        while (count > 0) {
            const int end = row + count < k->up ? row + count : k->up;
            count -= end - row;
            for (; row < end; row += 4, dst += 4) {
                const int left = end - row - 1;  /* what is beyond the last one is computed again, and thrown away */
                const int i = left < 1 ? row : row + 1, j = left < 2 ? i : row + 2, n = left < 3 ? j : row + 3;
                const int16_t *c = k->coefficients;
                __m128i out = four_avx2(c + row * length, c + i * length, c + j * length, c + n * length,
                                        x + k->places[row], x + k->places[i], x + k->places[j], x + k->places[n],
                                        steps, centre, shift);
                out = _mm_packs_epi32(out, out);
                if (left >= 3)
                    _mm_storel_epi64((__m128i *)dst, out);
                else
                    for (int m = 0; m <= left; m++, out = _mm_srli_si128(out, 2))
                        dst[m] = (int16_t)_mm_extract_epi16(out, 0);
            }
            dst -= row - end;
            row = 0;
            x += k->down;
        }
    }

    /* `vectors` times eight outputs whose places in the window are two samples apart, so that one load has a pair of
       neighbours for each of them: a lane of `one` after the other, for all. With `between`, every second vector has
       the outputs that lie between those of the one before it. Before `first` all coefficients are 0. */
    #define PLACE(v) (between ? 16 * ((v) / 2) + (v) % 2 : 16 * (v))
    FOR_AVX2 ALWAYS void lanes_avx2(const int16_t *c, const int16_t *x, const int begin, const int end, const int first,
                                    const int length, int centre, __m128i shift, const int between, const int vectors,
                                    __m256i *sum) {
        for (ptrdiff_t lane = begin; lane < end; lane += 2) {
            const __m256i coarse = _mm256_set1_epi32(pair_at(c + length + lane));
            __m256i s[4];
            for (int v = 0; v < 4; v++)
                s[v] = _mm256_setzero_si256();
            for (ptrdiff_t j = first; j < length; j += 16) {
                const __m256i fine = _mm256_set1_epi32(pair_at(c + lane + j));
                for (int v = 0; v < vectors; v++)
                    s[v] = _mm256_add_epi32(s[v], _mm256_madd_epi16(LOAD(x + lane + j + PLACE(v)), fine));
            }
            for (int v = 0; v < vectors; v++) {
                s[v] = _mm256_sra_epi32(s[v], shift);
                s[v] = _mm256_add_epi32(s[v], _mm256_madd_epi16(LOAD(x + centre + lane + PLACE(v)), coarse));
                sum[v] = _mm256_add_epi32(sum[v], s[v]);
            }
        }
    }
    #undef PLACE

    FOR_AVX2 ALWAYS void beside_avx2(const int16_t *c, const int16_t *x, const int length, const int first, int centre,
                                     __m128i shift, const int between, const int vectors, __m256i *sum) {
        for (int v = 0; v < vectors; v++)
            sum[v] = _mm256_set1_epi32(1 << 13);
        lanes_avx2(c, x, 0, first % 16, first / 16 * 16 + 16, length, centre, shift, between, vectors, sum);
        lanes_avx2(c, x, first % 16, 16, first / 16 * 16, length, centre, shift, between, vectors, sum);
        for (int v = 0; v < vectors; v++)
            sum[v] = _mm256_srai_epi32(sum[v], 14);
    }

    /* Half the rate. */
    FOR_AVX2 ALWAYS void filter_halving(const Kernel *k, const int16_t *x, int count, int16_t *dst, const int length,
                                        const int first) {
        const __m128i shift = _mm_cvtsi32_si128(k->shift);
        __m256i s[4];
        for (; count >= 32; count -= 32, x += 64, dst += 32) {
            beside_avx2(k->coefficients, x, length, first, k->centre, shift, 0, 4, s);
            for (int v = 0; v < 4; v += 2)
                _mm256_storeu_si256((__m256i *)(dst + 8 * v),
                                    _mm256_permute4x64_epi64(_mm256_packs_epi32(s[v], s[v + 1]), 0xD8));
        }
        for (; count >= 16; count -= 16, x += 32, dst += 16) {
            beside_avx2(k->coefficients, x, length, first, k->centre, shift, 0, 2, s);
            _mm256_storeu_si256((__m256i *)dst, _mm256_permute4x64_epi64(_mm256_packs_epi32(s[0], s[1]), 0xD8));
        }
        for (; count > 0; count--, x += 2)
            *dst++ = one(k, k->coefficients, x);
    }

    /* Twice the rate, where every second output is an input sample. */
    FOR_AVX2 ALWAYS void filter_doubling(const Kernel *k, int row, const int16_t *x, int count, int16_t *dst,
                                         const int length, const int first) {
        const int made = 1 - k->same;
        const int16_t *c = k->coefficients + made * (length + 16), *copied = x + k->same_at;
        const __m128i shift = _mm_cvtsi32_si128(k->shift);
        const __m256i in_turns = _mm256_broadcastsi128_si256(
            _mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15));
        __m256i s[4];
        if (row == k->same && count > 0) {
            *dst++ = *copied;
            count--;
            x += row;  /* the phase: output 1 stands half a sample behind output 0 */
            copied += row;
        }
        copied += made;
        for (; count >= 64; count -= 64, x += 32) {
            beside_avx2(c, x, length, first, k->centre, shift, 1, 4, s);
            for (int v = 0; v < 4; v += 2, copied += 16, dst += 32) {
                const __m256i a = _mm256_shuffle_epi8(_mm256_packs_epi32(s[v], s[v + 1]), in_turns), b = LOAD(copied);
                const __m256i low = _mm256_unpacklo_epi16(a, b), high = _mm256_unpackhi_epi16(a, b);
                _mm256_storeu_si256((__m256i *)dst, _mm256_permute2x128_si256(low, high, 0x20));
                _mm256_storeu_si256((__m256i *)(dst + 16), _mm256_permute2x128_si256(low, high, 0x31));
            }
        }
        for (; count >= 32; count -= 32, x += 16, copied += 16, dst += 32) {
            beside_avx2(c, x, length, first, k->centre, shift, 1, 2, s);
            const __m256i a = _mm256_shuffle_epi8(_mm256_packs_epi32(s[0], s[1]), in_turns), b = LOAD(copied);
            const __m256i low = _mm256_unpacklo_epi16(a, b), high = _mm256_unpackhi_epi16(a, b);
            _mm256_storeu_si256((__m256i *)dst, _mm256_permute2x128_si256(low, high, 0x20));
            _mm256_storeu_si256((__m256i *)(dst + 16), _mm256_permute2x128_si256(low, high, 0x31));
        }
        for (; count > 0; count -= 2, x++, copied++) {
            *dst++ = one(k, c, x);
            if (count > 1)
                *dst++ = *copied;
        }
    }

    /* The usual ratios have loops of their own, with known distances between the outputs or a known number of steps. */
    FOR_AVX2 static void filter_avx2(const Kernel *k, int row, const int16_t *x, int count, int16_t *dst) {
        const int up = k->up, down = k->down;
        if (up > 3 && k->steps == 6)
            filter_along(k, row, x, count, dst, 6);
        else if (up > 3)
            filter_along(k, row, x, count, dst, k->steps);
        else if (up == 1 && down == 2)
            k->steps == 8 && k->first == 0 ? filter_halving(k, x, count, dst, 128, 0)
                                           : filter_halving(k, x, count, dst, 16 * k->steps, k->first);
        else if (up == 1 && down == 3)
            filter_across(k, row, x, count, dst, 1, 3);
        else if (up == 1 && down == 6)
            filter_across(k, row, x, count, dst, 1, 6);
        else if (up == 2 && down == 1 && k->same >= 0)
            k->steps == 3 && k->first == 12 ? filter_doubling(k, row, x, count, dst, 48, 12)
                                            : filter_doubling(k, row, x, count, dst, 16 * k->steps, k->first);
        else if (up == 2 && down == 3)
            filter_across(k, row, x, count, dst, 2, 3);
        else
            filter_across(k, row, x, count, dst, up, down);
    }
    #endif

    static inline void filter_block(const Kernel *k, int row, const int16_t *x, int count, int16_t *dst) {
    #ifdef AIPHONE_AVX2
        if (__builtin_cpu_supports("avx2")) {
            filter_avx2(k, row, x, count, dst);
            return;
        }
    #endif
        filter_portable(k, row, x, count, dst);
    }

    /* Tables are published by compare-and-swap: readers never wait, and two makers of one table agree. */
    #define publish(head, expected, item) \\
        __atomic_compare_exchange_n((head), &(expected), (item), 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)
    #define head_of(head) __atomic_load_n((head), __ATOMIC_ACQUIRE)
    """
    int STEP "AIPHONE_STEP"
    int MOST_TAPS "AIPHONE_MOST_TAPS"
    int BLOCK "AIPHONE_MOST"   # input samples filtered at a time
    enum:
        WINDOW "AIPHONE_WINDOW"
    ctypedef struct Kernel:
        const short* coefficients
        const short* places
        int steps
        int centre
        int shift
        int up
        int down
        int first
        int same
        int same_at
    void filter_block(const Kernel* kernel, int row, const short* x, int count, short* dst) noexcept nogil
    bint publish(Filter** head, Filter* expected, Filter* item) noexcept nogil
    Filter* head_of(Filter** head) noexcept nogil

cdef enum:
    WITHOUT_GIL = 4096   # samples from which on others may run meanwhile
    LOWEST = 8000
    HIGHEST = 48000
    MOST_PHASES = 640    # bounds a table; every pair of the usual rates fits

    FINEST = 8           # bits that fine coefficients may have beyond the coarse ones' 14
    CACHE_LINE = 64

cdef double ATTENUATION = 82.0   # dB; the margin over 80 covers the window's approximation
cdef double PASS_EDGE = 0.425    # of the narrower rate
cdef double STOP_EDGE = 0.5      # when the rate falls
cdef double SLOPE = 0.91         # of what the transition would be if both bands had to be equally good
cdef double IMAGE_EDGE = 0.575   # when it rises: where the first image of the passband begins

cdef Filter* filters = NULL      # list of tables made so far; grows to the number of pairs in use and no further


cdef int gcd(int a, int b) noexcept nogil:
    while b:
        a, b = b, a % b
    return a


cdef double bessel_i0(double x) noexcept nogil:
    # Power series of the modified Bessel function of order zero; converges fast for the |x| < 20 used here.
    cdef double total = 1.0, term = 1.0, k = 1.0
    while term > total * 1e-17:
        term *= (x / (2.0 * k)) * (x / (2.0 * k))
        total += term
        k += 1.0
    return total


cdef void filter_free(Filter* f) noexcept nogil:
    free(f.memory)
    free(f)


cdef bint quantised(Filter* f, const double* exact, int shift) noexcept nogil:
    # Makes the rows of 16-bit coefficients; whether they fit, and no sum in 32 bits can overflow whatever the samples.
    cdef int row, j, lane
    cdef short* to = f.coefficients
    cdef double value, coarse, fine, one = 1 << 14, highest = 32767.0, most = 65000.0
    cdef double[8] fine_sum, sum
    for row in range(f.up):
        for lane in range(8):
            fine_sum[lane] = sum[lane] = 0.0
        for j in range(f.taps):
            value = exact[row * f.taps + j] * one
            coarse = 0.0
            if f.centre <= j < f.centre + STEP:
                coarse = rint(value)
                if fabs(coarse) > highest:
                    return False
                to[f.taps + j - f.centre] = <short>coarse
                sum[(j - f.centre) // 2] += fabs(coarse) + 2.0   # and what shifting a negative sum rounds away
            fine = rint((value - coarse) * (1 << shift))
            if fabs(fine) > highest:
                return False
            to[j] = <short>fine
            fine_sum[j % STEP // 2] += fabs(fine)
        for lane in range(8):
            if fine_sum[lane] > most or fine_sum[lane] / (1 << shift) + sum[lane] > most:
                return False
        to += f.taps + STEP
    return True


cdef int only_tap(const Filter* f, int row) noexcept nogil:
    # Which sample all outputs of this row are, to the bit and whatever the others; -1 when they are filtered.
    cdef const short* c = f.coefficients + row * (f.taps + STEP)
    cdef double rest = 8.0      # what shifting negative sums rounds away
    cdef int j, found = -1
    for j in range(STEP):
        if c[f.taps + j] == 1 << 14 and found < 0:
            found = f.centre + j
        elif c[f.taps + j]:
            return -1
    for j in range(f.taps):
        rest += fabs(<double>c[j]) * 32768.0 / (1 << f.shift)
    return found if rest < 1 << 13 else -1


cdef void note_simple(Filter* f) noexcept nogil:
    # What need not be computed.
    cdef int row, j
    f.same, f.first = -1, f.taps
    for row in range(f.up):
        j = only_tap(f, row)
        if j >= 0:
            f.same, f.same_at = row, j
    for row in range(f.up):
        if row == f.same:
            continue
        j = 0
        while j < f.first and f.coefficients[row * (f.taps + STEP) + j] == 0:
            j += 1
        f.first = j // 2 * 2


cdef bint set_coefficients(Filter* f, int half, double cutoff) noexcept nogil:
    # False when there is no memory, or they do not fit.
    cdef double* exact = <double*>malloc(<size_t>f.up * f.taps * sizeof(double))
    cdef double beta = 0.1102 * (ATTENUATION - 8.7), total = 0.0, t, x, value
    cdef int i, j, position, row, phase, shift = FINEST
    cdef bint done = False
    f.memory = calloc(<size_t>f.up * (f.taps + STEP + 1) * sizeof(short) + CACHE_LINE, 1)
    if exact == NULL or f.memory == NULL:
        free(exact)
        return False
    f.coefficients = <short*>(<char*>f.memory + (CACHE_LINE - <size_t>f.memory % CACHE_LINE))
    f.places = f.coefficients + <size_t>f.up * (f.taps + STEP)
    for i in range(-half, half + 1):
        t = 2.0 * M_PI * cutoff * i
        x = <double>i / half
        total += 2.0 * cutoff * (sin(t) / t if i else 1.0) * bessel_i0(beta * sqrt(1.0 - x * x))
    for row in range(f.up):
        # In the order in which the outputs meet them.
        phase = <int>(<long long>row * f.down % f.up)
        f.places[row] = <short>(<long long>row * f.down // f.up)
        if phase == 1:
            f.inverse = row
        for j in range(f.taps):
            # The newest input sample meets the earliest coefficient of its phase, hence the reversed order.
            position = phase + (f.history - j) * f.up - f.delay * f.down
            value = 0.0
            if -half <= position <= half:
                t = 2.0 * M_PI * cutoff * position
                x = <double>position / half
                value = 2.0 * cutoff * (sin(t) / t if position else 1.0) * bessel_i0(beta * sqrt(1.0 - x * x))
            exact[row * f.taps + j] = value * f.up / total
    while not done and shift >= 0:
        f.shift = shift
        done = quantised(f, exact, shift)
        shift -= 1
    free(exact)
    if done:
        note_simple(f)
    return done


cdef Filter* filter_new(int rate_in, int rate_out) noexcept nogil:
    cdef Filter* f = <Filter*>calloc(1, sizeof(Filter))
    cdef int divisor = gcd(rate_in, rate_out), half, late
    cdef double rate, narrow, width, cutoff, stop
    if f == NULL:
        return NULL
    f.rate_in, f.rate_out = rate_in, rate_out
    f.up, f.down = rate_out // divisor, rate_in // divisor
    rate = <double>rate_in * f.up
    narrow = rate_in if rate_in < rate_out else rate_out
    # Kaiser's formulae: half length for a transition width, and the window's shape for an attenuation. The delay is
    # rounded up to whole output samples, so that it is one number for both directions of time.
    stop = IMAGE_EDGE if rate_in < rate_out else STOP_EDGE
    width = (stop - PASS_EDGE) * narrow / rate
    cutoff = PASS_EDGE * narrow / rate + width / 2.0   # in cycles a sample of the high rate
    if rate_in > rate_out:
        # The window makes both bands equally good, and 0.04 dB at the edge of the passband are good enough: a longer
        # slope, moved towards the passband, saves a twelfth of the products. (A half-band filter must be even.)
        cutoff -= 0.05 * width
        width /= SLOPE
    half = <int>ceil((ATTENUATION - 7.95) / 14.36 / width / 2.0 - 0.01)
    f.delay = (half + f.down - 1) // f.down
    late = (f.delay * f.down - half) // f.up   # the newest samples, which no coefficient meets
    f.taps = (f.delay * f.down + half) // f.up + 1 - late
    f.taps = (f.taps + STEP - 1) // STEP * STEP
    f.history = f.taps - 1 + late
    f.centre = max(0, min(f.taps - STEP, f.history - f.delay * f.down // f.up - STEP // 2 + 1))
    if f.history >= MOST_TAPS or not set_coefficients(f, half, cutoff):
        filter_free(f)
        return NULL
    return f


cdef const Filter* filter_for(int rate_in, int rate_out) noexcept nogil:
    cdef Filter* head = head_of(&filters)
    cdef Filter* f = head
    cdef Filter* made
    while f != NULL:
        if f.rate_in == rate_in and f.rate_out == rate_out:
            return f
        f = f.next
    made = filter_new(rate_in, rate_out)
    if made == NULL:
        return NULL
    while True:
        made.next = head
        if publish(&filters, head, made):
            return made
        # Another thread was faster; perhaps with the same table.
        head = head_of(&filters)
        f = head
        while f != NULL:
            if f.rate_in == rate_in and f.rate_out == rate_out:
                filter_free(made)
                return f
            f = f.next


cdef bint supported(int rate_in, int rate_out) noexcept nogil:
    if not (LOWEST <= rate_in <= HIGHEST and LOWEST <= rate_out <= HIGHEST):
        return False
    return rate_out // gcd(rate_in, rate_out) <= MOST_PHASES


cdef bint resampler_init(Resampler* r, int rate_in, int rate_out, short* history, int room) noexcept nogil:
    r.filter = NULL
    r.history = history
    if not supported(rate_in, rate_out):
        return False
    if rate_in != rate_out:
        r.filter = filter_for(rate_in, rate_out)
        if r.filter == NULL or r.filter.history > room:
            return False
    resampler_reset(r)
    return True


cdef Resampler* resampler_new(int rate_in, int rate_out) noexcept nogil:
    cdef Resampler* r
    if not supported(rate_in, rate_out):
        return NULL
    r = <Resampler*>calloc(1, sizeof(Resampler))
    if r == NULL:
        return NULL
    if rate_in != rate_out:
        r.filter = filter_for(rate_in, rate_out)
        if r.filter != NULL:
            r.history = <short*>calloc(r.filter.history, sizeof(short))
        if r.history == NULL:
            free(r)
            return NULL
    resampler_reset(r)
    return r


cdef void resampler_free(Resampler* r) noexcept nogil:
    if r != NULL:
        free(r.history)
        free(r)


cdef void resampler_reset(Resampler* r) noexcept nogil:
    r.ahead = 0
    r.phase = 0
    if r.filter != NULL:
        memset(r.history, 0, r.filter.history * sizeof(short))


cdef int resampler_max_out(const Resampler* r, int n) noexcept nogil:
    if r.filter == NULL:
        return n
    return <int>((<long long>n * r.filter.up + r.filter.down - 1) // r.filter.down)


cdef int resampler_delay(const Resampler* r) noexcept nogil:
    return 0 if r.filter == NULL else r.filter.delay


cdef int outputs_of(const Resampler* r, long long n) noexcept nogil:
    # How many outputs the next n samples complete, from the state as it is.
    cdef long long units = (n - r.ahead) * r.filter.up - r.phase
    return <int>((units + r.filter.down - 1) // r.filter.down) if units > 0 else 0


cdef int resampler_process(Resampler* r, const short* src, int n, short* dst, int capacity) noexcept nogil:
    cdef const Filter* f = r.filter
    cdef int made = 0, block, count, moved, history, row
    cdef Kernel kernel
    # On the stack, which is in the cache: with many calls, what is kept for each of them is not.
    cdef short window[WINDOW]
    if capacity < (n if f == NULL else outputs_of(r, n)):
        return -1
    if f == NULL:
        memcpy(dst, src, n * sizeof(short))
        return n
    history = f.history
    kernel.coefficients, kernel.steps, kernel.centre = f.coefficients, f.taps // STEP, f.centre
    kernel.shift, kernel.up, kernel.down, kernel.places = f.shift, f.up, f.down, f.places
    kernel.first, kernel.same, kernel.same_at = f.first, f.same, f.same_at
    while n > 0:
        block = n if n < BLOCK else BLOCK
        memcpy(window, r.history, history * sizeof(short))
        memcpy(window + history, src, block * sizeof(short))
        count = outputs_of(r, block)
        if count:
            row = <int>(<long long>r.phase * f.inverse % f.up)
            filter_block(&kernel, row, window + r.ahead, count, dst + made)
        moved = r.phase + count * f.down
        r.ahead += moved // f.up - block
        r.phase = moved % f.up
        memcpy(r.history, window + block, history * sizeof(short))
        src += block
        n -= block
        made += count
    return made


cdef class StreamResampler:
    """Converts a stream of int16 mono PCM from one sample rate to another, block by block.

    ``rate_in`` and ``rate_out`` are in Hz, from 8000 to 48000; MediaError for a pair that is not supported. Any
    sizes of blocks give the same samples, whichever kernel the processor has. One thread at a time; the GIL is
    released for long blocks.
    """

    cdef Resampler* _resampler
    cdef readonly int rate_in
    cdef readonly int rate_out

    def __cinit__(self, int rate_in, int rate_out):
        self.rate_in = rate_in
        self.rate_out = rate_out
        self._resampler = resampler_new(rate_in, rate_out)
        if self._resampler == NULL:
            raise MediaError(
                f"cannot convert audio from {rate_in} Hz to {rate_out} Hz: use rates between {LOWEST} and {HIGHEST} Hz "
                "such as 8000, 16000, 22050, 24000, 44100 or 48000"
            )

    def __dealloc__(self):
        resampler_free(self._resampler)

    @property
    def delay(self):
        """Group delay in seconds: this much later than the input, a sound comes out."""
        return <double>resampler_delay(self._resampler) / self.rate_out

    def process(self, pcm not None):
        """The next block (int16, contiguous, any length); returns the output that it completes, int16."""
        # A typed memoryview costs as much as half a block.
        if not cnp.PyArray_CheckExact(pcm):
            pcm = np.asarray(memoryview(pcm))
        return self._process(<cnp.ndarray>pcm)

    def flush(self):
        """End of the stream: what the delay still holds back, as int16. The resampler is then as new.

        With the delay cut from its start, all output together is as long as the input.
        """
        cdef long long delay = resampler_delay(self._resampler)
        cdef long long zeros = delay * self.rate_in // self.rate_out + 2
        tail = self._process(np.zeros(zeros, dtype=np.int16))[:delay]
        self.reset()
        return tail

    def reset(self):
        """Forget the stream so far."""
        resampler_reset(self._resampler)

    cdef _process(self, cnp.ndarray pcm):
        cdef Py_ssize_t n = cnp.PyArray_SIZE(pcm)
        cdef cnp.npy_intp count
        cdef const short* src
        cdef short* dst
        if cnp.PyArray_TYPE(pcm) != cnp.NPY_INT16 or cnp.PyArray_NDIM(pcm) != 1 or not cnp.PyArray_ISCARRAY_RO(pcm):
            raise ValueError("the resampler takes contiguous int16 samples in one dimension")
        if n > 0x7FFFFFFF // 8:
            raise MediaError(f"a block of {n} samples is too long for the resampler: hand it over in parts")
        count = n if self._resampler.filter == NULL else outputs_of(self._resampler, n)
        out = cnp.PyArray_EMPTY(1, &count, cnp.NPY_INT16, 0)
        src = <const short*>cnp.PyArray_DATA(pcm)
        dst = <short*>cnp.PyArray_DATA(<cnp.ndarray>out)
        if n < WITHOUT_GIL:
            resampler_process(self._resampler, src, <int>n, dst, <int>count)
        else:
            with nogil:
                resampler_process(self._resampler, src, <int>n, dst, <int>count)
        return out
