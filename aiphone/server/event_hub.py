"""The event stream: everything that happens, to everybody who watches.

An event is made into a WebSocket frame once, whatever the number of watchers, and frames wait a moment so that a burst
costs one write per watcher. The newest events are kept in a ring, from which a watcher that was away goes on. A watcher
that reads too slowly has a bounded queue; when that is full it is dropped, and may come back for the rest.

Ids begin with the time at start, in milliseconds, so that they rise over restarts too.
"""

from __future__ import annotations

import json
import logging
import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

log = logging.getLogger(__name__)

KEPT = 2000
"""Events in the ring: some minutes of a busy phone."""
QUEUE_BYTES = 1 << 20
"""What may wait for one watcher."""
GATHER_SECONDS = 0.04
"""How long frames wait for company: not to be noticed, and it bounds the writes to 25/s for each watcher."""
LEVELS_SECONDS = 0.2
TOO_SLOW = 4008
"""Close code for a watcher that was dropped."""

Levels = Callable[[], Sequence[tuple[str, float, float]]]
"""``(call_id, level_in, level_out)`` of the live calls, dBFS."""


class Timers(Protocol):
    """The part of an event loop that is needed."""

    def call_later(self, delay: float, callback: Callable[[], None], /) -> Any:
        """Call back after ``delay`` seconds; what is returned has ``cancel()``."""
        ...


class Watcher(Protocol):
    """A connection."""

    def busy(self) -> bool:
        """Bytes that were sent before still wait in it."""
        ...

    def send(self, frames: bytes) -> None:
        """Send finished WebSocket frames."""
        ...

    def drop(self, code: int, reason: str) -> None:
        """Close it."""
        ...


class _Subscription:
    def __init__(self, watcher: Watcher) -> None:
        self.watcher = watcher
        self.frames: deque[bytes] = deque()
        self.size = 0

    def add(self, frame: bytes) -> bool:
        """Queue a frame; False when there is no room."""
        if self.size + len(frame) > QUEUE_BYTES:
            return False
        self.frames.append(frame)
        self.size += len(frame)
        return True

    def flush(self) -> None:
        if self.frames and not self.watcher.busy():
            data = b"".join(self.frames)
            self.frames.clear()
            self.size = 0
            self.watcher.send(data)


class EventHub:
    """Takes events and spreads them. Main thread only."""

    def __init__(self, timers: Timers, *, first_id: int, levels: Levels | None = None, kept: int = KEPT) -> None:
        """``first_id``: the time now in milliseconds; ``levels`` is asked while somebody watches."""
        self._timers = timers
        self._levels = levels
        self._last = first_id
        self._ring: deque[tuple[int, bytes]] = deque(maxlen=kept)
        self._subscriptions: dict[Watcher, _Subscription] = {}
        self._flushing = False
        self._ticking = False
        self.dropped = 0
        """Watchers that were dropped for being slow."""
        self._forgotten = first_id
        """Id of the newest event that is not in the ring any more."""

    @property
    def last(self) -> int:
        """Id of the newest event."""
        return self._last

    @property
    def watchers(self) -> int:
        """How many watch."""
        return len(self._subscriptions)

    def publish(self, kind: str, **members: Any) -> int:
        """Tell everybody; the event's id. Members must be JSON values."""
        self._last += 1
        frame = text_frame({"id": self._last, "type": kind, **members})
        if len(self._ring) == self._ring.maxlen:
            self._forgotten = self._ring[0][0]
        self._ring.append((self._last, frame))
        self._spread(frame)
        return self._last

    def subscribe(self, watcher: Watcher, after: int | None) -> None:
        """Let somebody watch, from the event behind ``after``, or from now on."""
        subscription = _Subscription(watcher)
        if after is None:
            subscription.add(self._notice("hello"))
        elif after < self._forgotten or after > self._last:
            subscription.add(self._notice("reset"))
        else:
            for event_id, frame in self._ring:
                if event_id > after and not subscription.add(frame):
                    # More was missed than may wait at once: start afresh instead.
                    subscription = _Subscription(watcher)
                    subscription.add(self._notice("reset"))
                    break
        self._subscriptions[watcher] = subscription
        self._flush_soon()
        if self._levels is not None and not self._ticking:
            self._ticking = True
            self._timers.call_later(LEVELS_SECONDS, self._tick)

    def unsubscribe(self, watcher: Watcher) -> None:
        """It watches no more."""
        self._subscriptions.pop(watcher, None)

    def close(self, code: int = 1001, reason: str = "the server stops") -> None:
        """Close all connections."""
        for watcher in list(self._subscriptions):
            self._subscriptions.pop(watcher).watcher.drop(code, reason)

    def _notice(self, kind: str) -> bytes:
        return text_frame({"id": self._last, "type": kind, "last": self._last})

    def _spread(self, frame: bytes) -> None:
        for watcher, subscription in list(self._subscriptions.items()):
            if not subscription.add(frame):
                del self._subscriptions[watcher]
                self.dropped += 1
                log.info("a watcher of events was dropped: it reads too slowly")
                watcher.drop(TOO_SLOW, "too slow; resume with ?after=")
        self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._flushing and self._subscriptions:
            self._flushing = True
            self._timers.call_later(GATHER_SECONDS, self._flush)

    def _flush(self) -> None:
        self._flushing = False
        for subscription in list(self._subscriptions.values()):
            subscription.flush()
        if any(subscription.frames for subscription in self._subscriptions.values()):
            self._flush_soon()

    def _tick(self) -> None:
        if not self._subscriptions or self._levels is None:
            self._ticking = False
            return
        self._timers.call_later(LEVELS_SECONDS, self._tick)
        levels = self._levels()
        if levels:
            calls = [{"call_id": call_id, "in": round(a, 1), "out": round(b, 1)} for call_id, a, b in levels]
            frame = text_frame({"id": self._last, "type": "levels", "calls": calls})
            for subscription in self._subscriptions.values():
                # Levels are stale at once: whoever has something waiting gets the next ones instead.
                if not subscription.watcher.busy():
                    subscription.add(frame)
            self._flush_soon()


def text_frame(message: dict[str, Any]) -> bytes:
    """A JSON object as one unmasked text frame (RFC 6455 section 5.2)."""
    payload = json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    if len(payload) < 126:
        head = struct.pack("!BB", 0x81, len(payload))
    elif len(payload) < 1 << 16:
        head = struct.pack("!BBH", 0x81, 126, len(payload))
    else:
        head = struct.pack("!BBQ", 0x81, 127, len(payload))
    return head + payload
