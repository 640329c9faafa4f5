"""Packet loss concealment after ITU-T G.711 Appendix I.

While frames arrive they are kept as history. When one is missing, the pitch period of the last 20 ms is found and
the last period is repeated; after 10 ms two periods are, after 20 ms three, so that a long gap does not buzz. Each
seam is smoothed over a quarter of a period. The first 10 ms play at full level, the next 10 ms fall by 20 %. The first
good frame is blended with the continued repetition, longer the longer the gap was.

After 20 ms the Recommendation goes on falling by 20 % every 10 ms and is silent after 60 ms. Real losses come in bursts
of about that length, and there it is worth up to 0.2 MOS-LQO (PESQ) to fall by 8 % only and be silent after 120 ms;
single lost frames sound the same (benchmarks/media_concealment.py).

When the frame after the gap is already in the jitter buffer, its first period is repeated backwards from there, and the
gap fades from the one repetition into the other, so that no part of it is far from real sound; a long gap is silent in
the middle. That is worth 0.15 to 0.6 MOS-LQO, and no blend is needed on recovery. The pitches are not made to meet:
warping one so that they do was tried and is heard more than what it mends.

The seam where the repetition begins lies before the gap, in audio that would have been played already. Therefore the
output lags the input by 3.75 ms (30 samples at 8 kHz), always, also when nothing is lost.

All state moves in samples, not in frames: frames may have any length, and a gap sounds the same whether it is
concealed 10, 20 or 60 ms at a time.
"""

import numpy as np

from aiphone.errors import MediaError

from libc.math cimport lrintf, sqrt
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memmove, memset

cdef enum:
    GAP_STEPS = 12        # steps of 10 ms until silence
    MERGE_PERCENT = 40    # the blend on recovery grows by 4 ms for each further 10 ms of gap

cdef float FADE = 0.2     # of full level, in the second step
cdef float LONG_FADE = 0.08   # in each one after that
cdef float POWER_FLOOR = 250.0   # energy of 80 samples below which a correlation says nothing


cdef bint plc_init(Plc* p, int rate) noexcept nogil:
    if rate != 8000 and rate != 16000:
        return False
    p.rate = rate
    p.step = rate // 100
    p.lag_min = p.step // 2
    p.lag_max = p.step + p.step // 2
    p.delay = p.lag_max // 4
    p.history_len = 3 * p.lag_max + p.delay
    p.ahead = -1
    return True


cdef Plc* plc_new(int rate) noexcept nogil:
    cdef Plc* p = <Plc*>calloc(1, sizeof(Plc))
    if p != NULL and not plc_init(p, rate):
        free(p)
        return NULL
    return p


cdef void plc_free(Plc* p) noexcept nogil:
    free(p)


cdef inline void end_gap(Plc* p) noexcept nogil:
    p.erased = 0
    p.weight = 0.0
    p.ahead = -1


cdef void plc_reset(Plc* p) noexcept nogil:
    end_gap(p)
    memset(p.history, 0, sizeof(p.history))


cdef inline short to_int16(float x) noexcept nogil:
    if x > 32767.0:
        return 32767
    if x < -32768.0:
        return -32768
    return <short>lrintf(x)


cdef void remember(Plc* p, short* pcm, int n) noexcept nogil:
    # pcm joins the history; what leaves it, `delay` samples late, takes its place in pcm.
    cdef int length = p.history_len, delay = p.delay, i
    cdef short held[PLC_OVERLAP_MAX]
    cdef short* end = p.history + length
    memcpy(held, end - delay, delay * sizeof(short))
    if n >= length:
        memcpy(p.history, pcm + n - length, length * sizeof(short))
    else:
        memmove(p.history, p.history + n, (length - n) * sizeof(short))
        memcpy(end - n, pcm, n * sizeof(short))
    if n >= delay:
        memmove(pcm + delay, pcm, (n - delay) * sizeof(short))
        memcpy(pcm, held, delay * sizeof(short))
    else:
        memcpy(pcm, held, n * sizeof(short))


cdef int best_lag(const Plc* p, int low, int high, int stride) noexcept nogil:
    # The lag with the largest normalised cross-correlation of the last 20 ms with what came before; only every
    # stride-th lag and sample is looked at.
    cdef int window = 2 * p.step, best = high, lag = high, i
    cdef const float* recent = p.pitch + p.history_len - window
    cdef const float* past
    cdef float correlation, energy, score, best_score = -1e30
    cdef float floor = POWER_FLOOR * window / stride / 80
    while lag >= low:
        past = recent - lag
        correlation = 0.0
        energy = 0.0
        i = 0
        while i < window:
            correlation += recent[i] * past[i]
            energy += past[i] * past[i]
            i += stride
        score = correlation / <float>sqrt(energy if energy > floor else floor)
        if score > best_score:
            best_score = score
            best = lag
        lag -= stride
    return best


cdef int find_lag(const Plc* p) noexcept nogil:
    # Every second lag and sample first (every fourth at 16 kHz), then all of those next to the best.
    cdef int stride = p.step // 40
    cdef int near = best_lag(p, p.lag_min, p.lag_max, stride)
    return best_lag(p, max(near - stride + 1, p.lag_min), min(near + stride - 1, p.lag_max), 1)


cdef void smooth_seam(Plc* p) noexcept nogil:
    # The repeated stretch must run from its end into its own beginning: fade its last quarter period into the one
    # that precedes its start.
    cdef int i
    cdef float weight
    cdef float* tail = p.pitch + p.history_len - p.overlap
    cdef const float* lead = tail - p.periods * p.lag
    for i in range(p.overlap):
        weight = <float>(i + 1) / p.overlap
        tail[i] = p.seam[i] * (1.0 - weight) + lead[i] * weight


cdef void repeat_pitch(Plc* p, float* dst, int n) noexcept nogil:
    # The next n samples of the repetition, at full level.
    cdef int length = p.periods * p.lag, i
    cdef const float* start = p.pitch + p.history_len - length
    for i in range(n):
        dst[i] = start[p.offset]
        p.offset += 1
        if p.offset == length:
            p.offset = 0


cdef void begin_gap(Plc* p) noexcept nogil:
    cdef int i
    cdef short* end = p.history + p.history_len
    for i in range(p.history_len):
        p.pitch[i] = p.history[i]
    p.lag = find_lag(p)
    p.overlap = p.lag // 4
    p.periods = 1
    p.offset = 0
    memcpy(p.seam, p.pitch + p.history_len - p.overlap, p.overlap * sizeof(float))
    smooth_seam(p)
    # The smoothed quarter has not been played yet, thanks to the delay.
    for i in range(p.overlap):
        end[i - p.overlap] = to_int16(p.pitch[p.history_len - p.overlap + i])


cdef void add_period(Plc* p) noexcept nogil:
    # One more period joins the repetition; the old one's next samples are kept, to fade out of.
    cdef int before = p.offset
    repeat_pitch(p, p.blend, p.overlap)
    p.offset = before % p.lag   # same phase, in the oldest period: the longer pattern is heard from its start
    p.periods += 1
    smooth_seam(p)


cdef inline float level(const Plc* p, int at) noexcept nogil:
    # Level of the sample `at` samples into the gap.
    cdef float steps = <float>at / p.step, left
    if steps < 1.0:
        return 1.0
    if steps < 2.0:
        return 1.0 - FADE * (steps - 1.0)
    left = 1.0 - FADE - LONG_FADE * (steps - 2.0)
    return left if left > 0.0 else 0.0


cdef void repeat_faded(Plc* p, float* dst, int n) noexcept nogil:
    # The next n samples of the concealment; n does not reach beyond the present step of 10 ms.
    cdef int at = p.erased % p.step, i
    cdef float weight
    cdef bint blending = p.periods > 1 and p.erased < 3 * p.step
    repeat_pitch(p, dst, n)
    for i in range(n):
        if blending and at + i < p.overlap:
            weight = <float>(at + i + 1) / p.overlap
            dst[i] = p.blend[at + i] * (1.0 - weight) + dst[i] * weight
        dst[i] *= level(p, p.erased + i)


cdef int next_chunk(Plc* p, float* dst, int most) noexcept nogil:
    # The next samples of the repetition, faded, up to the end of the present step; how many.
    cdef int chunk = min(most, p.step - p.erased % p.step)
    if p.erased == GAP_STEPS * p.step:
        # Silence from here on. The counter stays where it is, so that a gap may last for ever.
        memset(dst, 0, chunk * sizeof(float))
        return chunk
    if p.erased == p.step or p.erased == 2 * p.step:
        add_period(p)
    repeat_faded(p, dst, chunk)
    p.erased += chunk
    return chunk


cdef void plc_conceal(Plc* p, short* dst, int n) noexcept nogil:
    cdef int done = 0, chunk, i
    cdef float synthetic[PLC_STEP_MAX]
    if n <= 0:
        return
    if p.erased == 0:
        begin_gap(p)
    p.ahead = -1
    while done < n:
        chunk = next_chunk(p, synthetic, n - done)
        for i in range(chunk):
            dst[done + i] = to_int16(synthetic[i] * (1.0 - p.weight))
        done += chunk
    remember(p, dst, n)


cdef bint look_ahead(Plc* p, const short* future, int m) noexcept nogil:
    # The first period of the frame after the gap; False when it is too short to have one.
    cdef int lag = min(p.lag_max - p.step // 8, m * 11 // 16), window = min(m - lag, 2 * p.step), i
    cdef float correlation, energy, score, weight, best = -1e30
    cdef float floor = POWER_FLOOR * window / 80
    if lag < p.lag_min:
        return False
    while lag >= p.lag_min:
        correlation = 0.0
        energy = 0.0
        for i in range(window):
            correlation += <float>future[i] * future[i + lag]
            energy += <float>future[i + lag] * future[i + lag]
        score = correlation / <float>sqrt(energy if energy > floor else floor)
        if score > best:
            best = score
            p.back_lag = lag
        lag -= 1
    # Played backwards it must run from its beginning into its end: its first quarter fades in from what follows it.
    for i in range(p.back_lag):
        p.back[i] = future[i]
    for i in range(p.back_lag // 4):
        weight = <float>(i + 1) / (p.back_lag // 4 + 1)
        p.back[i] = future[i] * weight + future[p.back_lag + i] * (1.0 - weight)
    return True


cdef void plc_bridge(Plc* p, short* dst, int n, const short* future, int m, int remaining) noexcept nogil:
    cdef int done = 0, chunk, i, at, period
    cdef float synthetic[PLC_STEP_MAX]
    cdef float weight, slope
    if n <= 0:
        return
    if remaining < n or (p.ahead != remaining and not look_ahead(p, future, m)):
        plc_conceal(p, dst, n)
        return
    if p.erased == 0:
        begin_gap(p)
    slope = (1.0 - p.weight) / (remaining + 1)
    period = p.back_lag
    while done < n:
        chunk = next_chunk(p, synthetic, n - done)
        for i in range(chunk):
            at = remaining - 1 - done - i   # 0: just before the frame, which is the end of its period
            weight = p.weight + slope * (i + 1)
            dst[done + i] = to_int16(synthetic[i] * (1.0 - weight)
                                     + p.back[period - 1 - at % period] * level(p, at) * weight)
        p.weight += slope * chunk
        done += chunk
    p.ahead = remaining - n
    remember(p, dst, n)


cdef void merge(Plc* p, short* pcm, int n) noexcept nogil:
    # Blend the repetition, as it would have gone on, into the first good frame.
    cdef int steps = (p.erased + p.step - 1) // p.step, length, i
    cdef float synthetic[PLC_STEP_MAX]
    cdef float weight, left = 1.0 - p.weight
    length = p.overlap + (steps - 1) * (p.step * MERGE_PERCENT // 100)
    length = min(length, p.step, n)
    memset(synthetic, 0, sizeof(synthetic))
    if p.erased < GAP_STEPS * p.step:
        repeat_pitch(p, synthetic, length)
    for i in range(length):
        weight = <float>(i + 1) / (length + 1)
        pcm[i] = to_int16(synthetic[i] * level(p, p.erased + i) * left * (1.0 - weight) + pcm[i] * weight)


cdef void plc_good(Plc* p, short* pcm, int n) noexcept nogil:
    cdef int i
    if n <= 0:
        return
    if p.erased > 0:
        if p.ahead == 0:
            for i in range(min(n, p.back_lag // 4)):
                pcm[i] = to_int16(p.back[i])
        else:
            merge(p, pcm, n)
        end_gap(p)
    remember(p, pcm, n)


cdef class Concealer:
    """Conceals lost frames in a stream of int16 mono PCM. ``rate`` is 8000 or 16000 Hz, else MediaError.

    One thread at a time; the GIL is released while it works.
    """

    cdef Plc* _plc
    cdef readonly int rate

    def __cinit__(self, int rate):
        self.rate = rate
        self._plc = plc_new(rate)
        if self._plc == NULL:
            raise MediaError(f"packet loss concealment does not work at {rate} Hz: use 8000 or 16000")

    def __dealloc__(self):
        plc_free(self._plc)

    @property
    def delay(self):
        """How much the output lags the input, in samples (3.75 ms)."""
        return self._plc.delay

    def good(self, const short[::1] pcm not None):
        """A frame that arrived; returns as many samples, ``delay`` late."""
        out = np.array(pcm, dtype=np.int16)
        cdef short[::1] view = out
        cdef Py_ssize_t n = view.shape[0]
        if n > 0x7FFFFFFF:
            raise MediaError(f"a frame of {n} samples is too long: hand it over in parts")
        if n:
            with nogil:
                plc_good(self._plc, &view[0], <int>n)
        return out

    def conceal(self, int n):
        """A frame of ``n`` samples that did not arrive; returns what to play instead."""
        if n < 0:
            raise MediaError(f"a frame cannot have {n} samples")
        out = np.empty(n, dtype=np.int16)
        cdef short[::1] view = out
        if n:
            with nogil:
                plc_conceal(self._plc, &view[0], n)
        return out

    def bridge(self, int n, const short[::1] future not None, int remaining):
        """As ``conceal``, when the next frame is at hand, ``remaining`` samples after the start of this one."""
        if n < 0:
            raise MediaError(f"a frame cannot have {n} samples")
        out = np.empty(n, dtype=np.int16)
        cdef short[::1] view = out
        if n:
            with nogil:
                plc_bridge(self._plc, &view[0], n, &future[0] if future.shape[0] else NULL,
                           <int>min(future.shape[0], <Py_ssize_t>480), remaining)
        return out

    def reset(self):
        """Forget the stream so far."""
        plc_reset(self._plc)
