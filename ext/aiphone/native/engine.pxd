# The media thread: slots, commands, wake-ups.

from libc.stdint cimport int64_t

from aiphone.native.call cimport EAR_SLOTS, Call, Core
from aiphone.native.platform cimport pthread_t
from aiphone.native.ring cimport Ring

cdef enum:
    SLOTS = EAR_SLOTS       # the 20 ms of a tick are divided into these, 2 ms each

cdef struct Engine:
    # Settings.
    bint injected           # no thread, no clock: the test steps it
    double epoch            # time of slot 0 of tick 0
    # Shared with Python.
    Ring commands           # of Command; producer: main thread
    int64_t stopping
    int64_t priority
    # The media thread's own.
    Core core
    Call* slots[SLOTS]
    Call* ears[SLOTS]
    int64_t number          # slots since the epoch
    double last_frame_wake
    pthread_t thread
