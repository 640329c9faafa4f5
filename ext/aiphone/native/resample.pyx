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
    #include "filter.h"

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
