"""Reception: who may speak, SRTP, RTP and RTCP, the way into the jitter buffer. What is heard of it is made in hearing.

Sockets are read in the call's own step, just before its frame is made: reading earlier would gain nothing, since
the frame is what Python gets, and the kernel's timestamp says when each packet came.

Where audio may come from (a stranger must not be able to take over a call by sending to its port):

- A packet from the signalled address (SDP) locks it.
- Until that has happened, another address may be learned (symmetric RTP, behind a NAT): it must send a few packets
  that follow each other, of one source and with a known payload type; fewer when the host is the signalled one. The
  signalled address still wins for a short time after that, then the learned one is locked.
- Once locked, everything else is a stray: counted, never played. A re-INVITE with a new address starts again.
- Of an encrypted call only what is authentic gets that far: a forged packet opens no door.
"""

from libc.stdint cimport int64_t, uint16_t, uint32_t
from libc.string cimport memset

from aiphone.native.call cimport (
    EVENT_DIGIT, EVENT_TIMED_OUT, LINE_FRAME, PT_CN, PT_G722, PT_PCMA, PT_PCMU, Call, Core, emit, next_random,
)
from aiphone.native.hearing cimport deliver, publish, since_tick
from aiphone.native.jitter cimport (
    JITTER_CLOCK, JITTER_FRAME, JITTER_TOO_LONG, jitter_pass, jitter_put, jitter_reset,
)
from aiphone.native.outbound cimport outbound_rtcp
from aiphone.native.platform cimport (
    BATCH, Address, address_equal, address_same_host, batch_receive, count, store_real, store_relaxed,
)
from aiphone.native.rtcp cimport RtcpReport, ntp_of, rtcp_parse
from aiphone.native.rtp cimport (
    RTP_IS_RTCP, RTP_OK, SOURCE_DUPLICATE, SOURCE_INVALID, SOURCE_RESTARTED, RtpPacket, rtp_parse, source_jitter,
    source_lost, source_start, source_update,
)
from aiphone.native.srtp cimport CRYPTO_REPLAYED, crypto_unprotect, crypto_unprotect_rtcp
from aiphone.native.tap cimport tap_heard
from aiphone.native.telephone_event cimport event_received

cdef double LOCK_SECONDS = 2.0          # for which the signalled address wins over a learned one
cdef enum:
    PROBATION_HOST = 2      # packets in a row from the signalled host but another port
    PROBATION = 4           # from another host
    BATCHES = 4             # read in one step; a flood must not hold up the other calls
    RTCP_STEPS = 10         # the RTCP socket is read five times a second; the kernel's stamps keep it exact


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


cdef inline bint known(const Call* c, int payload_type) noexcept nogil:
    return (payload_type == PT_PCMU or payload_type == PT_PCMA or payload_type == PT_CN
            or payload_type == c.stream.key_type or (payload_type == PT_G722 and c.g722_in is not NULL))


cdef void refused(Call* c, int why) noexcept nogil:
    # SRTP did not let a packet through.
    count(&c.stats.replayed if why == CRYPTO_REPLAYED else &c.stats.forged, 1)


cdef void on_rtp(Core* core, Call* c, unsigned char* data, int n, const Address* sender, double at) noexcept nogil:
    cdef RtpPacket p
    cdef int64_t number = 0
    cdef int event, result = rtp_parse(data, n, &p)
    if result == RTP_IS_RTCP and c.stream.rtcp_mux:
        on_rtcp(core, c, data, n, sender, at)
        return
    if result == RTP_OK and c.crypto_in is not NULL:
        n = crypto_unprotect(c.crypto_in, data, n)
        if n < 0:
            refused(c, n)
            return
        result = rtp_parse(data, n, &p)
    if result != RTP_OK:
        count(&c.stats.invalid, 1)
        return
    if not c.stream.receive:
        return
    if not known(c, p.payload_type):
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


cdef void on_rtcp(Core* core, Call* c, unsigned char* data, int n, const Address* sender, double at) noexcept nogil:
    cdef RtcpReport r
    cdef uint32_t arrived, round_trip
    cdef const Address* peer = &c.source if c.learned else &c.stream.remote
    if not address_same_host(sender, peer):
        count(&c.stats.strays, 1)
        return
    if c.crypto_in is not NULL:
        n = crypto_unprotect_rtcp(c.crypto_in, data, n)
        if n < 0:
            refused(c, n)
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


cdef int inbound_step(Core* core, Call* c, double due, double now) noexcept nogil:
    cdef int units = LINE_FRAME
    if c.step == 0:
        c.next_rtcp = due + 2.5 * (0.5 + next_random(&c.noise_seed) / 4294967296.0)
    if c.last_rtp == 0.0:
        c.last_rtp = due
    receive(core, c, c.rtp_fd, False, now)
    if c.rtcp_fd >= 0 and c.step % RTCP_STEPS == 0:
        receive(core, c, c.rtcp_fd, True, now)
    c.step += 1
    if c.jitter.started or c.heard:
        units = deliver(core, c, due)
        publish(c, due)
    elif c.tap is not NULL:
        tap_heard(c.tap, NULL, units, since_tick(c))
    if c.stream.receive and not c.timed_out and due - c.last_rtp > core.rtp_timeout:
        c.timed_out = True
        emit(core, c, EVENT_TIMED_OUT, 0, due, due - c.last_rtp)
    if due >= c.next_rtcp:
        outbound_rtcp(core, c, due, False)
    return units
