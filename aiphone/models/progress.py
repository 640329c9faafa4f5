"""How a long transfer is shown: a bar on a terminal, a line now and then in a log, or nothing.

The code that moves bytes calls ``start``, ``update`` and ``finish`` on whatever ``Progress`` it was given and knows
nothing of terminals.
"""

from __future__ import annotations

import shutil
from typing import Protocol, TextIO

from aiphone.clock import Clock
from aiphone.models.files import megabytes

_REDRAW_S = 0.1
_LINE_EVERY_S = 10.0
_WINDOW_S = 5.0
_TITLE, _BAR, _SHORTEST_BAR = 22, 30, 6
_FIGURES = 48
"""Columns that the longest figures take: percent, megabytes, rate, time left."""


class Progress(Protocol):
    """Told about one transfer after another. Used from one thread at a time."""

    def start(self, title: str, total: int, done: int = 0) -> None:
        """A transfer of ``total`` bytes begins (0: not known), ``done`` of them there from an earlier try."""
        ...

    def update(self, done: int) -> None:
        """``done`` bytes of it are there now."""
        ...

    def finish(self, note: str = "") -> None:
        """It is over. ``note`` says how when that was not "done"."""
        ...

    def say(self, text: str) -> None:
        """One line that is not about bytes: "waiting for ...", "already there"."""
        ...


class NoProgress:
    """Shows nothing."""

    def start(self, title: str, total: int, done: int = 0) -> None: ...

    def update(self, done: int) -> None: ...

    def finish(self, note: str = "") -> None: ...

    def say(self, text: str) -> None: ...


class ProgressBar:
    """A bar that redraws itself on a terminal, or plain lines (start, every ten seconds, end) elsewhere.

    ``stream`` is where it is shown, normally stderr; whether it is a terminal decides the form.
    """

    def __init__(self, stream: TextIO, clock: Clock) -> None:
        self._stream = stream
        self._clock = clock
        self._terminal = stream.isatty()
        self._title = ""
        self._total = 0
        self._done = 0
        self._drawn_at = 0.0
        self._samples: list[tuple[float, int]] = []

    def start(self, title: str, total: int, done: int = 0) -> None:
        now = self._clock.now()
        self._title, self._total, self._done = title, total, done
        self._samples = [(now, done)]
        self._drawn_at = now
        if self._terminal:
            self._draw(now)
        else:
            size = f" ({megabytes(total)})" if total else ""
            resumed = f", from {megabytes(done)}" if done else ""
            self._line(f"{title}{size}{resumed}")

    def update(self, done: int) -> None:
        now = self._clock.now()
        self._done = done
        if now - self._drawn_at < (_REDRAW_S if self._terminal else _LINE_EVERY_S):
            return
        self._drawn_at = now
        self._samples.append((now, done))
        while len(self._samples) > 2 and now - self._samples[0][0] > max(_WINDOW_S, _LINE_EVERY_S):
            self._samples.pop(0)
        if self._terminal:
            self._draw(now)
        else:
            self._line(f"{self._title}: {self._figures(now)}")

    def finish(self, note: str = "") -> None:
        now = self._clock.now()
        if self._terminal:
            self._draw(now)
            self._stream.write(f"  {note}\n" if note else "\n")
            self._stream.flush()
        else:
            self._line(f"{self._title}: {note or 'done'}")
        self._title, self._total, self._done = "", 0, 0

    def say(self, text: str) -> None:
        self._line(text)

    def _line(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()

    def _draw(self, now: float) -> None:
        width = shutil.get_terminal_size().columns - 1
        title, figures = self._title[:_TITLE].ljust(_TITLE), self._figures(now)
        room = min(_BAR, width - len(title) - _FIGURES)
        bar = ""
        if self._total and room >= _SHORTEST_BAR:
            full = int(min(1.0, self._done / self._total) * room)
            bar = f"[{'#' * full}{'.' * (room - full)}] "
        self._stream.write("\r" + f"{title} {bar}{figures}"[:width].ljust(width))
        self._stream.flush()

    def _figures(self, now: float) -> str:
        parts = []
        if self._total:
            parts.append(f"{100 * min(1.0, self._done / self._total):3.0f}%")
            parts.append(f"{self._done / 1e6:.1f}/{self._total / 1e6:.1f} MB")
        else:
            parts.append(f"{self._done / 1e6:.1f} MB")
        since, before = self._samples[0]
        if now > since and self._done > before:
            rate = (self._done - before) / (now - since)
            parts.append(f"{rate / 1e6:.1f} MB/s")
            if self._total > self._done:
                parts.append(f"ETA {clock_time((self._total - self._done) / rate)}")
        return "  ".join(parts)


def clock_time(seconds: float) -> str:
    """A duration as "0:07", "12:30" or "1:02:03"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
