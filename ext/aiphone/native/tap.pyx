"""The recording tap of a call.

Each tick of the media thread is one item: 160 samples of each side at the line's 8 kHz, silence where there was
nothing. So both channels are aligned to the sample by construction, and stand at their time: a tick that could not
be put (the recorder is late) or that never came (the machine slept) is made up for with silence.
"""

import numpy as np

from libc.stdint cimport int64_t
from libc.string cimport memcpy, memmove, memset

from aiphone.native.alloc cimport counted_calloc, counted_free
from aiphone.native.platform cimport count, load_acquire, load_relaxed, store_release
from aiphone.native.ring cimport ring_free, ring_get, ring_init, ring_put, ring_used


cdef void put_tick(Tap* t) noexcept nogil:
    # The tick that was begun, with what was heard in it.
    cdef short frame[TAP_FRAME]
    cdef int i, n = min(t.heard_len, <int>TAP_SAMPLES)
    if t.owed:
        memset(frame, 0, sizeof(frame))
        while t.owed and ring_put(&t.frames, frame, 1) == 1:
            t.owed -= 1
    for i in range(TAP_SAMPLES):
        frame[2 * i] = t.heard[i] if i < n else 0
        frame[2 * i + 1] = t.assistant[i]
    t.heard_len -= n
    memmove(t.heard, t.heard + n, t.heard_len * sizeof(short))
    if t.owed == 0 and ring_put(&t.frames, frame, 1) == 1:
        return
    count(&t.missed, 1)
    if t.owed < TAP_MOST_OWED:
        t.owed += 1


cdef void tap_begin(Tap* t, int64_t skipped) noexcept nogil:
    if t.begun:
        put_tick(t)
    t.begun = True
    memset(t.assistant, 0, sizeof(t.assistant))
    t.owed = min(t.owed + skipped, <int64_t>TAP_MOST_OWED)


cdef void tap_sent(Tap* t, const short* pcm, int n) noexcept nogil:
    memcpy(t.assistant, pcm, min(n, <int>TAP_SAMPLES) * sizeof(short))


cdef void tap_heard(Tap* t, const short* pcm, int n, int since) noexcept nogil:
    if not t.begun:
        return
    if not t.hearing:
        t.hearing = True
        memset(t.heard, 0, since * sizeof(short))
        t.heard_len = since
    n = min(n, <int>TAP_HEARD - t.heard_len)
    if pcm is NULL:
        memset(t.heard + t.heard_len, 0, n * sizeof(short))
    else:
        memcpy(t.heard + t.heard_len, pcm, n * sizeof(short))
    t.heard_len += n


cdef void tap_release(Tap* t) noexcept nogil:
    if t.begun:
        put_tick(t)
    store_release(&t.released, 1)


cdef class NativeTap:
    """The recorder's end of a tap. Made by ``NativeCall.tap``."""

    def __cinit__(self):
        self._tap = <Tap*>counted_calloc(sizeof(Tap))
        if self._tap is NULL:
            raise MemoryError("no memory for a recording")
        if ring_init(&self._tap.frames, TAP_FRAME * sizeof(short), TAP_FRAMES) != 0:
            counted_free(self._tap)
            self._tap = NULL
            raise MemoryError("no memory for a recording")

    def __dealloc__(self):
        # The engine keeps a reference for as long as the media thread has the tap.
        if self._tap is not NULL:
            ring_free(&self._tap.frames)
            counted_free(self._tap)

    def take(self):
        """All that is there: int16[n, 2] at 8 kHz, caller left, assistant right. Recorder thread only."""
        cdef int64_t n = ring_used(&self._tap.frames), took
        pcm = np.empty((n * TAP_SAMPLES, 2), np.int16)
        cdef short[:, ::1] view = pcm
        if n:
            took = ring_get(&self._tap.frames, &view[0, 0], n)
            assert took == n
        return pcm

    @property
    def missed(self):
        """Ticks of 20 ms that are silent in the recording because nobody emptied the tap in time. Any thread."""
        return load_relaxed(&self._tap.missed)

    @property
    def released(self):
        """True once nothing more will come. Any thread; ask before the last ``take``, not after it."""
        return bool(load_acquire(&self._tap.released))
