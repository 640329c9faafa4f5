# Packet loss concealment, ITU-T G.711 Appendix I, at 8 and 16 kHz. One owner at a time per Plc; any thread, no GIL.

cdef enum:
    # Sizes for 16 kHz, the highest rate; at 8 kHz half of each array is used.
    PLC_HISTORY_MAX = 780
    PLC_OVERLAP_MAX = 60
    PLC_STEP_MAX = 160
    PLC_LAG_MAX = 240

cdef struct Plc:
    # Settings, in samples of the rate.
    int rate
    int lag_min           # shortest pitch period, 5 ms
    int lag_max           # longest pitch period, 15 ms
    int delay             # 3.75 ms: output lags input by this, so that the seam can be smoothed
    int history_len       # three longest periods and one overlap
    int step              # 10 ms
    # State.
    int erased            # samples concealed since the last good frame
    int lag               # pitch period found at the start of the erasure
    int overlap           # a quarter of it
    int periods           # how many periods are being repeated, 1 to 3
    int offset            # read position within those periods
    short history[PLC_HISTORY_MAX]   # newest last; the newest `delay` samples are not yet out
    float pitch[PLC_HISTORY_MAX]     # history at the start of the erasure, its seam smoothed
    float seam[PLC_OVERLAP_MAX]      # the last quarter period as it was before smoothing
    float blend[PLC_OVERLAP_MAX]     # what the repetition fades out of when a period is added to it
    # Towards a frame that is already there.
    float weight          # of what leads into it: 0 at the start of the erasure, 1 where it begins
    int ahead             # samples until it begins, after the last ones concealed; -1: nothing is known of it
    int back_lag          # its pitch period
    float back[PLC_LAG_MAX]   # its first period

# In memory of the caller's, which is zero. False when the rate is not 8000 or 16000.
cdef bint plc_init(Plc* p, int rate) noexcept nogil
# NULL when the rate is not 8000 or 16000, or there is no memory.
cdef Plc* plc_new(int rate) noexcept nogil
# Accepts NULL.
cdef void plc_free(Plc* p) noexcept nogil
cdef void plc_reset(Plc* p) noexcept nogil
# Call for every decoded frame: n samples in, n samples out, 3.75 ms later.
cdef void plc_good(Plc* p, short* pcm, int n) noexcept nogil
# Call for every missing frame: n samples out.
cdef void plc_conceal(Plc* p, short* dst, int n) noexcept nogil
# The same when the next frame is at hand: its first m samples, `remaining` samples after the first of dst.
cdef void plc_bridge(Plc* p, short* dst, int n, const short* future, int m, int remaining) noexcept nogil
