"""Talk now: a call from the browser, as a telephone call like any other.

    browser ── WebSocket, 20 ms of 16 kHz PCM ──► TalkCall ── RTP on loopback ──► media engine, listener, ...

For each browser the bridge is a telephone on this machine: it announces a call with the events that SIP would post,
opens a socket of its own and speaks RTP (RFC 3550) with the media engine. So a browser's call takes the same path as
every other one, is measured by the same packets, and needs nothing from the switchboard but that its answers come
here (``CallRouter``).

The page may say which browser it is in (``?browser=``), so that two of them are two callers. It is sent
``{"type": "started", "call_id"}`` when the call is answered and ``{"type": "ended", "reason"}`` when it is over; all
else about a call is in the event stream. Main thread only.
"""

from __future__ import annotations

import logging
import re
import secrets
import socket
from asyncio import AbstractEventLoop, Future
from collections.abc import Callable
from itertools import count
from typing import Any, Protocol

import numpy as np
import tornado.websocket

from aiphone import events as ev
from aiphone.clock import Clock
from aiphone.conversation.ports import SipPort
from aiphone.errors import NetworkError
from aiphone.native import g711, rtp
from aiphone.native.resample import StreamResampler

log = logging.getLogger(__name__)

LINE = "web"
"""``line_id`` of the calls from the browser."""

CALLER = "sip:browser@127.0.0.1"
"""Who calls from a page that does not say which browser it is in."""
BROWSER = re.compile(r"[a-z0-9]{8,32}")
"""The id that a browser makes up for itself and keeps: what is remembered of a caller is then of this browser."""
CALLED = "sip:ai@127.0.0.1"

_HOST = "127.0.0.1"
_FRAME_BYTES = 2 * ev.FRAME_SAMPLES
_MOST_BYTES = 20 * _FRAME_BYTES
"""Longest message of audio: 0.4 s."""
_BURST = 2 * ev.INTERNAL_RATE
"""Samples that may come at once: two seconds, after the network or we ourselves held them up."""
_RATE = 1.1 * ev.INTERNAL_RATE
"""Samples a second that are taken for long; above the nominal rate, as no two clocks agree."""
_PACKETS_AT_ONCE = 32
_WAITING_FRAMES = 50
"""Frames that wait for a slow browser; after that the newest are dropped."""
_SEND_BUFFER = 32_768
"""Bytes of the system's queue to the browser, about a second: the default holds a minute, all of it delay."""

# Close codes (RFC 6455 section 7.4.1).
CLOSED_NORMALLY = 1000
NOT_UNDERSTOOD = 1003
TRY_AGAIN_LATER = 1013

Post = Callable[[ev.Event], object]


class Page(Protocol):
    """The browser's end."""

    def audio(self, frame: bytes) -> None:
        """20 ms of int16 at 16 kHz, little-endian."""
        ...

    def tell(self, message: dict[str, Any]) -> None:
        """A message for the page."""
        ...

    def close(self, code: int, reason: str) -> None:
        """End the connection."""
        ...


class Ports(Protocol):
    """Where sockets for the engine's side come from; they must be bound to loopback or to every address."""

    def open(self) -> ev.RtpSockets:
        """A bound pair. Raises ``NetworkError``."""
        ...

    def close(self, sockets: ev.RtpSockets) -> None:
        """Close a pair that nobody took."""
        ...


class LineCodec:
    """The one place that knows what is spoken between the bridge and the engine: PCMU (RFC 3551), 20 ms packets."""

    name = "PCMU"
    payload_type = 0
    packet_samples = 160
    """Samples, and steps of the RTP timestamp, in one packet."""

    def __init__(self) -> None:
        self._down = StreamResampler(ev.INTERNAL_RATE, 8000)
        self._up = StreamResampler(8000, ev.INTERNAL_RATE)
        self._rest = np.empty(0, np.int16)

    def encode(self, pcm: ev.Pcm) -> list[bytes]:
        """Payloads of the packets that ``pcm`` (16 kHz, any length) completes."""
        line = np.concatenate([self._rest, self._down.process(pcm)])
        whole = len(line) - len(line) % self.packet_samples
        self._rest = line[whole:]
        return [g711.encode_ulaw(line[at : at + self.packet_samples]) for at in range(0, whole, self.packet_samples)]

    def decode(self, payload: bytes) -> ev.Pcm:
        """A packet's samples, at 16 kHz."""
        return self._up.process(g711.decode_ulaw(payload))


class TalkCall:
    """One browser's call: an RTP peer of the media engine. Made by ``TalkBridge.connect``."""

    def __init__(self, call_id: str, page: Page, sockets: ev.RtpSockets, bridge: TalkBridge) -> None:
        self.call_id = call_id
        self.ended = False
        self.flooded = 0
        """Samples that came faster than anybody speaks, and were dropped."""
        self._page = page
        self._bridge = bridge
        self._sockets: ev.RtpSockets | None = sockets
        self._engine_port = sockets.port
        self._codec = LineCodec()
        self._answered = False
        self._credit = float(_BURST)
        self._credit_at = bridge.clock.now()
        self._ssrc = secrets.randbits(32)
        self._sequence = secrets.randbits(16)
        self._timestamp = secrets.randbits(32)
        self._mark = True
        self._heard = bytearray()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)
            self._socket.bind((_HOST, 0))
        except OSError as error:
            self._socket.close()
            raise NetworkError(f"No socket for the browser's call could be opened: {error.strerror}.") from error

    # ------------------------------------------------------------------------------------------ from the page

    def audio(self, data: bytes) -> None:
        """What the browser's microphone heard: int16 at 16 kHz, little-endian, sent on at once.

        The engine's jitter buffer evens out bursts. Audio before the answer, and a flood, is dropped.
        """
        if len(data) % 2 or len(data) > _MOST_BYTES:
            self.finish(200, "the page sent something that is no audio", NOT_UNDERSTOOD)
            return
        if not self._answered or self.ended or not self._afford(len(data) // 2):
            return
        for payload in self._codec.encode(np.frombuffer(data, "<i2").astype(np.int16, copy=False)):
            self._send(payload)

    def gone(self) -> None:
        """The browser closed the connection."""
        self.finish(200, "the browser hung up")

    def _afford(self, samples: int) -> bool:
        now = self._bridge.clock.now()
        self._credit = min(_BURST, self._credit + (now - self._credit_at) * _RATE)
        self._credit_at = now
        if samples > self._credit:
            self.flooded += samples
            return False
        self._credit -= samples
        return True

    def _send(self, payload: bytes) -> None:
        # The timestamp counts samples, not time: what a stalled connection delivers late must stay late, so that
        # the jitter buffer leaves it out and does not run behind for the rest of the call.
        packet = rtp.build(self._codec.payload_type, self._mark, self._sequence, self._timestamp, self._ssrc, payload)
        self._mark = False
        self._sequence = (self._sequence + 1) & 0xFFFF
        self._timestamp = (self._timestamp + self._codec.packet_samples) & 0xFFFFFFFF
        try:
            self._socket.sendto(packet, (_HOST, self._engine_port))
        except OSError as error:  # a full buffer, or the engine has closed its end a moment ago
            log.debug("%s: a packet was not sent: %s", self.call_id, error)

    # ---------------------------------------------------------------------------------------- from the engine

    def _receive(self) -> None:
        for _ in range(_PACKETS_AT_ONCE):
            try:
                packet, (_, port) = self._socket.recvfrom(2048)
            except BlockingIOError:
                return
            except OSError as error:  # an ICMP error of an earlier packet
                log.debug("%s: %s", self.call_id, error)
                return
            if port == self._engine_port:
                self._hear(packet)

    def _hear(self, packet: bytes) -> None:
        try:
            payload_type, _, _, _, _, payload = rtp.parse(packet)
        except ValueError:
            return  # RTCP, multiplexed (RFC 5761)
        if payload_type != self._codec.payload_type:
            return
        self._heard += self._codec.decode(payload).astype("<i2", copy=False).tobytes()
        while len(self._heard) >= _FRAME_BYTES:
            self._page.audio(bytes(self._heard[:_FRAME_BYTES]))
            del self._heard[:_FRAME_BYTES]

    # ---------------------------------------------------------------------------------- from the switchboard

    def answer(self) -> None:
        """The call is taken: both sides may speak."""
        if self._answered or self.ended:
            return
        self._answered = True
        sockets, self._sockets = self._sockets, None
        self._bridge.loop.add_reader(self._socket.fileno(), self._receive)
        stream = ev.RtpStream(
            remote_host=_HOST,
            remote_port=self._socket.getsockname()[1],
            payload_type=self._codec.payload_type,
            codec=self._codec.name,
            dtmf_payload_type=None,
            ptime_ms=20,
            send=True,
            receive=True,
            rtcp_mux=True,  # or the engine's reports would go to a port that is somebody else's
        )
        self._bridge.post(ev.MediaNegotiated(self.call_id, stream, sockets))
        self._bridge.post(ev.CallConfirmed(self.call_id, self._bridge.clock.now()))
        self._page.tell({"type": "started", "call_id": self.call_id})

    def finish(self, code: int, reason: str, close_code: int = CLOSED_NORMALLY) -> None:
        """End the call on both sides, once."""
        if self.ended:
            return
        self.ended = True
        if self._answered:
            self._bridge.loop.remove_reader(self._socket.fileno())
        self._socket.close()
        sockets, self._sockets = self._sockets, None
        if sockets is not None:
            self._bridge.close_sockets(sockets)
        if self.flooded:
            log.warning(
                "%s: the page sent %.1f s of audio too much; dropped",
                self.call_id,
                self.flooded / ev.INTERNAL_RATE,
            )
        self._bridge.forget(self, ev.CallEnded(self.call_id, code, reason, self._bridge.clock.now()))
        self._page.tell({"type": "ended", "reason": reason})
        self._page.close(close_code, reason)


class TalkBridge:
    """All calls from browsers; towards the switchboard it is what the SIP agent is for telephones (``SipPort``)."""

    def __init__(self, ports: Ports, post: Post, clock: Clock, loop: AbstractEventLoop) -> None:
        """``post`` takes the calls' events; it must not handle them before it returns (a mailbox does not)."""
        self.post = post
        self.clock = clock
        self.loop = loop
        self.calls: dict[str, TalkCall] = {}
        """Calls that have not ended."""
        self._ports = ports
        self._numbers = count(1)
        self._closing = False

    def connect(self, page: Page, browser: str = "") -> TalkCall:
        """A browser calls; ``browser`` is its id, which fits ``BROWSER``, or empty.

        Raises ``NetworkError`` when there is no port, or when the server is going down.
        """
        if self._closing:
            raise NetworkError("The server is shutting down; call again in a minute.")
        sockets = self._ports.open()
        try:
            call = TalkCall(f"w{next(self._numbers)}", page, sockets, self)
        except NetworkError:
            self._ports.close(sockets)
            raise
        self.calls[call.call_id] = call
        self.post(
            ev.IncomingCall(
                call.call_id,
                line_id=LINE,
                caller=CALLER.replace("browser@", f"browser-{browser}@") if browser else CALLER,
                caller_name="Browser",
                called=CALLED,
                sip_call_id="",
                at=self.clock.now(),
            )
        )
        return call

    def answer(self, call_id: str, code: int = 200) -> None:
        """Take a call; with a code below 200 it only rings on."""
        call = self.calls.get(call_id)
        if call is not None and code >= 200:
            call.answer()

    def reject(self, call_id: str, code: int, reason: str = "", retry_after: int | None = None) -> None:
        """Refuse a call; ``retry_after`` is in seconds."""
        call = self.calls.get(call_id)
        if call is None:
            return
        sentence = "everybody is busy" if code == 486 else reason or f"the call was refused ({code})"
        if retry_after is not None:
            sentence += f"; try again in {retry_after} s"
        call.finish(code, sentence, TRY_AGAIN_LATER)

    def hangup(self, call_id: str, code: int = 200, reason: str = "") -> None:
        """End a call."""
        call = self.calls.get(call_id)
        if call is not None:
            call.finish(code if code >= 200 else 200, reason or "the call ended normally")

    def transfer(self, call_id: str, uri: str) -> None:  # noqa: ARG002 - as ``SipPort`` has it
        """A browser cannot be sent on: ``TransferProgress`` says so."""
        reason = "a browser cannot be transferred"
        self.post(ev.TransferProgress(call_id, 501, reason, final=True, at=self.clock.now()))

    def hold(self, call_id: str) -> None:
        """A browser just waits: nothing is said to it meanwhile."""

    def resume(self, call_id: str) -> None:
        """See ``hold``."""

    def send_info_digits(self, call_id: str, digits: str) -> None:
        """A browser has no use for keys."""

    def close(self) -> None:
        """End all calls and take no more."""
        self._closing = True
        for call in list(self.calls.values()):
            call.finish(503, "the server is shutting down")

    def forget(self, call: TalkCall, event: ev.CallEnded) -> None:
        """For ``TalkCall``: it has ended."""
        del self.calls[call.call_id]
        self.post(event)

    def close_sockets(self, sockets: ev.RtpSockets) -> None:
        """For ``TalkCall``: nobody took these."""
        self._ports.close(sockets)


class CallRouter:
    """One ``SipPort`` for the switchboard: commands for browsers' calls go to the bridge, all others to SIP."""

    def __init__(self, sip: SipPort, talk: SipPort) -> None:
        self._sip = sip
        self._talk = talk

    def _port(self, call_id: str) -> SipPort:
        return self._talk if call_id.startswith("w") else self._sip

    def answer(self, call_id: str, code: int = 200) -> None:
        """See ``SipPort``."""
        self._port(call_id).answer(call_id, code)

    def reject(self, call_id: str, code: int = 486, reason: str = "", retry_after: int | None = None) -> None:
        """See ``SipPort``."""
        self._port(call_id).reject(call_id, code, reason, retry_after)

    def hangup(self, call_id: str, code: int = 200, reason: str = "") -> None:
        """See ``SipPort``."""
        self._port(call_id).hangup(call_id, code, reason)

    def transfer(self, call_id: str, uri: str) -> None:
        """See ``SipPort``."""
        self._port(call_id).transfer(call_id, uri)

    def hold(self, call_id: str) -> None:
        """See ``SipPort``."""
        self._port(call_id).hold(call_id)

    def resume(self, call_id: str) -> None:
        """See ``SipPort``."""
        self._port(call_id).resume(call_id)

    def send_info_digits(self, call_id: str, digits: str) -> None:
        """See ``SipPort``."""
        self._port(call_id).send_info_digits(call_id, digits)


class TalkHandler(tornado.websocket.WebSocketHandler):
    """``/api/talk``: one browser. Only our own page may open it (tornado compares Origin and Host)."""

    def initialize(self, bridge: Callable[[], TalkBridge | None]) -> None:
        """``bridge`` says None while no calls are taken."""
        self._bridge = bridge
        self._call: TalkCall | None = None
        self._waiting = 0
        self.dropped = 0
        """Frames that the browser was too slow for."""

    @property
    def max_message_size(self) -> int:
        """Longer messages end the connection."""
        return _MOST_BYTES

    def open(self, *_args: str, **_kwargs: str) -> None:
        """The page calls."""
        self.set_nodelay(True)
        self._limit_send_buffer()
        browser = self.get_query_argument("browser", "")
        if browser and not BROWSER.fullmatch(browser):
            self.close(NOT_UNDERSTOOD, "browser is not 8 to 32 small letters and digits")
            return
        bridge = self._bridge()
        if bridge is None:
            self.close(TRY_AGAIN_LATER, "the models are still being loaded; try again in a moment")
            return
        try:
            self._call = bridge.connect(self, browser)
        except NetworkError as error:
            log.warning("a browser's call was refused: %s", error)
            self.close(TRY_AGAIN_LATER, str(error))

    def on_message(self, message: str | bytes) -> None:
        """Binary messages are audio; the page has nothing else to say."""
        if self._call is not None and isinstance(message, bytes):
            self._call.audio(message)

    def on_close(self) -> None:
        """The browser hung up, or the call was over already."""
        if self._call is not None:
            if self.dropped:
                log.warning("%s: the browser was too slow for %d frames of 20 ms", self._call.call_id, self.dropped)
            self._call.gone()
            self._call = None

    # --------------------------------------------------------------------------------------------- the Page

    def audio(self, frame: bytes) -> None:
        """See ``Page``."""
        if self._waiting >= _WAITING_FRAMES:
            self.dropped += 1
            return
        try:
            written = self.write_message(frame, binary=True)
        except tornado.websocket.WebSocketClosedError:
            return
        self._waiting += 1
        written.add_done_callback(self._written)

    def tell(self, message: dict[str, Any]) -> None:
        """See ``Page``."""
        try:
            self.write_message(message).add_done_callback(_look_away)
        except tornado.websocket.WebSocketClosedError:
            return

    def close(self, code: int | None = None, reason: str | None = None) -> None:
        """See ``Page``. The reason is cut to what a close frame holds (RFC 6455 section 5.5)."""
        text = (reason or "").encode()[:123].decode(errors="ignore")
        super().close(code, text or None)

    def _written(self, future: Future[None]) -> None:
        self._waiting -= 1
        _look_away(future)

    def _limit_send_buffer(self) -> None:
        stream = getattr(self.ws_connection, "stream", None)
        if stream is not None and stream.socket is not None:
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)


def _look_away(future: Future[None]) -> None:
    """The connection may close under a write; ``on_close`` is told, nobody waits for the write."""
    if not future.cancelled():
        future.exception()
