"""Jitter buffer for one RTP source.

Packets are kept by sequence number and played by timestamp. ``next`` is the timestamp that is due; each step moves
it by what was played or concealed, so playing keeps its distance from the sender's clock until somebody inserts or
drops sound on purpose (``delay`` says when that is due, the caller knows when nobody would notice).

Rules:

1.  Playing begins when the oldest packet has waited until it is ``target`` behind the shortest transit.
2.  A gap in the sequence with a later packet at hand is a loss: MISSING, and ``next`` moves on.
3.  A gap in the timestamps without one in the sequence is a pause of the sender: EMPTY, and ``next`` moves on.
4.  An empty buffer is EMPTY, and ``next`` moves on, but nothing is decided yet: when the next packet turns out to be
    older than ``next`` it may still be played, which makes the delay longer. It is, when the delay stays near the
    target, or when the network stood still for so long that it is better to hear it all late. Otherwise it is late.
5.  Nothing is ever played more than ``max_ms`` behind the shortest transit.
6.  A transit that jumps by seconds is a jump of the sender's clock: all begins again, except what was learned.
"""

from libc.stdint cimport int32_t, int64_t, uint32_t
from libc.string cimport memcpy, memset

from aiphone.native.alloc cimport counted_calloc, counted_free
from aiphone.native.delay cimport (
    DELAY_GROW, DELAY_KEEP, DELAY_SHRINK, DELAY_SHRINK_NOW, Delay, DelayConfig, delay_advice, delay_init, delay_rebase,
    delay_seen, delay_update,
)

cdef double RESYNC_MS = 2000.0
cdef double SLACK_MS = 80.0        # rule 4: this much over the target counts as near
cdef double STEP_MS = 20.0         # rule 5: what a step may add
cdef double SAME_MS = 0.01         # what sums of times may be off
cdef double PAUSE_SHRINK_MS = 25.0 # more than the step of 20 ms that it takes, so that it does not alternate
cdef enum:
    STALL = 4 * JITTER_FRAME       # rule 4: 80 ms without a packet are more than jitter
    JUMP = JITTER_CLOCK            # a gap of more than a second is not waited for
    RESTART = JITTER_CLOCK         # after a second of nothing the delay is built up again
    UNITS_PER_MS = JITTER_CLOCK // 1000
    FREE = 0
    AUDIO = 1
    OTHER = 2


cdef void clear(Jitter* j) noexcept nogil:
    cdef int i
    for i in range(JITTER_SLOTS):
        j.packets[i].state = FREE
        j.packets[i].seq = -1
        j.packets[i].payload = &j.payloads[i][0]
    j.playing = False
    j.empty_run = 0


cdef void jitter_init(Jitter* j, const DelayConfig* config) noexcept nogil:
    memset(j, 0, sizeof(Jitter))
    delay_init(&j.delay, config)
    clear(j)


cdef void jitter_reset(Jitter* j) noexcept nogil:
    clear(j)
    j.started = False
    j.delay.has_base = False


cdef inline double behind_ms(const Jitter* j, int64_t timestamp, double now) noexcept nogil:
    return now * 1000.0 - <double>timestamp / UNITS_PER_MS - j.delay.base


cdef double jitter_delay_ms(const Jitter* j, double now, int waiting) noexcept nogil:
    return behind_ms(j, j.next - waiting, now) if j.playing else 0.0


cdef int jitter_advice(const Jitter* j, double now, int waiting) noexcept nogil:
    if not j.playing or j.empty_run:
        return DELAY_KEEP
    return delay_advice(&j.delay, behind_ms(j, j.next - waiting, now))


cdef inline int missing_delay(const Jitter* j, double delay) noexcept nogil:
    # Timestamp units that bring the delay to its target, a frame at most.
    return <int>min((j.delay.target - delay) * UNITS_PER_MS + 0.999, <double>JITTER_FRAME)


cdef JitterPacket* oldest(Jitter* j) noexcept nogil:
    # The first audio packet after the last one played.
    cdef int64_t seq = max(j.last + 1, j.highest - JITTER_SLOTS + 1)
    cdef JitterPacket* p
    while seq <= j.highest:
        p = &j.packets[seq % JITTER_SLOTS]
        if p.state == AUDIO and p.seq == seq:
            return p
        seq += 1
    return NULL


cdef bint lost_before(Jitter* j, const JitterPacket* p) noexcept nogil:
    # Whether a number between the last one played and p never came.
    cdef int64_t seq = max(j.last + 1, j.highest - JITTER_SLOTS + 1)
    cdef const JitterPacket* other
    while seq < p.seq:
        other = &j.packets[seq % JITTER_SLOTS]
        if other.seq != seq:
            return True
        seq += 1
    return False


cdef void give_up(Jitter* j, JitterPacket* p) noexcept nogil:
    j.last = p.seq
    p.state = FREE
    j.late += 1
    delay_seen(&j.delay, True)


cdef int jitter_put(Jitter* j, int64_t seq, uint32_t timestamp, const unsigned char* payload, int length,
                    int payload_type, int samples, double arrival) noexcept nogil:
    cdef JitterPacket* p = &j.packets[seq % JITTER_SLOTS]
    cdef int64_t extended
    cdef double transit, relative
    if length > JITTER_PAYLOAD:
        return JITTER_TOO_LONG
    if not j.started:
        j.started = True
        j.timestamp = (<int64_t>1 << 32) + timestamp   # one cycle up: older packets stay positive
        j.last = seq - 1
        j.highest = seq
    elif p.seq == seq:
        return JITTER_DUPLICATE
    extended = j.timestamp + <int32_t>(timestamp - <uint32_t>j.timestamp)
    transit = arrival * 1000.0 - <double>extended / UNITS_PER_MS
    if j.delay.has_base and transit - j.delay.base > RESYNC_MS:
        clear(j)
        j.last = seq - 1
        j.highest = seq
        j.resynchronised += 1
        delay_rebase(&j.delay, transit, arrival * 1000.0)
    relative = delay_update(&j.delay, transit, arrival * 1000.0)
    j.timestamp = extended
    if not j.playing and seq < j.last + 1 and j.empty_run == 0:
        j.last = seq - 1            # reordered before playing began
    if seq <= j.last:
        j.late += 1
        delay_seen(&j.delay, True)
        return JITTER_LATE
    if p.state == AUDIO and p.seq > j.last:
        j.overflowed += 1           # a whole buffer ahead: the oldest goes
    if seq > j.highest:
        j.highest = seq
    p.seq = seq
    p.timestamp = extended
    p.arrival = arrival
    p.state = AUDIO
    p.payload_type = payload_type
    p.samples = samples
    p.length = length
    memcpy(p.payload, payload, length)
    return JITTER_STORED


cdef void jitter_pass(Jitter* j, int64_t seq) noexcept nogil:
    cdef JitterPacket* p = &j.packets[seq % JITTER_SLOTS]
    if not j.started or p.seq == seq:
        return
    if seq > j.highest:
        j.highest = seq
    p.seq = seq
    p.state = OTHER


cdef int nothing(Jitter* j, int* samples) noexcept nogil:
    # Rules 3 and 4: a step without a packet.
    if not j.playing:
        return JITTER_EMPTY
    j.next += samples[0]
    j.empty_run += samples[0]
    if j.empty_run >= RESTART:
        j.playing = False
    return JITTER_EMPTY


cdef JitterPacket* due(Jitter* j, double now) noexcept nogil:
    # The packet to look at, after giving up those whose time has passed (rules 4 and 5).
    cdef double config_max = j.delay.config.max_ms + STEP_MS
    cdef double limit = config_max
    cdef JitterPacket* p = oldest(j)
    if j.playing and j.empty_run < STALL:
        limit = min(limit, j.delay.target + SLACK_MS)
    while p is not NULL:
        if behind_ms(j, p.timestamp, now) > config_max:
            give_up(j, p)
        elif j.playing and p.timestamp < j.next and (
            behind_ms(j, p.timestamp, now) > limit if j.empty_run else p.timestamp + p.samples <= j.next
        ):
            give_up(j, p)
        else:
            return p
        p = oldest(j)
    return NULL


cdef int jitter_get(Jitter* j, double now, int piece, JitterPacket** packet, int* samples) noexcept nogil:
    cdef JitterPacket* p
    cdef int64_t gap
    cdef double delay
    samples[0] = piece
    if not j.started:
        return JITTER_EMPTY
    p = due(j, now)
    if p is NULL:
        return nothing(j, samples)
    if j.playing and p.timestamp - j.next > JUMP:
        j.playing = False
    if not j.playing:
        delay = behind_ms(j, p.timestamp, now)
        if delay < j.delay.target - SAME_MS:
            samples[0] = missing_delay(j, delay)
            return JITTER_PREFETCHING
        j.playing = True
        j.next = p.timestamp
    gap = p.timestamp - j.next
    if gap > 0:
        samples[0] = <int>min(gap, <int64_t>JITTER_FRAME)
        delay = behind_ms(j, j.next, now)
        if lost_before(j, p):
            # While the delay must grow, the place of a lost packet is a good one to do it.
            if delay_advice(&j.delay, delay) == DELAY_GROW:
                samples[0] = missing_delay(j, delay)
            else:
                j.next += samples[0]
            packet[0] = p
            return JITTER_MISSING
        # A pause of the sender: here the delay may change as it likes.
        if delay_advice(&j.delay, delay) == DELAY_GROW:
            samples[0] = missing_delay(j, delay)
        elif delay > j.delay.target + PAUSE_SHRINK_MS:
            j.next += <int>min(gap, <int64_t>2 * JITTER_FRAME)
        else:
            j.next += samples[0]
        return JITTER_EMPTY
    # Played, but after a step without it: that hole was heard as a loss would have been.
    delay_seen(&j.delay, j.empty_run > 0 and p.timestamp < j.next)
    p.state = FREE
    j.last = p.seq
    j.next = p.timestamp + p.samples
    j.empty_run = 0
    packet[0] = p
    return JITTER_NORMAL


RESULTS = {JITTER_NORMAL: "normal", JITTER_MISSING: "missing", JITTER_PREFETCHING: "prefetching",
           JITTER_EMPTY: "empty"}
PUTS = {JITTER_STORED: "stored", JITTER_LATE: "late", JITTER_DUPLICATE: "duplicate", JITTER_TOO_LONG: "too long"}
ADVICE = {DELAY_KEEP: "keep", DELAY_GROW: "grow", DELAY_SHRINK: "shrink", DELAY_SHRINK_NOW: "shrink now"}


cdef class JitterBuffer:
    """The jitter buffer for scenarios and simulations: logic only, time is an argument. Not thread-safe.

    Sequence numbers are extended (they do not wrap here), timestamps are modulo 2**32 at 8 kHz, times in seconds,
    delays in milliseconds.
    """

    cdef Jitter* _jitter

    def __cinit__(self, double min_ms=20.0, double max_ms=300.0, double start_ms=40.0, double fixed_ms=-1.0,
                  double quantile=0.99):
        cdef DelayConfig config
        config.min_ms, config.max_ms, config.start_ms = min_ms, max_ms, start_ms
        config.fixed_ms, config.quantile = fixed_ms, quantile
        self._jitter = <Jitter*>counted_calloc(sizeof(Jitter))
        if self._jitter is NULL:
            raise MemoryError("no memory for a jitter buffer")
        jitter_init(self._jitter, &config)

    def __dealloc__(self):
        counted_free(self._jitter)

    def put(self, int64_t seq, int64_t timestamp, double arrival, const unsigned char[::1] payload=b"\x00",
            int samples=160):
        """A packet arrived: ``"stored"``, ``"late"``, ``"duplicate"`` or ``"too long"``."""
        return PUTS[jitter_put(self._jitter, seq, <uint32_t>timestamp, &payload[0], <int>payload.shape[0], 0,
                               samples, arrival)]

    def skip(self, int64_t seq):
        """This number was no audio."""
        jitter_pass(self._jitter, seq)

    def get(self, double now, int piece=160):
        """A step, of ``piece`` samples if there is nothing: ``(why, sequence number or None, samples)``."""
        cdef JitterPacket* p = NULL
        cdef int samples = 0
        cdef int result = jitter_get(self._jitter, now, piece, &p, &samples)
        if result == JITTER_NORMAL:
            return RESULTS[result], p.seq, p.samples
        return RESULTS[result], None, samples

    def advice(self, double now, int waiting=0):
        """``"keep"``, ``"grow"``, ``"shrink"`` or ``"shrink now"``; ``waiting`` timestamp units are not yet played."""
        return ADVICE[jitter_advice(self._jitter, now, waiting)]

    def delay_ms(self, double now, int waiting=0):
        """How far what is heard runs behind the shortest transit."""
        return jitter_delay_ms(self._jitter, now, waiting)

    @property
    def target_ms(self):
        """The delay that is aimed at."""
        return self._jitter.delay.target

    @property
    def late(self):
        """Packets that came too late to be played."""
        return self._jitter.late

    @property
    def overflowed(self):
        """Packets dropped because a whole buffer lay between them and the newest."""
        return self._jitter.overflowed

    @property
    def resynchronised(self):
        """Jumps of the sender's clock."""
        return self._jitter.resynchronised
