"""The caller's media: one thread that owns the RTP sockets of all calls, paces what goes out and stamps everything.

Theory of operation: the thread sleeps until a socket has something or the next tick of a call is due. Ticks are
absolute (start + n * 20 ms), so lateness never adds up. Each packet is stamped with the monotonic clock on this
thread, when it was read or directly after it was written. What should be said is prepared by others as frames
(``rtp.Frame``) and queued under the session's lock; where nothing is queued, silence is sent.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import random
import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from aiphone.caller.rtp import (
    DIGITS,
    FRAME,
    SILENCE_DBFS,
    Frame,
    Packet,
    Received,
    Sent,
    TelephoneEvent,
    decode,
    encode,
    level_dbfs,
)
from aiphone.caller.scenario import Scenario
from aiphone.caller.sdp import TELEPHONE_EVENT
from aiphone.caller.transport import Address
from aiphone.clock import Clock
from aiphone.errors import NetworkError
from aiphone.events import FRAME_SECONDS

logger = logging.getLogger(__name__)

TOO_LATE = 0.5
"""After a stall of this many seconds the missed ticks are skipped instead of sent in a burst."""

SILENCE = {"PCMU": b"\xff" * FRAME, "PCMA": b"\xd5" * FRAME}


@dataclass(frozen=True, slots=True)
class RtpOptions:
    """How a caller's stream looks. What is None is random, as RFC 3550 asks for."""

    first_sequence: int | None = None
    first_timestamp: int | None = None
    ssrc: int | None = None
    silence: bool = True
    """Send silence when nothing is queued; False sends no packets then."""
    scenario: Scenario | None = None
    """What happens to our packets on their way."""


@dataclass(slots=True)
class Played:
    """When something that was queued went out; times on the monotonic clock, None when it never did."""

    started_at: float | None = None
    first_voiced_at: float | None = None
    last_voiced_at: float | None = None
    ended_at: float | None = None
    interrupted: bool = False
    """Taken out of the queue before its end."""
    remaining: int = field(default=0, repr=False)
    on_done: Callable[[Played], None] = field(default=lambda _: None, repr=False)


class RtpSession:
    """The RTP side of one call.

    Methods say which thread may call them; "any thread" ones take the lock. ``sent``, ``received`` and ``digits``
    only grow, and only on the media thread: others may read what is there.
    """

    def __init__(self, host: str, options: RtpOptions, clock: Clock) -> None:
        self.sent: list[Sent] = []
        self.received: list[Received] = []
        self.digits: list[tuple[str, float]] = []
        """Keys pressed at the other side and when, once for each press."""
        self.rtcp: list[tuple[float, bytes]] = []
        self.malformed = 0
        self.on_packet: Callable[[], None] | None = None
        """Called on the media thread after each packet that came in."""
        self.source: Callable[[], Frame | None] | None = None
        """Asked on the media thread for the frame of a tick for which nothing is queued; None is silence."""
        self.socket, self.rtcp_socket = _bind_pair(host)
        self.port: int = self.socket.getsockname()[1]
        draw = random.SystemRandom()
        self.ssrc = draw.getrandbits(32) if options.ssrc is None else options.ssrc
        self._sequence = draw.getrandbits(16) if options.first_sequence is None else options.first_sequence
        self._timestamp = draw.getrandbits(32) if options.first_timestamp is None else options.first_timestamp
        self._options = options
        self._path = options.scenario.start() if options.scenario else None
        self._clock = clock
        self._lock = threading.Lock()
        self._queue: deque[tuple[Frame | None, Played]] = deque()
        self._remote: Address | None = None
        self._codec = "PCMU"
        self._payload_type = 0
        self._event_type: int | None = None
        self._names: dict[int, str] = {0: "PCMU", 8: "PCMA"}
        self._sending = True
        self._spurt = True
        self._events_seen: set[tuple[int, int]] = set()

    # ------------------------------------------------------------------ any thread

    def configure(
        self,
        remote: Address | None,
        codec: str,
        payload_type: int,
        event_type: int | None,
        names: dict[int, str],
    ) -> None:
        """What offer and answer settled on; without ``remote`` nothing is sent (the call is on hold).

        ``names`` says what the payload types that we receive mean.
        """
        with self._lock:
            if codec != self._codec:
                self._queue = deque(
                    (_transcode(frame, self._codec, codec) if frame else None, played) for frame, played in self._queue
                )
            self._remote, self._codec, self._payload_type, self._event_type = (
                remote,
                codec,
                payload_type,
                event_type,
            )
            self._names = {0: "PCMU", 8: "PCMA", **names}

    @property
    def codec(self) -> str:
        """The codec that we send."""
        return self._codec

    def enqueue(self, frames: Sequence[Frame | None], on_done: Callable[[Played], None]) -> None:
        """Say something after what is queued already; ``on_done`` is called on the media thread."""
        played = Played(remaining=len(frames), on_done=on_done)
        if not frames:
            on_done(played)
            return
        with self._lock:
            self._queue.extend((frame, played) for frame in frames)

    def clear(self) -> None:
        """Stop saying what is queued."""
        with self._lock:
            dropped = {id(played): played for _, played in self._queue}
            self._queue.clear()
        for played in dropped.values():
            played.interrupted = True
            played.on_done(played)

    def set_sending(self, sending: bool) -> None:
        """Stop sending RTP, or go on. Time passes meanwhile: what is queued is used up unheard."""
        with self._lock:
            self._sending = sending

    # ------------------------------------------------------------------ media thread

    def tick(self, schedule: Callable[[float, Callable[[], None]], None]) -> None:
        """Send the packet of this 20 ms."""
        with self._lock:
            frame, played = self._queue.popleft() if self._queue else (None, None)
            remote, sending = self._remote, self._sending
            payload_type: int | None = self._payload_type
            event_type, silence = self._event_type, SILENCE[self._codec]
        if frame is None and self.source:
            frame = self.source()
        quiet = frame is None and not self._options.silence
        if frame is None:
            frame = Frame(silence)
        at = self._clock.now()
        if frame.event_offset is not None:
            payload_type = event_type
        if remote and sending and not quiet and payload_type is not None:
            packet = Packet(
                payload_type,
                self._sequence & 0xFFFF,
                (self._timestamp - (frame.event_offset or 0)) & 0xFFFFFFFF,
                self.ssrc,
                frame.payload,
                frame.marker or self._spurt,
            )
            at = self._send(packet, remote, frame.level, schedule)
            self._sequence += 1
            self._spurt = False
        else:
            self._spurt = True
        self._timestamp += FRAME
        if played:
            _advance(played, frame, at)

    def receive(self) -> None:
        """Read what has arrived."""
        while True:
            try:
                data, source = self.socket.recvfrom(4096)
            except BlockingIOError:
                return
            except OSError as error:
                logger.debug("RTP port %d: %s", self.port, error)
                return
            at = self._clock.now()
            packet = Packet.parse(data)
            if packet is None:
                self.malformed += 1
                continue
            codec = self._names.get(packet.payload_type, "")
            level = SILENCE_DBFS
            if codec in SILENCE:
                level = level_dbfs(decode(codec, packet.payload))
            elif codec == TELEPHONE_EVENT:
                self._note_digit(packet, at)
            self.received.append(Received(at, packet, codec, level, source[:2]))
            if self.on_packet:
                self.on_packet()

    def receive_rtcp(self) -> None:
        """Keep what arrives on the RTCP port."""
        try:
            while True:
                data, _ = self.rtcp_socket.recvfrom(4096)
                self.rtcp.append((self._clock.now(), data))
        except OSError:
            return

    def close(self) -> None:
        """Give the ports back and end what is being said."""
        self.clear()
        self.socket.close()
        self.rtcp_socket.close()

    def _send(
        self,
        packet: Packet,
        remote: Address,
        level: float,
        schedule: Callable[[float, Callable[[], None]], None],
    ) -> float:
        data = packet.pack()
        delays = self._path.next_packet() if self._path else [0.0]
        for delay in delays:
            if delay:
                schedule(self._clock.now() + delay, lambda: self._write(data, remote))
            else:
                self._write(data, remote)
        at = self._clock.now()
        self.sent.append(Sent(at, packet, level, len(delays)))
        return at

    def _write(self, data: bytes, remote: Address) -> None:
        try:
            self.socket.sendto(data, remote)
        except OSError as error:
            logger.debug("RTP port %d: %s", self.port, error)

    def _note_digit(self, packet: Packet, at: float) -> None:
        event = TelephoneEvent.parse(packet.payload)
        press = (packet.ssrc, packet.timestamp)
        if event and event.event < len(DIGITS) and press not in self._events_seen:
            self._events_seen.add(press)
            self.digits.append((DIGITS[event.event], at))


class MediaThread:
    """The thread itself. ``add`` and ``remove`` may be called from any thread."""

    def __init__(self, clock: Clock, on_failure: Callable[[BaseException], None]) -> None:
        self._clock = clock
        self._on_failure = on_failure
        self._selector = selectors.DefaultSelector()
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._selector.register(self._wake_in, selectors.EVENT_READ, None)
        self._commands: deque[Callable[[], None]] = deque()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = itertools.count()
        self._sessions: set[RtpSession] = set()
        self._running = True
        self._thread = threading.Thread(target=self._run, name="caller-media", daemon=True)

    def start(self) -> None:
        """Begin. Any thread, once."""
        self._thread.start()

    def stop(self) -> None:
        """Close all sessions and wait for the thread."""
        self._command(self._finish)
        self._thread.join(timeout=5.0)

    def add(self, session: RtpSession) -> None:
        """Receive for this session, and send from now on every 20 ms."""
        self._command(lambda: self._add(session))

    def remove(self, session: RtpSession) -> None:
        """Close a session."""
        self._command(lambda: self._remove(session))

    def _command(self, command: Callable[[], None]) -> None:
        self._commands.append(command)
        try:
            self._wake_out.send(b"\0")
        except OSError:
            return  # woken already, or gone

    def _schedule(self, due: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._due, (due, next(self._serial), action))

    def _add(self, session: RtpSession) -> None:
        self._sessions.add(session)
        self._selector.register(session.socket, selectors.EVENT_READ, session.receive)
        self._selector.register(session.rtcp_socket, selectors.EVENT_READ, session.receive_rtcp)
        self._tick(session, self._clock.now())

    def _remove(self, session: RtpSession) -> None:
        if session in self._sessions:
            self._sessions.discard(session)
            self._selector.unregister(session.socket)
            self._selector.unregister(session.rtcp_socket)
        session.close()

    def _finish(self) -> None:
        self._running = False

    def _tick(self, session: RtpSession, due: float) -> None:
        if session not in self._sessions:
            return
        session.tick(self._schedule)
        due += FRAME_SECONDS
        now = self._clock.now()
        if now - due > TOO_LATE:
            due = now
        self._schedule(due, lambda: self._tick(session, due))

    def _run(self) -> None:
        try:
            while self._running:
                self._turn()
        except Exception as error:
            # The top of a thread: whoever waits for its calls must be told.
            logger.exception("the caller's media thread failed")
            self._on_failure(error)
        finally:
            for session in list(self._sessions):
                self._remove(session)
            self._selector.close()
            self._wake_in.close()
            self._wake_out.close()

    def _turn(self) -> None:
        wait = max(0.0, self._due[0][0] - self._clock.now()) if self._due else None
        for key, _ in self._selector.select(wait):
            if key.data is None:
                _drain(self._wake_in)
            else:
                key.data()
        while self._commands:
            self._commands.popleft()()
        while self._due and self._due[0][0] <= self._clock.now():
            heapq.heappop(self._due)[2]()


def _advance(played: Played, frame: Frame, at: float) -> None:
    if played.started_at is None:
        played.started_at = at
    if frame.voiced:
        if played.first_voiced_at is None:
            played.first_voiced_at = at
        played.last_voiced_at = at
    played.remaining -= 1
    if played.remaining == 0:
        played.ended_at = at
        played.on_done(played)


def _transcode(frame: Frame, old: str, new: str) -> Frame:
    if frame.event_offset is not None:
        return frame
    return Frame(encode(new, decode(old, frame.payload)), frame.level, marker=frame.marker)


def _drain(waker: socket.socket) -> None:
    try:
        while waker.recv(4096):
            pass
    except BlockingIOError:
        return


def _bind_pair(host: str) -> tuple[socket.socket, socket.socket]:
    """An even port for RTP and the next one for RTCP (RFC 3550 section 11)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    held: list[socket.socket] = []
    try:
        for _ in range(200):
            rtp = _bind(family, host, 0)
            port = rtp.getsockname()[1]
            rtcp = _try_bind(family, host, port + 1) if port % 2 == 0 else None
            if rtcp:
                return rtp, rtcp
            held.append(rtp)  # kept until the end, or the system might offer it again
    finally:
        _close_all(held)
    raise NetworkError(f"no two neighbouring UDP ports are free on {host}: end some calls first")


def _bind(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    bound = _try_bind(family, host, port)
    if bound is None:
        raise NetworkError(f"cannot bind a UDP port on {host} for RTP: use an address of this machine")
    return bound


def _try_bind(family: socket.AddressFamily, host: str, port: int) -> socket.socket | None:
    udp = socket.socket(family, socket.SOCK_DGRAM)
    try:
        udp.bind((host, port))
    except OSError:
        udp.close()
        return None
    udp.setblocking(False)
    return udp


def _close_all(sockets: Iterable[socket.socket]) -> None:
    for each in sockets:
        each.close()
