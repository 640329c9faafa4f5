"""RTP header and per-source reception state (RFC 3550)."""

from libc.stdint cimport int16_t, int64_t, uint16_t, uint32_t, uint64_t
from libc.math cimport fabs

cdef enum:
    MAX_DROPOUT = 3000      # a gap of up to a minute at 20 ms is loss, not a restart (appendix A.1)
    MAX_MISORDER = 100


cdef inline uint32_t read32(const unsigned char* p) noexcept nogil:
    return (<uint32_t>p[0] << 24) | (<uint32_t>p[1] << 16) | (<uint32_t>p[2] << 8) | p[3]


cdef inline void write32(unsigned char* p, uint32_t v) noexcept nogil:
    p[0] = v >> 24
    p[1] = (v >> 16) & 0xff
    p[2] = (v >> 8) & 0xff
    p[3] = v & 0xff


cdef int rtp_parse(const unsigned char* data, int n, RtpPacket* p) noexcept nogil:
    cdef int start = RTP_HEADER, end = n, padding
    if n < RTP_HEADER:
        return RTP_SHORT
    if data[0] >> 6 != 2:
        return RTP_VERSION
    p.payload_type = data[1] & 0x7f
    if 64 <= p.payload_type <= 95:
        return RTP_IS_RTCP
    p.marker = data[1] >> 7
    p.seq = <uint16_t>((data[2] << 8) | data[3])
    p.timestamp = read32(data + 4)
    p.ssrc = read32(data + 8)
    start += 4 * (data[0] & 0x0f)
    if data[0] & 0x10:
        if start + 4 > n:
            return RTP_SHORT
        start += 4 + 4 * ((data[start + 2] << 8) | data[start + 3])
    if start > n:
        return RTP_SHORT
    if data[0] & 0x20:
        padding = data[n - 1]
        if padding == 0 or padding > n - start:
            return RTP_PADDING
        end -= padding
    p.payload = data + start
    p.payload_len = end - start
    return RTP_OK


cdef void rtp_write_header(unsigned char* dst, int payload_type, bint marker, uint16_t seq, uint32_t timestamp,
                           uint32_t ssrc) noexcept nogil:
    dst[0] = 0x80
    dst[1] = (0x80 if marker else 0) | (payload_type & 0x7f)
    dst[2] = seq >> 8
    dst[3] = seq & 0xff
    write32(dst + 4, timestamp)
    write32(dst + 8, ssrc)


cdef void restart(RtpSource* s, uint16_t seq) noexcept nogil:
    # One cycle up, so that packets from before the first never have a negative number.
    s.base = 65536 + seq
    s.highest = s.base
    s.bad = -1
    s.window = 1
    s.received = 1
    s.expected_prior = 0
    s.received_prior = 0
    s.has_transit = False


cdef void source_start(RtpSource* s, uint32_t ssrc, uint16_t seq) noexcept nogil:
    s.ssrc = ssrc
    s.started = True
    s.duplicated = 0
    s.reordered = 0
    s.lost_before = 0
    s.jitter = 0.0
    restart(s, seq)


cdef int source_update(RtpSource* s, uint16_t seq, int64_t* extended) noexcept nogil:
    cdef int distance = seq_distance(seq, <uint16_t>(s.highest & 0xffff))
    cdef uint64_t bit
    extended[0] = s.highest + distance
    if 0 < distance < MAX_DROPOUT:
        s.highest = extended[0]
        s.window = (s.window << distance) | 1 if distance < 64 else 1
        s.bad = -1
        s.received += 1
        return SOURCE_NEW
    if -MAX_MISORDER < distance <= 0:
        if -distance < 64:
            bit = (<uint64_t>1) << -distance
            if s.window & bit:
                s.duplicated += 1
                return SOURCE_DUPLICATE
            s.window |= bit
        if extended[0] < s.base:
            s.base = extended[0]
        s.received += 1
        s.reordered += 1
        return SOURCE_REORDERED
    if s.bad == seq:
        s.lost_before = source_lost(s)
        restart(s, seq)
        extended[0] = s.highest
        return SOURCE_RESTARTED
    s.bad = (seq + 1) & 0xffff
    return SOURCE_INVALID


cdef void source_jitter(RtpSource* s, uint32_t timestamp, double arrival, int clock_rate) noexcept nogil:
    # Only differences of transit count, so the wrap of the timestamp must be taken out of the difference.
    cdef double transit = arrival * clock_rate - <double>timestamp
    cdef double change
    if s.has_transit:
        change = transit - s.transit
        if change > 2147483648.0:
            change -= 4294967296.0
        elif change < -2147483648.0:
            change += 4294967296.0
        s.jitter += (fabs(change) - s.jitter) / 16.0
    s.transit = transit
    s.has_transit = True


cdef int64_t source_lost(const RtpSource* s) noexcept nogil:
    cdef int64_t lost
    if not s.started:
        return 0
    lost = s.highest - s.base + 1 - s.received
    return s.lost_before + (lost if lost > 0 else 0)


cdef int source_fraction_lost(RtpSource* s) noexcept nogil:
    cdef int64_t expected = s.highest - s.base + 1
    cdef int64_t span = expected - s.expected_prior
    cdef int64_t lost = span - (s.received - s.received_prior)
    s.expected_prior = expected
    s.received_prior = s.received
    if span <= 0 or lost <= 0:
        return 0
    lost = (lost << 8) // span
    return 255 if lost > 255 else <int>lost


ERRORS = {RTP_SHORT: "short", RTP_VERSION: "version", RTP_PADDING: "padding", RTP_IS_RTCP: "rtcp"}


def parse(const unsigned char[::1] packet not None):
    """Parse one packet: ``(payload_type, marker, seq, timestamp, ssrc, payload)``; ValueError says what is wrong.

    For tests and tools; the engine parses without Python. Any thread.
    """
    cdef RtpPacket p
    cdef int n = <int>packet.shape[0]
    cdef int result = rtp_parse(&packet[0] if n else NULL, n, &p)
    if result != RTP_OK:
        raise ValueError(ERRORS[result])
    return p.payload_type, bool(p.marker), p.seq, p.timestamp, p.ssrc, bytes(p.payload[: p.payload_len])


def build(int payload_type, bint marker, int seq, unsigned long timestamp, unsigned long ssrc, bytes payload not None):
    """One packet as bytes; counters are taken modulo their width. Any thread."""
    cdef unsigned char header[RTP_HEADER]
    rtp_write_header(header, payload_type, marker, <uint16_t>(seq & 0xffff), <uint32_t>timestamp,
                     <uint32_t>ssrc)
    return bytes(header[:RTP_HEADER]) + payload


cdef class Source:
    """Reception state of one source, for tests. Not thread-safe."""

    cdef RtpSource _source
    VERDICTS = {SOURCE_NEW: "new", SOURCE_REORDERED: "reordered", SOURCE_DUPLICATE: "duplicate",
                SOURCE_INVALID: "invalid", SOURCE_RESTARTED: "restarted"}

    def update(self, int seq, timestamp=None, double arrival=0.0):
        """Take a packet's sequence number: ``(verdict, extended number)``."""
        cdef int64_t extended = 0
        cdef int verdict
        if not self._source.started:
            source_start(&self._source, 0, <uint16_t>seq)
            verdict, extended = SOURCE_NEW, self._source.highest
        else:
            verdict = source_update(&self._source, <uint16_t>seq, &extended)
        if timestamp is not None:
            source_jitter(&self._source, <uint32_t>timestamp, arrival, 8000)
        return self.VERDICTS[verdict], extended

    def fraction_lost(self):
        """Loss since the last call, in 1/256."""
        return source_fraction_lost(&self._source)

    @property
    def lost(self):
        return source_lost(&self._source)

    @property
    def jitter(self):
        """Interarrival jitter in timestamp units."""
        return self._source.jitter
