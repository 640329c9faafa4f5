"""The listener thread: audio of all calls in, and out when a voice starts, continues, fades and stops.

Each round waits for frames, takes what every call has, and asks the network once for all calls that have a
full window, so that the cost of a call among many is less than alone. A call whose line is quiet is not put
to the network at all.

Threads: ``attach`` and ``detach`` belong to the main thread and take a lock that the listener holds only
while it reads; everything else here happens in the listener thread.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from aiphone.errors import AiphoneError
from aiphone.events import (
    FRAME_SAMPLES,
    INTERNAL_RATE,
    Event,
    Pcm,
    Stage,
    ToneHeard,
    VoiceContinues,
    VoiceFaded,
    VoiceStarted,
    VoiceStopped,
    WorkFailed,
)
from aiphone.priority import show_name
from aiphone.speech.echo import EchoGate
from aiphone.speech.tones import ToneDetector
from aiphone.speech.voice_detector import (
    WINDOW_SAMPLES,
    DetectorSettings,
    Faded,
    Started,
    Stopped,
    Transition,
    VoiceDetector,
)

_log = logging.getLogger(__name__)

_WAIT = 0.1  # seconds; bounds how long stop() takes
_MOST_FRAMES = 64  # read from a call in one round: more than a second, to catch up after a stall
_SPACING = 0.008  # seconds between rounds at least, so that calls out of step share a round
_RESTING = 0.036  # the same while nobody speaks, nor we: two frames a round, for half the wake-ups
_CALM = 0.096  # the same when nobody has for a while: nothing but the begin of a turn can come, and that can wait
_FULL_SCALE = 32768.0
_REPORT = round(0.6 * INTERNAL_RATE)  # samples of voice between two VoiceContinues
_MOST_SPEAKING = 3  # with more callers speaking, none is reported before the pause: the machine has enough to do

Float32 = npt.NDArray[np.float32]


class Frames(Protocol):
    """Consecutive 20 ms frames of a call, as the media engine hands them over."""

    @property
    def pcm(self) -> Pcm:
        """int16 [n, 320] at 16 kHz."""
        ...

    @property
    def arrival(self) -> npt.NDArray[np.float64]:
        """[n] monotonic seconds at which the packet of each frame arrived; any value without a packet."""
        ...

    @property
    def flags(self) -> npt.NDArray[np.uint8]:
        """[n] 0 for a frame decoded from a packet; otherwise there was none (lost, concealed, not sent)."""
        ...


class MediaCall(Protocol):
    """One call of the media engine, read by the listener only."""

    def read(self, max_frames: int, /) -> Frames:
        """Up to ``max_frames`` frames that have come since the last read; never waits."""
        ...

    @property
    def played(self) -> int:
        """Queued samples that have left the socket since the call began."""
        ...


class MediaEngine(Protocol):
    """The part of the media engine that says when there is something to read."""

    def wait_frames(self, timeout: float, /) -> object:
        """Return when a call has new frames, after ``timeout`` seconds at the latest. Releases the GIL."""
        ...


class Vad(Protocol):
    """Voice activity detection over a batch of windows, see ``SileroVad``."""

    def new_state(self) -> Any:
        """The network's memory of a call that begins."""
        ...

    def probabilities(self, windows: Float32, states: Sequence[Any], /) -> Float32:
        """float32 [B, 512] and B states to float32 [B]."""
        ...


class _Line:
    """One call: its audio, its detector and the network's memory of it. Listener thread only."""

    def __init__(
        self,
        call_id: str,
        call: MediaCall,
        state: Any,
        settings: DetectorSettings | None,
        echo: EchoGate | None,
        tones: ToneDetector | None,
    ) -> None:
        self.call_id = call_id
        self.call = call
        self.state = state
        self.detector = VoiceDetector(settings)
        self.echo = echo
        self.tones = tones
        self.heard_tones: list[ToneHeard] = []
        self.failed = False
        self.arrival = 0.0  # of the newest frame
        self.reported = 0  # end of the audio in the last VoiceContinues
        self._blocks: deque[Pcm] = deque()
        self._first = 0  # sample number of the first block's first sample
        self._pending = np.empty(0, np.int16)  # not yet in a window

    def take(self, frames: Frames) -> None:
        """Add frames that were read."""
        pcm = frames.pcm
        if len(pcm) == 0:
            return
        samples = pcm.astype(np.float32)
        power: Float32 = np.einsum("ij,ij->i", samples, samples) / (FRAME_SAMPLES * _FULL_SCALE**2)
        levels = 10.0 * np.log10(power + 1e-12)
        masks = [False] * len(pcm)
        if self.echo is not None:
            masks = self.echo.mask(levels.tolist(), self.call.played, (frames.flags == 0).tolist())
            # Somebody far from the telephone may be heard between our words; nobody interrupts from there.
            self.detector.near_only = self.sounding
        heard = zip(levels.tolist(), frames.arrival.tolist(), frames.flags.tolist(), masks, strict=True)
        for level, arrival, flag, masked in heard:
            self.detector.add_frame(level, arrival, flag == 0, masked=masked)
        if self.tones is not None:
            for frame, at in zip(pcm, frames.arrival.tolist(), strict=True):
                tone = self.tones.add(frame)
                if tone is not None:
                    self.heard_tones.append(ToneHeard(self.call_id, at, tone.frequency, tone.seconds))
        self.arrival = float(frames.arrival[-1])
        block = pcm.reshape(-1).copy()
        self._blocks.append(block)
        self._pending = np.concatenate((self._pending, block))

    @property
    def sounding(self) -> bool:
        """Whether we speak, or may still be heard."""
        return self.echo is not None and self.echo.sounding

    @property
    def spacing(self) -> float:
        """Seconds that what comes in may wait: little while somebody speaks, or could interrupt us."""
        if not self.detector.resting or self.sounding:
            return _SPACING
        return _CALM if self.detector.calm else _RESTING

    def has_window(self) -> bool:
        return len(self._pending) >= WINDOW_SAMPLES

    def next_window(self) -> Pcm:
        window, self._pending = self._pending[:WINDOW_SAMPLES], self._pending[WINDOW_SAMPLES:]
        return window

    def cut(self, first: int, end: int) -> Pcm:
        """Samples ``first`` to ``end`` of the call."""
        whole = np.concatenate(self._blocks)
        return whole[max(0, first - self._first) : end - self._first].copy()

    @property
    def end(self) -> int:
        """Number of the sample after the newest."""
        return self._first + sum(len(block) for block in self._blocks)

    def forget(self) -> None:
        """Drop audio that no stretch can need."""
        needed = self.detector.needed_from()
        while self._blocks and self._first + len(self._blocks[0]) <= needed:
            self._first += len(self._blocks.popleft())


class Listener:
    """Voice activity of all calls, in a thread of its own.

    Posts ``VoiceStarted``, ``VoiceContinues`` about every 0.6 s of a voice, ``VoiceFaded`` where it may have paused,
    and ``VoiceStopped``; ``ToneHeard`` for calls that ask for it. When the network fails, every attached call gets one
    ``WorkFailed`` and the thread goes on.
    """

    def __init__(self, engine: MediaEngine, vad: Vad, post: Callable[[Event], None]) -> None:
        self._engine = engine
        self._vad = vad
        self._post = post
        self._lines: dict[str, _Line] = {}
        self._lock = threading.Lock()  # held while reading calls, and to change _lines
        self._work = threading.Event()  # set while there is a call to listen to, or an end to come
        self._end = threading.Event()
        self._speaking = 0  # calls in which a voice was heard in the last round; listener thread only
        self._spacing = _SPACING  # until the next round; listener thread only
        self._thread = threading.Thread(target=self._run, name="listener", daemon=True)

    def start(self) -> None:
        """Begin to listen. Main thread only."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread and wait for it, a tenth of a second or so. Main thread only."""
        self._end.set()
        self._work.set()
        if self._thread.ident is not None:
            self._thread.join()

    def attach(
        self,
        call_id: str,
        call: MediaCall,
        settings: DetectorSettings | None = None,
        echo: EchoGate | None = None,
        *,
        tones: bool = False,
    ) -> None:
        """Listen to a call from now on; ``echo`` knows what may come back of what we play.

        With ``tones`` for the beeps of answering machines too. Main thread only.
        """
        line = _Line(call_id, call, self._vad.new_state(), settings, echo, ToneDetector() if tones else None)
        with self._lock:
            self._lines[call_id] = line
            self._work.set()

    def detach(self, call_id: str) -> None:
        """Stop listening to a call; its ``read`` is not called after this returns. Main thread only."""
        with self._lock:
            self._lines.pop(call_id, None)
            if not self._lines and not self._end.is_set():
                self._work.clear()

    @property
    def calls(self) -> int:
        """How many calls are attached. Any thread."""
        return len(self._lines)

    def _run(self) -> None:
        show_name()
        while True:
            self._work.wait()
            if self._end.is_set():
                return
            try:
                self._engine.wait_frames(_WAIT)
                self._round()
            except Exception as error:  # noqa: BLE001 - top of the thread: the calls are told, the others heard on
                _log.exception("listening failed")
                self._report(error)
            self._end.wait(self._spacing)

    def _report(self, error: Exception) -> None:
        reason = f"voice activity detection failed: {error}"
        with self._lock:
            lines = [line for line in self._lines.values() if not line.failed]
        for line in lines:
            line.failed = True
            self._post(WorkFailed(line.call_id, 0, Stage.TRANSCRIBE, reason))

    def _round(self) -> None:
        with self._lock:
            lines = list(self._lines.values())
            for line in lines:
                try:
                    line.take(line.call.read(_MOST_FRAMES))
                except AiphoneError as error:
                    _log.warning("call %s cannot be listened to any more: %s", line.call_id, error)
                    del self._lines[line.call_id]
                tones, line.heard_tones = line.heard_tones, []
                for tone in tones:
                    self._post(tone)
        ready = [line for line in lines if line.has_window()]
        while ready:
            self._windows(ready)
            ready = [line for line in ready if line.has_window()]
        self._spacing = min((line.spacing for line in lines), default=_CALM)
        speaking = [line for line in lines if line.detector.active]
        self._speaking = len(speaking)
        if self._speaking <= _MOST_SPEAKING:
            self._report_voices(speaking)

    def _report_voices(self, speaking: list[_Line]) -> None:
        """What callers who speak for some time have said so far."""
        for line in speaking:
            first, end = line.detector.stretch, line.end
            if end - max(first, line.reported) >= _REPORT:
                line.reported = end
                self._post(VoiceContinues(line.call_id, line.arrival, line.cut(first, end)))

    def _windows(self, lines: list[_Line]) -> None:
        """One window of each of ``lines`` through the network (where it matters) and the detector."""
        asked: list[_Line] = []
        windows: list[Pcm] = []
        probabilities: dict[str, float] = {}
        for line in lines:
            window = line.next_window()
            # While we speak the network hears the silence too: the begin of a word means more to it after some.
            if line.detector.quiet() and not line.sounding:
                line.state.reset()
                probabilities[line.call_id] = 0.0
            else:
                asked.append(line)
                windows.append(window)
        answers = [0.0] * len(asked)
        try:
            if asked:
                batch = np.stack(windows).astype(np.float32) / _FULL_SCALE
                answers = self._vad.probabilities(batch, [line.state for line in asked]).tolist()
        finally:
            # Also when the network failed: the windows are taken, and detectors must keep step with the audio.
            probabilities.update((line.call_id, answer) for line, answer in zip(asked, answers, strict=True))
            for line in lines:
                for transition in line.detector.add_window(probabilities[line.call_id]):
                    self._tell(line, transition)
                line.forget()

    def _tell(self, line: _Line, transition: Transition) -> None:
        match transition:
            case Started(at):
                self._post(VoiceStarted(line.call_id, at))
            case Faded(at, first, end):
                if self._speaking <= _MOST_SPEAKING:
                    self._post(VoiceFaded(line.call_id, at, line.cut(first, end)))
            case Stopped(at, first, end, tail):
                self._post(VoiceStopped(line.call_id, at, line.cut(first, end), tail / INTERNAL_RATE))
