"""Time-scaling: sound made shorter or longer by one pitch period, without a change of pitch and without a seam.

The delay of a jitter buffer changes while somebody speaks. Leaving out a packet or inserting one is heard as a cut.
Instead (WSOLA, Verhelst and Roelands 1993): find the distance from 2.5 to 15 ms at which the sound is most like
itself, which in a vowel is a pitch period and in noise is anything; then fade, over 5 ms, from the sound into itself
that much later (shorter) or earlier (longer). How alike the two must be is the caller's decision: in a pause anything
will do, in speech only what nobody hears.

The comparison looks 10 ms back into what has been played, so that 20 ms of waiting sound are enough to work with.
"""

import numpy as np

from aiphone.errors import MediaError

from libc.math cimport lrintf, sqrtf
from libc.string cimport memcpy, memmove, memset

cdef extern from *:
    """
    #include <string.h>
    typedef float four_floats __attribute__((vector_size(16)));

    /* In an order that suits vectors: the compiler may not choose one for floats. */
    static float sum_of_products(const float *a, const float *b, int n) {
        four_floats sum = {0}, more = {0};
        float total = 0.0f;
        int i = 0;
        for (; i + 8 <= n; i += 8) {
            four_floats x, y;
            memcpy(&x, a + i, sizeof x);
            memcpy(&y, b + i, sizeof y);
            sum += x * y;
            memcpy(&x, a + i + 4, sizeof x);
            memcpy(&y, b + i + 4, sizeof y);
            more += x * y;
        }
        for (; i < n; i++) total += a[i] * b[i];
        sum += more;
        return total + ((sum[0] + sum[2]) + (sum[1] + sum[3]));
    }
    """
    float sum_of_products(const float* a, const float* b, int n) noexcept nogil

cdef enum:
    COMPARED = 256          # 15 ms at 16 kHz and the lags beside the best, or each fourth sample and all lags

cdef float FLOOR = 100.0    # mean square below which all is silence and alike


cdef void stretch_init(Stretch* s, int rate) noexcept nogil:
    memset(s, 0, sizeof(Stretch))
    s.rate = rate


cdef inline int history(const Stretch* s) noexcept nogil:
    return STRETCH_HISTORY * s.rate // 16000


cdef short* stretch_end(const Stretch* s) noexcept nogil:
    return <short*>s.pcm + history(s) + s.waiting


cdef int stretch_room(const Stretch* s) noexcept nogil:
    return STRETCH_ROOM * s.rate // 16000 - s.waiting


cdef void stretch_played(Stretch* s, int n) noexcept nogil:
    s.waiting -= n
    memmove(s.pcm, s.pcm + n, (history(s) + s.waiting) * sizeof(short))


cdef float likeness(float ab, float aa, float bb, float floor) noexcept nogil:
    # Normalised cross-correlation; 1 for two silences.
    if aa < floor and bb < floor:
        return 1.0
    return ab / sqrtf((aa if aa > floor else floor) * (bb if bb > floor else floor))


cdef int best_lag(const short* at, int sign, int low, int high, int back, int ahead, int stride,
                  float* best) noexcept nogil:
    # The lag at which the sound around `at` is most like itself `lag` later (sign 1) or earlier (-1).
    # Of equals (silence) the longest.
    cdef float here[COMPARED]
    cdef float there[COMPARED]
    cdef double energy[COMPARED + 1]    # of `there` up to a place; exact
    cdef int n = (back + ahead) // stride, lags = (high - low) // stride, i, place, found = high
    cdef const short* src = at - back
    cdef float score, aa
    best[0] = -2.0
    if lags < 0:
        return found
    energy[0] = 0.0
    for i in range(n):
        here[i] = src[i * stride]
        energy[0] += <double>here[i] * here[i]
    aa = <float>energy[0]
    energy[0] = 0.0
    src += high - lags * stride if sign > 0 else -high
    for i in range(n + lags):
        there[i] = src[i * stride]
        energy[i + 1] = energy[i] + <double>there[i] * there[i]
    for i in range(lags + 1):
        place = lags - i if sign > 0 else i
        score = likeness(sum_of_products(here, there + place, n), aa, <float>(energy[place + n] - energy[place]),
                         FLOOR * n)
        if score > best[0]:
            best[0] = score
            found = high - i * stride
    return found


cdef int find_lag(const Stretch* s, int sign, int ahead, int longest, float* best) noexcept nogil:
    cdef int step = s.rate // 100, stride = s.rate // 4000
    cdef const short* at = s.pcm + history(s)
    cdef int shortest = step // 4, near
    if longest < shortest:
        return 0
    near = best_lag(at, sign, shortest, longest, step, ahead, stride, best)
    return best_lag(at, sign, max(near - stride + 1, shortest), min(near + stride - 1, longest), step, ahead, 1, best)


cdef void fade(short* dst, const short* old, const short* new, int n, float alike) noexcept nogil:
    # From old to new. Two unlike sounds of one level would be quieter in the middle: that is made up for.
    cdef float w, v
    cdef int i
    alike = min(max(alike, <float>0.0), <float>1.0)
    for i in range(n):
        w = <float>(i + 1) / (n + 1)
        v = old[i] * (1.0 - w) + new[i] * w
        v /= sqrtf(w * w + (1.0 - w) * (1.0 - w) + 2.0 * w * (1.0 - w) * alike)
        dst[i] = 32767 if v > 32767.0 else (-32768 if v < -32768.0 else <short>lrintf(v))


cdef int stretch_shorten(Stretch* s, int most, float least) noexcept nogil:
    cdef int overlap = s.rate // 200, lag
    cdef short* at = s.pcm + history(s)
    cdef float alike
    cdef short blend[80]
    lag = find_lag(s, 1, overlap, min(most, s.rate * 15 // 1000, s.waiting - overlap), &alike)
    if lag == 0 or alike < least:
        return 0
    fade(blend, at, at + lag, overlap, alike)
    memmove(at + overlap, at + lag + overlap, (s.waiting - lag - overlap) * sizeof(short))
    memcpy(at, blend, overlap * sizeof(short))
    s.waiting -= lag
    return lag


cdef int stretch_lengthen(Stretch* s, int most, float least) noexcept nogil:
    cdef int overlap = s.rate // 200, lag
    cdef short* at = s.pcm + history(s)
    cdef float alike
    cdef short blend[80]
    if s.waiting < overlap:
        return 0
    lag = find_lag(s, -1, overlap, min(most, s.rate * 15 // 1000, stretch_room(s)), &alike)
    if lag == 0 or alike < least:
        return 0
    # `overlap` samples of the fade, then once more what has been played, then all that waited.
    fade(blend, at, at - lag, overlap, alike)
    memmove(at + lag, at, s.waiting * sizeof(short))
    memcpy(at, blend, overlap * sizeof(short))
    memmove(at + overlap, at - lag + overlap, max(lag - overlap, 0) * sizeof(short))
    s.waiting += lag
    return lag


cdef class TimeScaler:
    """Time-scaling for tests and tools: sound in, sound out. Not thread-safe."""

    cdef Stretch _stretch

    def __cinit__(self, int rate):
        if rate not in (8000, 16000):
            raise MediaError(f"time-scaling does not work at {rate} Hz: use 8000 or 16000")
        stretch_init(&self._stretch, rate)

    def put(self, const short[::1] pcm not None):
        """Add sound (int16); how many samples fitted."""
        cdef int n = <int>min(pcm.shape[0], <Py_ssize_t>stretch_room(&self._stretch))
        if n:
            memcpy(stretch_end(&self._stretch), &pcm[0], n * sizeof(short))
            self._stretch.waiting += n
        return n

    def take(self, int n):
        """The oldest ``n`` samples that wait, or all."""
        n = max(0, min(n, self._stretch.waiting))
        out = np.empty(n, np.int16)
        cdef short[::1] view = out
        if n:
            memcpy(&view[0], stretch_end(&self._stretch) - self._stretch.waiting, n * sizeof(short))
            stretch_played(&self._stretch, n)
        return out

    def shorten(self, float least=-1.0, int most=240):
        """Take out one period, of at most ``most`` samples, if it is alike enough; how many samples."""
        return stretch_shorten(&self._stretch, most, least)

    def lengthen(self, float least=-1.0, int most=240):
        """Add one period, of at most ``most`` samples, if it is alike enough; how many samples."""
        return stretch_lengthen(&self._stretch, most, least)

    @property
    def waiting(self):
        """Samples that wait to be taken."""
        return self._stretch.waiting
