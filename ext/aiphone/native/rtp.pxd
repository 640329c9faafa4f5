# RTP (RFC 3550 section 5.1): header, modular arithmetic, and the state kept for a source (appendix A.1, A.3, A.8).

from libc.stdint cimport int16_t, int32_t, int64_t, uint16_t, uint32_t, uint64_t

cdef enum:
    RTP_HEADER = 12

cdef enum RtpError:
    RTP_OK = 0
    RTP_SHORT = -1          # shorter than its header, CSRC list or extension
    RTP_VERSION = -2        # not version 2
    RTP_PADDING = -3        # padding longer than the payload, or of length zero
    RTP_IS_RTCP = -4        # payload type 64-95: RTCP on the same port (RFC 5761 section 4)

cdef struct RtpPacket:
    int payload_type
    bint marker
    uint16_t seq
    uint32_t timestamp
    uint32_t ssrc
    const unsigned char* payload
    int payload_len

# Signed distance from b to a, modulo 2**16 and 2**32.
cdef inline int seq_distance(uint16_t a, uint16_t b) noexcept nogil:
    return <int16_t>(<uint16_t>(a - b))

cdef inline int timestamp_distance(uint32_t a, uint32_t b) noexcept nogil:
    return <int32_t>(a - b)

cdef int rtp_parse(const unsigned char* data, int n, RtpPacket* p) noexcept nogil
# Writes RTP_HEADER bytes.
cdef void rtp_write_header(unsigned char* dst, int payload_type, bint marker, uint16_t seq, uint32_t timestamp,
                           uint32_t ssrc) noexcept nogil

cdef enum SourceVerdict:
    SOURCE_NEW = 1          # the packet is good and comes after all others
    SOURCE_REORDERED = 2    # good, but later ones came before it
    SOURCE_DUPLICATE = 3
    SOURCE_INVALID = 4      # far from the sequence; good only if the next one follows it
    SOURCE_RESTARTED = 5    # it did: the sender restarted its sequence

cdef struct RtpSource:
    bint started
    uint32_t ssrc
    int64_t base            # first sequence number, extended
    int64_t highest         # highest sequence number, extended
    int64_t bad             # the number that would confirm a jump, -1: none
    uint64_t window         # bit i: highest - i was received
    int64_t received        # duplicates not counted
    int64_t duplicated
    int64_t reordered
    int64_t lost_before     # lost before the sequence was restarted
    int64_t expected_prior  # at the last report
    int64_t received_prior
    double transit          # of the last packet, timestamp units
    bint has_transit
    double jitter           # RFC 3550 section 6.4.1, timestamp units

cdef void source_start(RtpSource* s, uint32_t ssrc, uint16_t seq) noexcept nogil
# The verdict; *extended is the sequence number with its cycles.
cdef int source_update(RtpSource* s, uint16_t seq, int64_t* extended) noexcept nogil
cdef void source_jitter(RtpSource* s, uint32_t timestamp, double arrival, int clock_rate) noexcept nogil
cdef int64_t source_lost(const RtpSource* s) noexcept nogil
# Fraction lost since the last report in 1/256 (appendix A.3); starts the next interval.
cdef int source_fraction_lost(RtpSource* s) noexcept nogil
