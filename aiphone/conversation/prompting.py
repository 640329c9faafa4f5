"""Texts as models and comparisons want them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from aiphone.persona import Message

_RECENT_WORDS = 40
"""More words than come back as an echo within one turn."""


def for_model(history: Sequence[Message]) -> list[Message]:
    """The history in the form that chat templates accept: beginning with the user, roles alternating.

    Neighbouring messages of one role become one (an answer of which nothing was heard leaves two of the caller's).
    """
    merged: list[Message] = []
    for message in history:
        if not merged and message.role != "user":
            continue
        if merged and merged[-1].role == message.role:
            merged[-1] = Message(message.role, f"{merged[-1].content} {message.content}")
        else:
            merged.append(message)
    return merged


def same_beginning(text: str, beginning: str) -> bool:
    """True when ``text`` begins with the words of ``beginning``, whatever their case and punctuation."""
    words = _words(beginning)
    return _words(text)[: len(words)] == words


def spoken_words(text: str) -> str:
    """The end of what was said: as much as an echo can bring back."""
    return " ".join(text.split()[-_RECENT_WORDS:])


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.casefold())
