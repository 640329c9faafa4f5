# From the socket to the inbound ring.

from aiphone.native.call cimport Call, Core

# Read what waits on the call's sockets, then deliver what is heard next. `due` is the time of the step, `now` is now.
# Returns when the next step is due, in timestamp units from this one.
cdef int inbound_step(Core* core, Call* c, double due, double now) noexcept nogil
