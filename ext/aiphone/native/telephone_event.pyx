"""telephone-event (RFC 4733), both ways.

Receiving. A press is a run of packets with one RTP timestamp, a growing duration, and at its end three packets with
the E bit. Real senders lose packets, leave out the marker, repeat, split a long press into segments with new
timestamps (section 2.5.1.3), or give every packet a new timestamp. So a press is new when its timestamp is newer than
the last one's and it is not the continuation of a press of the same key that has not ended.
"""

from libc.stdint cimport uint16_t, uint32_t
from libc.string cimport memcpy, memmove, memset

from aiphone.native.rtp cimport timestamp_distance

cdef double CONTINUATION = 0.2     # s: packets of one press are at most this far apart
cdef double END_REPEATS = 0.1      # s: repeats of an end come within this time

cdef enum:
    KEY_PACKETS = 5         # 100 ms at 20 ms a step
    END_PACKETS = 3
    PAUSE_STEPS = 4         # 80 ms between keys
    VOLUME = 10             # -10 dBm0


cdef int event_received(EventReceiver* r, const unsigned char* payload, int n, bint marker, uint32_t timestamp,
                        double arrival) noexcept nogil:
    cdef int event, distance
    cdef bint end, fresh = True
    cdef uint16_t duration
    if n < EVENT_PAYLOAD:
        return -1
    event = payload[0]
    if event >= EVENT_KEYS:
        return -1
    end = payload[1] >> 7
    duration = <uint16_t>((payload[2] << 8) | payload[3])
    if r.active:
        distance = timestamp_distance(timestamp, r.timestamp)
        if distance == 0 and event == r.event:
            fresh = False
        elif distance < 0:
            return -1           # a straggler of an earlier press
        elif event == r.event and not marker:
            if not r.ended:
                fresh = arrival - r.arrival > CONTINUATION
            elif end:
                fresh = arrival - r.arrival > END_REPEATS
    if not fresh and timestamp == r.timestamp and duration < r.duration:
        r.arrival = arrival     # reordered within the press
        r.ended = r.ended or end
        return -1
    if fresh:
        r.ended = False
    r.active = True
    r.event = event
    r.timestamp = timestamp
    r.duration = duration
    r.ended = r.ended or end
    r.arrival = arrival
    return event if fresh else -1


cdef int sender_queue(EventSender* s, const char* events, int n) noexcept nogil:
    if n > SENDER_QUEUE - s.waiting:
        n = SENDER_QUEUE - s.waiting
    memcpy(s.queue + s.waiting, events, n)
    s.waiting += n
    return n


cdef int sender_step(EventSender* s, uint32_t now_timestamp, int step_samples, unsigned char* payload,
                     bint* first) noexcept nogil:
    cdef int duration, packets
    if s.phase == 0:
        if s.waiting == 0:
            return -1
        s.event = s.queue[0]
        s.waiting -= 1
        memmove(s.queue, s.queue + 1, s.waiting)
        s.timestamp = now_timestamp
    s.phase += 1
    first[0] = s.phase == 1
    if s.phase > KEY_PACKETS + END_PACKETS - 1:
        if s.phase == KEY_PACKETS + END_PACKETS - 1 + PAUSE_STEPS:
            s.phase = 0
        return 0
    packets = s.phase if s.phase < KEY_PACKETS else KEY_PACKETS
    duration = packets * step_samples
    payload[0] = <unsigned char>s.event
    payload[1] = VOLUME | (0x80 if s.phase >= KEY_PACKETS else 0)
    payload[2] = (duration >> 8) & 0xff
    payload[3] = duration & 0xff
    return 1


KEYS = "0123456789*#ABCD"
"""Keys in the order of their event codes."""


cdef class KeyReceiver:
    """The receiver for tests. Not thread-safe."""

    cdef EventReceiver _receiver

    def __cinit__(self):
        memset(&self._receiver, 0, sizeof(EventReceiver))

    def packet(self, const unsigned char[::1] payload not None, bint marker, unsigned long timestamp, double arrival):
        """The key when this packet begins a press, else None."""
        cdef int n = <int>payload.shape[0]
        cdef int event = event_received(&self._receiver, &payload[0] if n else NULL, n, marker,
                                        <uint32_t>timestamp, arrival)
        return KEYS[event] if event >= 0 else None


cdef class KeySender:
    """The sender for tests. Not thread-safe."""

    cdef EventSender _sender

    def __cinit__(self):
        memset(&self._sender, 0, sizeof(EventSender))

    def queue(self, bytes events not None):
        """Queue event codes; how many were taken."""
        return sender_queue(&self._sender, events, <int>len(events))

    def step(self, unsigned long timestamp, int samples=160):
        """One 20 ms step: None when idle, else ``(payload or None, timestamp, first)``."""
        cdef unsigned char payload[EVENT_PAYLOAD]
        cdef bint first = False
        cdef int result = sender_step(&self._sender, <uint32_t>timestamp, samples, payload, &first)
        if result < 0:
            return None
        return (bytes(payload[:EVENT_PAYLOAD]) if result else None), self._sender.timestamp, bool(first)
