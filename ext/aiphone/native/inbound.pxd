# From the socket to the inbound ring.

from aiphone.native.call cimport Call, Core

# Read what waits on the call's sockets, then deliver one 20 ms frame. `due` is the time of the step, `now` is now.
cdef void inbound_step(Core* core, Call* c, double due, double now) noexcept nogil
