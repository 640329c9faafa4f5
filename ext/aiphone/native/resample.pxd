# Streaming polyphase resampler. One owner at a time per Resampler; any thread, no GIL.

cdef struct Filter:
    # The coefficients of one pair of rates: made once, shared by all resamplers, never freed.
    int rate_in
    int rate_out
    int up                # L: interpolation factor
    int down              # M: decimation factor
    int taps              # coefficients for one output sample
    int delay             # group delay in output samples, a whole number by design
    float* coefficients   # up rows of taps, each in the order of the samples it meets (few phases: in down strands)
    short* spans          # of a filter with few phases: for each row the first that counts, and how many; else NULL
    Filter* next

cdef struct Resampler:
    # Settings.
    const Filter* filter  # NULL when the rates are equal
    # State.
    int ahead             # input samples still to come before the next output sample
    int phase             # row of coefficients of the next output sample
    short* history        # the last taps - 1 samples

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
# The most memory that one of 8 and 16 kHz has beside its struct; tables are shared.
cdef int resampler_bytes() noexcept nogil
