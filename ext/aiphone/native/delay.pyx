"""The target delay of the jitter buffer.

Every packet has a transit: arrival time minus RTP timestamp. The shortest of the last seconds is the base; how much
longer a packet took is its relative delay. A packet can be played in time when playing runs at least that far behind
the base. So the target is a quantile of the relative delays, kept in a histogram that forgets: the weight of a new
packet grows by a constant factor, so older ones fade without being touched.

The base is a minimum over a sliding window, so it follows a sender whose clock runs fast or slow.
"""

from libc.math cimport floor
from libc.stdint cimport int64_t
from libc.string cimport memset

cdef double BIN_MS = 4.0
cdef double WINDOW_MS = 500.0
cdef double FORGETTING = 0.998     # for each packet: half of the weight is in the last 350
cdef double PRIOR = 10.0           # packets that the starting target is worth
cdef double GROW_BELOW = 5.0       # ms
cdef double SHRINK_ABOVE = 30.0    # ms; more than a frame, so that growing and shrinking never alternate
cdef double SHRINK_AT_ONCE = 120.0


cdef void delay_init(Delay* d, const DelayConfig* config) noexcept nogil:
    cdef int bin
    memset(d, 0, sizeof(Delay))
    d.config = config[0]
    d.weight = 1.0
    d.target = config.fixed_ms if config.fixed_ms >= 0 else config.start_ms
    bin = <int>(config.start_ms / BIN_MS) - 1
    bin = 0 if bin < 0 else (DELAY_BINS - 1 if bin >= DELAY_BINS else bin)
    d.bins[bin] = PRIOR
    d.total = PRIOR


cdef void delay_rebase(Delay* d, double transit_ms, double arrival_ms) noexcept nogil:
    cdef int i
    d.window_number = <int64_t>floor(arrival_ms / WINDOW_MS)
    for i in range(DELAY_WINDOWS):
        d.window[i] = 1e300
    d.window[d.window_number % DELAY_WINDOWS] = transit_ms
    d.base = transit_ms
    d.has_base = True


cdef void follow_base(Delay* d, double transit_ms, double arrival_ms) noexcept nogil:
    cdef int64_t number = <int64_t>floor(arrival_ms / WINDOW_MS)
    cdef int i
    if not d.has_base or number >= d.window_number + DELAY_WINDOWS:
        delay_rebase(d, transit_ms, arrival_ms)
        return
    while d.window_number < number:
        d.window_number += 1
        d.window[d.window_number % DELAY_WINDOWS] = 1e300
    i = <int>(d.window_number % DELAY_WINDOWS)
    if transit_ms < d.window[i]:
        d.window[i] = transit_ms
    d.base = d.window[0]
    for i in range(1, DELAY_WINDOWS):
        if d.window[i] < d.base:
            d.base = d.window[i]


cdef void renormalise(Delay* d) noexcept nogil:
    cdef int i
    for i in range(DELAY_BINS):
        d.bins[i] /= d.weight
    d.total /= d.weight
    d.weight = 1.0


cdef double quantile_ms(const Delay* d) noexcept nogil:
    # Upper edge of the lowest bin above which no more than the allowed share lies.
    cdef double allowed = (1.0 - d.config.quantile) * d.total, above = 0.0
    cdef int i = DELAY_BINS - 1
    while i > 0:
        above += d.bins[i]
        if above > allowed:
            break
        i -= 1
    return (i + 1) * BIN_MS


cdef double delay_update(Delay* d, double transit_ms, double arrival_ms) noexcept nogil:
    cdef double relative
    cdef int bin
    follow_base(d, transit_ms, arrival_ms)
    relative = transit_ms - d.base
    bin = <int>(relative / BIN_MS)
    d.bins[bin if bin < DELAY_BINS else DELAY_BINS - 1] += d.weight
    d.total += d.weight
    d.weight /= FORGETTING
    if d.weight > 1e9:
        renormalise(d)
    if d.config.fixed_ms < 0:
        d.target = min(max(quantile_ms(d), d.config.min_ms), d.config.max_ms)
    return relative


cdef int delay_advice(const Delay* d, double now_delay) noexcept nogil:
    if now_delay < d.target - GROW_BELOW:
        return DELAY_GROW
    if now_delay > d.target + SHRINK_AT_ONCE:
        return DELAY_SHRINK_NOW
    if now_delay > d.target + SHRINK_ABOVE:
        return DELAY_SHRINK
    return DELAY_KEEP
