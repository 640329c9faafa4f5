"""The media engine as the rest of the program sees it.

The work is done by one native thread (``aiphone.native.engine``); this module turns its plain numbers into the
program's values. See there for what happens in which 2 ms.
"""

from __future__ import annotations

import ipaddress
import math
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from aiphone.errors import MediaError
from aiphone.events import (
    DigitReceived,
    Event,
    MediaTimedOut,
    Pcm,
    PlayoutDrained,
    PlayoutStarted,
    RtpSockets,
    RtpStream,
)
from aiphone.media.recorder import Recorder, Recording
from aiphone.media.types import SILENCE_DBFS, EngineStats, Frames, JitterConfig, MediaStats
from aiphone.native import g722, srtp
from aiphone.native.engine import NativeCall, NativeEngine
from aiphone.native.srtp import NativeCrypto

KEYS = "0123456789*#ABCD"
"""Keys in the order of their event codes (RFC 4733 section 3.2)."""

_CODECS = {"PCMU": 0, "PCMA": 8}
_SAMPLES_PER_MS = 8
_LATENESS_BIN_MS = 0.05


def codecs() -> dict[str, int]:
    """What the engine speaks on this machine, with the static payload types (RFC 3551 section 6). Any thread."""
    return {**_CODECS, "G722": 9} if g722.available() else dict(_CODECS)


def srtp_suites() -> tuple[str, ...]:
    """What the engine can encrypt with, best first (RFC 4568 section 6.2); empty without libsrtp2. Any thread."""
    return tuple(srtp.SUITES) if srtp.AVAILABLE else ()


def dbfs(mean_square: float) -> float:
    """A mean square (1.0 is full scale) as dBFS, not below ``SILENCE_DBFS``."""
    return max(SILENCE_DBFS, 10.0 * math.log10(mean_square)) if mean_square > 0 else SILENCE_DBFS


def _native_stream(stream: RtpStream) -> tuple[bytes, int, int, int, int, int, bool, bool, bool, bool]:
    try:
        host = ipaddress.ip_address(stream.remote_host).packed
    except ValueError:
        raise MediaError(
            f"The peer's media address {stream.remote_host!r} is no IP address; resolve it first."
        ) from None
    known = codecs()
    codec = known.get(stream.codec.upper())
    if codec is None:
        raise MediaError(f"The media engine does not speak {stream.codec}; offer {' or '.join(known)}.")
    if stream.ptime_ms not in range(10, 61, 10):
        raise MediaError(f"A packet time of {stream.ptime_ms} ms is not possible; negotiate 10 to 60 ms.")
    rtcp_port = stream.remote_rtcp_port
    if rtcp_port is None:
        rtcp_port = min(stream.remote_port + 1, 65535)
    key_type = -1 if stream.dtmf_payload_type is None else stream.dtmf_payload_type
    return (
        host,
        stream.remote_port,
        rtcp_port,
        codec,
        key_type,
        stream.ptime_ms * _SAMPLES_PER_MS,
        stream.send,
        stream.receive,
        stream.rtcp_mux,
        stream.comfort_noise,
    )


Crypto = tuple[NativeCrypto | None, NativeCrypto | None]
"""What encrypts and what decrypts."""


def _crypto(stream: RtpStream, before: RtpStream | None, had: Crypto) -> Crypto:
    """Sessions for what was negotiated. One whose key is as before goes on: its counters must not start again."""
    if (stream.srtp_send is None) != (stream.srtp_receive is None):
        raise MediaError("A call is encrypted both ways or not at all; negotiate SRTP keys for both directions.")
    if stream.srtp_send is None or stream.srtp_receive is None:
        return None, None
    same = before is not None and before.srtp_suite == stream.srtp_suite
    sending, receiving = had
    if not (same and before is not None and before.srtp_send == stream.srtp_send):
        sending = NativeCrypto(stream.srtp_send, stream.srtp_suite, sending=True)
    if not (same and before is not None and before.srtp_receive == stream.srtp_receive):
        receiving = NativeCrypto(stream.srtp_receive, stream.srtp_suite, sending=False)
    return sending, receiving


class MediaCall:
    """One call's audio, both ways. Made by ``MediaEngine.add``.

    *Positions* count samples at 16 kHz that were queued and have left the socket. Silence sent while nothing is
    queued and samples dropped by ``flush`` do not count, so the next sample written will be at
    ``played + queued`` (once a flush has been carried out, which takes at most one tick of 20 ms).
    """

    def __init__(
        self,
        call_id: str,
        native: NativeCall,
        stream: RtpStream,
        crypto: Crypto,
        closed: Callable[[int], None],
        recorder: Recorder,
    ) -> None:
        self._closed = closed
        self._recorder = recorder
        self._recording: Recording | None = None
        self.call_id = call_id
        self._native = native
        self._stream = stream
        self._crypto = crypto

    def read(self, max_frames: int) -> Frames:
        """The next frames, 0 to ``max_frames``; none once the call is closed. Listener thread only.

        About 2 s are kept for a listener that is late; after that the newest frames are dropped and counted.
        """
        return Frames(*self._native.read(max_frames))

    def write(self, pcm: Pcm) -> int:
        """Queue audio (int16 at 16 kHz); the number of samples that fitted (about 4 s do). Main thread only.

        MediaError once the call is closed.
        """
        return self._native.write(np.ascontiguousarray(pcm, np.int16))

    def flush(self) -> None:
        """Drop what is queued, within one packet and with a fade of 8 ms. Main thread only.

        ``PlayoutDrained`` follows with the position truly reached, unless nothing was queued. Audio written after
        this call is kept.
        """
        self._native.flush()

    def set_gain(self, db: float) -> None:
        """Level of what is played, -100 to +12 dB; reached within 20 ms, without a click. Main thread only."""
        db = min(db, 12.0)
        self._native.set_gain(0.0 if db <= -100 else 10 ** (db / 20))

    def send_digits(self, digits: str) -> None:
        """Send keys (0-9 * # A-D), 100 ms each, as telephone-event (RFC 4733). Main thread only.

        What is being played waits meanwhile. MediaError for another character, or when telephone-event was not
        negotiated.
        """
        if self._stream.dtmf_payload_type is None:
            raise MediaError("The other side has not offered telephone-event; digits cannot be sent as RTP.")
        codes = [KEYS.find(digit) for digit in digits.upper()]
        if -1 in codes:
            raise MediaError(f"{digits!r} holds a character that is no telephone key; use 0-9, *, # and A-D.")
        self._native.send_digits(bytes(codes))

    def record(self, path: Path) -> Recording:
        """Record from the next tick on, into a new stereo WAV file (caller left, assistant right, 8 kHz, 16 bit).

        Main thread only; returns at once, a thread of its own writes. It ends with ``stop_recording`` or the call; a
        disk that refuses ends it with a logged sentence and leaves the call alone. ``StorageError`` when the file
        cannot be made (it must not be there yet), ``MediaError`` while another recording runs or once the call is
        closed.
        """
        if self._recording is not None:
            raise MediaError(f"{self.call_id} is being recorded already; stop that recording first.")
        if self.closed:
            raise MediaError(f"{self.call_id} has been closed; there is nothing more to record.")
        file = self._recorder.create(path)
        try:
            tap = self._native.tap()
        except MediaError:
            file.close()
            path.unlink(missing_ok=True)
            raise
        self._recording = self._recorder.add(self.call_id, path, tap, file)
        return self._recording

    def stop_recording(self) -> None:
        """End the recording; the file is complete within a second. Main thread only. Nothing when there is none."""
        if self._recording is not None:
            self._native.untap()
            self._recording = None

    @property
    def recording(self) -> Recording | None:
        """The recording that runs, or ran until the call was closed. Main thread only."""
        return self._recording

    def update(self, stream: RtpStream) -> None:
        """Offer and answer changed (re-INVITE, hold, resume). Main thread only. MediaError as for ``add``."""
        native = _native_stream(stream)
        crypto = _crypto(stream, self._stream, self._crypto)
        self._native.update(native, crypto)
        self._stream, self._crypto = stream, crypto

    def stats(self) -> MediaStats:
        """The counters now; of the end once the call is closed. Any thread."""
        values: dict[str, Any] = self._native.stats()
        del values["played"]
        round_trip = values.pop("round_trip_ms")
        return MediaStats(
            round_trip_ms=round_trip if round_trip >= 0 else None,
            level_in_dbfs=dbfs(values.pop("power_in")),
            level_out_dbfs=dbfs(values.pop("power_out")),
            remote_fraction=values.pop("remote_fraction") / 256,
            lengthened_ms=values.pop("lengthened") / 16,
            shortened_ms=values.pop("shortened") / 16,
            **values,
        )

    def close(self) -> None:
        """Leave the engine: RTCP BYE, then sockets and memory go within a tick. Main thread only. Idempotent."""
        self._native.close()
        self._closed(self._native.key)

    @property
    def closed(self) -> bool:
        """True once ``close`` was called or the engine was stopped. Any thread."""
        return self._native.closed

    @property
    def space(self) -> int:
        """Samples that ``write`` would take now. Any thread."""
        return self._native.space

    @property
    def queued(self) -> int:
        """Samples that wait to be sent. Any thread."""
        return self._native.queued

    @property
    def played(self) -> int:
        """Position: queued samples that have left the socket since the call began. Any thread."""
        return self._native.played


class MediaEngine:
    """All calls' media. Main thread only, except ``wait_frames``.

    ``injected`` makes an engine without a thread and clock, which a test drives with ``step``.
    """

    def __init__(
        self,
        capacity: int,
        *,
        rtp_timeout: float = 30.0,
        jitter: JitterConfig | None = None,
        comfort_noise_dbfs: float | None = None,
        injected: bool = False,
    ) -> None:
        """``rtp_timeout`` is the number of seconds without RTP after which ``MediaTimedOut`` is reported, once.

        ``comfort_noise_dbfs`` is the level (RMS) of the noise that is sent while nothing is queued, so that the line
        does not sound dead; -70 to -55 is usual. It is described and not sent where comfort noise was negotiated. None
        sends silence.
        """
        config = jitter or JitterConfig()
        fixed = -1.0 if config.fixed_ms is None else config.fixed_ms
        delay = (config.min_ms, config.max_ms, config.start_ms, fixed, config.quantile)
        comfort = 0.0 if comfort_noise_dbfs is None else 10 ** (min(comfort_noise_dbfs, -30.0) / 10)
        self._native = NativeEngine(
            capacity, rtp_timeout=rtp_timeout, delay=delay, comfort_level=comfort, injected=injected
        )
        self._call_ids: dict[int, str] = {}
        self._recorder = Recorder()

    def start(self) -> None:
        """Start the media thread. MediaError when the system allows no more threads."""
        self._native.start()

    def stop(self) -> None:
        """Say BYE for all calls, end the threads, free everything, finish recordings; not to be started again."""
        self._native.stop()
        self._recorder.close()
        self._call_ids.clear()

    def step(self, now: float) -> int:
        """Do all that is due at ``now``; how many slots of 2 ms that were. Only with ``injected``."""
        return self._native.step(now)

    def add(self, call_id: str, sockets: RtpSockets, stream: RtpStream) -> MediaCall:
        """Put a call on the media thread, which owns the descriptors from here on. Main thread only.

        MediaError when the engine is full or stopped, or cannot speak what was negotiated; the descriptors then
        still belong to the caller.
        """
        crypto = _crypto(stream, None, (None, None))
        native = self._native.add(
            sockets.rtp_fd,
            sockets.rtcp_fd,
            _native_stream(stream),
            secrets.randbits(32),
            secrets.randbits(15),
            secrets.randbits(32),
            secrets.token_hex(8).encode(),
            crypto,
        )
        self._call_ids[native.key] = call_id
        return MediaCall(call_id, native, stream, crypto, self._forget, self._recorder)

    def _forget(self, key: int) -> None:
        self._call_ids.pop(key, None)

    def events(self) -> list[Event]:
        """What happened since the last call, oldest first. Main thread only."""
        out: list[Event] = []
        for key, kind, number, at, seconds in self._native.events():
            call_id = self._call_ids.get(key)
            if call_id is None:
                continue
            match kind:  # EventKind in call.pxd
                case 0:
                    out.append(PlayoutStarted(call_id, number, at))
                case 1:
                    out.append(PlayoutDrained(call_id, number, at))
                case 2:
                    out.append(MediaTimedOut(call_id, seconds))
                case 3:
                    out.append(DigitReceived(call_id, KEYS[number], at))
        return out

    def fileno(self) -> int:
        """A descriptor that is readable when ``events`` has something to say (for the main thread's loop)."""
        return self._native.fileno()

    def wait_frames(self, timeout: float) -> bool:
        """Wait until a call has new frames, at most ``timeout`` seconds. Listener thread only.

        Without the GIL; returns True at most once a tick of 20 ms. False at once when the engine was stopped.
        """
        return self._native.wait_frames(timeout)

    @property
    def recordings(self) -> int:
        """Recordings whose files are not finished. Any thread."""
        return self._recorder.active

    def stats(self) -> EngineStats:
        """The media thread's counters now. Any thread."""
        values: dict[str, Any] = self._native.stats()
        lateness = values.pop("lateness")
        timed = sum(lateness)
        return EngineStats(
            calls=values["calls"],
            leaving=values["leaving"],
            priority=values["priority"],
            skipped=values["skipped"],
            events_dropped=values["events_dropped"],
            packets_timed=timed,
            late_p50_ms=_quantile(lateness, timed, 0.5),
            late_p99_ms=_quantile(lateness, timed, 0.99),
            late_max_ms=values["lateness_max"] * 1000,
            call_bytes=values["call_bytes"],
        )


def _quantile(bins: list[int], total: int, share: float) -> float:
    below = 0
    for index, number in enumerate(bins):
        below += number
        if total and below >= share * total:
            return (index + 1) * _LATENESS_BIN_MS
    return 0.0
