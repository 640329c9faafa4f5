# What the media thread keeps for a call, and what it shares with Python. The two directions are in inbound and
# outbound; the thread is in engine.

from libc.stdint cimport int64_t, uint16_t, uint32_t

from aiphone.native.jitter cimport Jitter
from aiphone.native.delay cimport DelayConfig
from aiphone.native.platform cimport Address, Batch, Wake
from aiphone.native.plc cimport Plc
from aiphone.native.resample cimport RESAMPLER_HISTORY, Resampler
from aiphone.native.ring cimport Ring
from aiphone.native.rtp cimport RtpSource
from aiphone.native.srtp cimport Crypto
from aiphone.native.stretch cimport Stretch
from aiphone.native.tap cimport Tap
from aiphone.native.telephone_event cimport EventReceiver, EventSender

cdef enum:
    LINE_FRAME = 160        # 20 ms at 8 kHz
    FRAME = 320             # 20 ms at 16 kHz
    INBOUND_FRAMES = 100    # 2 s
    PLAYOUT_SAMPLES = 65536 # 4.1 s at 16 kHz
    MAX_PTIME = 480         # 60 ms at 8 kHz
    CNAME_LEN = 16
    EAR_SLOTS = 10          # the 20 ms of a tick are divided into these
    EAR_GRID = 16           # 2 ms in timestamp units: from one slot to the next

cdef enum PayloadType:      # RFC 3551
    PT_PCMU = 0
    PT_PCMA = 8
    PT_G722 = 9
    PT_CN = 13

cdef enum FrameFlag:
    FRAME_CONCEALED = 1     # packet loss concealment made some of it
    FRAME_NO_PACKET = 2     # the sender or the network pauses
    FRAME_COMFORT_NOISE = 4
    FRAME_STRETCHED = 8     # longer or shorter than it was spoken: the delay had to change

cdef enum EventKind:
    EVENT_PLAYOUT_STARTED = 0
    EVENT_PLAYOUT_DRAINED = 1
    EVENT_TIMED_OUT = 2
    EVENT_STATES = 3        # those above are states: the latest of each kind is never lost
    EVENT_DIGIT = 3

cdef enum CommandKind:
    COMMAND_ADD = 0
    COMMAND_REMOVE = 1
    COMMAND_UPDATE = 2
    COMMAND_DIGITS = 3
    COMMAND_TAP = 4

# An item of the inbound ring.
cdef struct Frame:
    double arrival          # monotonic seconds
    int64_t flags
    short pcm[FRAME]

cdef struct EventRecord:
    int64_t key             # of the call
    int64_t kind
    int64_t number          # the key pressed, the position
    double at
    double seconds

cdef struct Stream:
    # What offer and answer settled on.
    Address remote
    Address remote_rtcp
    int payload_type        # PT_PCMU, PT_PCMA or PT_G722
    int key_type            # payload type of telephone-event, -1: none
    int ptime               # samples at 8 kHz
    bint send
    bint receive
    bint rtcp_mux
    bint noise              # both sides know comfort noise (RFC 3389): silence need not be sent

cdef struct Command:
    int kind
    Call* call
    Stream stream
    char digits[32]
    int digit_count
    Tap* tap                # NULL: stop recording
    bint rekey              # the two below replace what the call has
    Crypto* crypto_out      # NULL: not encrypted
    Crypto* crypto_in

cdef struct CallStats:
    # One writer: the media thread. Python loads each one relaxed.
    int64_t packets_sent
    int64_t bytes_sent      # payload
    int64_t send_errors
    int64_t packets_received
    int64_t bytes_received
    int64_t lost
    int64_t late
    int64_t duplicated
    int64_t reordered
    int64_t concealed       # frames' worth of sound that loss or lateness left out
    int64_t lengthened      # samples at 16 kHz
    int64_t shortened
    int64_t strays
    int64_t invalid
    int64_t unknown_payload
    int64_t forged          # SRTP: the tag did not fit
    int64_t replayed
    int64_t source_changes
    int64_t frames_lost     # inbound frames that Python did not take in time
    int64_t rtcp_received
    int64_t remote_lost     # as the peer reports
    int64_t remote_fraction # 1/256
    double jitter_ms
    double remote_jitter_ms
    double delay_ms
    double target_ms
    double round_trip_ms    # negative: unknown
    double power_in         # mean square, 1.0 is full scale, smoothed
    double power_out

cdef struct Call:
    # Settings.
    int64_t key
    int slot                # in which it sends
    int ear                 # in which it hears next: its packets' deadlines decide
    int rtp_fd
    int rtcp_fd
    Stream stream
    char cname[CNAME_LEN]
    Call* next              # in its slot
    Call* next_ear
    bint live               # the media thread has it

    # Shared with Python.
    Ring frames             # of Frame; consumer: listener thread
    Ring playout            # of int16 at 16 kHz; producer: main thread
    int64_t flush_to        # playout.tail at the last flush; main thread writes
    double gain_target      # linear; main thread writes
    int64_t played          # queued samples that have left; media thread writes
    int64_t removed         # media thread sets it as the last thing it does with the call
    CallStats stats

    # Events that found the ring full.
    int64_t pending_states  # bit mask over EventKind
    EventRecord pending[EVENT_STATES]

    # Where audio may come from.
    Address source          # valid once learned
    bint learned
    bint locked
    double lock_at
    Address candidate
    int candidate_count
    uint32_t candidate_ssrc
    uint16_t candidate_seq
    Address rtcp_source

    # Inbound.
    RtpSource rtp
    uint32_t next_ssrc      # a new source must show two packets in a row
    uint16_t next_seq
    bint next_known
    int64_t lost_prior      # of earlier sources
    int64_t duplicated_prior
    int64_t reordered_prior
    Jitter jitter
    bint wide               # the last packet was wideband: the fields below are at 16 kHz, else at 8 kHz
    Plc* plc                # one of the next two
    Plc narrow_plc
    Plc wide_plc
    Stretch sound           # decoded, not yet delivered
    Resampler up
    Resampler tap_down      # what a wideband call's recording needs
    short up_history[RESAMPLER_HISTORY]
    short tap_history[RESAMPLER_HISTORY]
    void* g722_in           # NULL: not installed
    EventReceiver keys_in
    double last_rtp
    bint timed_out
    bint heard              # a packet was ever played
    double sound_arrival
    int sound_flags
    Frame frame             # being filled
    int framed              # samples of it
    int64_t frames_made
    int64_t unscaled        # timestamp units played since time-scaling was last used; negative: not to be tried yet
    int64_t concealed       # timestamp units
    int64_t maybe_concealed # the same since the buffer ran empty: late packets, or the sender pauses
    double quietest         # mean square of the quietest frame of this and of the last window
    double quietest_before
    double comfort          # amplitude of comfort noise, negative: none
    uint32_t noise_seed

    # Outbound.
    Resampler down
    short down_history[RESAMPLER_HISTORY]
    void* g722_out          # NULL: not installed
    EventSender keys_out
    uint32_t ssrc
    uint16_t seq
    uint32_t timestamp      # of the next sample to be sent
    int64_t last_tick
    unsigned char coded[MAX_PTIME + FRAME]
    int coded_len
    bint mark               # the next packet begins a talk spurt
    bint sounding           # something audible was sent since the ring was empty
    int idle                # steps since the ring ran empty
    int unsent              # steps of silence since the last packet of comfort noise
    int64_t taken           # queued samples taken so far, in a packet or about to be
    bint started_pending
    bint drained_pending
    int64_t started_position
    double gain
    int64_t step

    # Encryption: NULL while there is none.
    Crypto* crypto_out
    Crypto* crypto_in

    # Recording: NULL while the call is not recorded.
    Tap* tap

    # RTCP.
    double next_rtcp
    uint32_t last_sr
    double last_sr_at
    int64_t sent_at_report

    # What the rings lie in.
    Frame frames_memory[INBOUND_FRAMES]
    short playout_memory[PLAYOUT_SAMPLES]

cdef enum:
    LATENESS_BINS = 400     # of 50 us: 0 to 20 ms; the last one is "more"

cdef struct Core:
    # What all calls of a media thread share.
    Batch* batch
    Ring events             # of EventRecord
    Wake event_wake
    Wake frame_wake
    bint events_new         # since event_wake was last signalled
    bint frames_new
    double wall_minus_now   # 0: the clock is injected
    double ntp_minus_now
    double rtp_timeout
    double comfort_level    # mean square of the noise sent when there is nothing to say, 0: silence
    int64_t events_dropped
    int64_t lateness[LATENESS_BINS]
    double lateness_max
    int64_t steps
    int64_t skipped         # steps that were given up because the thread came too late

# With the GIL.
cdef Call* call_new(int64_t key, int rtp_fd, int rtcp_fd, const Stream* stream, const DelayConfig* delay,
                    uint32_t ssrc, uint16_t seq, uint32_t timestamp, const char* cname) noexcept
# Memory of one call.
cdef int64_t call_bytes() noexcept nogil
# Closes the sockets. Accepts NULL. With the GIL.
cdef void call_free(Call* c) noexcept
# Record to another tap, or to none; lets go of the one before.
cdef void call_tap(Call* c, Tap* tap) noexcept nogil
# Encrypt with other keys, or not at all; lets go of the ones before.
cdef void call_rekey(Call* c, Crypto* crypto_out, Crypto* crypto_in) noexcept nogil
cdef void call_update(Call* c, const Stream* stream) noexcept nogil
cdef void emit(Core* core, Call* c, int kind, int64_t number, double at, double seconds) noexcept nogil
# Events that found the ring full get another chance.
cdef void emit_pending(Core* core, Call* c) noexcept nogil
cdef double mean_square(const short* pcm, int n) noexcept nogil
cdef uint32_t next_random(uint32_t* seed) noexcept nogil
# The counters for Python. Needs the GIL; any thread.
cdef dict call_stats(Call* c)
