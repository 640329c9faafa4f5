# How deep the jitter buffer should be: the decision, apart from the storage (jitter) and from the sound (call).

from libc.stdint cimport int64_t

cdef enum:
    DELAY_BINS = 192        # of DELAY_BIN_MS each
    DELAY_WINDOWS = 8       # the shortest transit is the minimum over these
    DELAY_PEAKS = 4         # stalls of the network that are remembered

cdef struct DelayConfig:
    double min_ms
    double max_ms
    double start_ms         # target before anything is known
    double fixed_ms         # negative: adaptive
    double quantile         # share of packets that shall come in time

cdef struct Delay:
    DelayConfig config
    double target           # ms
    double base             # shortest transit of the last seconds, ms
    bint has_base
    double window[DELAY_WINDOWS]
    int64_t window_number   # of the window that is being filled
    double weight           # of the next packet; grows, which makes all earlier ones count less
    double total
    double bins[DELAY_BINS]
    int top                 # beyond it all bins are empty
    double late_share       # of the packets lately, as far as it was seen
    # Stalls: the network stands still, then delivers all at once.
    double last_arrival     # ms
    bint in_peak
    double ordinary         # the target without them
    int peaks               # so far
    double peak_at[DELAY_PEAKS]
    double peak_height[DELAY_PEAKS]

cdef enum DelayAdvice:
    DELAY_KEEP = 0
    DELAY_GROW = 1          # insert sound when nobody notices
    DELAY_SHRINK = 2        # drop sound when nobody notices
    DELAY_SHRINK_NOW = 3    # drop sound, noticed or not

cdef void delay_init(Delay* d, const DelayConfig* config) noexcept nogil
# A packet arrived; transit_ms is arrival minus its timestamp. Its delay relative to the shortest transit.
cdef double delay_update(Delay* d, double transit_ms, double arrival_ms) noexcept nogil
# A packet was played, or came too late for that.
cdef void delay_seen(Delay* d, bint late) noexcept nogil
# Forget the transits, keep what was learned about jitter: the sender's clock jumped.
cdef void delay_rebase(Delay* d, double transit_ms, double arrival_ms) noexcept nogil
# What to do when sound is played `delay` ms behind the shortest transit.
cdef int delay_advice(const Delay* d, double delay) noexcept nogil
