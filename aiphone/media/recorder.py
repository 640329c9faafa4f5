"""Recordings: a stereo WAV file for each recorded call, the caller on the left, the assistant on the right.

The media thread puts both directions of every tick into the call's tap (``aiphone.native.tap``); one thread of low
urgency empties all taps a few times a second and appends to the files. The sizes in a file's header are put right
once a second, so that what a crash leaves behind can be played to within a second of its end.
"""

from __future__ import annotations

import logging
import os
import struct
import threading
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from aiphone.clock import Clock, SystemClock
from aiphone.errors import MediaError, StorageError

log = logging.getLogger(__name__)

RATE = 8000
"""Sample rate of a recording: the line's, as nothing above it was ever heard."""

HEADER_BYTES = 44
_CHANNELS, _BYTES = 2, 2
_BLOCK = _CHANNELS * _BYTES
_MOST_BYTES = 0xFFFFFFFF - HEADER_BYTES - (0xFFFFFFFF - HEADER_BYTES) % _BLOCK
_DRAIN_SECONDS = 0.2
_HEADER_SECONDS = 1.0


class Tap(Protocol):
    """Where the audio comes from."""

    def take(self) -> npt.NDArray[np.int16]:
        """All that is there, shape (n, 2). Recorder thread only."""
        ...

    @property
    def missed(self) -> int:
        """Ticks of 20 ms that could not be kept."""
        ...

    @property
    def released(self) -> bool:
        """Nothing more will be put into it."""
        ...


def wav_header(data_bytes: int, rate: int = RATE) -> bytes:
    """The 44 bytes before the samples of a 16-bit stereo WAV file (RIFF, ``WAVE_FORMAT_PCM``)."""
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF", HEADER_BYTES - 8 + data_bytes, b"WAVE",
        b"fmt ", 16, 1, _CHANNELS, rate, rate * _BLOCK, _BLOCK, 8 * _BYTES,
        b"data", data_bytes,
    )  # fmt: skip


class StereoWavFile:
    """A WAV file that grows. One thread at a time. Methods raise ``OSError`` where the disk refuses."""

    def __init__(self, path: Path, rate: int = RATE) -> None:
        """Make the file, readable by us alone. Raises ``OSError``, also when there is one already."""
        self._rate = rate
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600)
        self._bytes = 0
        self._stated = 0
        try:
            self._write(wav_header(0, rate), 0)
        except OSError:
            os.close(self._fd)
            path.unlink(missing_ok=True)
            raise

    @property
    def seconds(self) -> float:
        """Length of what was written."""
        return self._bytes / (_BLOCK * self._rate)

    def append(self, pcm: npt.NDArray[np.int16]) -> None:
        """Write samples of shape (n, 2) at the end; beyond the format's 4 GiB nothing is kept."""
        data = pcm.astype("<i2", copy=False).tobytes()[: _MOST_BYTES - self._bytes]
        self._write(data, HEADER_BYTES + self._bytes)
        self._bytes += len(data)

    def update_header(self) -> None:
        """State in the header what is there by now."""
        if self._stated != self._bytes:
            self._write(wav_header(self._bytes, self._rate), 0)
            self._stated = self._bytes

    def close(self) -> None:
        """Put the header right, cut off what was written in part, and see it onto the disk."""
        try:
            self.update_header()
            os.ftruncate(self._fd, HEADER_BYTES + self._bytes)
            os.fsync(self._fd)
        finally:
            os.close(self._fd)

    def _write(self, data: bytes, at: int) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._fd, view, at)
            view, at = view[written:], at + written


class Recording:
    """One call's recording. Properties: any thread."""

    def __init__(self, call_id: str, path: Path, tap: Tap, file: StereoWavFile) -> None:
        self.call_id = call_id
        self.path = path
        self.failure = ""
        """Why it ended before its time, in one sentence; empty when all is well."""
        self._tap: Tap | None = tap
        self._missed = 0
        self._file: StereoWavFile | None = file
        self._seconds = 0.0
        self._header_at = 0.0
        self._done = threading.Event()

    @property
    def seconds(self) -> float:
        """Length of what has been written."""
        return self._seconds

    @property
    def missed(self) -> int:
        """Ticks of 20 ms that are silent in it because the disk was too slow."""
        tap = self._tap
        return tap.missed if tap is not None else self._missed

    @property
    def done(self) -> bool:
        """True once the file is complete, or given up."""
        return self._done.is_set()

    def wait(self, timeout: float) -> bool:
        """Wait until it is done; False when it was not within ``timeout`` seconds."""
        return self._done.wait(timeout)

    def turn(self, now: float) -> bool:
        """Write what has come; True when nothing more will. Recorder thread only."""
        tap = self._tap
        if tap is None:
            return True
        last = tap.released  # asked before the tap is emptied, or its last frames could be left in it
        pcm = tap.take()
        try:
            if self._file is not None and len(pcm):
                self._file.append(pcm)
                self._seconds = self._file.seconds
            if self._file is not None and now - self._header_at >= _HEADER_SECONDS:
                self._header_at = now
                self._file.update_header()
        except OSError as error:
            self._give_up(error)
        if last:
            self.finish()
        return last

    def finish(self) -> None:
        """Close the file and let go of the tap. Recorder thread only, or after its end."""
        self._missed = self.missed
        self._tap = None
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError as error:
                self._failed(error)
            if self.missed:
                log.warning(
                    "%s: %.1f s of the recording %s are silent, as the disk was too slow",
                    self.call_id, self.missed * 0.02, self.path,
                )  # fmt: skip
        self._done.set()

    def _give_up(self, error: OSError) -> None:
        self._failed(error)
        file, self._file = self._file, None
        if file is not None:
            # The header and the cut take no room, so what there is stays playable on a full disk.
            try:
                file.close()
            except OSError as second:
                log.debug("%s: %s", self.path, second)
        self._done.set()

    def _failed(self, error: OSError) -> None:
        self.failure = (
            f"the recording {self.path} ended after {self._seconds:.0f} s ({error.strerror or error}); "
            "make room or choose another directory for recordings"
        )
        log.error("%s: %s; the call goes on", self.call_id, self.failure)


class Recorder:
    """The thread that writes recordings. It starts with the first of them."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._recordings: list[Recording] = []
        self._closing = False
        self._thread: threading.Thread | None = None

    def create(self, path: Path) -> StereoWavFile:
        """Make the file of a recording to come. Main thread only. ``StorageError`` when that is not possible."""
        if self._closing:
            raise MediaError("the recorder has been stopped; it takes no more recordings")
        try:
            return StereoWavFile(path)
        except OSError as error:
            raise StorageError(
                f"the recording {path} cannot be made: {error.strerror or error}; check the directory for recordings"
            ) from None

    def add(self, call_id: str, path: Path, tap: Tap, file: StereoWavFile) -> Recording:
        """Write a tap into a file until the tap is released. Main thread only."""
        recording = Recording(call_id, path, tap, file)
        with self._lock:
            self._recordings.append(recording)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="aiphone-recorder", daemon=True)
            self._thread.start()
        return recording

    @property
    def active(self) -> int:
        """Recordings that are not finished. Any thread."""
        return len(self._recordings)

    def close(self, timeout: float = 5.0) -> None:
        """Finish all recordings and end the thread; the taps should be released before. Main thread only."""
        self._closing = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout)
            if self._thread.is_alive():
                log.error("the disk did not take the last recordings within %.0f s", timeout)
            self._thread = None

    def _run(self) -> None:
        while True:
            self._wake.wait(_DRAIN_SECONDS)
            closing = self._closing
            now = self._clock.now()
            with self._lock:
                recordings = list(self._recordings)
            over = [recording for recording in recordings if self._turn(recording, now, closing)]
            with self._lock:
                self._recordings = [recording for recording in self._recordings if recording not in over]
            if closing:
                return

    def _turn(self, recording: Recording, now: float, closing: bool) -> bool:
        try:
            over = recording.turn(now)
            if closing and not over:
                recording.finish()
        except Exception as error:  # noqa: BLE001 - the thread's top: one bad recording must not end the others
            log.error("%s: the recording failed: %s", recording.call_id, error)
            recording.failure = recording.failure or f"the recording {recording.path} failed: {error}"
            recording.finish()
            return True
        return over or closing
