"""Streaming sample rate conversion for speech: a polyphase FIR filter with a Kaiser window.

For a pair of rates in the ratio up/down (L/M), output sample k stands at input time k * M / L. Its filter is the
prototype low-pass taken at every L-th coefficient, starting at phase (k * M) mod L, so only the products that
count are computed. Every output is one dot product of the same length in the same order whatever the block
size, which makes the result bit-identical for any blocks.

The prototype passes 0 to 0.425 of the narrower rate (3.4 kHz at 8 kHz, 6.8 kHz at 16 kHz) flat within 0.01 dB and
stops from half of the narrower rate on, aliases and images alike, by more than 80 dB. That takes a group delay of
36 samples of the narrower rate: 4.5 ms at 8 kHz, 2.25 ms at 16 kHz.
"""

import numpy as np

from aiphone.errors import MediaError

from libc.math cimport M_PI, ceil, sin, sqrt
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memmove, memset

cdef extern from *:
    """
    #include <stdint.h>
    #include <math.h>
    #include <string.h>

    /* A sum of floats may not be reordered by the compiler, so an order that suits vectors is written down:
       16 running sums, which are four SSE or NEON registers or two of AVX. All versions give the same bits. */
    #define AIPHONE_LANES 16
    typedef float four_floats __attribute__((vector_size(16)));
    typedef float eight_floats __attribute__((vector_size(32)));

    #define LOAD(to, from) memcpy(&(to), (from), sizeof(to))

    static inline float dot_by_four(const float *x, const float *y, int n) {
        four_floats a = {0}, b = {0}, c = {0}, d = {0}, u, v;
        for (int i = 0; i < n; i += AIPHONE_LANES) {
            LOAD(u, x + i); LOAD(v, y + i); a += u * v;
            LOAD(u, x + i + 4); LOAD(v, y + i + 4); b += u * v;
            LOAD(u, x + i + 8); LOAD(v, y + i + 8); c += u * v;
            LOAD(u, x + i + 12); LOAD(v, y + i + 12); d += u * v;
        }
        a = (a + c) + (b + d);
        return (a[0] + a[2]) + (a[1] + a[3]);
    }

    #if defined(__x86_64__) && defined(__GNUC__)
    #define AIPHONE_AVX2 1
    __attribute__((target("avx2")))
    static inline float dot_by_eight(const float *x, const float *y, int n) {
        eight_floats a = {0}, b = {0}, u, v;
        four_floats low, high;
        for (int i = 0; i < n; i += AIPHONE_LANES) {
            LOAD(u, x + i); LOAD(v, y + i); a += u * v;
            LOAD(u, x + i + 8); LOAD(v, y + i + 8); b += u * v;
        }
        a += b;
        LOAD(low, (const float *)&a);
        LOAD(high, (const float *)&a + 4);
        low += high;
        return (low[0] + low[2]) + (low[1] + low[3]);
    }
    #endif

    /* To the nearest, ties to even, by pushing the fraction out of the mantissa: a library call less. */
    static inline int16_t round_to_int16(float x) {
        int32_t bits;
        x = x > 32767.0f ? 32767.0f : x;
        x = x < -32768.0f ? -32768.0f : x;
        x += 12582912.0f;  /* 1.5 * 2^23 */
        memcpy(&bits, &x, sizeof bits);
        return (int16_t)(bits - 0x4B400000);
    }

    /* Makes outputs while the n fresh samples of the window last, and returns how many. *ahead and *phase are
       carried over from block to block. */
    #define DEFINE_FILTER(name, attributes, dot)                                                              \\
    attributes static int name(const float *coefficients, int taps, int up, int down, const float *window,    \\
                               int n, int *ahead, int *phase, int16_t *dst) {                                 \\
        int at = *ahead, row = *phase, made = 0;                                                              \\
        const int whole = down / up, rest = down % up;                                                        \\
        while (at < n) {                                                                                      \\
            dst[made++] = round_to_int16(dot(window + at, coefficients + (size_t)row * taps, taps));          \\
            at += whole;                                                                                      \\
            row += rest;                                                                                      \\
            if (row >= up) {                                                                                  \\
                row -= up;                                                                                    \\
                at += 1;                                                                                      \\
            }                                                                                                 \\
        }                                                                                                     \\
        *ahead = at - n;                                                                                      \\
        *phase = row;                                                                                         \\
        return made;                                                                                          \\
    }

    DEFINE_FILTER(filter_by_four, , dot_by_four)
    #ifdef AIPHONE_AVX2
    DEFINE_FILTER(filter_by_eight, __attribute__((target("avx2"))), dot_by_eight)
    #endif

    static int filter_block(const float *coefficients, int taps, int up, int down, const float *window, int n,
                            int *ahead, int *phase, int16_t *dst) {
    #ifdef AIPHONE_AVX2
        if (__builtin_cpu_supports("avx2"))
            return filter_by_eight(coefficients, taps, up, down, window, n, ahead, phase, dst);
    #endif
        return filter_by_four(coefficients, taps, up, down, window, n, ahead, phase, dst);
    }

    /* Tables are published by compare-and-swap: readers never wait, and two makers of one table agree. */
    #define publish(head, expected, item) \\
        __atomic_compare_exchange_n((head), &(expected), (item), 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)
    #define head_of(head) __atomic_load_n((head), __ATOMIC_ACQUIRE)
    """
    int LANES "AIPHONE_LANES"
    int filter_block(const float* coefficients, int taps, int up, int down, const float* window, int n,
                     int* ahead, int* phase, short* dst) noexcept nogil
    bint publish(Filter** head, Filter* expected, Filter* item) noexcept nogil
    Filter* head_of(Filter** head) noexcept nogil

cdef enum:
    BLOCK = 480          # input samples filtered at a time
    LOWEST = 8000
    HIGHEST = 48000
    MOST_PHASES = 640    # bounds a table; every pair of the usual rates fits

cdef double ATTENUATION = 84.0   # dB; the margin over 80 covers the window's approximation
cdef double PASS_EDGE = 0.425    # of the narrower rate
cdef double STOP_EDGE = 0.5

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


cdef Filter* filter_new(int rate_in, int rate_out) noexcept nogil:
    cdef Filter* f = <Filter*>calloc(1, sizeof(Filter))
    cdef int divisor = gcd(rate_in, rate_out), half, i, j, position
    cdef double rate, narrow, beta, cutoff, t, w, total, value
    if f == NULL:
        return NULL
    f.rate_in, f.rate_out = rate_in, rate_out
    f.up, f.down = rate_out // divisor, rate_in // divisor
    rate = <double>rate_in * f.up
    narrow = rate_in if rate_in < rate_out else rate_out
    # Kaiser's formulae: half length for a transition width, and the window's shape for an attenuation. The half
    # length is rounded up to whole output samples, so that the delay is one number for both directions of time.
    half = <int>ceil((ATTENUATION - 7.95) / 14.36 / ((STOP_EDGE - PASS_EDGE) * narrow / rate) / 2.0)
    f.delay = (half + f.down - 1) // f.down
    half = f.delay * f.down
    beta = 0.1102 * (ATTENUATION - 8.7)
    cutoff = (PASS_EDGE + STOP_EDGE) / 2.0 * narrow / rate   # in cycles a sample of the high rate
    f.taps = (2 * half + 1 + f.up - 1) // f.up
    f.taps = (f.taps + LANES - 1) // LANES * LANES
    f.coefficients = <float*>calloc(<size_t>f.up * f.taps, sizeof(float))
    if f.coefficients == NULL:
        free(f)
        return NULL
    total = 0.0
    for i in range(-half, half + 1):
        t = 2.0 * M_PI * cutoff * i
        value = 2.0 * cutoff * (sin(t) / t if i else 1.0)
        total += value * bessel_i0(beta * sqrt(1.0 - (<double>i / half) * (<double>i / half)))
    for i in range(f.up):
        for j in range(f.taps):
            # The newest input sample meets the earliest coefficient of its phase, hence the reversed order.
            position = i + (f.taps - 1 - j) * f.up - half
            if -half <= position <= half:
                t = 2.0 * M_PI * cutoff * position
                w = bessel_i0(beta * sqrt(1.0 - (<double>position / half) * (<double>position / half)))
                value = 2.0 * cutoff * (sin(t) / t if position else 1.0) * w
                f.coefficients[i * f.taps + j] = <float>(value * f.up / total)
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
                free(made.coefficients)
                free(made)
                return f
            f = f.next


cdef Resampler* resampler_new(int rate_in, int rate_out) noexcept nogil:
    cdef Resampler* r
    if not (LOWEST <= rate_in <= HIGHEST and LOWEST <= rate_out <= HIGHEST):
        return NULL
    if rate_out // gcd(rate_in, rate_out) > MOST_PHASES:
        return NULL
    r = <Resampler*>calloc(1, sizeof(Resampler))
    if r == NULL:
        return NULL
    if rate_in != rate_out:
        r.filter = filter_for(rate_in, rate_out)
        r.capacity = BLOCK
        if r.filter != NULL:
            r.window = <float*>malloc((r.filter.taps - 1 + BLOCK) * sizeof(float))
        if r.window == NULL:
            free(r)
            return NULL
    resampler_reset(r)
    return r


cdef void resampler_free(Resampler* r) noexcept nogil:
    if r != NULL:
        free(r.window)
        free(r)


cdef void resampler_reset(Resampler* r) noexcept nogil:
    r.ahead = 0
    r.phase = 0
    if r.filter != NULL:
        memset(r.window, 0, (r.filter.taps - 1) * sizeof(float))


cdef int resampler_max_out(const Resampler* r, int n) noexcept nogil:
    if r.filter == NULL:
        return n
    return <int>((<long long>n * r.filter.up + r.filter.down - 1) // r.filter.down)


cdef int resampler_delay(const Resampler* r) noexcept nogil:
    return 0 if r.filter == NULL else r.filter.delay


cdef int resampler_bytes() noexcept nogil:
    return (BLOCK + 255) * sizeof(float)


cdef int resampler_process(Resampler* r, const short* src, int n, short* dst, int capacity) noexcept nogil:
    cdef const Filter* f = r.filter
    cdef int made = 0, block, i, history
    cdef float* fresh
    if capacity < resampler_max_out(r, n):
        return -1
    if f == NULL:
        memcpy(dst, src, n * sizeof(short))
        return n
    history = f.taps - 1
    fresh = r.window + history
    while n > 0:
        block = n if n < r.capacity else r.capacity
        for i in range(block):
            fresh[i] = <float>src[i]
        made += filter_block(f.coefficients, f.taps, f.up, f.down, r.window, block, &r.ahead, &r.phase, dst + made)
        memmove(r.window, r.window + block, history * sizeof(float))
        src += block
        n -= block
    return made


cdef class StreamResampler:
    """Converts a stream of int16 mono PCM from one sample rate to another, block by block.

    ``rate_in`` and ``rate_out`` are in Hz, from 8000 to 48000; MediaError for a pair that is not supported. Any
    sizes of blocks give the same samples. One thread at a time; the GIL is released while it works.
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

    def process(self, const short[::1] pcm not None):
        """The next block (int16, contiguous, any length); returns the output that it completes, int16."""
        return self._process(pcm)

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

    cdef _process(self, const short[::1] pcm):
        cdef Py_ssize_t n = pcm.shape[0]
        if n > 0x7FFFFFFF // 8:
            raise MediaError(f"a block of {n} samples is too long for the resampler: hand it over in parts")
        cdef int room = resampler_max_out(self._resampler, <int>n)
        cdef int made = 0
        out = np.empty(room, dtype=np.int16)
        cdef short[::1] view = out
        if n and room:
            with nogil:
                made = resampler_process(self._resampler, &pcm[0], <int>n, &view[0], room)
        return out[:made]
