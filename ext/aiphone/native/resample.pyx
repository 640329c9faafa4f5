"""Streaming sample rate conversion for speech: a polyphase FIR filter with a Kaiser window.

For a pair of rates in the ratio up/down (L/M), output sample k stands at input time k * M / L. Its filter is the
prototype low-pass taken at every L-th coefficient, starting at phase (k * M) mod L, so only the products that
count are computed. Every output is one dot product of the same length in the same order whatever the block
size, which makes the result bit-identical for any blocks.

The prototype passes 0 to 0.425 of the narrower rate (3.4 kHz at 8 kHz, 6.8 kHz at 16 kHz) flat within 0.05 dB and
stops aliases by more than 80 dB from half of the narrower rate on: a group delay of 32 samples of that rate, 4 ms at
8 kHz. When the rate rises, nothing can fold back, and the first image of the passband begins only at 0.575: a delay
of 17.5 samples, 2.2 ms, and from 8 to 16 kHz a half-band filter, of which every other output is an input sample.

Pairs with few phases compute the outputs of one phase together, a vector of neighbours at a time; the others one
output after the other.
"""

import numpy as np

cimport numpy as cnp
from aiphone.errors import MediaError

from libc.math cimport M_PI, ceil, fabs, sin, sqrt
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memmove, memset

cnp.import_array()

cdef extern from *:
    """
    #include <stdint.h>
    #include <math.h>
    #include <string.h>

    /* A sum of floats may not be reordered by the compiler, so an order that suits vectors is written down. All
       versions of a kernel add in the same order and so give the same bits. Compilers without vectors of this width
       make two of each. */
    #define AIPHONE_LANES 16
    #define AIPHONE_ACROSS 8
    #define AIPHONE_SLACK (10 * AIPHONE_ACROSS)
    #define AIPHONE_MOST 480        /* input samples in a block */
    #define AIPHONE_MOST_TAPS 512
    #define AIPHONE_WINDOW (AIPHONE_MOST_TAPS + AIPHONE_MOST + AIPHONE_SLACK)
    typedef float four_floats __attribute__((vector_size(16)));
    typedef float eight_floats __attribute__((vector_size(32)));
    typedef int32_t eight_ints __attribute__((vector_size(32)));
    typedef int16_t eight_shorts __attribute__((vector_size(16)));

    #define LOAD(to, from) memcpy(&(to), (from), sizeof(to))

    #if defined(__x86_64__) && defined(__GNUC__)
    #define AIPHONE_AVX2 1
    #define FOR_AVX2 __attribute__((target("avx2")))
    #endif
    #define ALWAYS static inline __attribute__((always_inline))

    /* To the nearest, ties to even, by pushing the fraction out of the mantissa: a library call less. */
    ALWAYS int16_t round_to_int16(float x) {
        int32_t bits;
        x = x > 32767.0f ? 32767.0f : x;
        x = x < -32768.0f ? -32768.0f : x;
        x += 12582912.0f;  /* 1.5 * 2^23 */
        memcpy(&bits, &x, sizeof bits);
        return (int16_t)(bits - 0x4B400000);
    }

    #define EITHER(mask, a, b) (eight_floats)(((mask) & (eight_ints)(a)) | (~(mask) & (eight_ints)(b)))
    #define ALL(x) {x, x, x, x, x, x, x, x}

    /* The same for a vector. */
    ALWAYS void store_rounded(eight_floats x, int16_t *to) {
        const eight_floats highest = ALL(32767.0f), lowest = ALL(-32768.0f), magic = ALL(12582912.0f);
        eight_shorts rounded;
        x = EITHER(x > highest, highest, x);
        x = EITHER(x < lowest, lowest, x);
        x += magic;
        rounded = __builtin_convertvector((eight_ints)x - 0x4B400000, eight_shorts);
        memcpy(to, &rounded, sizeof rounded);
    }

    ALWAYS float dot(const float *x, const float *y, int n, const int wide) {
        four_floats low, high;
        if (wide) {
            eight_floats a = {0}, b = {0}, u, v;
            for (int i = 0; i < n; i += AIPHONE_LANES) {
                LOAD(u, x + i); LOAD(v, y + i); a += u * v;
                LOAD(u, x + i + 8); LOAD(v, y + i + 8); b += u * v;
            }
            a += b;
            LOAD(low, (const float *)&a);
            LOAD(high, (const float *)&a + 4);
        } else {
            four_floats a = {0}, b = {0}, c = {0}, d = {0}, u, v;
            for (int i = 0; i < n; i += AIPHONE_LANES) {
                LOAD(u, x + i); LOAD(v, y + i); a += u * v;
                LOAD(u, x + i + 4); LOAD(v, y + i + 4); b += u * v;
                LOAD(u, x + i + 8); LOAD(v, y + i + 8); c += u * v;
                LOAD(u, x + i + 12); LOAD(v, y + i + 12); d += u * v;
            }
            low = a + c;
            high = b + d;
        }
        low += high;
        return (low[0] + low[2]) + (low[1] + low[3]);
    }

    /* One output at a time: for pairs with so many phases that a block meets each only a few times. */
    ALWAYS void filter_along(const float *coefficients, int taps, int up, int down, const float *window, int at,
                             int row, int count, int16_t *dst, const int wide) {
        const int whole = down / up, rest = down % up;
        for (int k = 0; k < count; k++) {
            dst[k] = round_to_int16(dot(window + at, coefficients + (size_t)row * taps, taps, wide));
            at += whole;
            row += rest;
            if (row >= up) {
                row -= up;
                at += 1;
            }
        }
    }

    /* `width` vectors of outputs of one phase at once: each coefficient is loaded once for all of them. Strand q
       has every `strands`-th sample, so that neighbouring outputs lie beside each other. */
    #define DEFINE_SUMS(name, vector, lanes)                                                                  \\
    ALWAYS void name(const float *coefficients, int steps, int strands, const float *x, int stride,           \\
                     float *out, const int width) {                                                           \\
        vector sum[10], v;                                                                                    \\
        for (int i = 0; i < width; i++)                                                                       \\
            sum[i] = (vector){0};                                                                             \\
        for (int q = 0; q < strands; q++)                                                                     \\
            for (int j = 0; j < steps; j++) {                                                                 \\
                const float c = coefficients[q * steps + j];                                                  \\
                const float *from = x + (size_t)q * stride + j;                                               \\
                for (int i = 0; i < width; i++) {                                                             \\
                    LOAD(v, from + i * lanes);                                                                \\
                    sum[i] += v * c;                                                                          \\
                }                                                                                             \\
            }                                                                                                 \\
        for (int i = 0; i < width; i++)                                                                       \\
            memcpy(out + i * lanes, &sum[i], sizeof sum[i]);                                                  \\
    }

    DEFINE_SUMS(sums_of_four, four_floats, 4)
    DEFINE_SUMS(sums_of_eight, eight_floats, 8)

    ALWAYS void sums(const float *coefficients, int steps, int strands, const float *x, int stride, int16_t *out,
                     const int width, const int wide) {
        float exact[10 * AIPHONE_ACROSS];
        eight_floats v;
        if (wide) {
            sums_of_eight(coefficients, steps, strands, x, stride, exact, width);
        } else {
            sums_of_four(coefficients, steps, strands, x, stride, exact, width > 5 ? 10 : 2 * width);
            if (width > 5)
                sums_of_four(coefficients, steps, strands, x + 40, stride, exact + 40, 10);
        }
        for (int i = 0; i < width; i++) {
            LOAD(v, exact + i * AIPHONE_ACROSS);
            store_rounded(v, out + i * AIPHONE_ACROSS);
        }
    }

    /* One function for each number of strands, or the compiler fears that they overlap. */
    ALWAYS void split_2(const float *restrict x, float *restrict a, float *restrict b, int n) {
        for (int i = 0; i < n; i++) {
            a[i] = x[2 * i];
            b[i] = x[2 * i + 1];
        }
    }

    ALWAYS void split_3(const float *restrict x, float *restrict a, float *restrict b, float *restrict c, int n) {
        for (int i = 0; i < n; i++) {
            a[i] = x[3 * i];
            b[i] = x[3 * i + 1];
            c[i] = x[3 * i + 2];
        }
    }

    ALWAYS void split(const float *restrict x, float *restrict to, int n, const int strands) {
        if (strands == 2)
            split_2(x, to, to + n, n);
        else if (strands == 3)
            split_3(x, to, to + n, to + 2 * n, n);
        else
            for (int i = 0; i < n; i++)
                for (int q = 0; q < strands; q++)
                    to[q * n + i] = x[i * strands + q];
        memset(to + strands * n, 0, AIPHONE_SLACK * sizeof(float));
    }

    /* Few phases: all outputs of the block that have the same phase together. What is computed beyond the last one
       is thrown away. */
    ALWAYS void filter_across(const float *coefficients, const int16_t *spans, int taps, int up, int down,
                              const float *window, int at, int row, int count, int16_t *dst, const int wide) {
        float strands[AIPHONE_MOST + AIPHONE_MOST_TAPS + AIPHONE_SLACK];
        int16_t out[AIPHONE_MOST + AIPHONE_SLACK];
        for (int first = 0; first < up && first < count; first++) {
            const int outputs = (count - first + up - 1) / up;
            const int skip = spans[2 * row], steps = spans[2 * row + 1];
            const float *row_coefficients = coefficients + (size_t)row * taps + skip;
            const float *x = window + at + skip;
            int stride = 0, done = 0;
            if (down > 1) {
                stride = outputs + steps;
                split(x, strands, stride, down);
                x = strands;
            }
            while (done < outputs) {
                const int vectors = (outputs - done + AIPHONE_ACROSS - 1) / AIPHONE_ACROSS;
                const int width = vectors > 5 ? 10 : vectors > 2 ? 5 : 2;
                if (width == 10)
                    sums(row_coefficients, steps, down, x + done, stride, out + done, 10, wide);
                else if (width == 5)
                    sums(row_coefficients, steps, down, x + done, stride, out + done, 5, wide);
                else
                    sums(row_coefficients, steps, down, x + done, stride, out + done, 2, wide);
                done += width * AIPHONE_ACROSS;
            }
            if (up == 1)
                memcpy(dst, out, outputs * sizeof *out);
            else
                for (int i = 0; i < outputs; i++)
                    dst[first + i * up] = out[i];
            at += down / up;
            row += down % up;
            if (row >= up) {
                row -= up;
                at += 1;
            }
        }
    }

    /* Makes `count` outputs into dst: the first begins at sample `at` of the window, with the coefficients of `row`. */
    #define DEFINE_FILTER(name, attributes, wide)                                                             \\
    attributes static void name(const float *coefficients, const int16_t *spans, int taps, int up, int down,  \\
                                const float *window, int at, int row, int count, int16_t *dst) {              \\
        if (spans == NULL)                                                                                    \\
            filter_along(coefficients, taps, up, down, window, at, row, count, dst, wide);                    \\
        else if (down == 1)                                                                                   \\
            filter_across(coefficients, spans, taps, up, 1, window, at, row, count, dst, wide);               \\
        else if (down == 2)                                                                                   \\
            filter_across(coefficients, spans, taps, up, 2, window, at, row, count, dst, wide);               \\
        else if (down == 3)                                                                                   \\
            filter_across(coefficients, spans, taps, up, 3, window, at, row, count, dst, wide);               \\
        else                                                                                                  \\
            filter_across(coefficients, spans, taps, up, down, window, at, row, count, dst, wide);            \\
    }

    DEFINE_FILTER(filter_portable, , 0)
    #ifdef AIPHONE_AVX2
    DEFINE_FILTER(filter_avx2, FOR_AVX2, 1)
    #endif

    static inline void filter_block(const float *coefficients, const int16_t *spans, int taps, int up, int down,
                                    const float *window, int at, int row, int count, int16_t *dst) {
    #ifdef AIPHONE_AVX2
        if (__builtin_cpu_supports("avx2")) {
            filter_avx2(coefficients, spans, taps, up, down, window, at, row, count, dst);
            return;
        }
    #endif
        filter_portable(coefficients, spans, taps, up, down, window, at, row, count, dst);
    }

    /* Tables are published by compare-and-swap: readers never wait, and two makers of one table agree. */
    #define publish(head, expected, item) \\
        __atomic_compare_exchange_n((head), &(expected), (item), 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)
    #define head_of(head) __atomic_load_n((head), __ATOMIC_ACQUIRE)
    """
    int LANES "AIPHONE_LANES"
    int SLACK "AIPHONE_SLACK"
    int MOST_TAPS "AIPHONE_MOST_TAPS"
    int BLOCK "AIPHONE_MOST"   # input samples filtered at a time
    enum:
        WINDOW "AIPHONE_WINDOW"
    void filter_block(const float* coefficients, const short* spans, int taps, int up, int down, const float* window,
                      int at, int row, int count, short* dst) noexcept nogil
    bint publish(Filter** head, Filter* expected, Filter* item) noexcept nogil
    Filter* head_of(Filter** head) noexcept nogil

cdef enum:
    FEW_PHASES = 4       # up to here, the outputs of one phase are computed together
    WITHOUT_GIL = 4096   # samples from which on others may run meanwhile
    LOWEST = 8000
    HIGHEST = 48000
    MOST_PHASES = 640    # bounds a table; every pair of the usual rates fits

cdef double ATTENUATION = 82.0   # dB; the margin over 80 covers the window's approximation
cdef double PASS_EDGE = 0.425    # of the narrower rate
cdef double STOP_EDGE = 0.5      # when the rate falls
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
    free(f.coefficients)
    free(f.spans)
    free(f)


cdef void set_span(const float* row, int taps, int down, short* span) noexcept nogil:
    # The first coefficient that counts, and how many from there on each strand has. A half-band filter has a phase
    # with a single one.
    cdef int first = 0, last = taps - 1
    if down == 1:
        while first < last and row[first] == 0.0:
            first += 1
        while last > first and row[last] == 0.0:
            last -= 1
    span[0] = <short>first
    span[1] = <short>((last - first + 1) // down)


cdef Filter* filter_new(int rate_in, int rate_out) noexcept nogil:
    cdef Filter* f = <Filter*>calloc(1, sizeof(Filter))
    cdef int divisor = gcd(rate_in, rate_out), half, unit, place, i, j, position
    cdef double rate, narrow, beta, width, cutoff, stop, t, w, total, value
    cdef bint across
    if f == NULL:
        return NULL
    f.rate_in, f.rate_out = rate_in, rate_out
    f.up, f.down = rate_out // divisor, rate_in // divisor
    rate = <double>rate_in * f.up
    narrow = rate_in if rate_in < rate_out else rate_out
    # Kaiser's formulae: half length for a transition width, and the window's shape for an attenuation. The half
    # length is rounded up to whole output samples, so that the delay is one number for both directions of time.
    stop = IMAGE_EDGE if rate_in < rate_out else STOP_EDGE
    width = (stop - PASS_EDGE) * narrow / rate
    cutoff = PASS_EDGE * narrow / rate + width / 2.0   # in cycles a sample of the high rate
    if rate_in > rate_out:
        # The window makes both bands equally good, and 0.04 dB at the edge of the passband are good enough: a longer
        # slope, moved towards the passband, saves a twelfth of the products. (A half-band filter must be even.)
        cutoff -= 0.05 * width
        width /= 0.92
    half = <int>ceil((ATTENUATION - 7.95) / 14.36 / width / 2.0 - 0.01)
    f.delay = (half + f.down - 1) // f.down
    half = f.delay * f.down
    beta = 0.1102 * (ATTENUATION - 8.7)
    f.taps = (2 * half + 1 + f.up - 1) // f.up
    across = f.up <= FEW_PHASES
    unit = f.down if across else LANES
    f.taps = (f.taps + unit - 1) // unit * unit
    if f.taps > MOST_TAPS - 2 * f.down and (across or f.taps > MOST_TAPS):
        free(f)
        return NULL
    if across:
        f.spans = <short*>calloc(2 * f.up, sizeof(short))
    f.coefficients = <float*>calloc(<size_t>f.up * f.taps, sizeof(float))
    if f.coefficients == NULL or (across and f.spans == NULL):
        filter_free(f)
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
                # Strands of every down-th coefficient, if the samples will be laid out so.
                place = j % f.down * (f.taps // f.down) + j // f.down if across else j
                # Zeros of the sinc are not quite zero in floating point; a half-band filter has many.
                if t == 0.0 or fabs(sin(t)) > 1e-9:
                    f.coefficients[i * f.taps + place] = <float>(value * f.up / total)
        if across:
            set_span(f.coefficients + i * f.taps, f.taps, f.down, f.spans + 2 * i)
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
        if r.filter != NULL:
            r.history = <short*>calloc(r.filter.taps - 1, sizeof(short))
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
        memset(r.history, 0, (r.filter.taps - 1) * sizeof(short))


cdef int resampler_max_out(const Resampler* r, int n) noexcept nogil:
    if r.filter == NULL:
        return n
    return <int>((<long long>n * r.filter.up + r.filter.down - 1) // r.filter.down)


cdef int resampler_delay(const Resampler* r) noexcept nogil:
    return 0 if r.filter == NULL else r.filter.delay


cdef int resampler_bytes() noexcept nogil:
    return 160 * sizeof(short)


cdef int outputs_of(const Resampler* r, long long n) noexcept nogil:
    # How many outputs the next n samples complete, from the state as it is.
    cdef long long units = (n - r.ahead) * r.filter.up - r.phase
    return <int>((units + r.filter.down - 1) // r.filter.down) if units > 0 else 0


cdef int resampler_process(Resampler* r, const short* src, int n, short* dst, int capacity) noexcept nogil:
    cdef const Filter* f = r.filter
    cdef int made = 0, block, count, moved, history, i
    # On the stack, which is in the cache: with many calls, what is kept for each of them is not.
    cdef float window[WINDOW]
    if capacity < (n if f == NULL else outputs_of(r, n)):
        return -1
    if f == NULL:
        memcpy(dst, src, n * sizeof(short))
        return n
    history = f.taps - 1
    while n > 0:
        block = n if n < BLOCK else BLOCK
        for i in range(history):
            window[i] = <float>r.history[i]
        for i in range(block):
            window[history + i] = <float>src[i]
        memset(window + history + block, 0, SLACK * sizeof(float))
        count = outputs_of(r, block)
        if count:
            filter_block(f.coefficients, f.spans, f.taps, f.up, f.down, window, r.ahead, r.phase, count, dst + made)
        moved = r.phase + count * f.down
        r.ahead += moved // f.up - block
        r.phase = moved % f.up
        if block < history:
            memmove(r.history, r.history + block, (history - block) * sizeof(short))
            memcpy(r.history + history - block, src, block * sizeof(short))
        else:
            memcpy(r.history, src + block - history, history * sizeof(short))
        src += block
        n -= block
        made += count
    return made


cdef class StreamResampler:
    """Converts a stream of int16 mono PCM from one sample rate to another, block by block.

    ``rate_in`` and ``rate_out`` are in Hz, from 8000 to 48000; MediaError for a pair that is not supported. Any
    sizes of blocks give the same samples. One thread at a time; the GIL is released for long blocks.
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
