"""What words spoken over the assistant mean: nothing, "go on", or "stop".

A listener's "mm-hm" and "yeah" ask the speaker to go on; a cough is no word at all (Whisper writes it in brackets, or
invents one of a few phrases it learned to put under noise). Everything else is somebody who wants to speak.

The second question is whether the words are our own, sent back by the far end: see ``is_echo``.

Pure: texts in, verdicts out.
"""

from __future__ import annotations

import enum
import re
from difflib import SequenceMatcher


class Meaning(enum.Enum):
    """Of words spoken while the assistant speaks."""

    NOTHING = "nothing"
    """No words, or what is written for noise."""
    GO_ON = "go on"
    """A listener's signal."""
    STOP = "stop"
    """The caller wants to speak."""


_ASIDE = re.compile(r"\[[^\]]*\]?|\([^)]*\)?|\*[^*]*\*?|♪[^♪]*♪?")
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")

_SIGNALS = re.compile(
    r"(?:(?:m+|h?m+ h?m+|mm?h?m+|hm+|uh huh|uhuh|uh|um|ah+|oh+|aha|huh|ooh|wow|yeah|yep|yes|ya|ja|oui|si|sì|okay|ok|"
    r"right|sure|alright|all right|i see|i know|got it|great|good|nice|cool|fine|really|exactly|true|of course|"
    r"thank you|thanks|genau|gut|d'accord|vale|claro|va bene)(?: |$)){1,12}"
)
_INVENTED = frozenset(
    {"you", "thank you", "thanks for watching", "thank you for watching", "bye", "the", "so", "i", "a", "sh", "shh"}
)
"""What Whisper makes of breath, coughs and noise."""


def meaning(text: str) -> Meaning:
    """What a transcript of words spoken over the assistant means."""
    plain = _ASIDE.sub(" ", text.casefold().replace("’", "'").replace("-", " "))  # noqa: RUF001
    words = " ".join(_WORD.findall(plain))
    if not words or words in _INVENTED:
        return Meaning.NOTHING
    return Meaning.GO_ON if _SIGNALS.fullmatch(words) else Meaning.STOP


_FLOOR = re.compile(
    r"(?:(?:please|just|no|okay|hey) )*(?:stop|stop it|no|wait|wait a (?:moment|minute|second)|hello|help|hey|hold on|"
    r"hang on|one (?:moment|minute|second)|a (?:moment|minute|second)|excuse me|sorry|pardon|what|listen|enough|quiet|"
    r"be quiet|shut up|question|halt|stopp|nein|warte|warten sie|moment|non|arrête|arrêtez|attendez|attends|espera|"
    r"espere|basta|aspetta|aspetti|alto|para)(?: (?:please|now))?"
)


def wants_floor(doubted: str) -> bool:
    """True for words that mean "stop" even where Whisper has its doubts of them.

    A single short word is often doubtful; noise becomes many things, but hardly ever one of these.
    """
    return _FLOOR.fullmatch(" ".join(_WORD.findall(doubted.casefold().replace("’", "'")))) is not None  # noqa: RUF001


def is_echo(heard: str, spoken: str) -> bool:
    """True when ``heard`` is part of ``spoken``, as well as a recogniser hears a voice that comes back.

    ``spoken`` is what we said in the time in question. Three words or fewer must all agree, of more three in four.
    """
    ours, theirs = _WORD.findall(spoken.casefold()), _WORD.findall(heard.casefold())
    if not ours or not theirs:
        return False
    same = sum(block.size for block in SequenceMatcher(None, ours, theirs, autojunk=False).get_matching_blocks())
    return same >= (len(theirs) if len(theirs) <= 3 else 0.75 * len(theirs))
