"""Whisper's tokens as words, each with its time and how sure Whisper is of it.

The times are whisper.cpp's: the timestamps at both ends of a segment, what lies between spread by the length of the
words and moved to where the audio is loud. Good to about a tenth of a second.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from aiphone.inference.whisper_cpp import Token
from aiphone.spoken_word import SpokenWord

_UNSPACED = frozenset(("zh", "ja", "th", "lo", "my", "yue"))
"""Languages written without spaces: there every character or syllable that Whisper has a token for is a word."""


def words_of(tokens: Sequence[Token], language: str) -> list[SpokenWord]:
    """Join tokens to words, with times from the start of the tokens' audio.

    A word is as probable as the least probable of its tokens, punctuation apart.
    """
    found: list[SpokenWord] = []
    for group in _grouped(tokens, language in _UNSPACED):
        text = b"".join(token.raw for token in group).decode(errors="ignore").strip()
        spoken = [token for token in group if _has_letters(token.raw.decode(errors="ignore"))]
        if not _has_letters(text):
            if found and text:  # a comma that stands alone belongs to the word before it
                found[-1] = _with_text(found[-1], found[-1].text + text)
            continue
        begin, end = group[0].t0, max(token.t1 for token in spoken or group)
        found.append(
            SpokenWord(
                text,
                round(begin, 2),
                round(max(begin, end), 2),
                round(min(token.p for token in spoken or group), 3),
            )
        )
    return found


def _has_letters(text: str) -> bool:
    return any(character.isalnum() for character in text)


def _with_text(word: SpokenWord, text: str) -> SpokenWord:
    return SpokenWord(text, word.start, word.end, word.probability)


def _grouped(tokens: Iterable[Token], unspaced: bool) -> Iterable[list[Token]]:
    group: list[Token] = []
    for token in tokens:
        begins = token.raw.startswith(b" ") or (unspaced and _complete(group))
        if group and begins:
            yield group
            group = []
        group.append(token)
    if group:
        yield group


def _complete(group: Sequence[Token]) -> bool:
    """Whether the bytes so far are whole characters."""
    try:
        b"".join(token.raw for token in group).decode()
    except UnicodeDecodeError:
        return False
    return True
