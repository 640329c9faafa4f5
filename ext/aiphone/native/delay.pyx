"""The target delay of the jitter buffer.

Every packet has a transit: arrival time minus RTP timestamp. The shortest of the last seconds is the base; how much
longer a packet took is its relative delay. A packet can be played in time when playing runs at least that far behind
the base. So the target is a quantile of the relative delays, kept in a histogram that forgets: the weight of a new
packet grows by a constant factor, so older ones fade without being touched.

A stall (the network or the sender's machine stands still, then all comes at once) is another thing. Its packets are
played, late, so they are no loss, and the delay goes back at once when it was the only one: they do not enter the
histogram. But stalls that come again and again are heard each time. So their heights and times are remembered, and
from the second within ten seconds on the target covers them, for as long as the next one may be expected.

How many packets truly come too late depends on more than the target: one that comes late makes the delay longer for
those behind it, and the delay changes only where nobody hears it. So the quantile is steered by the share of late packets that is seen.

The base is a minimum over a sliding window, so it follows a sender whose clock runs fast or slow.
"""

from libc.math cimport floor
from libc.stdint cimport int64_t
from libc.string cimport memset

cdef double BIN_MS = 2.0
cdef double WINDOW_MS = 500.0
cdef double FORGETTING = 0.998     # for each packet: half of the weight is in the last 350
cdef double FORGOTTEN = 1e-9       # the newest packet counts 1 or more
cdef double PRIOR = 3.0            # packets that the starting target is worth
cdef double LATE_WEIGHT = 0.002    # of the newest packet in the share of late ones
cdef double GROW_BELOW = 3.0       # ms
cdef double SHRINK_ABOVE = 2.0
cdef double SHRINK_AT_ONCE = 80.0
cdef double STALL_MS = 80.0        # without a packet, after which a late one is no jitter
cdef double PEAK_MEMORY_MS = 10000.0


cdef void delay_init(Delay* d, const DelayConfig* config) noexcept nogil:
    cdef int bin
    memset(d, 0, sizeof(Delay))
    d.config = config[0]
    d.late_share = 1.0 - config.quantile
    d.weight = 1.0
    d.ordinary = config.start_ms
    d.target = config.fixed_ms if config.fixed_ms >= 0 else config.start_ms
    bin = <int>(config.start_ms / BIN_MS) - 1
    bin = 0 if bin < 0 else (DELAY_BINS - 1 if bin >= DELAY_BINS else bin)
    d.bins[bin] = PRIOR
    d.top = bin
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
        if d.bins[i] < FORGOTTEN:
            d.bins[i] = 0.0
    while d.top > 0 and d.bins[d.top] == 0.0:
        d.top -= 1
    d.total /= d.weight
    d.weight = 1.0


cdef double quantile_ms(const Delay* d) noexcept nogil:
    # The delay that no more than the allowed share exceeds; within a bin, in proportion.
    cdef double share = 1.0 - d.config.quantile
    cdef double allowed = share * min(max(2.0 - d.late_share / share, 0.1), 2.0) * d.total, above = 0.0
    cdef int i = d.top
    while i > 0 and above + d.bins[i] <= allowed:
        above += d.bins[i]
        i -= 1
    if d.bins[i] <= allowed - above:
        return 0.0
    return (i + 1 - (allowed - above) / d.bins[i]) * BIN_MS


cdef void delay_seen(Delay* d, bint late) noexcept nogil:
    d.late_share += ((1.0 if late else 0.0) - d.late_share) * LATE_WEIGHT


cdef bint peak(Delay* d, double relative, double arrival_ms) noexcept nogil:
    # Whether the packet belongs to a stall.
    cdef double pause = arrival_ms - d.last_arrival
    cdef int i
    d.last_arrival = arrival_ms
    if pause > STALL_MS and relative > d.ordinary + STALL_MS:
        d.in_peak = True
        i = d.peaks % DELAY_PEAKS
        d.peak_at[i] = arrival_ms
        d.peak_height[i] = relative
        d.peaks += 1
    elif d.in_peak and relative <= d.ordinary + BIN_MS:
        d.in_peak = False
    return d.in_peak


cdef double peak_target(const Delay* d, double arrival_ms) noexcept nogil:
    # The highest of the stalls that may be expected again, 0 when there is none.
    cdef int i, known = 0
    cdef double height = 0.0
    for i in range(min(d.peaks, <int>DELAY_PEAKS)):
        if arrival_ms - d.peak_at[i] < PEAK_MEMORY_MS:
            known += 1
            height = max(height, d.peak_height[i])
    return height if known > 1 else 0.0


cdef double delay_update(Delay* d, double transit_ms, double arrival_ms) noexcept nogil:
    cdef double relative
    cdef int bin
    follow_base(d, transit_ms, arrival_ms)
    relative = transit_ms - d.base
    if not peak(d, relative, arrival_ms):
        bin = min(<int>(relative / BIN_MS), <int>DELAY_BINS - 1)
        d.top = max(d.top, bin)
        d.bins[bin] += d.weight
        d.total += d.weight
        d.weight /= FORGETTING
        if d.weight > 1e9:
            renormalise(d)
    if d.config.fixed_ms < 0:
        d.ordinary = quantile_ms(d)
        d.target = max(d.ordinary, peak_target(d, arrival_ms))
        d.target = min(max(d.target, d.config.min_ms), d.config.max_ms)
    return relative


cdef int delay_advice(const Delay* d, double delay) noexcept nogil:
    if delay < d.target - GROW_BELOW:
        return DELAY_GROW
    if delay > d.target + SHRINK_AT_ONCE:
        return DELAY_SHRINK_NOW
    return DELAY_SHRINK if delay > d.target + SHRINK_ABOVE else DELAY_KEEP
