"""The media thread.

One thread without Python owns the sockets and the state of all calls. Its time is a grid of 2 ms slots. Every call
sends in one of ten, so that the packets of many calls do not leave in one burst, and hears in the slot in which its
next packet is due, which moves as the delay of its jitter buffer does. In a slot calls first send (lateness of a sent
packet is what a caller hears), then receive and deliver.

Python reaches the thread through bounded rings: commands in, events out, and for each call frames out and samples in.
In the steady state the thread makes no allocation, takes no lock, and no system call but the receive, the send, and
the sleep. Everything a call needs is allocated before it is added, and freed after the thread has let go of it.

A thread that comes late catches up slot by slot; when it is more than 100 ms late (the machine slept), it gives up
whole ticks instead of sending a burst.

When a ring is full: inbound frames, the newest is dropped and counted; commands, the caller is told; events, keys are
dropped and counted, states wait in the call and the latest of each kind is delivered.
"""

import numpy as np

cimport cython

from aiphone.errors import MediaError

from libc.stdint cimport int64_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from aiphone.native.alloc cimport counted_calloc, counted_free
from aiphone.native.alloc import live_allocations  # noqa: F401 - part of this module's interface
from aiphone.native.call cimport (
    COMMAND_ADD, COMMAND_DIGITS, COMMAND_REMOVE, COMMAND_TAP, COMMAND_UPDATE, EAR_GRID, FRAME, INBOUND_FRAMES, LATENESS_BINS,
    PLAYOUT_SAMPLES, Call, Command, Core, EventRecord, Frame, Stream, call_bytes, call_free, call_new, call_rekey,
    call_stats, call_tap, call_update, emit_pending,
)
from aiphone.native.delay cimport DelayConfig
from aiphone.native.inbound cimport inbound_step
from aiphone.native.outbound cimport outbound_rtcp, outbound_step
from aiphone.native.platform cimport (
    Batch, address_set, batch_init, clock_now, count, datagram_prepare, load_acquire, load_real, load_relaxed,
    raise_priority, sleep_until, socket_is_v6, store_real, store_release, store_relaxed, thread_join, thread_name, thread_start,
    wake_clear, wake_close, wake_open, wake_signal, wake_wait, wall_now,
)
from aiphone.native.ring cimport Ring, ring_free, ring_get, ring_init, ring_put, ring_used
from aiphone.native.srtp cimport NativeCrypto
from aiphone.native.tap cimport NativeTap
from aiphone.native.telephone_event cimport sender_queue

cdef double TICK = 0.020
cdef double SLOT = 0.002
cdef double GIVE_UP = 0.100
cdef double LATENESS_BIN = 50e-6


# ------------------------------------------------------------------------------------------- the media thread


cdef void unlink(Engine* e, Call* c) noexcept nogil:
    cdef Call** place = &e.slots[c.slot]
    while place[0] is not NULL and place[0] is not c:
        place = &place[0].next
    if place[0] is c:
        place[0] = c.next
    c.next = NULL
    place = &e.ears[c.ear]
    while place[0] is not NULL and place[0] is not c:
        place = &place[0].next_ear
    if place[0] is c:
        place[0] = c.next_ear
    c.next_ear = NULL


cdef void let_go(Engine* e, Call* c, double now) noexcept nogil:
    # The last touch: after `removed` is set, Python frees it.
    if c.stats.packets_sent:
        outbound_rtcp(&e.core, c, now, True)
    c.live = False
    call_tap(c, NULL)
    call_rekey(c, NULL, NULL)
    e.core.events_new = True
    store_release(&c.removed, 1)


cdef void obey(Engine* e, double now) noexcept nogil:
    cdef Command command
    while ring_get(&e.commands, &command, 1) == 1:
        if command.kind == COMMAND_ADD:
            command.call.next = e.slots[command.call.slot]
            e.slots[command.call.slot] = command.call
            command.call.ear = command.call.slot
            command.call.next_ear = e.ears[command.call.ear]
            e.ears[command.call.ear] = command.call
            call_rekey(command.call, command.crypto_out, command.crypto_in)
            command.call.live = True
        elif command.kind == COMMAND_REMOVE:
            if command.call.live:
                unlink(e, command.call)
            let_go(e, command.call, now)
        elif command.kind == COMMAND_UPDATE:
            call_update(command.call, &command.stream)
            if command.rekey:
                call_rekey(command.call, command.crypto_out, command.crypto_in)
        elif command.kind == COMMAND_DIGITS:
            sender_queue(&command.call.keys_out, command.digits, command.digit_count)
        elif command.kind == COMMAND_TAP:
            call_tap(command.call, command.tap)


cdef void note_lateness(Core* core, double late) noexcept nogil:
    cdef int bin = <int>(late / LATENESS_BIN)
    count(&core.lateness[bin if 0 <= bin < LATENESS_BINS else LATENESS_BINS - 1], 1)
    if late > core.lateness_max:
        store_real(&core.lateness_max, late)


cdef void run_slot(Engine* e, double due, double now) noexcept nogil:
    cdef Core* core = &e.core
    cdef Call* c
    cdef Call* following
    cdef int64_t tick = e.number // SLOTS
    cdef int slot = <int>(e.number % SLOTS)
    obey(e, now)
    if not e.injected:
        # Taken anew each time: the wall clock may be set, or be slewed.
        core.wall_minus_now = wall_now() - clock_now()
    c = e.slots[slot]
    while c is not NULL:
        if outbound_step(core, c, tick, due) and not e.injected:
            note_lateness(core, clock_now() - due)
        c = c.next
    if e.slots[slot] is not NULL:
        count(&core.steps, 1)
    if not e.injected:
        now = clock_now()
    c = e.ears[slot]
    e.ears[slot] = NULL
    while c is not NULL:
        following = c.next_ear
        c.ear = (slot + inbound_step(core, c, due, now) // EAR_GRID) % SLOTS
        c.next_ear = e.ears[c.ear]
        e.ears[c.ear] = c
        emit_pending(core, c)
        c = following
    if core.events_new:
        core.events_new = False
        wake_signal(&core.event_wake)
    # The listener works on all calls at once: it is woken once a tick.
    if core.frames_new and due - e.last_frame_wake > TICK - SLOT / 2:
        core.frames_new = False
        e.last_frame_wake = due
        wake_signal(&core.frame_wake)


cdef void next_slot(Engine* e) noexcept nogil:
    # Slots without calls are slept through, but commands are looked at once a tick, and frames do not wait.
    cdef int i
    e.number += 1
    for i in range(SLOTS - 1):
        if e.slots[e.number % SLOTS] is not NULL or e.ears[e.number % SLOTS] is not NULL or e.core.frames_new:
            return
        e.number += 1


cdef void let_all_go(Engine* e, double now) noexcept nogil:
    cdef int slot
    cdef Call* c
    obey(e, now)
    for slot in range(SLOTS):
        e.ears[slot] = NULL
        while e.slots[slot] is not NULL:
            c = e.slots[slot]
            e.slots[slot] = c.next
            let_go(e, c, now)


cdef void* media_thread(void* argument) noexcept nogil:
    cdef Engine* e = <Engine*>argument
    cdef double due, now
    cdef int64_t missed
    thread_name("media")
    store_release(&e.priority, raise_priority())
    while not load_acquire(&e.stopping):
        due = e.epoch + <double>e.number * SLOT
        sleep_until(due)
        now = clock_now()
        if now - due > GIVE_UP:
            missed = <int64_t>((now - due) / TICK)
            count(&e.core.skipped, missed)
            e.number += missed * SLOTS
            due = e.epoch + <double>e.number * SLOT
        run_slot(e, due, now)
        next_slot(e)
    let_all_go(e, clock_now())
    return NULL


# ----------------------------------------------------------------------------------------------- Python's side

PRIORITIES = ("normal", "nice", "realtime")


cdef class NativeCall:
    """One call's side of the rings. Made by ``NativeEngine.add``; each method says which thread may call it."""

    cdef NativeEngine _engine
    cdef Call* _call
    cdef readonly long long key
    cdef object _final

    def read(self, int max_frames):
        """``(pcm int16[n, 320], arrival float64[n], flags uint8[n])``, n from 0 to ``max_frames``.

        Listener thread only. Copies under the GIL, which is what makes ``close`` on the main thread safe.
        """
        cdef int64_t n = 0, i
        cdef Frame frame
        if self._call is not NULL:
            n = max(0, min(<int64_t>max_frames, ring_used(&self._call.frames)))
        pcm = np.empty((n, FRAME), np.int16)
        arrival = np.empty(n, np.float64)
        flags = np.empty(n, np.uint8)
        cdef short[:, ::1] pcm_view = pcm
        cdef double[::1] arrival_view = arrival
        cdef unsigned char[::1] flags_view = flags
        for i in range(n):
            ring_get(&self._call.frames, &frame, 1)
            memcpy(&pcm_view[i, 0], frame.pcm, FRAME * sizeof(short))
            arrival_view[i] = frame.arrival
            flags_view[i] = <unsigned char>frame.flags
        return pcm, arrival, flags

    def write(self, const short[::1] pcm not None):
        """Queue samples (16 kHz); how many fitted. Main thread only."""
        if self._call is NULL:
            raise MediaError("the call has been closed; it plays nothing any more")
        if pcm.shape[0] == 0:
            return 0
        return ring_put(&self._call.playout, &pcm[0], pcm.shape[0])

    def flush(self):
        """Drop what is queued; the media thread does it with its next packet. Main thread only."""
        if self._call is not NULL:
            store_release(&self._call.flush_to, load_relaxed(&self._call.playout.tail))

    def set_gain(self, double linear):
        """Level of the playout; reached within one frame. Main thread only."""
        if self._call is not NULL:
            store_real(&self._call.gain_target, linear)

    @property
    def queued(self):
        """Samples that wait in the playout ring. Any thread."""
        cdef int64_t head
        if self._call is NULL:
            return 0
        head = max(load_acquire(&self._call.playout.head), load_acquire(&self._call.flush_to))
        return max(0, load_acquire(&self._call.playout.tail) - head)

    @property
    def space(self):
        """Samples that fit into the playout ring. Any thread."""
        return PLAYOUT_SAMPLES - ring_used(&self._call.playout) if self._call is not NULL else 0

    @property
    def played(self):
        """Queued samples that have left the socket. Any thread."""
        return load_acquire(&self._call.played) if self._call is not NULL else self._final["played"]

    @property
    def closed(self):
        """True once ``close`` was called or the engine stopped. Any thread."""
        return self._call is NULL

    def update(self, tuple stream not None, tuple crypto=None):
        """Main thread only. Both as in ``NativeEngine.add``, but without ``crypto`` encryption stays as it is."""
        cdef Command command
        memset(&command, 0, sizeof(Command))
        if self._call is NULL:
            return
        command.kind = COMMAND_UPDATE
        command.call = self._call
        fill_stream(&command.stream, self._call.rtp_fd, stream)
        if crypto is not None:
            fill_crypto(&command, crypto)
        self._engine.push(&command)
        if crypto is not None:
            self._engine.keep(crypto)

    def send_digits(self, bytes events not None):
        """Send keys (event codes 0-15), one after the other. Main thread only."""
        cdef Command command
        cdef Py_ssize_t n = len(events)
        memset(&command, 0, sizeof(Command))
        if self._call is NULL:
            return
        if n > 32:
            raise MediaError(f"{n} keys at once are too many; send at most 32")
        command.kind = COMMAND_DIGITS
        command.call = self._call
        memcpy(command.digits, <const char*>events, n)
        command.digit_count = <int>n
        self._engine.push(&command)

    def tap(self):
        """Record from the next tick on: the tap to read from, until it is ``released``. Main thread only."""
        cdef NativeTap tap
        if self._call is NULL:
            raise MediaError("the call has been closed; there is nothing more to record")
        tap = NativeTap()
        self._engine.tap(self._call, tap)
        return tap

    def untap(self):
        """Stop recording; the tap is released with the next tick. Main thread only."""
        if self._call is not NULL:
            self._engine.tap(self._call, None)

    def stats(self):
        """The counters as a dict. Any thread."""
        if self._call is NULL:
            return dict(self._final)
        return call_stats(self._call)

    def close(self):
        """Leave the media thread (RTCP BYE); sockets and memory go once it has let go. Main thread only."""
        if self._call is not NULL:
            self._engine.remove(self)

    cdef void detach(self) noexcept:
        self._final = call_stats(self._call)
        self._call = NULL


cdef int fill_stream(Stream* s, int fd, tuple stream) except -1:
    cdef int v6 = socket_is_v6(fd)
    cdef bytes host
    cdef int port, rtcp_port
    host, port, rtcp_port, s.payload_type, s.key_type, s.ptime, s.send, s.receive, s.rtcp_mux, s.noise = stream
    if (v6 < 0 or address_set(&s.remote, v6, host, <int>len(host), port) != 0
            or address_set(&s.remote_rtcp, v6, host, <int>len(host), rtcp_port) != 0):
        raise MediaError("the peer's media address does not fit the socket; use the same kind of IP address on both sides")
    return 0


cdef int fill_crypto(Command* command, tuple crypto) except -1:
    cdef NativeCrypto sending, receiving
    sending, receiving = crypto
    command.rekey = True
    if sending is not None:
        command.crypto_out = sending._crypto
    if receiving is not None:
        command.crypto_in = receiving._crypto
    return 0


@cython.no_gc_clear  # the media thread must be gone before anything is let go of
cdef class NativeEngine:
    """The media thread and its calls. Main thread only, except ``wait_frames`` (listener thread).

    With ``injected`` there is no thread: ``step`` runs all slots that are due at a time of the caller's choice.
    """

    cdef Engine* _engine
    cdef int _capacity
    cdef bint _running
    cdef DelayConfig _delay
    cdef int _load[SLOTS]
    cdef dict _calls            # key -> NativeCall
    cdef list _leaving          # addresses of Calls that the media thread still has
    cdef long long _next_key
    cdef list _backlog          # addresses of Calls whose removal did not fit into the command ring
    cdef list _lent             # NativeTaps and NativeCryptos that the media thread may still use

    def __cinit__(self, int capacity, *, double rtp_timeout=30.0, tuple delay=(10.0, 300.0, 40.0, -1.0, 0.99),
                  double comfort_level=0.0, bint injected=False):
        cdef Engine* e = <Engine*>counted_calloc(sizeof(Engine))
        self._engine = e
        self._calls, self._leaving, self._backlog, self._lent = {}, [], [], []
        self._capacity = capacity
        (self._delay.min_ms, self._delay.max_ms, self._delay.start_ms, self._delay.fixed_ms,
         self._delay.quantile) = delay
        if e is NULL:
            raise MemoryError("no memory for the media engine")
        e.core.event_wake.read_fd = e.core.event_wake.write_fd = -1
        e.core.frame_wake.read_fd = e.core.frame_wake.write_fd = -1
        e.core.batch = <Batch*>counted_calloc(sizeof(Batch))
        if (e.core.batch is NULL or ring_init(&e.commands, sizeof(Command), 64 + 2 * capacity) != 0
                or ring_init(&e.core.events, sizeof(EventRecord), 256 + 16 * capacity) != 0):
            raise MemoryError("no memory for the media engine")
        if wake_open(&e.core.event_wake) != 0 or wake_open(&e.core.frame_wake) != 0:
            raise MediaError("no file descriptor left for the media engine; raise the limit of open files (ulimit -n)")
        batch_init(e.core.batch)
        e.core.rtp_timeout = rtp_timeout
        e.core.comfort_level = comfort_level
        e.injected = injected
        e.core.ntp_minus_now = 1e9 if injected else wall_now() - clock_now()
        e.last_frame_wake = -1.0

    def __dealloc__(self):
        cdef Engine* e = self._engine
        if e is NULL:
            return
        if self._running:
            store_release(&e.stopping, 1)
            with nogil:
                thread_join(e.thread)
        # Left over only when nobody called stop(): free what is there, a call is worth its descriptors.
        for address in [*self._leaving, *self._backlog]:
            call_free(<Call*><size_t>address)
        wake_close(&e.core.event_wake)
        wake_close(&e.core.frame_wake)
        ring_free(&e.commands)
        ring_free(&e.core.events)
        counted_free(e.core.batch)
        counted_free(e)

    # -------------------------------------------------------------------------------------------- life

    def start(self):
        """Start the media thread."""
        cdef Engine* e = self._engine
        if self._running or e.injected:
            return
        store_release(&e.stopping, 0)
        e.epoch = clock_now()
        e.number = 0
        e.last_frame_wake = 0.0
        if thread_start(&e.thread, media_thread, e) != 0:
            raise MediaError("the media thread could not be started; raise the limit of threads (ulimit -u)")
        self._running = True

    def stop(self):
        """Say BYE for every call, end the thread, free everything. ``wait_frames`` returns False from now on."""
        cdef Engine* e = self._engine
        cdef NativeCall call
        store_release(&e.stopping, 1)
        wake_signal(&e.core.frame_wake)
        if self._running:
            with nogil:
                thread_join(e.thread)
            self._running = False
        else:
            let_all_go(e, e.epoch + <double>e.number * SLOT)
        for call in list(self._calls.values()):
            self._leaving.append(<size_t>call._call)
            call.detach()
        self._leaving += self._backlog
        self._backlog = []
        self._calls.clear()
        for address in self._leaving:
            call_free(<Call*><size_t>address)
        self._leaving = []
        self._lent = []
        memset(self._load, 0, sizeof(self._load))

    def step(self, double now):
        """Run all slots that are due at ``now`` (seconds). Only for an injected clock; how many slots ran."""
        cdef Engine* e = self._engine
        cdef int ran = 0
        cdef double due
        if not e.injected:
            raise MediaError("the media thread has its own clock; only an engine made with injected=True can be stepped")
        with nogil:
            while e.epoch + <double>e.number * SLOT <= now + 1e-9:
                due = e.epoch + <double>e.number * SLOT
                run_slot(e, due, due)
                e.number += 1
                ran += 1
        self.reap()
        return ran

    # ------------------------------------------------------------------------------------------- calls

    def add(self, int rtp_fd, int rtcp_fd, tuple stream not None, unsigned long ssrc, int seq, unsigned long timestamp,
            bytes cname not None, tuple crypto=None):
        """Put a call on the media thread; the descriptors belong to the engine once this returns.

        ``stream`` is ``(host: bytes of 4 or 16, port, rtcp_port, payload_type, key_payload_type or -1,
        ptime in samples at 8 kHz, send, receive, rtcp_mux, comfort noise)``; ``cname`` has 16 bytes; ``crypto`` is
        the pair of NativeCryptos for sending and receiving, each may be None.
        """
        cdef Command command
        cdef Stream settled
        cdef NativeCall call
        cdef Call* c
        cdef int slot, best = 0
        self.reap()
        if load_acquire(&self._engine.stopping):
            raise MediaError("the media engine has been stopped; it takes no more calls")
        if len(self._calls) >= self._capacity:
            raise MediaError(f"the media engine is full: it was made for {self._capacity} calls")
        if len(cname) != 16:
            raise ValueError("cname must have 16 bytes")
        memset(&command, 0, sizeof(Command))
        memset(&settled, 0, sizeof(Stream))
        fill_stream(&settled, rtp_fd, stream)
        if crypto is not None:
            fill_crypto(&command, crypto)
        if datagram_prepare(rtp_fd) != 0 or (rtcp_fd >= 0 and datagram_prepare(rtcp_fd) != 0):
            raise MediaError("the call's media sockets are not open; open new ones")
        for slot in range(1, SLOTS):
            if self._load[slot] < self._load[best]:
                best = slot
        c = call_new(self._next_key, rtp_fd, rtcp_fd, &settled, &self._delay, <uint32_t>ssrc,
                     <uint16_t>(seq & 0xffff), <uint32_t>timestamp, cname)
        if c is NULL:
            raise MemoryError("no memory for a call")
        c.slot = best
        command.kind = COMMAND_ADD
        command.call = c
        if ring_put(&self._engine.commands, &command, 1) != 1:
            c.rtp_fd = c.rtcp_fd = -1
            call_free(c)
            raise MediaError("the media thread does not take commands; is it running?")
        if crypto is not None:
            self.keep(crypto)
        self._load[best] += 1
        call = NativeCall.__new__(NativeCall)
        call._engine, call._call, call.key = self, c, self._next_key
        self._calls[call.key] = call
        self._next_key += 1
        return call

    cdef int push(self, Command* command) except -1:
        if ring_put(&self._engine.commands, command, 1) != 1:
            raise MediaError("the media thread does not take commands; is it running?")
        return 0

    cdef tap(self, Call* c, NativeTap tap):
        cdef Command command
        memset(&command, 0, sizeof(Command))
        command.kind = COMMAND_TAP
        command.call = c
        if tap is not None:
            command.tap = tap._tap
        self.push(&command)
        if tap is not None:
            self._lent.append(tap)

    cdef keep(self, tuple crypto):
        self._lent += [one for one in crypto if one is not None and one not in self._lent]

    cdef remove(self, NativeCall call):
        cdef Call* c = call._call
        self._load[c.slot] -= 1
        del self._calls[call.key]
        call.detach()
        self._backlog.append(<size_t>c)
        self.reap()

    cdef reap(self):
        # Removals that did not fit before, then what the media thread has let go of.
        cdef Command command
        cdef Call* c
        while self._backlog:
            memset(&command, 0, sizeof(Command))
            command.kind = COMMAND_REMOVE
            command.call = <Call*><size_t>self._backlog[0]
            if ring_put(&self._engine.commands, &command, 1) != 1:
                break
            self._leaving.append(self._backlog.pop(0))
        kept = []
        for address in self._leaving:
            c = <Call*><size_t>address
            if load_acquire(&c.removed):
                call_free(c)
            else:
                kept.append(address)
        self._leaving = kept
        if self._lent:
            self._lent = [one for one in self._lent if not one.released]

    # ------------------------------------------------------------------------------------------ events

    def fileno(self):
        """Readable when ``events`` has something to say."""
        return self._engine.core.event_wake.read_fd

    def events(self):
        """All events so far: ``(key, kind, number, at, seconds)``; also frees calls that were closed."""
        cdef EventRecord e
        wake_clear(&self._engine.core.event_wake)
        self.reap()
        out = []
        while ring_get(&self._engine.core.events, &e, 1) == 1:
            out.append((e.key, e.kind, e.number, e.at, e.seconds))
        return out

    def wait_frames(self, double timeout):
        """Wait without the GIL until a call has new frames, at most ``timeout`` seconds. Listener thread only."""
        cdef Engine* e = self._engine
        cdef bint ready
        with nogil:
            ready = wake_wait(&e.core.frame_wake, timeout)
            if ready:
                wake_clear(&e.core.frame_wake)
        return bool(ready) and not load_acquire(&e.stopping)

    def stats(self):
        """The thread's own counters as a dict; ``lateness`` is a list of counts in bins of 50 us."""
        cdef Core* core = &self._engine.core
        cdef int i
        return {
            "calls": len(self._calls),
            "leaving": len(self._leaving) + len(self._backlog),
            "priority": PRIORITIES[load_acquire(&self._engine.priority)],
            "steps": load_relaxed(&core.steps),
            "skipped": load_relaxed(&core.skipped),
            "events_dropped": load_relaxed(&core.events_dropped),
            "lateness": [load_relaxed(&core.lateness[i]) for i in range(LATENESS_BINS)],
            "lateness_max": load_real(&core.lateness_max),
            "call_bytes": call_bytes(),
        }
