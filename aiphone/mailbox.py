"""The one way into the main thread.

Worker threads (SIP, listener, speech to text, language model, speech) put immutable events into the mailbox;
the main thread takes them out in order. The first event after the box was empty wakes the main thread, later
ones do not, so a burst costs one wake-up.

The box is bounded. What comes in is bounded by what was asked for (a request yields a known number of
answers), so a full box means that the main thread is stuck: the newest *droppable* events are refused and
counted, all others are kept, because losing "the call has ended" would leak a call.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

E = TypeVar("E")


class Mailbox(Generic[E]):
    """A many-producer, one-consumer queue.

    ``wake`` is called from the producer's thread; it must be thread-safe and cheap
    (``loop.call_soon_threadsafe`` with a bound method is both).
    """

    def __init__(self, wake: Callable[[], None], capacity: int = 4096) -> None:
        self._wake = wake
        self._capacity = capacity
        self._events: deque[E] = deque()
        self._lock = threading.Lock()
        self._refused = 0

    def post(self, event: E, *, droppable: bool = False) -> bool:
        """Add an event. Any thread. False when the box is full and the event was droppable."""
        with self._lock:
            if droppable and len(self._events) >= self._capacity:
                self._refused += 1
                return False
            self._events.append(event)
            first = len(self._events) == 1
        if first:
            self._wake()
        return True

    def drain(self) -> list[E]:
        """Take everything out, oldest first. Main thread only."""
        with self._lock:
            events = list(self._events)
            self._events.clear()
        return events

    @property
    def refused(self) -> int:
        """How many droppable events were refused because the box was full. Any thread."""
        return self._refused
