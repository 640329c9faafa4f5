"""Stands for the mailbox: what was posted by other threads, and a way to wait for it."""

from __future__ import annotations

import threading

from aiphone.events import Event


class Inbox:
    """``wait`` gives up after ``limit`` seconds."""

    def __init__(self, limit: float) -> None:
        self.events: list[Event] = []
        self._limit = limit
        self._arrived = threading.Condition()

    def post(self, event: Event) -> None:
        with self._arrived:
            self.events.append(event)
            self._arrived.notify_all()

    def wait(self, count: int) -> list[Event]:
        """All events, once there are so many."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.events) >= count, self._limit), self.events
            return list(self.events)
