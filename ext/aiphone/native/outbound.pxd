# From the playout ring to the socket.

from libc.stdint cimport int64_t

from aiphone.native.call cimport Call, Core

# The call's step number `tick`: one 20 ms frame, sent when the packet is full. True when a packet left.
cdef bint outbound_step(Core* core, Call* c, int64_t tick, double due) noexcept nogil
# A report, or with `bye` the last one.
cdef void outbound_rtcp(Core* core, Call* c, double now, bint bye) noexcept nogil
