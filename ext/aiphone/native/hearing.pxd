# From the jitter buffer to the frames that Python gets: decoding, concealment, time-scaling, resampling.

from aiphone.native.call cimport Call, Core

# One frame of 20 ms.
cdef void deliver(Core* core, Call* c, double due) noexcept nogil
cdef void publish(Call* c, double due) noexcept nogil
