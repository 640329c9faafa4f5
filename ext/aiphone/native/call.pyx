"""A call's native state: made and freed on the Python side, used by the media thread in between."""

from libc.stdint cimport int64_t, uint16_t, uint32_t
from libc.string cimport memcpy

from aiphone.native.alloc cimport allocation_noted, block_free, block_new
from aiphone.native.delay cimport DelayConfig
from aiphone.native.g722 cimport (
    g722_decoder_free, g722_decoder_new, g722_encoder_free, g722_encoder_new, g722_encoder_reset,
)
from aiphone.native.jitter cimport jitter_init
from aiphone.native.platform cimport Address, address_equal, address_is_any, count, load_real, load_relaxed
from aiphone.native.plc cimport plc_init
from aiphone.native.resample cimport RESAMPLER_HISTORY, resampler_init, resampler_reset
from aiphone.native.ring cimport ring_place, ring_put
from aiphone.native.srtp cimport Crypto, crypto_release
from aiphone.native.stretch cimport stretch_init
from aiphone.native.tap cimport Tap, tap_release

cdef extern from *:
    """
    #if defined(__SSE2__)
    #include <emmintrin.h>
    #endif

    /* Exact. Two squares fill 32 bits, without a sign; more need 64. */
    static double sum_of_squares(const short *pcm, int n) {
        int64_t total = 0;
        int i = 0;
    #if defined(__SSE2__)
        const __m128i zero = _mm_setzero_si128();
        __m128i a = zero, b = zero;
        int64_t two[2];
        for (; i + 8 <= n; i += 8) {
            const __m128i x = _mm_loadu_si128((const __m128i *)(pcm + i)), pairs = _mm_madd_epi16(x, x);
            a = _mm_add_epi64(a, _mm_unpacklo_epi32(pairs, zero));
            b = _mm_add_epi64(b, _mm_unpackhi_epi32(pairs, zero));
        }
        _mm_storeu_si128((__m128i *)two, _mm_add_epi64(a, b));
        total = two[0] + two[1];
    #endif
        for (; i < n; i++) total += (int32_t)pcm[i] * pcm[i];
        return (double)total;
    }
    """
    double sum_of_squares(const short* pcm, int n) noexcept nogil

cdef extern from "<unistd.h>" nogil:
    int close(int fd)


cdef int parts(const Call* c) noexcept nogil:
    # What others allocated for the call.
    return (c.g722_in is not NULL) + (c.g722_out is not NULL)


cdef Call* call_new(int64_t key, int rtp_fd, int rtcp_fd, const Stream* stream, const DelayConfig* delay,
                    uint32_t ssrc, uint16_t seq, uint32_t timestamp, const char* cname) noexcept:
    cdef Call* c = <Call*>block_new(sizeof(Call))
    if c is NULL:
        return NULL
    c.rtp_fd = -1
    c.rtcp_fd = -1
    c.g722_in = g722_decoder_new()
    c.g722_out = g722_encoder_new()
    allocation_noted(parts(c))
    ring_place(&c.frames, sizeof(Frame), INBOUND_FRAMES, c.frames_memory)
    ring_place(&c.playout, sizeof(short), PLAYOUT_SAMPLES, c.playout_memory)
    if not (plc_init(&c.narrow_plc, 8000) and plc_init(&c.wide_plc, 16000)
            and resampler_init(&c.up, 8000, 16000, c.up_history, RESAMPLER_HISTORY)
            and resampler_init(&c.down, 16000, 8000, c.down_history, RESAMPLER_HISTORY)
            and resampler_init(&c.tap_down, 16000, 8000, c.tap_history, RESAMPLER_HISTORY)):
        call_free(c)
        return NULL
    c.key = key
    c.rtp_fd = rtp_fd
    c.rtcp_fd = rtcp_fd
    c.stream = stream[0]
    memcpy(c.cname, cname, CNAME_LEN)
    jitter_init(&c.jitter, delay)
    c.wide = c.stream.payload_type == PT_G722
    c.plc = &c.wide_plc if c.wide else &c.narrow_plc
    stretch_init(&c.sound, 16000 if c.wide else 8000)
    c.gain = 1.0
    c.gain_target = 1.0
    c.stats.round_trip_ms = -1.0
    c.stats.target_ms = c.jitter.delay.target
    c.comfort = -1.0
    c.noise_seed = ssrc | 1
    c.ssrc = ssrc
    c.seq = seq
    c.timestamp = timestamp
    c.last_tick = -1
    c.mark = True
    c.idle = 1000
    return c


cdef int64_t call_bytes() noexcept nogil:
    # The codecs' own state is a few hundred bytes.
    return sizeof(Call) + 2048


cdef void call_free(Call* c) noexcept:
    if c is NULL:
        return
    if c.rtp_fd >= 0:
        close(c.rtp_fd)
    if c.rtcp_fd >= 0:
        close(c.rtcp_fd)
    allocation_noted(-parts(c))
    g722_decoder_free(c.g722_in)
    g722_encoder_free(c.g722_out)
    block_free(c)


cdef void call_update(Call* c, const Stream* stream) noexcept nogil:
    # A peer that moved must be learned anew; a re-INVITE that only holds the call must not open the door again.
    cdef bint nowhere = address_is_any(&stream.remote)
    cdef bint moved = not nowhere and not address_equal(&c.stream.remote, &stream.remote)
    cdef bint resumed = stream.receive and not c.stream.receive
    cdef Address before = c.stream.remote
    if stream.payload_type != c.stream.payload_type:
        c.coded_len = 0     # what was coded and not sent is of the other codec
        resampler_reset(&c.down)
        if c.g722_out is not NULL:
            g722_encoder_reset(c.g722_out)
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


cdef void call_rekey(Call* c, Crypto* crypto_out, Crypto* crypto_in) noexcept nogil:
    if c.crypto_out is not crypto_out:
        crypto_release(c.crypto_out)
    if c.crypto_in is not crypto_in:
        crypto_release(c.crypto_in)
    c.crypto_out = crypto_out
    c.crypto_in = crypto_in


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
    return sum_of_squares(pcm, n) / (1073741824.0 * n) if n > 0 else 0.0


cdef uint32_t next_random(uint32_t* seed) noexcept nogil:
    # xorshift32: for noise and for spreading reports, not for secrets.
    cdef uint32_t x = seed[0]
    x ^= x << 13
    x ^= x >> 17
    x ^= x << 5
    seed[0] = x
    return x


cdef dict call_stats(Call* c):
    cdef CallStats* s = &c.stats
    return {
        "packets_sent": load_relaxed(&s.packets_sent), "bytes_sent": load_relaxed(&s.bytes_sent),
        "send_errors": load_relaxed(&s.send_errors), "packets_received": load_relaxed(&s.packets_received),
        "bytes_received": load_relaxed(&s.bytes_received), "lost": load_relaxed(&s.lost),
        "late": load_relaxed(&s.late), "duplicated": load_relaxed(&s.duplicated),
        "reordered": load_relaxed(&s.reordered), "concealed": load_relaxed(&s.concealed),
        "lengthened": load_relaxed(&s.lengthened), "shortened": load_relaxed(&s.shortened),
        "forged": load_relaxed(&s.forged), "replayed": load_relaxed(&s.replayed),
        "strays": load_relaxed(&s.strays), "invalid": load_relaxed(&s.invalid),
        "unknown_payload": load_relaxed(&s.unknown_payload), "source_changes": load_relaxed(&s.source_changes),
        "frames_lost": load_relaxed(&s.frames_lost), "rtcp_received": load_relaxed(&s.rtcp_received),
        "remote_lost": load_relaxed(&s.remote_lost), "remote_fraction": load_relaxed(&s.remote_fraction),
        "jitter_ms": load_real(&s.jitter_ms), "remote_jitter_ms": load_real(&s.remote_jitter_ms),
        "delay_ms": load_real(&s.delay_ms), "target_ms": load_real(&s.target_ms),
        "round_trip_ms": load_real(&s.round_trip_ms), "power_in": load_real(&s.power_in),
        "power_out": load_real(&s.power_out), "played": load_relaxed(&c.played),
    }
