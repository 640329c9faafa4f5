# Sound that waits to be played, and time-scaling of it. One owner at a time; any thread, no GIL.

cdef enum:
    # Sizes for 16 kHz; at 8 kHz half of each is used.
    STRETCH_HISTORY = 480   # 30 ms that have been played
    STRETCH_ROOM = 1600     # 100 ms that have not

cdef struct Stretch:
    int rate                # 8000 or 16000 Hz
    int waiting             # samples not yet played
    short pcm[STRETCH_HISTORY + STRETCH_ROOM]   # history, then what waits

cdef void stretch_init(Stretch* s, int rate) noexcept nogil
# Where the next samples go, and how many fit. Add to `waiting` what was written there.
cdef short* stretch_end(const Stretch* s) noexcept nogil
cdef int stretch_room(const Stretch* s) noexcept nogil
# The oldest n samples that wait have been played. n <= waiting.
cdef void stretch_played(Stretch* s, int n) noexcept nogil
# Take one pitch period out of what waits, or add one; how many samples that was. 0: too little waits, or no two
# neighbouring stretches of at most `most` samples are as alike as `least` (a correlation, -1 to 1: -1 for any).
cdef int stretch_shorten(Stretch* s, int most, float least) noexcept nogil
cdef int stretch_lengthen(Stretch* s, int most, float least) noexcept nogil
