# What a recorded call hands over: both directions of each tick, side by side. The media thread fills it, the recorder
# thread empties it, and the memory belongs to the Python object: it outlives the call.

from libc.stdint cimport int64_t

from aiphone.native.ring cimport Ring

cdef enum:
    TAP_SAMPLES = 160       # 20 ms at 8 kHz, the line's rate
    TAP_FRAME = 320         # the same in stereo
    TAP_FRAMES = 250        # 5 s: how late the recorder may be
    TAP_MOST_OWED = 3000    # 60 s
    TAP_HEARD = 480         # what is heard of a tick is there when the next begins, and up to 20 ms of that one

cdef struct Tap:
    # Shared with Python.
    Ring frames             # of TAP_FRAME samples, caller and assistant in turns; consumer: recorder thread
    int64_t missed          # ticks that found the ring full
    int64_t released        # media thread sets it as the last thing it does with the tap
    # The media thread's own.
    bint begun              # a tick is being filled
    short assistant[TAP_SAMPLES]
    short heard[TAP_HEARD]
    int heard_len
    bint hearing            # heard is in step with the ticks
    int64_t owed            # ticks of silence that must be put first, so that what follows stands at its time

cdef class NativeTap:
    cdef Tap* _tap

# A tick begins, and the one before is complete: nothing was sent in it yet. `skipped` ticks between them never came.
cdef void tap_begin(Tap* t, int64_t skipped) noexcept nogil
# What is sent in it: up to TAP_SAMPLES samples.
cdef void tap_sent(Tap* t, const short* pcm, int n) noexcept nogil
# What is heard from now on (NULL: silence), n up to TAP_SAMPLES; `since` samples after the tick began.
cdef void tap_heard(Tap* t, const short* pcm, int n, int since) noexcept nogil
# The last tick is complete.
cdef void tap_release(Tap* t) noexcept nogil
