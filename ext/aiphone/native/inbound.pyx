"""Reception: who may speak, RTP, jitter buffer, decoding, concealment, resampling, frames for Python.

Sockets are read in the call's own step, just before its frame is made: reading earlier would gain nothing, since
the frame is what Python gets, and the kernel's timestamp says when each packet came.

Where audio may come from (a stranger must not be able to take over a call by sending to its port):

- A packet from the signalled address (SDP) locks it.
- Until that has happened, another address may be learned (symmetric RTP, behind a NAT): it must send a few packets
  that follow each other, of one source and with a known payload type; fewer when the host is the signalled one. The
  signalled address still wins for a short time after that, then the learned one is locked.
- Once locked, everything else is a stray: counted, never played. A re-INVITE with a new address starts again.
"""

from libc.math cimport pow
from libc.stdint cimport int64_t, uint16_t, uint32_t
from libc.string cimport memmove, memset

from aiphone.native.call cimport (
    EVENT_DIGIT, EVENT_TIMED_OUT, FIFO_SAMPLES, FRAME, FRAME_COMFORT_NOISE, FRAME_CONCEALED, FRAME_INSERTED,
    FRAME_NO_PACKET, LINE_FRAME, PT_CN, PT_PCMA, PT_PCMU, Call, Core, Frame, emit, mean_square, next_random,
)
from aiphone.native.delay cimport DELAY_GROW, DELAY_SHRINK, DELAY_SHRINK_NOW
from aiphone.native.g711 cimport alaw_decode, ulaw_decode
from aiphone.native.jitter cimport (
    JITTER_CLOCK, JITTER_FRAME, JITTER_MISSING, JITTER_NORMAL, JITTER_TOO_LONG, JitterPacket, jitter_advice,
    jitter_delay_ms, jitter_get, jitter_pass, jitter_put, jitter_reset,
)
from aiphone.native.outbound cimport outbound_rtcp
from aiphone.native.platform cimport (
    BATCH, Address, address_equal, address_same_host, batch_receive, count, store_real, store_relaxed,
)
from aiphone.native.plc cimport plc_conceal, plc_good
from aiphone.native.resample cimport resampler_process
from aiphone.native.ring cimport ring_put
from aiphone.native.rtcp cimport RtcpReport, ntp_of, rtcp_parse
from aiphone.native.rtp cimport (
    RTP_IS_RTCP, RTP_OK, SOURCE_DUPLICATE, SOURCE_INVALID, SOURCE_RESTARTED, RtpPacket, rtp_parse, source_jitter,
    source_lost, source_start, source_update,
)
from aiphone.native.tap cimport tap_end
from aiphone.native.telephone_event cimport event_received

cdef double LOCK_SECONDS = 2.0          # for which the signalled address wins over a learned one
cdef double METER = 0.4
cdef double FLOOR_RISE = 0.0005         # of the noise floor, each frame: it follows a louder line within a minute
cdef double FLOOR_FALL = 0.2
cdef double QUIET_OVER_FLOOR = 4.0      # 6 dB
cdef double ALWAYS_QUIET = 1e-6         # -60 dBFS
cdef enum:
    PROBATION_HOST = 2      # packets in a row from the signalled host but another port
    PROBATION = 4           # from another host
    BATCHES = 4             # read in one step; a flood must not hold up the other calls
    RTCP_STEPS = 10         # the RTCP socket is read five times a second; the kernel's stamps keep it exact
    URGENT_STEPS = 75       # after 1.5 s far above the target the delay is cut in speech too
    URGENT_EVERY = 5
    AUDIBLE_GAP = 3         # steps until concealment has faded out


# ------------------------------------------------------------------------------------------------ who may speak


cdef void lock(Call* c, const Address* address) noexcept nogil:
    c.source = address[0]
    c.learned = True
    c.locked = True


cdef bint may_speak(Call* c, const Address* sender, const RtpPacket* p, double at) noexcept nogil:
    cdef bint same_host
    if c.locked:
        if address_equal(sender, &c.source):
            return True
        count(&c.stats.strays, 1)
        return False
    if address_equal(sender, &c.stream.remote):
        lock(c, sender)
        return True
    if c.learned:
        if at >= c.lock_at:
            c.locked = True
        if address_equal(sender, &c.source):
            return True
        count(&c.stats.strays, 1)
        return False
    same_host = address_same_host(sender, &c.stream.remote)
    if (c.candidate_count and address_equal(sender, &c.candidate) and p.ssrc == c.candidate_ssrc
            and p.seq == c.candidate_seq):
        c.candidate_count += 1
    elif (c.candidate_count and address_same_host(&c.candidate, &c.stream.remote) and not same_host):
        count(&c.stats.strays, 1)
        return False
    else:
        c.candidate = sender[0]
        c.candidate_ssrc = p.ssrc
        c.candidate_count = 1
    c.candidate_seq = p.seq + 1
    if c.candidate_count < (PROBATION_HOST if same_host else PROBATION):
        return False
    c.source = sender[0]
    c.learned = True
    c.lock_at = at + LOCK_SECONDS
    return True


# -------------------------------------------------------------------------------------------------------- RTP


cdef void forget_source(Call* c) noexcept nogil:
    c.lost_prior += source_lost(&c.rtp)
    c.duplicated_prior += c.rtp.duplicated
    c.reordered_prior += c.rtp.reordered
    jitter_reset(&c.jitter)
    memset(&c.keys_in, 0, sizeof(c.keys_in))
    c.next_known = False


cdef bint sequence(Call* c, const RtpPacket* p, int64_t* extended) noexcept nogil:
    # Whether the packet belongs to the stream; *extended is its number.
    cdef int verdict
    if not c.rtp.started:
        source_start(&c.rtp, p.ssrc, p.seq)
        extended[0] = c.rtp.highest
        return True
    if p.ssrc != c.rtp.ssrc:
        if not (c.next_known and p.ssrc == c.next_ssrc and p.seq == c.next_seq):
            c.next_known = True
            c.next_ssrc = p.ssrc
            c.next_seq = p.seq + 1
            return False
        forget_source(c)
        source_start(&c.rtp, p.ssrc, p.seq)
        count(&c.stats.source_changes, 1)
        extended[0] = c.rtp.highest
        return True
    verdict = source_update(&c.rtp, p.seq, extended)
    if verdict == SOURCE_RESTARTED:
        jitter_reset(&c.jitter)
    elif verdict == SOURCE_INVALID:
        count(&c.stats.invalid, 1)
        return False
    return verdict != SOURCE_DUPLICATE


cdef void on_rtp(Core* core, Call* c, const unsigned char* data, int n, const Address* sender,
                 double at) noexcept nogil:
    cdef RtpPacket p
    cdef int64_t number = 0
    cdef int event, result = rtp_parse(data, n, &p)
    if result == RTP_IS_RTCP and c.stream.rtcp_mux:
        on_rtcp(core, c, data, n, sender, at)
        return
    if result != RTP_OK:
        count(&c.stats.invalid, 1)
        return
    if not c.stream.receive:
        return
    if not (p.payload_type == PT_PCMU or p.payload_type == PT_PCMA or p.payload_type == PT_CN
            or p.payload_type == c.stream.key_type):
        count(&c.stats.unknown_payload, 1)
        return
    if not may_speak(c, sender, &p, at) or not sequence(c, &p, &number):
        return
    count(&c.stats.packets_received, 1)
    count(&c.stats.bytes_received, p.payload_len)
    if at > c.last_rtp:
        c.last_rtp = at
    c.timed_out = False
    if p.payload_type == c.stream.key_type:
        jitter_pass(&c.jitter, number)
        event = event_received(&c.keys_in, p.payload, p.payload_len, p.marker, p.timestamp, at)
        if event >= 0:
            emit(core, c, EVENT_DIGIT, event, at, 0.0)
        return
    source_jitter(&c.rtp, p.timestamp, at, JITTER_CLOCK)
    if p.payload_len == 0:
        jitter_pass(&c.jitter, number)
    elif jitter_put(&c.jitter, number, p.timestamp, p.payload, p.payload_len, p.payload_type,
                    JITTER_FRAME if p.payload_type == PT_CN else p.payload_len, at) == JITTER_TOO_LONG:
        count(&c.stats.invalid, 1)


cdef void on_rtcp(Core* core, Call* c, const unsigned char* data, int n, const Address* sender,
                  double at) noexcept nogil:
    cdef RtcpReport r
    cdef uint32_t arrived, round_trip
    cdef const Address* peer = &c.source if c.learned else &c.stream.remote
    if not address_same_host(sender, peer):
        count(&c.stats.strays, 1)
        return
    if rtcp_parse(data, n, c.ssrc, &r) != 0:
        count(&c.stats.invalid, 1)
        return
    count(&c.stats.rtcp_received, 1)
    if not c.stream.rtcp_mux:
        c.rtcp_source = sender[0]
    if r.has_sr:
        c.last_sr = r.sr_middle
        c.last_sr_at = at
    if r.has_block:
        store_relaxed(&c.stats.remote_lost, r.lost)
        store_relaxed(&c.stats.remote_fraction, r.fraction_lost)
        store_real(&c.stats.remote_jitter_ms, r.jitter * 1000.0 / JITTER_CLOCK)
        if r.last_sr:
            arrived = <uint32_t>(ntp_of(at + core.ntp_minus_now) >> 16)
            round_trip = arrived - r.last_sr - r.delay
            if round_trip < 60 * 65536:
                store_real(&c.stats.round_trip_ms, round_trip / 65.536)


cdef void receive(Core* core, Call* c, int fd, bint rtcp, double now) noexcept nogil:
    cdef int i, n, batches = 0
    while batches < BATCHES:
        n = batch_receive(core.batch, fd, now, core.wall_minus_now)
        for i in range(n):
            if core.batch.len[i] < 0:
                count(&c.stats.invalid, 1)
            elif rtcp:
                on_rtcp(core, c, core.batch.data[i], core.batch.len[i], &core.batch.source[i], core.batch.at[i])
            else:
                on_rtp(core, c, core.batch.data[i], core.batch.len[i], &core.batch.source[i], core.batch.at[i])
        if n < BATCH:
            return
        batches += 1


# ------------------------------------------------------------------------------------------------------ audio


cdef void comfort_noise(Call* c, short* dst, int n) noexcept nogil:
    cdef int i
    for i in range(n):
        dst[i] = <short>(c.comfort * (next_random(&c.noise_seed) / 2147483648.0 - 1.0))


cdef void note_quiet(Call* c, const short* pcm, int n) noexcept nogil:
    cdef double power = mean_square(pcm, n)
    c.noise_floor += (power - c.noise_floor) * (FLOOR_FALL if power < c.noise_floor else FLOOR_RISE)
    c.quiet = power < ALWAYS_QUIET or power < c.noise_floor * QUIET_OVER_FLOOR


cdef bint drop_it(Call* c, double due) noexcept nogil:
    # Whether the packet just decoded is left out to make the delay shorter.
    cdef int advice = jitter_advice(&c.jitter, due)
    if advice < DELAY_SHRINK:
        c.urgent = 0
        return False
    if advice == DELAY_SHRINK_NOW:
        c.urgent += 1
    return c.quiet or (c.urgent > URGENT_STEPS and c.urgent % URGENT_EVERY == 0)


cdef bint play(Call* c, const JitterPacket* p, double due) noexcept nogil:
    # One packet to the fifo; False when it was dropped.
    cdef short* dst = &c.fifo[c.fifo_len]
    cdef int n = p.length
    if p.payload_type == PT_CN:
        # RFC 3389: level in -dBov. White noise of that power: uniform, so the amplitude is sqrt(3) of it.
        c.comfort = 32767.0 * 1.7320508 * pow(10.0, -(p.payload[0] & 0x7f) / 20.0)
        if c.comfort > 3000.0:
            c.comfort = 3000.0
        n = LINE_FRAME
        comfort_noise(c, dst, n)
        c.fifo_flags |= FRAME_COMFORT_NOISE
        c.quiet = True
    else:
        c.comfort = -1.0
        if p.payload_type == PT_PCMA:
            alaw_decode(p.payload, dst, n)
        else:
            ulaw_decode(p.payload, dst, n)
        note_quiet(c, dst, n)
    if drop_it(c, due):
        count(&c.stats.dropped, 1)
        return False
    plc_good(c.plc, dst, n)
    c.heard = True
    c.fifo_len += n
    c.fifo_arrival = p.arrival
    return True


cdef void fill(Call* c, double due) noexcept nogil:
    # At least one frame into the fifo.
    cdef JitterPacket* p = NULL
    cdef int samples = 0, result
    while c.fifo_len < LINE_FRAME:
        if c.quiet and jitter_advice(&c.jitter, due) == DELAY_GROW:
            plc_conceal(c.plc, &c.fifo[c.fifo_len], LINE_FRAME)
            c.fifo_len += LINE_FRAME
            c.fifo_arrival = due
            c.fifo_flags |= FRAME_INSERTED
            count(&c.stats.inserted, 1)
            return
        result = jitter_get(&c.jitter, due, &p, &samples)
        if result == JITTER_NORMAL:
            play(c, p, due)     # when it was dropped, the next one is due now
            continue
        if result != JITTER_MISSING and c.comfort >= 0.0:
            comfort_noise(c, &c.fifo[c.fifo_len], samples)
            c.fifo_flags |= FRAME_COMFORT_NOISE | FRAME_NO_PACKET
        elif c.heard:
            plc_conceal(c.plc, &c.fifo[c.fifo_len], samples)
            if result == JITTER_MISSING:
                c.fifo_flags |= FRAME_CONCEALED
            else:
                c.fifo_flags |= FRAME_NO_PACKET
                if 0 < c.jitter.empty_run <= AUDIBLE_GAP:
                    c.fifo_flags |= FRAME_CONCEALED
        else:
            memset(&c.fifo[c.fifo_len], 0, samples * sizeof(short))
            c.fifo_flags |= FRAME_NO_PACKET
        c.fifo_len += samples
        c.fifo_arrival = due


cdef void deliver(Core* core, Call* c, double due) noexcept nogil:
    cdef Frame frame
    cdef int n
    cdef double power
    fill(c, due)
    if c.tap is not NULL:
        tap_end(c.tap, c.fifo)
    n = resampler_process(c.up, c.fifo, LINE_FRAME, frame.pcm, FRAME)
    c.fifo_len -= LINE_FRAME
    if c.fifo_len:
        memmove(c.fifo, &c.fifo[LINE_FRAME], c.fifo_len * sizeof(short))
    if n < FRAME:
        memset(&frame.pcm[max(n, 0)], 0, (FRAME - max(n, 0)) * sizeof(short))
    frame.arrival = c.fifo_arrival
    frame.flags = c.fifo_flags
    if c.fifo_flags & FRAME_CONCEALED:
        count(&c.stats.concealed, 1)
    c.fifo_flags = 0
    power = mean_square(frame.pcm, FRAME)
    store_real(&c.stats.power_in, c.stats.power_in + METER * (power - c.stats.power_in))
    if ring_put(&c.frames, &frame, 1) == 1:
        core.frames_new = True
    else:
        count(&c.stats.frames_lost, 1)


cdef void publish(Call* c, double due) noexcept nogil:
    store_relaxed(&c.stats.lost, c.lost_prior + source_lost(&c.rtp))
    store_relaxed(&c.stats.duplicated, c.duplicated_prior + c.rtp.duplicated)
    store_relaxed(&c.stats.reordered, c.reordered_prior + c.rtp.reordered)
    store_relaxed(&c.stats.late, c.jitter.late + c.jitter.overflowed)
    store_real(&c.stats.jitter_ms, c.rtp.jitter * 1000.0 / JITTER_CLOCK)
    store_real(&c.stats.delay_ms, jitter_delay_ms(&c.jitter, due))
    store_real(&c.stats.target_ms, c.jitter.delay.target)


cdef void inbound_step(Core* core, Call* c, double due, double now) noexcept nogil:
    if c.step == 0:
        c.next_rtcp = due + 2.5 * (0.5 + next_random(&c.noise_seed) / 4294967296.0)
    if c.last_rtp == 0.0:
        c.last_rtp = due
    receive(core, c, c.rtp_fd, False, now)
    if c.rtcp_fd >= 0 and c.step % RTCP_STEPS == 0:
        receive(core, c, c.rtcp_fd, True, now)
    c.step += 1
    if c.jitter.started or c.heard:
        deliver(core, c, due)
        publish(c, due)
    elif c.tap is not NULL:
        tap_end(c.tap, NULL)
    if c.stream.receive and not c.timed_out and due - c.last_rtp > core.rtp_timeout:
        c.timed_out = True
        emit(core, c, EVENT_TIMED_OUT, 0, due, due - c.last_rtp)
    if due >= c.next_rtcp:
        outbound_rtcp(core, c, due, False)
