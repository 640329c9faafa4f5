"""What the conductor needs from the other stages, as structural types.

The concrete classes live in ``media``, ``speech``, ``inference``, ``sip`` and ``store``; the entry point hands
them in. Unit tests hand in scripted ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from aiphone.events import Event, Pcm, RtpSockets, RtpStream, Urgency
from aiphone.persona import Message, Persona
from aiphone.speech.echo import EchoGate


class MediaCallPort(Protocol):
    """One call in the media engine."""

    def write(self, pcm: Pcm) -> int:
        """Queue audio for playing; the number of samples taken. Main thread only."""
        ...

    def flush(self) -> None:
        """Drop what is queued, with a short fade. Main thread only."""
        ...

    def set_gain(self, db: float) -> None:
        """Level of the playout. Main thread only."""
        ...

    def send_digits(self, digits: str) -> None:
        """Send keys as telephone-event (RFC 4733). Main thread only. Raises ``MediaError`` without it."""
        ...

    def update(self, stream: RtpStream) -> None:
        """Offer and answer changed. Main thread only."""
        ...

    def record(self, path: Path) -> Any:
        """Record into a new WAV file. Main thread only. Raises ``StorageError`` or ``MediaError``."""
        ...

    def stop_recording(self) -> None:
        """End the recording. Main thread only."""
        ...

    def stats(self) -> Any:
        """A frozen dataclass of counters. Any thread."""
        ...

    def close(self) -> None:
        """Leave the engine; closes the sockets. Main thread only."""
        ...

    @property
    def played(self) -> int:
        """Queued samples that have left the socket since the call began."""
        ...

    @property
    def queued(self) -> int:
        """Samples that wait to be sent."""
        ...


class MediaEnginePort(Protocol):
    """The media engine."""

    def add(self, call_id: str, sockets: RtpSockets, stream: RtpStream) -> MediaCallPort:
        """Put a call on the media thread. Main thread only."""
        ...


class ListenerPort(Protocol):
    """Voice activity detection."""

    def attach(self, call_id: str, call: Any, echo: EchoGate, *, tones: bool = False) -> None:
        """Listen to a call, with ``tones`` for beeps too; ``echo`` knows what it may hear of us."""
        ...

    def detach(self, call_id: str) -> None:
        """Stop listening to it; returns when its audio is not read any more."""
        ...


class RecogniserPort(Protocol):
    """Speech to text."""

    def begin(self, call_id: str, *, language: str = "", prompt: str = "") -> None:
        """A call begins: what is known before its first words."""
        ...

    def submit(self, call_id: str, generation: int, pcm: Pcm, urgency: Urgency = Urgency.FINAL) -> None:
        """Transcribe; answers with ``Transcribed`` or ``WorkFailed``, ``PartialTranscript`` when it is a partial one.
        An early one may be dropped; see ``insist``.
        """
        ...

    def insist(self, call_id: str, generation: int, pcm: Pcm) -> None:
        """What was submitted early is needed: transcribe, unless that is done, under way or about to be."""
        ...

    def cancel(self, call_id: str, generation: int) -> None:
        """Give it up."""
        ...

    def release(self, call_id: str) -> None:
        """The call is over."""
        ...


class TurnEndPort(Protocol):
    """Whether the caller's voice sounds like the end of a turn."""

    def submit(self, call_id: str, generation: int, pcm: Pcm) -> None:
        """Estimate; answers with ``TurnEndEstimated``, or not at all."""
        ...

    def cancel(self, call_id: str, generation: int) -> None:
        """Give it up."""
        ...

    def release(self, call_id: str) -> None:
        """The call is over."""
        ...


class LanguageModelPort(Protocol):
    """The language model."""

    def open(self, call_id: str, persona: Persona) -> None:
        """A call begins."""
        ...

    def generate(
        self,
        call_id: str,
        generation: int,
        messages: Sequence[Message],
        *,
        speculative: bool = False,
        grammar: str | None = None,
    ) -> None:
        """Write the next message; answers with ``ReplyText``, then ``ReplyEnded`` or ``WorkFailed``.

        For a speculative request ``TurnEndByWords`` may come before.
        ``grammar`` is GBNF that the message must fit.
        """
        ...

    def read_ahead(self, call_id: str, generation: int, messages: Sequence[Message]) -> None:
        """Read a conversation whose last message goes on, when there is time; nothing is answered."""
        ...

    def promote(self, call_id: str, generation: int) -> None:
        """The speculative request is wanted."""
        ...

    def cancel(self, call_id: str, generation: int) -> None:
        """Give it up."""
        ...

    def close_call(self, call_id: str) -> None:
        """The call is over."""
        ...


class SynthesiserPort(Protocol):
    """Speech."""

    def submit(self, call_id: str, generation: int, phrase: int, text: str, voice: str = "") -> None:
        """Synthesise a phrase; answers with ``SpeechChunk`` events or ``WorkFailed``."""
        ...

    def cancel(self, call_id: str, generation: int) -> None:
        """Give it up."""
        ...

    def release(self, call_id: str) -> None:
        """The call is over."""
        ...


class SipPort(Protocol):
    """The SIP agent."""

    def answer(self, call_id: str, code: int = 200) -> None:
        """Answer an incoming call."""
        ...

    def reject(self, call_id: str, code: int, reason: str = "", retry_after: int | None = None) -> None:
        """Refuse an incoming call."""
        ...

    def hangup(self, call_id: str, code: int = 0, reason: str = "") -> None:
        """End a call."""
        ...

    def transfer(self, call_id: str, uri: str) -> None:
        """Send the other side on; ``TransferProgress`` follows. Raises ``SipError`` for an address that is none."""
        ...

    def hold(self, call_id: str) -> None:
        """Put the other side on hold."""
        ...

    def resume(self, call_id: str) -> None:
        """Take it back."""
        ...

    def send_info_digits(self, call_id: str, digits: str) -> None:
        """Press keys by SIP INFO."""
        ...


class TimerHandle(Protocol):
    """A timer that was started."""

    def cancel(self) -> None:
        """It will not fire."""
        ...


class Timers(Protocol):
    """Timers on the main thread."""

    def call_at(self, when: float, callback: Callable[[], None]) -> TimerHandle:
        """Run ``callback`` at the time ``when`` of the monotonic clock."""
        ...


class MemoryPort(Protocol):
    """What is kept from one call of a caller to the next (``--session``)."""

    def recall(self, call_id: str, key: str) -> tuple[Message, ...]:
        """The history under this key, empty when there is none; prepares the model's state for the call."""
        ...

    def keep(self, call_id: str, key: str, history: Sequence[Message]) -> None:
        """Save the history and the model's state."""
        ...


Post = Callable[[Event], None]
