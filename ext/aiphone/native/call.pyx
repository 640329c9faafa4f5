"""A call's native state: made and freed on the Python side, used by the media thread in between."""

from libc.stdint cimport int64_t, uint16_t, uint32_t
from libc.string cimport memcpy

from aiphone.native.alloc cimport allocation_noted, counted_calloc, counted_free
from aiphone.native.delay cimport DelayConfig
from aiphone.native.jitter cimport jitter_init
from aiphone.native.platform cimport Address, address_equal, address_is_any, count
from aiphone.native.plc cimport plc_free, plc_new
from aiphone.native.resample cimport resampler_free, resampler_new
from aiphone.native.ring cimport ring_free, ring_init, ring_put
from aiphone.native.tap cimport Tap, tap_release

cdef extern from "<unistd.h>" nogil:
    int close(int fd)


cdef Call* call_new(int64_t key, int rtp_fd, int rtcp_fd, const Stream* stream, const DelayConfig* delay,
                    uint32_t ssrc, uint16_t seq, uint32_t timestamp, const char* cname) noexcept nogil:
    cdef Call* c = <Call*>counted_calloc(sizeof(Call))
    if c is NULL:
        return NULL
    c.rtp_fd = -1
    c.rtcp_fd = -1
    c.plc = plc_new(8000)
    c.up = resampler_new(8000, 16000)
    c.down = resampler_new(16000, 8000)
    allocation_noted((c.plc is not NULL) + (c.up is not NULL) + (c.down is not NULL))
    if (ring_init(&c.frames, sizeof(Frame), INBOUND_FRAMES) != 0
            or ring_init(&c.playout, sizeof(short), PLAYOUT_SAMPLES) != 0
            or c.plc is NULL or c.up is NULL or c.down is NULL):
        call_free(c)
        return NULL
    c.key = key
    c.rtp_fd = rtp_fd
    c.rtcp_fd = rtcp_fd
    c.stream = stream[0]
    memcpy(c.cname, cname, CNAME_LEN)
    jitter_init(&c.jitter, delay)
    c.gain = 1.0
    c.gain_target = 1.0
    c.stats.round_trip_ms = -1.0
    c.stats.target_ms = c.jitter.delay.target
    c.noise_floor = 1e-7
    c.comfort = -1.0
    c.noise_seed = ssrc | 1
    c.ssrc = ssrc
    c.seq = seq
    c.timestamp = timestamp
    c.last_tick = -1
    c.mark = True
    c.idle = 1000
    return c


cdef void call_free(Call* c) noexcept nogil:
    if c is NULL:
        return
    if c.rtp_fd >= 0:
        close(c.rtp_fd)
    if c.rtcp_fd >= 0:
        close(c.rtcp_fd)
    ring_free(&c.frames)
    ring_free(&c.playout)
    allocation_noted(-((c.plc is not NULL) + (c.up is not NULL) + (c.down is not NULL)))
    plc_free(c.plc)
    resampler_free(c.up)
    resampler_free(c.down)
    counted_free(c)


cdef void call_update(Call* c, const Stream* stream) noexcept nogil:
    # A peer that moved must be learned anew; a re-INVITE that only holds the call must not open the door again.
    cdef bint nowhere = address_is_any(&stream.remote)
    cdef bint moved = not nowhere and not address_equal(&c.stream.remote, &stream.remote)
    cdef bint resumed = stream.receive and not c.stream.receive
    cdef Address before = c.stream.remote
    c.stream = stream[0]
    if nowhere:             # hold in the old way (RFC 3264 section 8.4): the peer has not moved
        c.stream.remote = before
        c.stream.send = False
    if moved:
        c.learned = False
        c.locked = False
        c.candidate_count = 0
        c.rtcp_source.family = 0
    if resumed:
        c.last_rtp = 0.0    # the time-out starts again
        c.timed_out = False


cdef void call_tap(Call* c, Tap* tap) noexcept nogil:
    if c.tap is not NULL:
        tap_release(c.tap)
    c.tap = tap


cdef void emit(Core* core, Call* c, int kind, int64_t number, double at, double seconds) noexcept nogil:
    cdef EventRecord e
    e.key = c.key
    e.kind = kind
    e.number = number
    e.at = at
    e.seconds = seconds
    core.events_new = True
    # Nothing overtakes: while a state waits, later ones wait behind it.
    if not c.pending_states and ring_put(&core.events, &e, 1) == 1:
        return
    if kind < EVENT_STATES:
        c.pending[kind] = e
        c.pending_states |= <int64_t>1 << kind
    elif ring_put(&core.events, &e, 1) != 1:
        count(&core.events_dropped, 1)


cdef void emit_pending(Core* core, Call* c) noexcept nogil:
    cdef int kind, earliest, states = EVENT_STATES
    while c.pending_states:
        earliest = -1
        for kind in range(states):
            if c.pending_states & (<int64_t>1 << kind):
                if earliest < 0 or c.pending[kind].at < c.pending[earliest].at:
                    earliest = kind
        if ring_put(&core.events, &c.pending[earliest], 1) != 1:
            return
        c.pending_states &= ~(<int64_t>1 << earliest)
        core.events_new = True


cdef double mean_square(const short* pcm, int n) noexcept nogil:
    cdef int64_t total = 0
    cdef int i
    for i in range(n):
        total += <int>pcm[i] * <int>pcm[i]
    return <double>total / (1073741824.0 * n) if n > 0 else 0.0


cdef uint32_t next_random(uint32_t* seed) noexcept nogil:
    # xorshift32: for noise and for spreading reports, not for secrets.
    cdef uint32_t x = seed[0]
    x ^= x << 13
    x ^= x >> 17
    x ^= x << 5
    seed[0] = x
    return x
