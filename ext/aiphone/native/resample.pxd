# Streaming polyphase resampler. One owner at a time per Resampler; any thread, no GIL.

cdef struct Filter:
    # The coefficients of one pair of rates: made once, shared by all resamplers, never freed.
    int rate_in
    int rate_out
    int up                # L: interpolation factor
    int down              # M: decimation factor
    int taps              # coefficients for one output sample, padded to whole vectors
    int delay             # group delay in output samples, a whole number by design
    int history           # earlier samples that an output needs
    int inverse           # of `down` modulo `up`: row = phase * inverse % up
    int centre            # the first of the samples that have coarse coefficients too
    int shift             # bits that the fine coefficients have more than the coarse ones
    int first             # fine coefficients before it, an even number, are 0, but in the row `same`
    int same              # a row whose outputs are input samples, or -1: one of a half-band filter's two
    int same_at           # which ones, as an index into its coefficients
    short* coefficients   # up rows, in the order in which outputs meet them: taps fine ones, then the coarse ones
    short* places         # where each row begins, in input samples from where row 0 does
    void* memory          # what they lie in
    Filter* next

cdef enum:
    RESAMPLER_HISTORY = 160   # the most that one of 8 and 16 kHz has

cdef struct Resampler:
    # Settings.
    const Filter* filter  # NULL when the rates are equal
    # State.
    int ahead             # input samples still to come before the next output sample
    int phase             # of the next output sample, in units of 1 / up
    short* history        # the last samples, as many as the filter needs

# In memory of the caller's: `room` samples of history. False when the pair is not supported, they do not suffice, or
# there is no memory for the coefficients. Not to be freed.
cdef bint resampler_init(Resampler* r, int rate_in, int rate_out, short* history, int room) noexcept nogil
# NULL when the pair is not supported or there is no memory.
cdef Resampler* resampler_new(int rate_in, int rate_out) noexcept nogil
# Accepts NULL.
cdef void resampler_free(Resampler* r) noexcept nogil
cdef void resampler_reset(Resampler* r) noexcept nogil
# Samples written, at most resampler_max_out(r, n); -1 and nothing consumed when they do not fit.
cdef int resampler_process(Resampler* r, const short* src, int n, short* dst, int capacity) noexcept nogil
cdef int resampler_max_out(const Resampler* r, int n) noexcept nogil
# Group delay in samples of the output rate.
cdef int resampler_delay(const Resampler* r) noexcept nogil
