# Keys as RTP events (RFC 4733): one report for each press on the way in, a paced sequence of packets on the way out.

from libc.stdint cimport uint16_t, uint32_t

cdef enum:
    EVENT_PAYLOAD = 4
    EVENT_KEYS = 16         # 0-9 * # A-D are the events 0 to 15

cdef struct EventReceiver:
    bint active             # an event was seen
    int event
    bint ended              # its end was seen
    uint32_t timestamp      # of the event
    uint16_t duration       # last one seen
    double arrival          # of the last packet of the event

# The event (0 to 15) when the packet begins a new press, else -1.
cdef int event_received(EventReceiver* r, const unsigned char* payload, int n, bint marker, uint32_t timestamp,
                        double arrival) noexcept nogil

cdef enum:
    SENDER_QUEUE = 32       # keys that may wait

cdef struct EventSender:
    char queue[SENDER_QUEUE]
    int waiting
    int phase               # 0: idle; else packets of the present key and its pause, from 1
    int event
    uint32_t timestamp      # of the present key

# Keys taken.
cdef int sender_queue(EventSender* s, const char* events, int n) noexcept nogil
# One step of `step_ms`. 1: payload is written, the packet must go out with s.timestamp (marker set when
# *first); 0: the step belongs to the pause between keys, nothing goes out; -1: idle, audio may flow.
cdef int sender_step(EventSender* s, uint32_t now_timestamp, int step_samples, unsigned char* payload,
                     bint* first) noexcept nogil
