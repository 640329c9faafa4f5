"""What a caller does with sound: speak, press keys, listen, wait for a reply."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from aiphone.caller.audio import load, write_wav
from aiphone.caller.media import MediaThread, Played, RtpSession
from aiphone.caller.recording import Recording, build, side_by_side
from aiphone.caller.rtp import Frame, Received, audio_frames, digit_frames
from aiphone.clock import Clock
from aiphone.errors import SipError
from aiphone.events import Pcm

_READ = 0.05
"""Seconds in which the media thread surely reads what is in the socket."""


class NoReplyError(SipError):
    """Nothing audible came back in time."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A stretch of speech from the other side. Times are arrivals on the monotonic clock."""

    after: float
    """The time that the wait was counted from."""
    first_voiced_at: float
    last_voiced_at: float
    ended_at: float
    """When the silence behind it had lasted long enough, or the call ended."""
    pcm: Pcm = field(repr=False, compare=False)
    """From its first to its last voiced packet, 8 kHz."""

    @property
    def latency(self) -> float:
        """Seconds from ``after`` to the first voiced packet: wire to wire when ``after`` is the end of a question."""
        return self.first_voiced_at - self.after


class Leg:
    """The media half of a call. Event loop's thread only."""

    def __init__(self, session: RtpSession, media: MediaThread, clock: Clock) -> None:
        self.session = session
        self.last_voiced_at: float | None = None
        """When the last voiced frame that was played had been sent."""
        self._media = media
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._media_open = True
        media.add(session)

    async def play(self, audio: Pcm | Path | str) -> float:
        """Say int16 PCM at 8 kHz, or a WAV file, to the end.

        Returns when its last voiced frame (20 ms above -45 dBFS) was sent: the t0 of the latency definition. For
        audio with no voiced frame that is its last frame.
        """
        played = await self.play_through(audio)
        end = played.last_voiced_at if played.last_voiced_at is not None else played.ended_at
        self.last_voiced_at = end if end is not None else self._clock.now()
        return self.last_voiced_at

    async def play_through(self, audio: Pcm | Path | str) -> Played:
        """The same, with all its times."""
        pcm = load(audio) if isinstance(audio, str | Path) else audio
        return await self._send_frames(list(audio_frames(self.session.codec, pcm)))

    async def send_digits(self, digits: str, *, duration: float = 0.1, gap: float = 0.1) -> Played:
        """Press keys as telephone events (RFC 4733), each for ``duration`` seconds and ``gap`` apart."""
        return await self._send_frames(digit_frames(digits, duration=duration, gap=gap))

    def interrupt(self) -> None:
        """Say no more of what is queued."""
        self.session.clear()

    def stop_rtp(self) -> None:
        """Send no more RTP, not even silence, while the call goes on."""
        self.session.set_sending(False)

    def resume_rtp(self) -> None:
        """Send again."""
        self.session.set_sending(True)

    async def wait_reply(
        self,
        *,
        after: float | None = None,
        silence: float = 0.8,
        timeout: float = 15.0,
        longest: float = 60.0,
    ) -> Reply:
        """Wait until the other side has spoken and has then been silent for ``silence`` seconds.

        ``after`` is the monotonic time behind which the reply is looked for, by default that of the last voiced frame
        sent, or now when nothing was said. NoReplyError when no voiced packet arrives within ``timeout`` seconds of
        the call of this method; a reply longer than ``longest`` seconds is cut there.
        """
        if after is None:
            after = self.last_voiced_at if self.last_voiced_at is not None else self._clock.now()
        begun = self._clock.now()
        first = await self._first_voiced(after, begun + timeout)
        if first is None:
            why = "the call ended" if not self._media_open else f"nothing audible came within {timeout:g} s"
            raise NoReplyError(f"there was no reply: {why}; listen to the call's recording and read the server's log")
        last, index, looked_again = first, 0, False
        while True:
            packets = self.session.received
            while index < len(packets):
                if packets[index].voiced and packets[index].arrived_at > last:
                    last = packets[index].arrived_at
                index += 1
            now = self._clock.now()
            left = min(last + silence, first + longest) - now
            if not self._media_open or (left <= 0 and looked_again):
                break
            # After a moment in which the machine stood still, the time is over before what came in it was read.
            looked_again = left <= 0
            await self._wait_change(max(left, _READ), index)
        pcm = self.recording().between(first, last)
        return Reply(after, first, last, self._clock.now(), pcm)

    async def wait_packet(self, timeout: float = 5.0) -> float:
        """Arrival time of the first audio packet of the call. NoReplyError when none comes."""
        end = self._clock.now() + timeout
        while True:
            seen = len(self.session.received)
            arrived = self.first_packet_at
            if arrived is not None:
                return arrived
            left = end - self._clock.now()
            if left <= 0 or not self._media_open:
                raise NoReplyError(f"no RTP came within {timeout:g} s: check the address and port in the answer's SDP")
            await self._wait_change(left, seen)

    async def wait_digits(self, count: int, timeout: float = 5.0) -> str:
        """The keys pressed at the other side, once there are ``count``. NoReplyError when they don't come."""
        end = self._clock.now() + timeout
        while len(self.session.digits) < count:
            seen = len(self.session.received)
            left = end - self._clock.now()
            if left <= 0 or not self._media_open:
                raise NoReplyError(f"{len(self.session.digits)} of {count} keys came within {timeout:g} s")
            await self._wait_change(left, seen)
        return "".join(digit for digit, _ in self.session.digits)

    @property
    def first_packet_at(self) -> float | None:
        """Arrival of the first audio packet."""
        return next((p.arrived_at for p in list(self.session.received) if p.codec in ("PCMU", "PCMA")), None)

    @property
    def packets(self) -> list[Received]:
        """Everything received on the RTP port so far."""
        return list(self.session.received)

    def recording(self) -> Recording:
        """What was heard so far."""
        return build(list(self.session.received))

    def write_recording(self, path: Path | str, *, both_sides: bool = False) -> None:
        """Save what was heard as a WAV file; with both sides, left is what we sent."""
        heard = self.recording()
        write_wav(path, side_by_side(list(self.session.sent), heard) if both_sides else heard.pcm)

    def _close_media(self) -> None:
        if self._media_open:
            self._media_open = False
            self._media.remove(self.session)
            self._changed.set()

    async def _first_voiced(self, after: float, deadline: float) -> float | None:
        index = 0
        while True:
            packets = self.session.received
            while index < len(packets):
                if packets[index].voiced and packets[index].arrived_at > after:
                    return packets[index].arrived_at
                index += 1
            left = deadline - self._clock.now()
            if left <= 0 or not self._media_open:
                return None
            await self._wait_change(left, index)

    async def _wait_change(self, timeout: float, seen: int) -> None:
        """Until there are more than ``seen`` packets, the media are closed, or the time is over."""
        self._changed.clear()
        self.session.on_packet = lambda: self._from_media_thread(self._changed.set)
        if len(self.session.received) > seen or not self._media_open:
            return
        try:
            async with asyncio.timeout(timeout):
                await self._changed.wait()
        except TimeoutError:
            return
        finally:
            self.session.on_packet = None

    async def _send_frames(self, frames: list[Frame | None]) -> Played:
        if not self._media_open:
            raise SipError("the call is over: nothing can be said in it any more")
        done: asyncio.Future[Played] = self._loop.create_future()

        def resolve(played: Played) -> None:
            if not done.done():
                done.set_result(played)

        self.session.enqueue(frames, lambda played: self._from_media_thread(lambda: resolve(played)))
        return await done

    def _from_media_thread(self, callback: Callable[[], object]) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback)
