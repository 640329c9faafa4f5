"""From tokens' bytes to text that may be spoken.

A token can end in the middle of a character, a stop text can begin in one token and end in the next, and a reply often
starts with a blank. ``ReplyText`` holds back exactly what cannot be decided yet.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

_THINK_OPEN, _THINK_CLOSE = "<think>", "</think>"


class ReplyAssembler:
    """One reply. Not thread-safe."""

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = tuple(stop)
        self._held = ""
        self._begun = False
        self._thinking = False
        self.stopped = False
        """A stop text was found; nothing more will come."""

    def feed(self, piece: bytes) -> str:
        """Add a token's bytes; returns what is ready, often nothing."""
        if self.stopped:
            return ""
        self._held += self._decoder.decode(piece)
        return self._take(final=False)

    def finish(self) -> str:
        """The reply is over; returns what was held back."""
        if self.stopped:
            return ""
        self._held += self._decoder.decode(b"", final=True)
        return self._take(final=True)

    def _take(self, *, final: bool) -> str:
        if not self._begun:
            self._held = self._held.lstrip()
            self._skip_thoughts()
            if self._thinking:
                return ""
            if not final and self._held and _THINK_OPEN.startswith(self._held):
                return ""
        if not self._held:
            return ""
        found = min((at for text in self._stop if (at := self._held.find(text)) >= 0), default=-1)
        if found >= 0:
            ready, self._held, self.stopped = self._held[:found], "", True
        else:
            keep = 0 if final else self._undecided()
            ready, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        self._begun = self._begun or bool(ready)
        return ready

    def _skip_thoughts(self) -> None:
        """Reasoning models think aloud first; that is not for the caller's ears."""
        while True:
            if self._thinking:
                _, closed, rest = self._held.partition(_THINK_CLOSE)
                if not closed:
                    self._held = self._held[-len(_THINK_CLOSE) :]
                    return
                self._thinking, self._held = False, rest.lstrip()
            if not self._held.startswith(_THINK_OPEN):
                return
            self._thinking, self._held = True, self._held[len(_THINK_OPEN) :]

    def _undecided(self) -> int:
        """Length of the tail that may be the beginning of a stop text."""
        longest = max((len(text) for text in self._stop), default=1) - 1
        for size in range(min(longest, len(self._held)), 0, -1):
            tail = self._held[-size:]
            if any(text.startswith(tail) for text in self._stop):
                return size
        return 0
