# The jitter buffer: keeps payloads until their time, and says why when there is none.

from libc.stdint cimport int64_t, uint32_t

from aiphone.native.delay cimport Delay, DelayConfig

cdef enum:
    JITTER_SLOTS = 64
    JITTER_PAYLOAD = 480    # bytes: 60 ms of G.711
    JITTER_CLOCK = 8000     # RTP clock rate of G.711 (and of G.722, RFC 3551 section 4.5.2)
    JITTER_FRAME = 160      # timestamp units that one concealed or silent step stands for

cdef enum JitterResult:
    JITTER_NORMAL = 0       # here is a packet
    JITTER_MISSING = 1      # lost, or so late that a later one must be played: conceal
    JITTER_PREFETCHING = 2  # there are packets, but the delay is still being built up
    JITTER_EMPTY = 3        # nothing to play: the sender pauses, or the network does

cdef enum JitterPut:
    JITTER_STORED = 0
    JITTER_LATE = 1
    JITTER_DUPLICATE = 2
    JITTER_TOO_LONG = 3

cdef struct JitterPacket:
    int64_t seq             # extended
    int64_t timestamp       # extended
    double arrival          # seconds
    int state               # 0: free, 1: audio, 2: a packet of another kind had this number
    int payload_type
    int samples             # timestamp units
    int length
    unsigned char* payload

cdef struct Jitter:
    Delay delay
    # Buffer.
    JitterPacket packets[JITTER_SLOTS]
    unsigned char payloads[JITTER_SLOTS][JITTER_PAYLOAD]
    int64_t highest         # sequence number
    int64_t timestamp       # last extended timestamp
    # Playing.
    bint started            # a packet was ever stored
    bint playing            # else prefetching
    int64_t last            # sequence number of the last packet played or given up
    int64_t next            # timestamp that is due
    int empty_run           # timestamp units since the buffer ran empty
    # Statistics.
    int64_t late
    int64_t overflowed
    int64_t resynchronised

cdef void jitter_init(Jitter* j, const DelayConfig* config) noexcept nogil
# Start again with a new source; what was learned about the network and the statistics stay.
cdef void jitter_reset(Jitter* j) noexcept nogil
cdef int jitter_put(Jitter* j, int64_t seq, uint32_t timestamp, const unsigned char* payload, int length,
                    int payload_type, int samples, double arrival) noexcept nogil
# This sequence number was no audio (a telephone event): its absence is no loss.
cdef void jitter_pass(Jitter* j, int64_t seq) noexcept nogil
# A step at time `now` (seconds). NORMAL: *packet is valid until the next put. Otherwise *samples is how much of the
# timestamp scale the step covers: `piece` where nothing is known to be there. MISSING: *packet is the one after the
# gap, which stays in the buffer.
cdef int jitter_get(Jitter* j, double now, int piece, JitterPacket** packet, int* samples) noexcept nogil
# How far what is heard runs behind the shortest transit, ms, when `waiting` timestamp units were taken and are not yet
# played. Only when playing.
cdef double jitter_delay_ms(const Jitter* j, double now, int waiting) noexcept nogil
cdef int jitter_advice(const Jitter* j, double now, int waiting) noexcept nogil
