"""Cutting a text that is still being written into phrases to be spoken.

The first phrase decides how soon the caller hears something, so it is short: up to a clause's end, or a few
words. Later phrases are sentences, because a voice speaks a sentence better than its parts, and there is time
while the first one is played.

Rules:

1. Cuts fall between words only (or after the full stop of a script that writes none), and no text is lost:
   the phrases joined are the text, spaces aside.
2. A sentence's end is ``. ! ? …`` with closing quotes, a line's end, or ``。！？``. It is not the dot of an
   abbreviation, an initial, a list's number or "U.S."; an ellipsis counts only before a capital.
3. No phrase is a lone word where the text has a second one to go with it.
4. A sentence that grows too long is cut at a clause's end, else where no function word is left hanging.
5. The first phrase ends before the function word that follows its third word or a later one: "The capital of France |
   is Paris". It is heard sooner, and is clearer: voices run such words together.

Pure: no clock, no thread. One cutter for one answer.
"""

# Typographic punctuation is this module's subject, and word lists read better as text.
# ruff: noqa: RUF001, RUF002, SIM905

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

_WORD = re.compile(r"[^\s。！？]*[。！？]+[」』”’)）]*|\S+")
_CLOSERS = "\"'”’»)]}*_`"
_WIDE_STOPS = "。！？"
_INITIALS = re.compile(r"(?:[^\W\d_]\.)+")
_LIST_NUMBER = re.compile(r"\(?(?:\d{1,3}|[a-zA-Z])[.)]")
_CLAUSE_ENDS = (",", ";", ":", "—", "–", "，", "；", "：", "、")
_DASHES = ("-", "–", "—", "--")

# Abbreviations that are followed by more of the sentence, whatever comes next.
_OPEN_ABBREVIATIONS = frozenset(
    "mr mrs ms dr prof sr jr st mt ft rev gen gov capt lt col sgt hon vs e.g i.e cf viz approx appt apt ave blvd "
    "rd dept tel nr bzw z.b d.h evtl mme mlle sra srta dra ud uds dott".split()
)
# Abbreviations when a number follows, and words like any other when not ("the answer is no").
_BEFORE_NUMBERS = frozenset(
    "no nos vol fig figs p pp ch sec ext min max art jan feb mar apr jun jul aug sep sept oct nov dec".split()
)
# Abbreviations that may end a sentence: they do when a capital follows.
_CLOSING_ABBREVIATIONS = frozenset("etc inc ltd co corp bros a.m p.m u.s u.k u.n e.u d.c ph.d b.c a.d usw".split())
# Words that lean on the next one: a pause after them sounds wrong.
_LEANING = frozenset(
    "a an the this that these those my your his her its our their of to in on at by for from with without into onto "
    "over under about and or but nor so yet if when while because than as is are was were be been am do does did "
    "has have had will would can could should may might must not no very too more most each every some any "
    "which who whose what how i you he she it we they mr mrs ms dr".split()
)


class _After(enum.IntEnum):
    """What stands between a word and the next."""

    NOTHING = 0
    CLAUSE = 1
    SENTENCE = 2


@dataclass(frozen=True, slots=True)
class _Word:
    text: str
    end: int  # in the buffer
    line_end: bool  # a line break follows
    line_start: bool


class PhraseCutter:
    """Feed it text as it comes; it gives phrases as soon as they are sure.

    ``limits`` are the most words in the first phrase, the second, and all later ones (counting those with
    a letter or digit). The first is cut at a clause's end if there is one early enough.
    """

    def __init__(self, first_max_words: int = 6, second_max_words: int = 16, max_words: int = 32) -> None:
        if not 2 <= first_max_words <= second_max_words <= max_words:
            raise ValueError("a phrase has two words at least, and later ones are not shorter")
        self._limits = (first_max_words, second_max_words, max_words)
        self._buffer = ""
        self._count = 0

    def feed(self, text: str) -> list[str]:
        """Add text; the phrases that it completed, without spaces around them."""
        self._buffer += text
        return self._take(final=False)

    def finish(self) -> list[str]:
        """No more text: the phrases that are left. The cutter is then as new."""
        phrases = self._take(final=True)
        self._buffer, self._count = "", 0
        return phrases

    def _take(self, *, final: bool) -> list[str]:
        phrases = []
        while (end := self._cut(final=final)) is not None:
            phrase, self._buffer = self._buffer[:end].strip(), self._buffer[end:]
            if phrase:
                phrases.append(phrase)
                self._count += 1
        return phrases

    def _cut(self, *, final: bool) -> int | None:
        """Where the next phrase ends in the buffer; None when that is not known yet."""
        words = self._words(final=final)
        limit = self._limits[min(self._count, 2)]
        spoken = 0
        for number, word in enumerate(words):
            spoken += _is_spoken(word.text)
            after = _after(words, number, final=final)
            if after is None:
                return None  # the next word decides
            if spoken >= 2:
                if after is _After.SENTENCE:
                    return self._with_lone_rest(words, number, final=final)
                # Of a first phrase, a clause of three words will do.
                if self._count == 0 and after is _After.CLAUSE and spoken >= 3 and self._more(words, number, final):
                    return word.end
                # The bare word: "no." may belong to a number.
                if self._count == 0 and spoken >= 4 and word.text.lower() in _LEANING and not _leans(words[number - 1]):
                    return words[number - 1].end
            if spoken >= limit:
                return self._forced_cut(words[: number + 1])
        return len(self._buffer) if final and self._buffer.strip() else None

    def _words(self, *, final: bool) -> list[_Word]:
        """The words of the buffer that are complete: something that is no word follows, or the text has ended."""
        words: list[_Word] = []
        line_start = True
        for match in _WORD.finditer(self._buffer):
            end = match.end()
            wide = match.group()[-1] in _WIDE_STOPS
            if end == len(self._buffer) and not final and not wide:
                break
            gap = re.match(r"\s*", self._buffer[end:])
            space = gap.group() if gap else ""
            words.append(_Word(match.group(), end, "\n" in space, line_start))
            line_start = "\n" in space
        return words

    def _more(self, words: list[_Word], number: int, final: bool) -> bool:
        """True when what follows a cut here is known not to be a lone last word."""
        return not final or sum(_is_spoken(word.text) for word in words[number + 1 :]) != 1

    def _with_lone_rest(self, words: list[_Word], number: int, *, final: bool) -> int:
        """The end of this sentence, or of the text when only a lone word is left of it."""
        return words[number].end if self._more(words, number, final) else len(self._buffer)

    def _forced_cut(self, words: list[_Word]) -> int:
        """The best end among the words of a phrase that has reached its limit.

        Two words at least stay behind for the next phrase: the text may end with the word that comes next.
        """
        candidates = range(len(words) - 2, 1, -1)  # ends after this many words
        for ends in candidates:
            if _after(words, ends - 1, final=True) is _After.CLAUSE and _spoken(words[:ends]) >= 3:
                return words[ends - 1].end
        for ends in candidates:
            last = words[ends - 1]
            if not _leans(last) and _is_spoken(last.text) and _spoken(words[:ends]) >= 2:
                return words[ends - 1].end
        return words[-1].end


def _leans(word: _Word) -> bool:
    return word.text.strip(_CLOSERS + ",.").lower() in _LEANING


def _spoken(words: list[_Word]) -> int:
    return sum(_is_spoken(word.text) for word in words)


def _is_spoken(word: str) -> bool:
    return any(character.isalnum() for character in word)


def _after(words: list[_Word], number: int, *, final: bool) -> _After | None:
    """What follows word ``number``; None when the word after it must be seen first."""
    word = words[number]
    follower = words[number + 1] if number + 1 < len(words) else None
    if word.line_start and _LIST_NUMBER.fullmatch(word.text):
        return _After.NOTHING  # "1." belongs to its line
    if word.line_end:
        return _After.SENTENCE
    bare = word.text.rstrip(_CLOSERS)
    if bare.endswith(("!", "?", *_WIDE_STOPS)):
        return _After.SENTENCE
    if bare.endswith(("...", "…")):
        return _by_next(follower, final, otherwise=_After.CLAUSE)
    if bare.endswith("."):
        core = bare[:-1].lstrip("(\"'“‘[*_").lower()
        if core in _OPEN_ABBREVIATIONS:
            return _After.NOTHING
        if core in _CLOSING_ABBREVIATIONS or (_INITIALS.fullmatch(core + ".") and "." in core):
            return _by_next(follower, final, otherwise=_After.NOTHING)
        if core in _BEFORE_NUMBERS:
            if follower is None:
                return _After.SENTENCE if final else None
            return _After.NOTHING if follower.text[0].isdigit() else _After.SENTENCE
        if _INITIALS.fullmatch(core + "."):
            return _After.NOTHING  # the J. of "J. R. Smith"
        return _After.SENTENCE
    if word.text.endswith(_CLAUSE_ENDS) or bare.endswith(_CLAUSE_ENDS):
        return _After.CLAUSE
    if word.text in _DASHES:
        return _After.CLAUSE
    return _After.NOTHING


def _by_next(follower: _Word | None, final: bool, *, otherwise: _After) -> _After | None:
    """A sentence's end when a capital follows."""
    if follower is None:
        return _After.SENTENCE if final else None
    first = follower.text.lstrip("(\"'“‘[*_¿¡")[:1]
    return _After.SENTENCE if first.isupper() else otherwise
