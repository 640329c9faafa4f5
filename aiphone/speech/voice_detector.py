"""When a caller speaks and when not: the decision, without audio, network or clock.

Two streams come in. Every 20 ms frame brings its level and the arrival time of its packet; every 32 ms window
(512 samples, so windows and frames drift against each other) brings Silero's probability of speech. Out come
``Started`` and ``Stopped``, addressed in samples since the call began.

Rules:

1. A voice starts after ``min_voice`` seconds of windows at or above ``start`` that are louder than the line.
   It stops when a window is below ``stop`` and the last voiced frame is ``min_silence`` seconds back.
2. The network's probability lags the sound by 50 to 100 ms at the end of speech, and stays high through
   the closures of words (80 ms at -75 dBFS is common in the middle of "capital"). So the network decides *that* speech
   has ended, and the frames' levels decide *when*: the last frame above the threshold that the line's noise and
   this talker's own level give.
3. A frame without a packet (lost and concealed, or never sent) is never voiced: nothing arrived in it.
4. The line's noise is followed while nobody speaks, quickly down and slowly up.
5. A stretch longer than ``max_stretch`` is cut at its quietest recent frame, so that audio never piles up.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from aiphone.errors import ConfigError
from aiphone.events import FRAME_SAMPLES, FRAME_SECONDS, INTERNAL_RATE

WINDOW_SAMPLES = 512
SILENCE_DBFS = -75.0
"""Levels are clipped to this from below: digital silence and the idle noise of A-law are the same to us."""

_REMEMBERED = 64  # frames; more than any look back
_LOOK_BACK = 16  # frames the end of a voice may lie before the last voiced window
_LOOK_AHEAD = 8  # frames the begin of a voice may lie before its first voiced window
_FALL = 0.3  # share of the way down that the noise floor goes in a frame
_RISE = 0.12  # dB a frame that it goes up at most: 6 dB a second
_ABOVE_NOISE = 6.0  # dB over the floor from which a frame is voiced
_BELOW_PEAK = 35.0  # dB under the talker's loudest frame down to which a frame is voiced
_DOUBT = 0.08  # seconds of silence more, while the network still hears a voice: a closure inside a word is shorter
_FADED = 0.05  # seconds of silence from which a voice may have ended
_LEAST_FADING = 0.2  # seconds of voice, before its end is worth a guess
_HANGOVER = 10  # windows after the last sign of a voice in which the network is still asked
_FAR = 20.0  # dB under what this call's talker usually reaches: somebody else, far away
_CALM = 60  # windows after which nobody's turn can be going on: two seconds


@dataclass(frozen=True, slots=True)
class DetectorSettings:
    """Thresholds; probabilities are 0 to 1, times in seconds, levels in dBFS."""

    start: float = 0.5
    stop: float = 0.35
    min_voice: float = 0.064
    min_silence: float = 0.100
    pre_roll: float = 0.240
    """Audio kept from before the first voiced frame, for the soft begin of a syllable."""
    tail: float = 0.120
    """Audio kept after the last voiced frame; never more than has arrived when the stop is decided."""
    max_stretch: float = 25.0
    min_level: float = -58.0
    """Quieter than this starts no voice, whatever the network says."""

    def __post_init__(self) -> None:
        if not 0.0 < self.stop <= self.start <= 1.0:
            raise ConfigError(
                f"the voice threshold must lie between 0 and 1 with stop ({self.stop:g}) not above start "
                f"({self.start:g}); set -vth to a value such as 0.5"
            )

    @classmethod
    def from_threshold(cls, threshold: float) -> DetectorSettings:
        """The settings for ``-vth``: voice starts at ``threshold`` and stops 0.15 below it."""
        return cls(start=threshold, stop=max(0.01, threshold - 0.15))


@dataclass(frozen=True, slots=True)
class Started:
    """A voice began; ``at`` is the arrival of its first voiced frame."""

    at: float


@dataclass(frozen=True, slots=True)
class Stopped:
    """A voice paused; ``at`` is the arrival of its last voiced frame. Audio is samples ``first`` to ``end``."""

    at: float
    first: int
    end: int
    tail: int = 0
    """Samples of the audio that came after the last voiced frame."""


@dataclass(frozen=True, slots=True)
class Faded:
    """A voice may have paused: the last voiced frame arrived ``at``. Audio is samples ``first`` to ``end``."""

    at: float
    first: int
    end: int


Transition = Started | Faded | Stopped


@dataclass(slots=True)
class _Frame:
    level: float
    arrival: float
    received: bool


class VoiceDetector:
    """The detector of one call. One thread at a time."""

    def __init__(self, settings: DetectorSettings | None = None) -> None:
        self._settings = settings or DetectorSettings()
        self.near_only = False
        """Whether a voice begins only if it is about as loud as this call's talker; what led up to it may be weaker."""
        # Input: the newest frames; the last of the deque has the number ``_frame_count - 1``.
        self._frames: deque[_Frame] = deque(maxlen=_REMEMBERED)
        self._frame_count = 0
        self._window_count = 0
        self._arrival = 0.0
        # State.
        self._floor = -60.0
        self._active = False
        self._voiced_windows = 0  # in a row, before the start is sure
        self._first_voiced = 0  # frame
        self._last_window = 0  # last window at or above the stop threshold
        self._peak = SILENCE_DBFS
        self._usual = SILENCE_DBFS  # the loudest frame of a voice, over the voices so far
        self._faded = -1  # last voiced frame of the fade that was told
        self._stretch = 0  # first sample of the stretch
        self._given = 0  # samples before this one belong to an earlier stretch
        self._idle_windows = _CALM
        self._ringing = 0  # windows in which the network may still be hearing the voice that stopped

    @property
    def active(self) -> bool:
        """True between ``Started`` and ``Stopped``."""
        return self._active

    @property
    def stretch(self) -> int:
        """First sample of the present voice's audio, while ``active``."""
        return self._stretch

    @property
    def resting(self) -> bool:
        """True when there has been no sign of a voice for a third of a second."""
        return not self._active and not self._voiced_windows and self._idle_windows >= _HANGOVER

    @property
    def calm(self) -> bool:
        """True when there has been none for two seconds: whoever speaks next begins something new."""
        return self.resting and self._idle_windows >= _CALM

    @property
    def floor(self) -> float:
        """Level of the line's noise in dBFS, as far as it is known."""
        return self._floor

    def add_frame(self, level: float, arrival: float, received: bool = True, *, masked: bool = False) -> None:
        """The next 20 ms: RMS level in dBFS, arrival of its packet, and whether there was one.

        A ``masked`` frame is one that may be our own echo: it counts as silence, and says nothing about the line.
        """
        level = SILENCE_DBFS if masked else max(level, SILENCE_DBFS)
        if received:
            self._arrival = arrival
        self._frames.append(_Frame(level, self._arrival, received))
        self._frame_count += 1
        if not received or masked:
            return
        if self._active or self._voiced_windows:
            self._peak = max(self._peak, level)
        if level < self._floor:
            self._floor += _FALL * (level - self._floor)
        elif not (self._active or self._voiced_windows):
            self._floor += min(level - self._floor, _RISE)

    def quiet(self) -> bool:
        """True when the next window cannot matter, so that the network need not be asked.

        Its frames must have been added. ``add_window`` is called with 0 then.
        """
        return self.resting and self._window_level() < self._gate()

    def add_window(self, probability: float) -> list[Transition]:
        """The network's answer for the next window, all frames of which have been added."""
        level = self._window_level()
        window = self._window_count
        self._window_count += 1
        if not any(frame.received for frame in self._window_frames(window)):
            probability = 0.0
        if self._active:
            return self._while_active(window, probability)
        return self._while_idle(window, probability, level)

    def needed_from(self) -> int:
        """The first sample that a later ``Stopped`` may still ask for; older audio can be forgotten."""
        if self._active:
            return self._stretch
        pre_roll = int((self._settings.pre_roll + _LOOK_AHEAD * FRAME_SECONDS) * INTERNAL_RATE)
        oldest = self._first_voiced * FRAME_SAMPLES if self._voiced_windows else self._now()
        return max(0, oldest - pre_roll)

    # ------------------------------------------------------------------ the two states

    def _while_idle(self, window: int, probability: float, level: float) -> list[Transition]:
        settings = self._settings
        threshold = settings.stop if self._voiced_windows else settings.start
        self._ringing = max(0, self._ringing - 1)
        gate = max(self._gate(), self._voiced_from()) if self._ringing else self._gate()
        if self.near_only and self.resting and level < self._usual - _FAR:
            self._idle_windows += 1
            return []
        if probability < threshold or level < gate:
            self._voiced_windows = 0
            self._idle_windows += 1
            if probability >= settings.stop:
                self._idle_windows = 0
            return []
        self._idle_windows = 0
        if self._voiced_windows == 0:
            self._first_voiced = self._begin_of_voice(window)
            self._peak = self._level_of(window)
        self._voiced_windows += 1
        self._last_window = window
        if self._voiced_windows * WINDOW_SAMPLES < settings.min_voice * INTERNAL_RATE:
            return []
        self._active = True
        self._voiced_windows = 0
        pre_roll = int(settings.pre_roll * INTERNAL_RATE)
        self._stretch = max(self._given, self._first_voiced * FRAME_SAMPLES - pre_roll)
        return [Started(self._frame(self._first_voiced).arrival)]

    def _while_active(self, window: int, probability: float) -> list[Transition]:
        settings = self._settings
        heard = probability >= settings.stop
        # The network goes on for a quarter of a second after a voice; its level is the quicker witness.
        if heard and self._level_of(window) >= self._voiced_from():
            self._last_window = window
            if self._now() - self._stretch >= settings.max_stretch * INTERNAL_RATE:
                return self._cut()
            return []
        last = self._end_of_voice()
        end = (last + 1) * FRAME_SAMPLES
        needed = settings.min_silence + (_DOUBT if heard else 0.0)
        silent = self._now() - end
        if silent < needed * INTERNAL_RATE:
            voiced = end - self._stretch - settings.pre_roll * INTERNAL_RATE
            fading = silent >= _FADED * INTERNAL_RATE and voiced >= _LEAST_FADING * INTERNAL_RATE
            if not fading or last == self._faded:
                return []
            self._faded = last
            return [Faded(self._frame(last).arrival, self._stretch, self._now())]
        self._active = False
        known = self._usual > SILENCE_DBFS
        self._usual = 0.5 * (self._usual + self._peak) if known else self._peak
        self._idle_windows = 0
        self._ringing = _HANGOVER
        self._given = min(self._now(), end + int(settings.tail * INTERNAL_RATE))
        return [Stopped(self._frame(last).arrival, self._stretch, self._given, self._given - end)]

    def _cut(self) -> list[Transition]:
        """End the stretch at the quietest frame remembered and begin the next one there."""
        newest = self._now() // FRAME_SAMPLES - 1
        # Only the newer half of what is remembered: neither part may become a splinter.
        candidates = range(max(self._oldest() + 1, newest - _REMEMBERED // 2), newest)
        quietest = min(candidates, key=lambda number: self._frame(number).level)
        end = quietest * FRAME_SAMPLES
        stopped = Stopped(self._frame(quietest - 1).arrival, self._stretch, end)
        self._stretch = self._given = end
        return [stopped, Started(self._frame(quietest).arrival)]

    # ------------------------------------------------------------------ looking at frames

    def _now(self) -> int:
        """Samples in the windows so far."""
        return self._window_count * WINDOW_SAMPLES

    def _oldest(self) -> int:
        return self._frame_count - len(self._frames)

    def _frame(self, number: int) -> _Frame:
        return self._frames[max(0, number - self._oldest())]

    def _window_frames(self, window: int) -> list[_Frame]:
        first = window * WINDOW_SAMPLES // FRAME_SAMPLES
        last = ((window + 1) * WINDOW_SAMPLES - 1) // FRAME_SAMPLES
        return [self._frame(number) for number in range(first, last + 1)]

    def _level_of(self, window: int) -> float:
        return max(frame.level for frame in self._window_frames(window))

    def _window_level(self) -> float:
        return self._level_of(self._window_count)

    def _gate(self) -> float:
        return max(self._settings.min_level, self._floor + 4.0)

    def _voiced_from(self) -> float:
        """Level from which a frame of the present voice counts."""
        relative = max(self._floor + _ABOVE_NOISE, self._peak - _BELOW_PEAK, self._settings.min_level)
        # A talker who is hardly louder than the line must not lose all frames.
        return min(relative, self._peak - 3.0)

    def _begin_of_voice(self, window: int) -> int:
        """The frame in which the voice of this window began: back while frames stand out of the noise."""
        threshold = max(self._floor + _ABOVE_NOISE, self._settings.min_level)
        first = window * WINDOW_SAMPLES // FRAME_SAMPLES
        last = ((window + 1) * WINDOW_SAMPLES - 1) // FRAME_SAMPLES
        for number in range(first, last + 1):
            frame = self._frame(number)
            if frame.received and frame.level >= threshold:
                begin = number
                break
        else:
            return first
        earliest = max(self._oldest(), first - _LOOK_AHEAD, self._given // FRAME_SAMPLES)
        while begin - 1 >= earliest:
            frame = self._frame(begin - 1)
            if not frame.received or frame.level < threshold:
                break
            begin -= 1
        return begin

    def _end_of_voice(self) -> int:
        """The last voiced frame, at or before the end of the last voiced window."""
        threshold = self._voiced_from()
        last = ((self._last_window + 1) * WINDOW_SAMPLES - 1) // FRAME_SAMPLES
        earliest = max(self._oldest(), last - _LOOK_BACK, self._stretch // FRAME_SAMPLES)
        for number in range(last, earliest - 1, -1):
            frame = self._frame(number)
            if frame.received and frame.level >= threshold:
                return number
        return last
