"""RTCP compound packets (RFC 3550 section 6)."""

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from aiphone.native.rtp cimport RtpSource, source_fraction_lost, source_lost, source_start, source_update

cdef enum:
    SR = 200
    RR = 201
    SDES = 202
    BYE = 203
    BLOCK = 24              # bytes of a report block

cdef double NTP_EPOCH = 2208988800.0    # 1900 to 1970, in seconds


cdef inline uint32_t read32(const unsigned char* p) noexcept nogil:
    return (<uint32_t>p[0] << 24) | (<uint32_t>p[1] << 16) | (<uint32_t>p[2] << 8) | p[3]


cdef inline void write32(unsigned char* p, uint32_t v) noexcept nogil:
    p[0] = v >> 24
    p[1] = (v >> 16) & 0xff
    p[2] = (v >> 8) & 0xff
    p[3] = v & 0xff


cdef inline void write_head(unsigned char* p, int count, int kind, int bytes_in_all) noexcept nogil:
    cdef int words = bytes_in_all // 4 - 1
    p[0] = 0x80 | count
    p[1] = kind
    p[2] = words >> 8
    p[3] = words & 0xff


cdef uint64_t ntp_of(double wall) noexcept nogil:
    cdef double seconds = wall + NTP_EPOCH
    cdef uint64_t whole = <uint64_t>seconds
    return (whole << 32) | <uint64_t>((seconds - <double>whole) * 4294967296.0)


cdef int rtcp_write(unsigned char* dst, const RtcpSender* sender, RtpSource* source, const char* cname, int cname_len,
                    bint bye) noexcept nogil:
    cdef int n = 28 if sender.sent else 8
    cdef int head = n, start, lost
    cdef bint block = source.started
    if cname_len > 32:
        cname_len = 32
    write32(dst + 4, sender.ssrc)
    if sender.sent:
        write32(dst + 8, <uint32_t>(sender.ntp >> 32))
        write32(dst + 12, <uint32_t>sender.ntp)
        write32(dst + 16, sender.timestamp)
        write32(dst + 20, sender.packets)
        write32(dst + 24, sender.octets)
    if block:
        lost = <int>min(source_lost(source), <int64_t>0x7fffff)
        write32(dst + n, source.ssrc)
        write32(dst + n + 4, (<uint32_t>source_fraction_lost(source) << 24) | <uint32_t>lost)
        write32(dst + n + 8, <uint32_t>(source.highest - 65536))
        write32(dst + n + 12, <uint32_t>source.jitter)
        write32(dst + n + 16, sender.last_sr)
        write32(dst + n + 20, sender.delay)
        n += BLOCK
    write_head(dst, 1 if block else 0, SR if sender.sent else RR, n)
    start = n
    write32(dst + n + 4, sender.ssrc)
    dst[n + 8] = 1          # CNAME
    dst[n + 9] = cname_len
    memcpy(dst + n + 10, cname, cname_len)
    n += 10 + cname_len
    dst[n] = 0              # end of the items, then up to a whole word
    n += 1
    while n % 4:
        dst[n] = 0
        n += 1
    write_head(dst + start, 1, SDES, n - start)
    if bye:
        write_head(dst + n, 1, BYE, 8)
        write32(dst + n + 4, sender.ssrc)
        n += 8
    return n


cdef int rtcp_parse(const unsigned char* data, int n, uint32_t our_ssrc, RtcpReport* out) noexcept nogil:
    cdef int at = 0, size, kind, blocks, i, lost, end
    memset(out, 0, sizeof(RtcpReport))
    while at < n:
        if n - at < 4 or data[at] >> 6 != 2:
            return -1
        size = 4 * (((data[at + 2] << 8) | data[at + 3]) + 1)
        if size > n - at:
            return -1
        kind = data[at + 1]
        blocks = data[at] & 0x1f
        end = at + size
        i = 0
        if kind == SR:
            if size < 28:
                return -1
            out.has_sr = True
            out.sr_ssrc = read32(data + at + 4)
            out.sr_middle = (read32(data + at + 8) << 16) | (read32(data + at + 12) >> 16)
            i = at + 28
        elif kind == RR:
            if size < 8:
                return -1
            i = at + 8
        elif kind == BYE:
            out.bye = True
        if i:
            if end - i < blocks * BLOCK:
                return -1
            while blocks:
                if read32(data + i) == our_ssrc:
                    out.has_block = True
                    out.fraction_lost = data[i + 4]
                    lost = (data[i + 5] << 16) | (data[i + 6] << 8) | data[i + 7]
                    out.lost = lost - 0x1000000 if lost & 0x800000 else lost
                    out.jitter = read32(data + i + 12)
                    out.last_sr = read32(data + i + 16)
                    out.delay = read32(data + i + 20)
                i += BLOCK
                blocks -= 1
        at = end
    return 0


def parse(const unsigned char[::1] packet not None, unsigned long our_ssrc):
    """What a compound packet says, as a dict; ValueError when it is malformed. For tests and tools. Any thread."""
    cdef RtcpReport r
    cdef int n = <int>packet.shape[0]
    if n == 0 or rtcp_parse(&packet[0], n, <uint32_t>our_ssrc, &r) != 0:
        raise ValueError("malformed RTCP")
    return dict(r)


def build(unsigned long ssrc, double wall, unsigned long timestamp, unsigned long packets, unsigned long octets, *,
          unsigned long last_sr=0, double delay=0.0, bytes cname=b"test", bint bye=False, bint sent=True,
          source=None):
    """One compound packet; ``source`` is ``(ssrc, [sequence numbers])``. For tests. Any thread."""
    cdef RtcpSender s
    cdef RtpSource reception
    cdef unsigned char out[RTCP_MAX]
    cdef int64_t extended
    memset(&reception, 0, sizeof(RtpSource))
    if source is not None:
        source_start(&reception, <uint32_t>source[0], <uint16_t>source[1][0])
        for seq in source[1][1:]:
            source_update(&reception, <uint16_t>seq, &extended)
    s.ssrc = <uint32_t>ssrc
    s.ntp = ntp_of(wall)
    s.timestamp = <uint32_t>timestamp
    s.packets = <uint32_t>packets
    s.octets = <uint32_t>octets
    s.sent = sent
    s.last_sr = <uint32_t>last_sr
    s.delay = <uint32_t>(delay * 65536.0)
    return bytes(out[: rtcp_write(out, &s, &reception, cname, <int>len(cname), bye)])
