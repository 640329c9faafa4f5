# From the jitter buffer to the frames that Python gets: decoding, concealment, time-scaling, resampling.

from aiphone.native.call cimport Call, Core

# What is heard from `due` on. Returns how much, in timestamp units: EAR_GRID to a frame, and a multiple of the former.
# Then it is time for the next.
cdef int deliver(Core* core, Call* c, double due) noexcept nogil
cdef void publish(Call* c, double due) noexcept nogil
# How far into the tick that is recorded the slot lies in which the call hears, timestamp units.
cdef int since_tick(const Call* c) noexcept nogil
