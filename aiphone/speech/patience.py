"""How long to wait after the caller's last sound before the turn is taken to be over.

Three witnesses are heard. The voice: a turn-end model's probability (``turn_end``). The words: how many there are, and
how the transcript of the turn so far ends. The language model: how probable it finds it that a turn or a sentence
ends after them. Together they give the odds that the caller has finished, and the odds a time between the persona's
shortest and longest patience. A model that has not spoken (yet, or because there is none) counts as one who says what
is usual at the end of a turn.

Pure: no clock, no thread, no model.
"""

# ruff: noqa: RUF001 - the typographic marks are what transcripts hold
from __future__ import annotations

import enum
import math
import re
from dataclasses import dataclass

from aiphone.errors import ConfigError


class Ending(enum.Enum):
    """How the words of a turn end."""

    NOTHING = "nothing"
    """No words."""
    HOLD = "hold"
    """The caller asks for time: "hold on a second"."""
    HANGING = "hanging"
    """In the middle: "and", "um", "the", a comma, three dots."""
    DICTATING = "dictating"
    """Within digits or letters read out one by one."""
    PLAIN = "plain"
    """Anything else."""
    CLOSED = "closed"
    """A short answer that needs nothing after it: "yes please", "goodbye"."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds of silence; ``usual`` is what is waited when nothing speaks for or against the end of the turn."""

    shortest: float
    usual: float
    longest: float

    def __post_init__(self) -> None:
        if not 0.0 < self.shortest <= self.usual <= self.longest:
            raise ConfigError(
                f"the shortest patience ({self.shortest:g} s), the usual one ({self.usual:g} s) and the longest one "
                f"({self.longest:g} s) must come in this order; change one of them"
            )


# Fitted to one half of 298 pauses in telephone recordings cut between words, and tried on the other half: the median
# end of a turn gets the shortest patience (0.35 s; 0.58 s on average), and a cut falls into 10 % of pauses of 0.2 to
# 1 s. Without the language model that is 0.59 s and 14 %, without the voice 0.63 s and 16 %; a fixed timer of 0.45 s
# cuts into 65 %. What punctuation Whisper puts at a cut is no evidence: it writes "Where can I park?" in mid-sentence.
# So the model is asked after the last word, not after the full stop that always follows.
_BIAS = -1.94
_BY_VOICE = 0.3  # for each unit of the model's log odds: it is right more often than not, and much too sure
_VOICE_UNKNOWN = 0.4
_BY_MODEL = 0.38  # for each unit of the language model's log odds
_MODEL_UNKNOWN = -0.5
_BY_WORD = 0.31
_MOST_WORDS = 8
_BY_ENDING = {Ending.HANGING: -2.0, Ending.DICTATING: -1.5}
_WORDS_OF_CLOSED = 8  # a short answer that is complete is as good as so many words
_SURE = 0.3
"""Log odds from which the shortest patience is enough; below the negative of it the longest is right."""

UNFINISHED = (Ending.HOLD, Ending.HANGING, Ending.DICTATING)
"""Ways of ending that say by themselves that more is to come."""

_HOLD_FACTOR = 3.0
"""Times the longest patience for a caller who asked for time."""

_WORD = re.compile(r"[^\W_]+(?:['’.:-][^\W_]+)*")

# Words that a turn does not end with, but for a question with its mark ("who is it for?").
_HANGING_WORDS = frozenset(
    """a an the this these my your his its our their and or but nor because cause if when while whereas since unless
    until although though that which who whose where than as of to at by for from with without into
    between is are was were be been am do does did has have had will would can could should may
    might must um uh uhm er erm ehm hmm very just also plus i i'm i'd i'll i've you're we're they're it's
    he's she's there's
    und oder aber weil dass wenn der die das ein eine mein meine äh ähm von mit für zu
    et ou mais parce que le la les un une des du de mon ma euh pour avec
    y o pero porque el los las una mi eh con por para
    e ma perché il lo gli di per che""".split()  # noqa: SIM905
)
_CLOSED_TURN = re.compile(
    r"(?:(?:yes|yeah|yep|no|nope|okay|ok|sure|right|correct|exactly|please|thanks|thank you(?: very much| so much)?|"
    r"that's (?:all|it|right|correct|fine)|(?:good)?bye(?:[ -]bye)?|hello|hi|never ?mind|not really|of course|"
    r"ja|nein|danke|oui|non|merci|sí|si|no gracias|gracias|grazie|sì)\b[\s,.!]*){1,4}"
)
_HOLD_TURN = re.compile(
    r"(?:\b(?:hold on|hang on|wait|one (?:moment|second|sec|minute)|(?:just |give me )?a (?:moment|second|sec|minute)|"
    r"just a (?:moment|second|sec|minute)|let me (?:see|think|check|look|find|get)|moment mal|einen moment|"
    r"un momento|un moment|attends|aspetta)\b)[\s,.!…-]*(?:please|ok|okay|bitte)?[\s,.!…-]*$"
)
_NUMBER_WORDS = frozenset("zero oh one two three four five six seven eight nine ten double triple".split())  # noqa: SIM905
_WHOLE_NUMBERS = (7, 10, 11)
"""So many digits make a telephone number."""


def ending(text: str) -> Ending:
    """How the words end. ``text`` is a transcript with its punctuation, in any case."""
    plain = text.strip().lower().replace("’", "'")
    words = _WORD.findall(plain)
    if not words:
        return Ending.NOTHING
    if _HOLD_TURN.search(plain):
        return Ending.HOLD
    if plain.endswith("?"):
        return Ending.PLAIN
    if _CLOSED_TURN.fullmatch(plain):
        return Ending.CLOSED
    if _dictating(words):
        return Ending.DICTATING
    if plain.endswith((",", "...", "…", "-", "–", "—", ":", ";")) or words[-1] in _HANGING_WORDS:
        return Ending.HANGING
    return Ending.PLAIN


def seconds(limits: Limits, probability: float | None, text: str | None, by_words: float | None = None) -> float:
    """How long to wait, counted from the caller's last voiced sound.

    ``probability`` is the voice's, ``by_words`` the language model's (None when there is none), ``text`` the transcript
    of the turn so far. While it is None the voice decides alone, and not for less than the usual patience: nothing
    can be answered before the words are there, and they may say that more is to come.
    """
    if text is None:
        if probability is None:
            return limits.usual
        return max(limits.usual, _between(limits, _log_odds(probability)))
    how = ending(text)
    if how is Ending.NOTHING:
        return limits.usual
    if how is Ending.HOLD:
        return _HOLD_FACTOR * limits.longest
    words = len(_WORD.findall(text))
    if how is Ending.CLOSED:
        words = max(words, _WORDS_OF_CLOSED)
    odds = _BIAS + _BY_WORD * min(words, _MOST_WORDS) + _BY_ENDING.get(how, 0.0)
    odds += _VOICE_UNKNOWN if probability is None else _BY_VOICE * _log_odds(probability)
    expected = _MODEL_UNKNOWN if by_words is None else _BY_MODEL * _log_odds(by_words)
    # After "yes" much may follow, so the model finds no end of it probable; that says little against a short answer.
    odds += max(expected, 2 * _MODEL_UNKNOWN) if how is Ending.CLOSED else expected
    return _between(limits, odds)


def _between(limits: Limits, odds: float) -> float:
    """The odds (their logarithm) that the turn is over, as a time."""
    share = min(1.0, abs(odds) / _SURE)
    towards = limits.shortest if odds > 0 else limits.longest
    return limits.usual + share * (towards - limits.usual)


def _log_odds(probability: float) -> float:
    sure = min(max(probability, 0.01), 0.99)
    return math.log(sure / (1.0 - sure))


def _dictating(words: list[str]) -> bool:
    """True within a row of digits or letters that are said one by one, unless it is as long as a number is."""
    digits = letters = 0
    for word in reversed(words):
        bare = word.replace("-", "").replace(".", "")
        if bare.isdigit():
            digits += len(bare)
        elif word in _NUMBER_WORDS:
            digits += 1
        elif len(bare) == 1 and bare.isalpha():
            letters += 1
        elif "-" in word and all(len(part) == 1 for part in word.split("-")):
            letters += len(bare)
        else:
            break
    if letters + digits >= 3 and letters:
        return True
    return digits >= 3 and digits not in _WHOLE_NUMBERS
