"""What the stages tell each other: immutable values, one class for each fact.

Events flow from the worker threads to the main thread (see ``mailbox``); none of them carries a live native
object. Two numbers address them:

``call_id``
    names a call for its whole life; unique within the process (``"c1"``, ``"c2"``, ...).
``generation``
    numbers the attempts at an answer within a call, from 1. A barge-in, or a caller who goes on speaking,
    raises it. Work of an older generation is dropped by comparison, wherever it turns up.

Times named ``at`` are seconds on the monotonic clock (see ``clock``). PCM is ``int16`` mono at 16 kHz
(``INTERNAL_RATE``) unless its name says otherwise: every stage between the media thread and the models speaks
this one format, and only the media thread knows what the line uses.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from aiphone.spoken_word import SpokenWord

INTERNAL_RATE = 16_000
"""Sample rate (Hz) of all PCM outside the media thread."""

FRAME_SECONDS = 0.020
"""Length of one media frame."""

FRAME_SAMPLES = 320
"""Samples in one media frame at ``INTERNAL_RATE``."""

Pcm = npt.NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Event:
    """Base: something that happened in a call."""

    call_id: str


# --------------------------------------------------------------------------- SIP (posted by the SIP thread)


class LineState(enum.Enum):
    """State of a SIP line, in the words the web page uses."""

    STOPPED = "stopped"
    REGISTERING = "registering"
    REGISTERED = "registered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class LineChanged:
    """A line's registration changed. ``reason`` is in plain words, empty when all is well."""

    line_id: str
    state: LineState
    reason: str = ""


@dataclass(frozen=True, slots=True)
class IncomingCall(Event):
    """An INVITE that the SIP thread let through; it waits for ``answer`` or ``reject``."""

    line_id: str
    caller: str
    """URI of the caller, as in From (RFC 3261 section 8.1.1.3), without parameters."""
    caller_name: str
    called: str
    """Request-URI of the INVITE."""
    sip_call_id: str
    """The Call-ID header, to find the call in a capture."""
    at: float
    """When the INVITE arrived."""
    persona: str = ""
    """Name of the persona that the called number asks for; empty: the line's."""


@dataclass(frozen=True, slots=True)
class OutgoingCall(Event):
    """A call of ours is being placed; what becomes of it follows, and in the end exactly one ``CallEnded``."""

    line_id: str
    """The line it is placed from, ``"direct"`` for none."""
    called: str
    """URI of whom we call."""
    at: float


@dataclass(frozen=True, slots=True)
class CallProgress(Event):
    """The other side's provisional answer to a call of ours (RFC 3261 section 13.2.2.1); 180 is ringing."""

    code: int
    reason: str
    """The phrase of the answer, as the other side wrote it."""
    at: float


@dataclass(frozen=True, slots=True)
class RtpStream:
    """What offer and answer settled on (RFC 3264), as the media engine needs it."""

    remote_host: str
    remote_port: int
    payload_type: int
    """RTP payload type we send; 0 is PCMU, 8 is PCMA, 9 is G722 (RFC 3551)."""
    codec: str
    """``"PCMU"``, ``"PCMA"`` or, where the engine was built with it, ``"G722"``."""
    dtmf_payload_type: int | None
    """telephone-event (RFC 4733), or None when the other side has none."""
    ptime_ms: int
    send: bool
    receive: bool
    remote_rtcp_port: int | None = None
    rtcp_mux: bool = False
    srtp_send: bytes | None = field(default=None, repr=False)
    """Master key and salt (30 bytes) that we encrypt with, or None for plain RTP (RFC 3711, RFC 4568)."""
    srtp_receive: bytes | None = field(default=None, repr=False)
    """The same of what the other side sends; given together with ``srtp_send``."""
    srtp_suite: str = ""
    """``"AES_CM_128_HMAC_SHA1_80"`` or ``"AES_CM_128_HMAC_SHA1_32"`` (RFC 4568 section 6.2)."""
    comfort_noise: bool = False
    """Both sides have payload type 13 (RFC 3389): while nothing is queued, its packets take the place of the engine's
    noise, if that has a level. Of G.711 only."""


@dataclass(frozen=True, slots=True)
class RtpSockets:
    """An even/odd pair of bound UDP sockets (RFC 3550 section 11); whoever holds this value owns the descriptors."""

    rtp_fd: int
    rtcp_fd: int
    port: int
    """Local RTP port; RTCP is ``port + 1``."""


@dataclass(frozen=True, slots=True)
class MediaNegotiated(Event):
    """Offer and answer are complete, the first time or after a re-INVITE."""

    stream: RtpStream
    sockets: RtpSockets | None
    """The descriptors, handed over with the first negotiation; None when it is an update."""


@dataclass(frozen=True, slots=True)
class CallConfirmed(Event):
    """The ACK arrived (incoming) or we sent it (outgoing): both sides may speak."""

    at: float


@dataclass(frozen=True, slots=True)
class TransferProgress(Event):
    """How a transfer that we asked for is going (RFC 3515, RFC 5589); after a final 2xx the call is ended."""

    code: int
    """Status of the other side's new call: 100 accepted, 180 ringing, 200 done, 300 to 699 failed."""
    reason: str
    final: bool
    """Nothing more follows; with a failure the call goes on as before."""
    at: float


@dataclass(frozen=True, slots=True)
class CallMoved(Event):
    """The call goes on with somebody else: the other side transferred us, or its place was taken (RFC 3891).

    The call's media follow with ``MediaNegotiated``, an update.
    """

    remote: str
    """URI of the new other side, as far as it is known."""
    sip_call_id: str
    """The Call-ID header of the new dialog."""
    at: float


@dataclass(frozen=True, slots=True)
class CallEnded(Event):
    """The SIP side of the call is gone; nothing more will come from it. Posted exactly once a call."""

    code: int
    """Last SIP status, 200 for a normal BYE."""
    reason: str
    at: float


# ------------------------------------------------------------------- media (drained from the engine's ring)


@dataclass(frozen=True, slots=True)
class PlayoutStarted(Event):
    """The first audible frame (above -45 dBFS) of what was queued has left the socket."""

    position: int
    """Index of that frame's first sample since the call began, at ``INTERNAL_RATE``."""
    at: float


@dataclass(frozen=True, slots=True)
class PlayoutDrained(Event):
    """The playout ring ran empty: the last queued sample has left the socket."""

    position: int
    at: float


@dataclass(frozen=True, slots=True)
class DigitReceived(Event):
    """A key (RFC 4733), once for each press."""

    digit: str
    at: float


@dataclass(frozen=True, slots=True)
class MediaTimedOut(Event):
    """No RTP for the configured time."""

    silent_for: float


# --------------------------------------------------------------------------- listener thread


@dataclass(frozen=True, slots=True)
class VoiceStarted(Event):
    """The caller began to speak; posted once the detector is sure."""

    at: float
    """Arrival of the first voiced frame."""


@dataclass(frozen=True, slots=True)
class VoiceStopped(Event):
    """The caller made a pause. Whether the turn is over is for the conversation to decide."""

    at: float
    """Arrival of the RTP packet that carried the last voiced 20 ms: t0 of the latency definition."""
    pcm: Pcm = field(repr=False, compare=False)
    """The voiced stretch since the last ``VoiceStarted``, with pre-roll and a short tail; 16 kHz."""
    tail: float = 0.0
    """Seconds of ``pcm`` after the last voiced 20 ms."""

    @property
    def begins(self) -> float:
        """When the first sample of ``pcm`` arrived."""
        return self.at + self.tail - len(self.pcm) / INTERNAL_RATE


@dataclass(frozen=True, slots=True)
class ToneHeard(Event):
    """A single tone, as answering machines have before they record, has ended in silence."""

    at: float
    """Arrival of the frame that made it certain."""
    frequency: float
    """Hz."""
    seconds: float
    """How long it was."""


@dataclass(frozen=True, slots=True)
class VoiceContinues(Event):
    """The caller is still speaking; posted again and again while a voice lasts, for partial transcripts."""

    at: float
    """Arrival of the newest frame in ``pcm``."""
    pcm: Pcm = field(repr=False, compare=False)
    """The voiced stretch so far, with pre-roll; 16 kHz."""


@dataclass(frozen=True, slots=True)
class VoiceFaded(Event):
    """The caller may be making a pause; ``VoiceStopped`` with the same ``at`` follows when it is one.

    Most often it is a closure within a word. It is early, so that a transcript can be on its way by then.
    """

    at: float
    """Arrival of the last voiced frame so far."""
    pcm: Pcm = field(repr=False, compare=False)
    """The voiced stretch so far, with pre-roll; 16 kHz."""


# --------------------------------------------------------------------------- turn end


@dataclass(frozen=True, slots=True)
class TurnEndEstimated(Event):
    """How much the caller's voice, at the pause that began this generation, sounds like the end of a turn."""

    generation: int
    probability: float
    """0 is "goes on for certain", 1 "has finished"."""
    seconds: float
    """From the request to the answer, queueing included."""


@dataclass(frozen=True, slots=True)
class TurnEndByWords(Event):
    """How probable the language model finds it that the caller's words end where they do.

    Posted at most once for a speculative request, and not at all by models that cannot tell.
    """

    generation: int
    probability: float
    """Of the end of the turn or of a sentence after the last word, 0 to 1."""


# --------------------------------------------------------------------------- speech to text


@dataclass(frozen=True, slots=True)
class Transcribed(Event):
    """The text of the caller's turn so far; empty when there was nothing to understand."""

    generation: int
    text: str
    seconds: float
    """Time the transcription took, without queueing."""
    queued: float
    """Time it waited for a worker."""
    retried: bool = False
    """True when the guard decoded a second time with more context."""
    words: tuple[SpokenWord, ...] = ()
    """The words one by one."""
    language: str = ""
    """ISO 639-1 code of what was spoken, as set or detected."""
    doubted: str = ""
    """What was made of the newest part and left out of ``text``, because it may be noise."""


@dataclass(frozen=True, slots=True)
class PartialTranscript(Event):
    """What the caller seems to have said so far, while still speaking. Posted for some of the requests only."""

    generation: int
    """The generation that was current when it was asked for."""
    text: str
    """Everything, the uncertain end included."""
    stable: str
    """The beginning of ``text`` that successive partials agree on; whole words."""
    seconds: float
    """Time the transcription took, without queueing."""


# --------------------------------------------------------------------------- language model


@dataclass(frozen=True, slots=True)
class ReplyText(Event):
    """The next piece of the answer."""

    generation: int
    text: str
    at: float


@dataclass(frozen=True, slots=True)
class ReplyEnded(Event):
    """The answer is complete. Posted exactly once for each accepted request that was not cancelled."""

    generation: int
    reason: str
    """``"stop"``, ``"length"`` or ``"overflow"``."""
    prompt_tokens: int
    """Tokens in the prompt."""
    cached_tokens: int
    """How many of those were in the sequence already and did not have to be read."""
    reply_tokens: int
    seconds_to_first: float
    """From the request to the first token, queueing included."""
    seconds: float


# --------------------------------------------------------------------------- speech


@dataclass(frozen=True, slots=True)
class SpeechChunk(Event):
    """Audio of a phrase. A phrase comes as one or more chunks, in order; the last has ``last`` set."""

    generation: int
    phrase: int
    """Number of the phrase within the generation, from 0."""
    pcm: Pcm = field(repr=False, compare=False)
    last: bool
    seconds: float
    """From the request to this chunk, queueing included."""


# --------------------------------------------------------------------------- calls that we place


@dataclass(frozen=True, slots=True)
class MachineAnswered(Event):
    """A call of ours was answered by a machine, which records now."""

    message: str
    """What to leave on it."""


# --------------------------------------------------------------------------- failures and timers


class Urgency(enum.Enum):
    """How much a transcript is worth, and with that the time that is spent on it."""

    FINAL = "final"
    """Of what was said up to a pause. It comes, however long it takes."""
    EARLY = "early"
    """Of what was said up to a pause that is not certain. It is dropped when no core is free for it, or when
    Whisper has its doubts."""
    ONCE = "once"
    """Of a short voice over the answer, which waits for it. Decoded once; what Whisper doubts counts as no words."""
    PARTIAL = "partial"
    """Of what is being said. It comes when there is time, or not at all."""


class Stage(enum.Enum):
    """Where a piece of work failed."""

    TRANSCRIBE = "transcribe"
    GENERATE = "generate"
    SPEAK = "speak"


@dataclass(frozen=True, slots=True)
class WorkFailed(Event):
    """A stage gave up on a generation. The conversation says something sensible instead."""

    generation: int
    stage: Stage
    reason: str
    """One sentence for the log and the call's record."""


@dataclass(frozen=True, slots=True)
class TimeUp(Event):
    """The call has lasted as long as its persona allows."""


@dataclass(frozen=True, slots=True)
class TimerFired(Event):
    """A timer that the conversation set."""

    name: str
    serial: int
    """The number it was set with; a timer set again has a new one, and the old is ignored."""
