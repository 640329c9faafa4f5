"""Twenty minutes of a telephone line on which nobody speaks, heard as a call hears them.

Silence, noise, hum, tones and music at 8 kHz go through the listener (voice activity, as in every call) and what it
takes for speech to the transcription, whose words are counted. There should be none.

Music is that of Debian's ``asterisk-moh-opsound-wav``, what callers are put on hold with; without it, chords.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aiphone.events import FRAME_SAMPLES, Event, Pcm, VoiceStopped
from aiphone.inference.stt import SpeechToText
from aiphone.speech.listener import Listener
from aiphone.speech.vad import SileroVad
from benchmarks.stt_corpus import MUSIC, RATE, read_wav, upsample

LINE_RATE = 8_000


def sounds(seconds: float, seed: int = 0) -> Iterator[tuple[str, Pcm]]:
    """Name and PCM at 8 kHz of each kind of sound, ``seconds`` in all."""
    rng = np.random.default_rng(seed)
    each = seconds / 10
    t = np.arange(int(each * LINE_RATE)) / LINE_RATE

    def tone(*frequencies: float) -> npt.NDArray[np.float64]:
        return sum((np.sin(2 * np.pi * f * t) for f in frequencies), np.zeros_like(t)) / max(1, len(frequencies))

    def pcm(signal: npt.NDArray[np.float64], level: float) -> Pcm:
        return np.clip(signal * level * 32767, -32768, 32767).astype(np.int16)

    white = rng.standard_normal(len(t))
    yield "digital silence", np.zeros(len(t), np.int16)
    yield "quiet line", pcm(white, 0.0005)
    yield "line noise", pcm(white, 0.01)
    # Noise whose level goes up and down like speech.
    yield "gusts", pcm(white * (0.2 + 0.8 * np.abs(np.sin(2 * np.pi * 1.7 * t + np.sin(t)))), 0.1)
    yield "hum", pcm(tone(50, 100, 150, 250), 0.1)
    yield "ringing", pcm(tone(440, 480) * (t % 6 < 2), 0.3)
    yield "busy", pcm(tone(480, 620) * (t % 1 < 0.5), 0.3)
    rows, columns = np.array([697, 770, 852, 941]), np.array([1209, 1336, 1477])
    pressed = (t * 2.5).astype(int)
    keys = np.sin(2 * np.pi * rows[pressed * 7 % 4] * t) + np.sin(2 * np.pi * columns[pressed * 5 % 3] * t)
    yield "DTMF", pcm(keys / 2 * (t * 2.5 % 1 < 0.4), 0.4)
    yield "music", _music(2 * each, t)


def _music(seconds: float, t: npt.NDArray[np.float64]) -> Pcm:
    pieces = [read_wav(path) for path in sorted(MUSIC.glob("*.wav"))]
    if not pieces:
        print("no music on hold here (apt-get install asterisk-moh-opsound-wav): chords instead")
        notes = np.array([262, 330, 392, 523, 440, 349])[(t * 3).astype(int) % 6]
        chord = np.sin(2 * np.pi * notes * t) + np.sin(2.5 * np.pi * notes * t)
        made: Pcm = (chord * np.exp(-3 * (t * 3 % 1)) * 0.2 * 32767).astype(np.int16)
        return made
    share = int(seconds * LINE_RATE / len(pieces))
    return np.concatenate([piece[:share] for piece in pieces])


# --------------------------------------------------------------------------- a call's ears


@dataclass
class _Frames:
    pcm: Pcm
    arrival: npt.NDArray[np.float64]
    flags: npt.NDArray[np.uint8]


class _Recorded:
    """A call and its engine at once: a recording, as fast as it is read."""

    def __init__(self, pcm: Pcm) -> None:
        self._frames = pcm[: len(pcm) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)
        self._read = 0
        self.over = threading.Event()

    def read(self, max_frames: int) -> _Frames:
        end = min(len(self._frames), self._read + max_frames)
        numbers = np.arange(self._read, end, dtype=np.int64)
        self._read = end
        if not len(numbers):
            self.over.set()
        return _Frames(self._frames[numbers], numbers.astype(np.float64) * 0.02, np.zeros(len(numbers), np.uint8))

    def wait_frames(self, timeout: float) -> bool:
        return not self.over.wait(0.0) or bool(threading.Event().wait(timeout))


def stretches(pcm: Pcm, vad: SileroVad) -> list[Pcm]:
    """What the listener takes for speech in int16 PCM at 16 kHz, as it hands it on."""
    call = _Recorded(np.concatenate([pcm, np.zeros(RATE, np.int16)]))
    events: list[Event] = []
    listener = Listener(call, vad, events.append)
    listener.attach("c", call)
    listener.start()
    call.over.wait()
    listener.stop()
    return [event.pcm for event in events if isinstance(event, VoiceStopped)]


@dataclass(frozen=True)
class Heard:
    """What became of one kind of sound."""

    name: str
    seconds: float
    taken_for_speech: int
    """Stretches that passed the voice detector."""
    texts: tuple[str, ...]
    """What Whisper and its guard made of them, where they made anything."""

    @property
    def words(self) -> int:
        return sum(len(text.split()) for text in self.texts)


def listen(stt: SpeechToText, vad: SileroVad, seconds: float) -> list[Heard]:
    """Every sound through a call's ears."""
    found = []
    for name, line in sounds(seconds):
        pcm = upsample(line)
        taken = stretches(pcm, vad)
        texts = [stt.transcribe(stretch).text for stretch in taken]
        found.append(Heard(name, len(pcm) / RATE, len(taken), tuple(text for text in texts if text)))
    return found
