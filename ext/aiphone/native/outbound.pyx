"""Playout: ring, gain, resampling, G.711, pacing by the step, RTP; keys; RTCP reports.

The stream never pauses while the call may send: an empty ring is sent as silence, so the peer's jitter buffer and
any NAT on the way stay as they are. Where noise is to be sent instead and comfort noise was negotiated, its packets
take the place of it: one at once and then five a second. Positions count the queued samples that have left the
socket; silence in between and samples dropped by a flush do not count.
"""

from libc.math cimport log10, sqrt
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memcpy, memmove, memset

from aiphone.native.call cimport (
    CNAME_LEN, EVENT_PLAYOUT_DRAINED, EVENT_PLAYOUT_STARTED, FRAME, LINE_FRAME, MAX_PTIME, PT_CN, PT_G722, PT_PCMA, Call, Core,
    emit, mean_square, next_random,
)
from aiphone.native.g711 cimport alaw_encode, ulaw_encode
from aiphone.native.g722 cimport g722_encode
from aiphone.native.platform cimport (
    Address, address_is_any, clock_now, count, datagram_send, load_acquire, load_real, load_relaxed, store_real,
    store_relaxed,
)
from aiphone.native.resample cimport resampler_process
from aiphone.native.ring cimport ring_get, ring_skip_to, ring_used
from aiphone.native.rtcp cimport RTCP_MAX, RtcpSender, ntp_of, rtcp_write
from aiphone.native.rtp cimport RTP_HEADER, rtp_write_header
from aiphone.native.srtp cimport crypto_protect, crypto_protect_rtcp
from aiphone.native.tap cimport tap_begin, tap_sent
from aiphone.native.telephone_event cimport EVENT_PAYLOAD, sender_step

cdef double AUDIBLE = 3.1622776601683795e-05    # -45 dBFS as a mean square
cdef double METER = 0.4                         # weight of the newest frame
cdef double RTCP_SECONDS = 5.0                  # RFC 3550 section 6.2
cdef enum:
    FADE = 128              # 8 ms at 16 kHz: no click, and over within the packet
    PACKET_WORDS = 127      # header, 60 ms and what SRTP adds; it asks for words
    REPORT_WORDS = 36
    NOISE_STEPS = 10        # from one packet of comfort noise to the next
    RESAMPLER_TAIL = 3      # silent steps after which the resampler holds nothing but zeros


cdef double now_of(Core* core, double fallback) noexcept nogil:
    return clock_now() if core.wall_minus_now != 0.0 else fallback


cdef void send_packet(Core* core, Call* c, int payload_type, uint32_t timestamp, const unsigned char* payload,
                      int n, bint mark) noexcept nogil:
    cdef uint32_t room[PACKET_WORDS]
    cdef unsigned char* packet = <unsigned char*>room
    cdef int length = RTP_HEADER + n
    cdef Address* to = &c.source if c.learned else &c.stream.remote
    rtp_write_header(packet, payload_type, mark, c.seq, timestamp, c.ssrc)
    memcpy(packet + RTP_HEADER, payload, n)
    c.seq += 1
    if to.port == 0 or address_is_any(to):
        return              # nowhere to send (hold in the old way): the counters go on
    if c.crypto_out is not NULL:
        length = crypto_protect(c.crypto_out, packet, length)
    if length > 0 and datagram_send(c.rtp_fd, packet, length, to):
        count(&c.stats.packets_sent, 1)
        count(&c.stats.bytes_sent, n)
    else:
        count(&c.stats.send_errors, 1)


cdef void apply_gain(Call* c, short* pcm) noexcept nogil:
    # Moves from the old gain to the new over one frame.
    cdef double target = load_real(&c.gain_target), gain = c.gain, step, x
    cdef int i
    if target == 1.0 and gain == 1.0:
        return
    step = (target - gain) / FRAME
    for i in range(FRAME):
        gain += step
        x = pcm[i] * gain
        pcm[i] = 32767 if x > 32767.0 else (-32768 if x < -32768.0 else <short>x)
    c.gain = target


cdef int take(Call* c, short* pcm, bint* flushed) noexcept nogil:
    # The next samples of the ring, the rest of the frame is silence.
    cdef int64_t flush_to = load_acquire(&c.flush_to), head = load_relaxed(&c.playout.head)
    cdef int n, i
    flushed[0] = flush_to > head
    if flushed[0]:
        n = <int>ring_get(&c.playout, pcm, min(<int64_t>FADE, flush_to - head))
        for i in range(n):
            pcm[i] = <short>(pcm[i] * (n - i) // (n + 1))
        ring_skip_to(&c.playout, flush_to)
    else:
        n = <int>ring_get(&c.playout, pcm, FRAME)
    if n < FRAME:
        memset(pcm + n, 0, (FRAME - n) * sizeof(short))
    return n


cdef void encode(Call* c, const short* pcm) noexcept nogil:
    # One frame at 16 kHz joins c.coded.
    cdef short line[2 * LINE_FRAME]
    cdef int n
    cdef unsigned char* dst = c.coded + c.coded_len
    if c.stream.payload_type == PT_G722:
        c.coded_len += g722_encode(c.g722_out, pcm, dst, FRAME)
        if c.tap is NULL:
            return
    n = resampler_process(&c.down, pcm, FRAME, line, 2 * LINE_FRAME)
    if n <= 0:
        return
    if c.tap is not NULL:
        tap_sent(c.tap, line, n)
    if c.stream.payload_type == PT_G722:
        return
    if c.stream.payload_type == PT_PCMA:
        alaw_encode(line, dst, n)
    else:
        ulaw_encode(line, dst, n)
    c.coded_len += n


cdef void nothing_to_say(Core* core, Call* c) noexcept nogil:
    # A frame of silence, or of the noise that tells the other side that the line is not dead.
    cdef short pcm[FRAME]
    cdef double amplitude
    cdef int i
    c.gain = load_real(&c.gain_target)
    store_real(&c.stats.power_out, c.stats.power_out * (1.0 - METER))
    if core.comfort_level > 0.0:
        # Uniform noise: its peak is the square root of three times its mean square.
        amplitude = 32767.0 * sqrt(3.0 * core.comfort_level) / 2147483648.0
        for i in range(FRAME):
            pcm[i] = <short>(amplitude * (next_random(&c.noise_seed) - 2147483648.0))
    elif c.stream.payload_type == PT_G722:
        memset(pcm, 0, sizeof(pcm))     # its silence depends on what came before
    else:
        memset(c.coded + c.coded_len, 0xd5 if c.stream.payload_type == PT_PCMA else 0xff, LINE_FRAME)
        c.coded_len += LINE_FRAME
        return
    encode(c, pcm)


cdef bint only_noise(Core* core, Call* c) noexcept nogil:
    # Whether this step is one of noise that is described and not sent (RFC 3389). A begun packet is filled first.
    cdef unsigned char level            # -dBov
    if (core.comfort_level <= 0.0 or not c.stream.noise or c.stream.payload_type == PT_G722
            or c.idle < RESAMPLER_TAIL or c.coded_len or ring_used(&c.playout)
            or load_acquire(&c.flush_to) > load_relaxed(&c.playout.head)):
        c.unsent = 0
        return False
    c.idle += 1
    c.gain = load_real(&c.gain_target)
    store_real(&c.stats.power_out, c.stats.power_out * (1.0 - METER))
    if c.unsent % NOISE_STEPS == 0:
        level = <unsigned char>min(max(-10.0 * log10(core.comfort_level) + 0.5, 0.0), 127.0)
        send_packet(core, c, PT_CN, c.timestamp, &level, 1, False)
    c.unsent += 1
    c.timestamp += LINE_FRAME
    c.mark = True
    return True


cdef void next_frame(Core* core, Call* c, bint muted) noexcept nogil:
    # Appends one frame to c.coded and notes what is to be reported once it has left.
    cdef short pcm[FRAME]
    cdef bint flushed = False
    cdef int n = 0
    cdef double power
    if muted:
        memset(pcm, 0, sizeof(pcm))
    else:
        n = take(c, pcm, &flushed)
    if n == 0:
        c.idle += 1
        if c.idle > RESAMPLER_TAIL:
            nothing_to_say(core, c)
            return
    else:
        if c.idle:
            c.mark = True
        c.idle = 0
        apply_gain(c, pcm)
    power = mean_square(pcm, FRAME)
    store_real(&c.stats.power_out, c.stats.power_out + METER * (power - c.stats.power_out))
    if n:
        if not c.sounding and power > AUDIBLE:
            c.sounding = True
            c.started_pending = True
            c.started_position = c.taken
        c.taken += n
        if flushed or ring_used(&c.playout) == 0:
            c.drained_pending = True
            c.sounding = False
    encode(c, pcm)


cdef void report_playout(Core* core, Call* c, double at) noexcept nogil:
    store_relaxed(&c.played, c.taken)
    if c.started_pending:
        c.started_pending = False
        emit(core, c, EVENT_PLAYOUT_STARTED, c.started_position, at, 0.0)
    if c.drained_pending:
        c.drained_pending = False
        emit(core, c, EVENT_PLAYOUT_DRAINED, c.taken, at, 0.0)


cdef bint outbound_step(Core* core, Call* c, int64_t tick, double due) noexcept nogil:
    cdef unsigned char event[EVENT_PAYLOAD]
    cdef bint first = False, sent = False
    cdef int key = -1, ptime = c.stream.ptime
    if c.tap is not NULL:
        tap_begin(c.tap, tick - c.last_tick - 1 if c.last_tick >= 0 else 0)
    if c.last_tick >= 0 and tick > c.last_tick + 1:
        c.timestamp += <uint32_t>((tick - c.last_tick - 1) * LINE_FRAME)
        c.mark = True
    c.last_tick = tick
    if not c.stream.send:
        c.coded_len = 0
        c.timestamp += LINE_FRAME
        c.mark = True
        return False
    if c.coded_len == 0 and c.stream.key_type >= 0:
        key = sender_step(&c.keys_out, c.timestamp, LINE_FRAME, event, &first)
    if key == 1:
        send_packet(core, c, c.stream.key_type, c.keys_out.timestamp, event, EVENT_PAYLOAD, first)
        c.timestamp += LINE_FRAME
        c.mark = True
        return True
    if key != 0 and only_noise(core, c):
        return c.unsent % NOISE_STEPS == 1
    next_frame(core, c, key == 0)
    while c.coded_len >= ptime:
        send_packet(core, c, c.stream.payload_type, c.timestamp, c.coded, ptime, c.mark)
        c.mark = False
        c.timestamp += ptime
        c.coded_len -= ptime
        if c.coded_len:
            memmove(c.coded, c.coded + ptime, c.coded_len)
        sent = True
    if sent and (c.started_pending or c.drained_pending or c.played != c.taken):
        report_playout(core, c, now_of(core, due))
    return sent


cdef void outbound_rtcp(Core* core, Call* c, double now, bint bye) noexcept nogil:
    cdef uint32_t room[REPORT_WORDS]
    cdef unsigned char* packet = <unsigned char*>room
    cdef RtcpSender s
    cdef Address to
    cdef int n, fd = c.rtcp_fd
    cdef double spread = next_random(&c.noise_seed) / 4294967296.0
    # Section 6.3.1: between half and one and a half of the interval, with its compensation.
    c.next_rtcp = now + RTCP_SECONDS * (0.5 + spread) / 1.21828
    s.ssrc = c.ssrc
    s.ntp = ntp_of(now + core.ntp_minus_now)
    s.timestamp = c.timestamp
    s.packets = <uint32_t>c.stats.packets_sent
    s.octets = <uint32_t>c.stats.bytes_sent
    s.sent = c.stats.packets_sent != c.sent_at_report
    c.sent_at_report = c.stats.packets_sent
    s.last_sr = c.last_sr
    s.delay = <uint32_t>((now - c.last_sr_at) * 65536.0) if c.last_sr else 0
    n = rtcp_write(packet, &s, &c.rtp, c.cname, CNAME_LEN, bye)
    if c.stream.rtcp_mux:
        fd = c.rtp_fd
        to = c.source if c.learned else c.stream.remote
    elif c.rtcp_source.family:
        to = c.rtcp_source
    else:
        to = c.stream.remote_rtcp
    if to.port == 0 or address_is_any(&to) or fd < 0:
        return
    if c.crypto_out is not NULL:
        n = crypto_protect_rtcp(c.crypto_out, packet, n)
    if n > 0:
        datagram_send(fd, packet, n, &to)
