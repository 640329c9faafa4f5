"""What is heard of a call, a stretch of sound in each step.

Packets become sound at the line's rate (8 kHz, with G.722 16 kHz), which waits in ``sound`` until it is its turn. A
step plays all that waits, and the next step is when that has been heard: a packet is waited for until the slot (2 ms)
in which it is due, wherever that lies in the tick. What has been played is handed over in frames of 20 ms.

What waits is also what time-scaling works on: the jitter buffer says that the delay should grow or shrink, and here it
is decided whether anybody would hear it. In a pause every stretch of sound is as good as any other. In speech one pitch
period is taken or added where two neighbouring ones are nearly the same, and when the delay is far too long, where
they are somewhat the same.
"""

from libc.math cimport fabs, pow, sqrt
from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

from aiphone.native.call cimport (
    EAR_GRID, EAR_SLOTS, FRAME, FRAME_COMFORT_NOISE, FRAME_CONCEALED, FRAME_NO_PACKET, FRAME_STRETCHED, LINE_FRAME, PT_CN,
    PT_G722, PT_PCMA, Call, Core, mean_square, next_random,
)
from aiphone.native.delay cimport DELAY_GROW, DELAY_KEEP, DELAY_SHRINK, DELAY_SHRINK_NOW
from aiphone.native.g711 cimport alaw_decode, ulaw_decode
from aiphone.native.g722 cimport g722_decode, g722_decoder_reset
from aiphone.native.jitter cimport (
    JITTER_CLOCK, JITTER_MISSING, JITTER_NORMAL, JITTER_PAYLOAD, JitterPacket, jitter_advice,
    jitter_delay_ms, jitter_get,
)
from aiphone.native.platform cimport count, store_real, store_relaxed
from aiphone.native.plc cimport plc_bridge, plc_conceal, plc_good, plc_reset
from aiphone.native.resample cimport resampler_process, resampler_reset
from aiphone.native.ring cimport ring_put
from aiphone.native.rtp cimport source_lost
from aiphone.native.stretch cimport (
    stretch_end, stretch_init, stretch_lengthen, stretch_played, stretch_shorten,
)
from aiphone.native.tap cimport tap_heard

cdef double METER = 0.4
cdef double QUIET_OVER_FLOOR = 4.0      # 6 dB
cdef double ALWAYS_QUIET = 1e-6         # -60 dBFS
cdef double COMFORT_MOST = 3000.0       # amplitude; a louder "background" is an error or an attack
cdef double OVER_TARGET_MS = 4.0
cdef float ANY = -1.0                   # likenesses that are asked for, see stretch
cdef float SAME = 0.9
cdef float SIMILAR = 0.6
cdef enum:
    FLOOR_FRAMES = 75       # the background is the quietest frame of the last 1.5 to 3 s
    AUDIBLE_GAP = 960       # timestamp units until concealment has faded out: 120 ms
    LEAST_TO_SCALE = 80     # timestamp units
    PATIENCE = 240          # timestamp units
    PIECE = 16              # timestamp units that are made up before the buffer is asked again,
    PIECE_LATER = 160       # and when nothing has come for longer than AUDIBLE_GAP


cdef inline int scale(const Call* c) noexcept nogil:
    # Samples for each timestamp unit.
    return 2 if c.wide else 1


cdef inline double delay_of(const Call* c, double due) noexcept nogil:
    return jitter_delay_ms(&c.jitter, due, c.sound.waiting // scale(c))


cdef inline int advice_of(const Call* c, double due) noexcept nogil:
    return jitter_advice(&c.jitter, due, c.sound.waiting // scale(c))


cdef void comfort_noise(Call* c, short* dst, int n) noexcept nogil:
    cdef int i
    for i in range(n):
        dst[i] = <short>(c.comfort * (next_random(&c.noise_seed) / 2147483648.0 - 1.0))


cdef void change_rate(Call* c, bint wide) noexcept nogil:
    # The codec changed in mid-call. The last milliseconds of the old one are given up, not mixed with the new.
    c.wide = wide
    c.plc = &c.wide_plc if wide else &c.narrow_plc
    plc_reset(c.plc)
    stretch_init(&c.sound, 16000 if wide else 8000)
    resampler_reset(&c.up)
    resampler_reset(&c.tap_down)
    if wide:
        g722_decoder_reset(c.g722_in)


cdef void play(Call* c, const JitterPacket* p) noexcept nogil:
    # One packet's sound joins what waits.
    cdef short* dst
    cdef int n = p.length
    if p.payload_type != PT_CN and c.wide != (p.payload_type == PT_G722):
        change_rate(c, p.payload_type == PT_G722)
    dst = stretch_end(&c.sound)
    if p.payload_type == PT_CN:
        # RFC 3389: level in -dBov. White noise of that power: uniform, so the amplitude is sqrt(3) of it.
        c.comfort = min(32767.0 * sqrt(3.0) * pow(10.0, -(p.payload[0] & 0x7f) / 20.0), COMFORT_MOST)
        n = LINE_FRAME * scale(c)
        comfort_noise(c, dst, n)
        c.sound_flags |= FRAME_COMFORT_NOISE
    else:
        c.comfort = -1.0
        if p.payload_type == PT_G722:
            n = g722_decode(c.g722_in, p.payload, dst, n)
        elif p.payload_type == PT_PCMA:
            alaw_decode(p.payload, dst, n)
        else:
            ulaw_decode(p.payload, dst, n)
    plc_good(c.plc, dst, n)
    c.heard = True
    c.sound.waiting += n
    c.sound_arrival = p.arrival


cdef void bridge(Call* c, const JitterPacket* later, short* dst, int n) noexcept nogil:
    # A gap whose other side is at hand. G.722 has a state that must not see a packet before its time.
    cdef short future[JITTER_PAYLOAD]
    if c.wide or later.payload_type == PT_G722 or later.payload_type == PT_CN:
        plc_conceal(c.plc, dst, n)
        return
    if later.payload_type == PT_PCMA:
        alaw_decode(later.payload, future, later.length)
    else:
        ulaw_decode(later.payload, future, later.length)
    plc_bridge(c.plc, dst, n, future, later.length, n + <int>(later.timestamp - c.jitter.next))


cdef void next_sound(Call* c, double due) noexcept nogil:
    # A packet's sound, or what stands in for it, joins what waits.
    cdef JitterPacket* p = NULL
    cdef int64_t before = c.jitter.next
    cdef int units = 0, samples, result
    cdef bint pausing = c.jitter.empty_run > AUDIBLE_GAP or not c.jitter.started
    cdef short* dst
    result = jitter_get(&c.jitter, due, PIECE_LATER if pausing else PIECE, &p, &units)
    if result == JITTER_NORMAL:
        # A packet of before what is due came late; one of after it follows a pause of the sender.
        if c.maybe_concealed and p.timestamp < before:
            c.concealed += c.maybe_concealed
        c.maybe_concealed = 0
        play(c, p)
        return
    samples = units * scale(c)
    dst = stretch_end(&c.sound)
    if result != JITTER_MISSING and c.comfort >= 0.0:
        comfort_noise(c, dst, samples)
        c.sound_flags |= FRAME_COMFORT_NOISE | FRAME_NO_PACKET
    elif c.heard and result == JITTER_MISSING:
        bridge(c, p, dst, samples)
        c.sound_flags |= FRAME_CONCEALED
        c.concealed += c.maybe_concealed + units
        c.maybe_concealed = 0
    elif c.heard:
        plc_conceal(c.plc, dst, samples)
        c.sound_flags |= FRAME_NO_PACKET
        if 0 < c.jitter.empty_run <= AUDIBLE_GAP:
            c.sound_flags |= FRAME_CONCEALED
            c.maybe_concealed += units
    else:
        memset(dst, 0, samples * sizeof(short))
        c.sound_flags |= FRAME_NO_PACKET
    c.sound.waiting += samples
    c.sound_arrival = due


cdef void note_background(Call* c, double power) noexcept nogil:
    c.frames_made += 1
    if c.frames_made % FLOOR_FRAMES == 0:
        c.quietest_before = c.quietest
        c.quietest = power
    elif power < c.quietest:
        c.quietest = power


cdef bint is_quiet(const Call* c) noexcept nogil:
    cdef double power = mean_square(stretch_end(&c.sound) - c.sound.waiting, min(c.sound.waiting, LINE_FRAME * scale(c)))
    return power < ALWAYS_QUIET or power < min(c.quietest, c.quietest_before) * QUIET_OVER_FLOOR


cdef inline void need(Call* c, double due) noexcept nogil:
    # What waits reaches to the next slot.
    while c.sound.waiting < EAR_GRID * scale(c):
        next_sound(c, due)


cdef void adapt_delay(Call* c, double due) noexcept nogil:
    # Time-scaling, as far as the delay asks for it and nobody hears it. In speech once in a frame's time.
    cdef int advice = advice_of(c, due), changed, most
    cdef bint quiet
    if advice == DELAY_KEEP or c.sound.waiting < LEAST_TO_SCALE * scale(c):
        return
    # The search costs as much as all the rest of a step: where nothing was alike enough the next try may wait.
    if advice == DELAY_SHRINK and c.unscaled < 0:
        return
    quiet = is_quiet(c)
    if not quiet and 0 <= c.unscaled < LINE_FRAME:
        return
    # Not much beyond the target, or the next step would undo it.
    most = <int>((fabs(delay_of(c, due) - c.jitter.delay.target) + OVER_TARGET_MS) * c.sound.rate / 1000)
    if advice == DELAY_GROW:
        changed = stretch_lengthen(&c.sound, most, ANY if quiet else SAME)
        count(&c.stats.lengthened, changed * (1 if c.wide else 2))
    else:
        changed = stretch_shorten(&c.sound, most, ANY if quiet else (SIMILAR if advice == DELAY_SHRINK_NOW else SAME))
        count(&c.stats.shortened, changed * (1 if c.wide else 2))
    if changed:
        c.sound_flags |= FRAME_STRETCHED
        c.unscaled = 0
    elif advice == DELAY_SHRINK:
        c.unscaled = -PATIENCE


cdef void frame_done(Core* core, Call* c) noexcept nogil:
    cdef double power = mean_square(c.frame.pcm, FRAME)
    c.frame.arrival = c.sound_arrival
    note_background(c, power)
    store_real(&c.stats.power_in, c.stats.power_in + METER * (power - c.stats.power_in))
    if ring_put(&c.frames, &c.frame, 1) == 1:
        core.frames_new = True
    else:
        count(&c.stats.frames_lost, 1)
    c.framed = 0
    c.frame.flags = 0


cdef void hand_over(Core* core, Call* c, const short* sound, int n) noexcept nogil:
    # n samples at the line's rate, up to a frame, join the frame that is being filled.
    cdef short pcm[FRAME]
    cdef int made = n * (1 if c.wide else 2), done = 0, taken
    if c.wide:
        memcpy(pcm, sound, n * sizeof(short))
    else:
        taken = max(resampler_process(&c.up, sound, n, pcm, FRAME), 0)
        memset(pcm + taken, 0, (made - taken) * sizeof(short))
    c.frame.flags |= c.sound_flags
    while done < made:
        taken = min(made - done, FRAME - c.framed)
        memcpy(c.frame.pcm + c.framed, pcm + done, taken * sizeof(short))
        c.framed += taken
        done += taken
        if c.framed == FRAME:
            frame_done(core, c)
    if c.framed:
        c.frame.flags |= c.sound_flags
    c.sound_flags = 0


cdef int since_tick(const Call* c) noexcept nogil:
    return (c.ear + EAR_SLOTS - c.slot) % EAR_SLOTS * EAR_GRID


cdef void record(Call* c, const short* sound, int n) noexcept nogil:
    cdef short line[LINE_FRAME]
    cdef int made
    if c.wide:
        made = max(resampler_process(&c.tap_down, sound, n, line, LINE_FRAME), 0)
        memset(line + made, 0, (n // 2 - made) * sizeof(short))
        sound, n = line, n // 2
    tap_heard(c.tap, sound, n, since_tick(c))


cdef int deliver(Core* core, Call* c, double due) noexcept nogil:
    cdef int n
    need(c, due)
    adapt_delay(c, due)
    need(c, due)
    n = min(c.sound.waiting, LINE_FRAME * scale(c))
    n -= n % (EAR_GRID * scale(c))
    if c.tap is not NULL:
        record(c, stretch_end(&c.sound) - c.sound.waiting, n)
    hand_over(core, c, stretch_end(&c.sound) - c.sound.waiting, n)
    stretch_played(&c.sound, n)
    c.unscaled += n // scale(c)
    return n // scale(c)


cdef void publish(Call* c, double due) noexcept nogil:
    store_relaxed(&c.stats.lost, c.lost_prior + source_lost(&c.rtp))
    store_relaxed(&c.stats.duplicated, c.duplicated_prior + c.rtp.duplicated)
    store_relaxed(&c.stats.reordered, c.reordered_prior + c.rtp.reordered)
    store_relaxed(&c.stats.concealed, (c.concealed + LINE_FRAME - 1) // LINE_FRAME)
    store_relaxed(&c.stats.late, c.jitter.late + c.jitter.overflowed)
    store_real(&c.stats.jitter_ms, c.rtp.jitter * 1000.0 / JITTER_CLOCK)
    store_real(&c.stats.delay_ms, delay_of(c, due))
    store_real(&c.stats.target_ms, c.jitter.delay.target)
