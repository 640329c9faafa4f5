"""pjsip's log as ours: levels mapped, credentials removed, floods cut off.

pjsip logs what strangers send it, so a line is bounded, kept printable, and counted: beyond ``BURST`` warnings
in a second the rest is only counted, or a flood of bad requests would fill the disk.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

from aiphone.clock import Clock

BURST = 20
"""Warnings and errors in one second that are written in full."""

MAX_LINE = 4000
MAX_WARNING = 400
"""Characters of a warning: pjsip quotes whole messages of strangers in some of them."""

_SECRET_HEADER = re.compile(
    r"^((?:Proxy-)?Authorization)[ \t]*:.*(?:(?:\r\n|\r|\n)[ \t].*)*", re.IGNORECASE | re.MULTILINE
)
_SECRET_PARAMETER = re.compile(r"\b(response|cnonce|nextnonce|rspauth)\s*=\s*\"[^\"]*\"", re.IGNORECASE)
_SECRET_KEY = re.compile(r"\binline:[A-Za-z0-9+/=|:]+")

# pjsip: 1 error, 2 warning, 3 info, 4 debug, 5 trace. Its errors are mostly about what others sent.
_LEVELS = {1: logging.WARNING, 2: logging.WARNING, 3: logging.DEBUG}


def redact(text: str) -> str:
    """The text without digest credentials and SRTP keys."""
    text = _SECRET_HEADER.sub(r"\1: (removed)", text)
    text = _SECRET_PARAMETER.sub(r'\1="(removed)"', text)
    return _SECRET_KEY.sub("inline:(removed)", text)


def pj_level(logger: logging.Logger) -> int:
    """pjsip's level for what ``logger`` would write: SIP messages only when it is at DEBUG."""
    if logger.isEnabledFor(logging.DEBUG):
        return 5
    return 2 if logger.isEnabledFor(logging.WARNING) else 1


class Allowance:
    """``burst`` lines in a second, and the number of those that were left out. One thread."""

    def __init__(self, clock: Clock, burst: int = BURST) -> None:
        self._clock = clock
        self._burst = burst
        self._window = 0.0
        self._used = 0
        self._left_out = 0

    def take(self) -> tuple[bool, int]:
        """Whether a line may be written, and how many were left out in the window that has just ended."""
        now = self._clock.now()
        missed = 0
        if now - self._window >= 1.0:
            missed, self._left_out = self._left_out, 0
            self._window, self._used = now, 0
        self._used += 1
        if self._used > self._burst:
            self._left_out += 1
            return False, missed
        return True, missed


class LogFilter:
    """Takes pjsip's lines and writes them to a logger. SIP thread only."""

    def __init__(self, logger: logging.Logger, clock: Clock, write: Callable[[int, str], None] | None = None) -> None:
        self._allowance = Allowance(clock)
        self._write = write or (lambda level, text: logger.log(level, "%s", text))

    def take(self, pj_log_level: int, message: str) -> None:
        """One line of pjsip at its level (1 to 6)."""
        level = _LEVELS.get(pj_log_level, logging.DEBUG)
        if level >= logging.WARNING:
            allowed, missed = self._allowance.take()
            if missed:
                self._write(logging.WARNING, f"{missed} more warnings like these were left out")
            if not allowed:
                return
        most = MAX_LINE if level < logging.WARNING else MAX_WARNING
        text = redact(message.strip())[:most].encode("utf-8", "replace").decode().replace("\r", "")
        self._write(level, "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text))
