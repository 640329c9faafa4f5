# RTCP (RFC 3550 section 6): sender and receiver reports, SDES with a CNAME, BYE.

from libc.stdint cimport int64_t, uint32_t, uint64_t

from aiphone.native.rtp cimport RtpSource

cdef enum:
    RTCP_MAX = 128          # bytes of the longest compound packet we send

cdef struct RtcpSender:
    # What our own report says.
    uint32_t ssrc
    uint64_t ntp            # NTP time of the report, 32.32
    uint32_t timestamp      # the same instant on the RTP clock
    uint32_t packets
    uint32_t octets
    bint sent               # something was sent since the last report but one: SR, else RR
    uint32_t last_sr        # middle 32 bits of the peer's last SR, 0: none
    uint32_t delay          # since it arrived, in 1/65536 s

cdef struct RtcpReport:
    # What a compound packet told us.
    bint has_sr
    uint32_t sr_ssrc
    uint32_t sr_middle      # middle 32 bits of its NTP time
    bint has_block          # a report block about us
    int fraction_lost       # 1/256
    int lost
    uint32_t jitter         # timestamp units
    uint32_t last_sr
    uint32_t delay
    bint bye

# Bytes written: SR or RR, SDES, and BYE when asked. dst holds RTCP_MAX bytes; cname at most 32.
cdef int rtcp_write(unsigned char* dst, const RtcpSender* sender, RtpSource* source, const char* cname, int cname_len,
                    bint bye) noexcept nogil
# 0, or -1 when the packet is malformed; what was read before the fault counts.
cdef int rtcp_parse(const unsigned char* data, int n, uint32_t our_ssrc, RtcpReport* out) noexcept nogil
cdef uint64_t ntp_of(double wall) noexcept nogil
