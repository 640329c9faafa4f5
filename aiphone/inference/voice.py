"""What a voice is, whoever speaks: Piper, another program, or a script in a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from aiphone.events import Pcm


class Piece(NamedTuple):
    """Part of a spoken text."""

    pcm: Pcm
    """int16 at 16 kHz."""
    last: bool
    """True when nothing follows, known before the voice is asked again."""


class Voice(Protocol):
    """Text to speech in one voice."""

    @property
    def name(self) -> str:
        """What personas and flags call it."""
        ...

    @property
    def language(self) -> str:
        """Language tag such as ``en-us``; empty when it is not known."""
        ...

    def synthesise(self, text: str, wanted: Callable[[], bool]) -> Iterator[Piece]:
        """Speak ``text``, piece by piece; nothing at all when there is nothing to say.

        Any thread, several at a time. The work of a piece is done when it is asked for, so a caller may leave
        it between pieces; inside one it is given up soon after ``wanted()`` turns False.
        Raises SpeechError.
        """
        ...


def always() -> bool:
    """For work that nobody will cancel."""
    return True
