"""Tokens joined to words."""

from __future__ import annotations

from aiphone.inference.stt_words import words_of
from aiphone.inference.whisper_cpp import Token
from aiphone.spoken_word import SpokenWord


def token(text: str | bytes, t0: float, t1: float, p: float = 0.9) -> Token:
    raw = text if isinstance(text, bytes) else text.encode()
    return Token(0, raw, p, -0.1, t0, t1)


def test_a_word_has_the_time_of_its_tokens_and_the_probability_of_the_least_sure() -> None:
    tokens = [token(" conf", 0.5, 0.7, 0.8), token("erence", 0.7, 1.0, 0.6), token(",", 1.0, 1.4, 0.1)]
    assert words_of(tokens, "en") == [SpokenWord("conference,", 0.5, 1.0, 0.6)]


def test_punctuation_that_stands_alone_belongs_to_the_word_before() -> None:
    tokens = [token(" Hello", 0.0, 0.3), token(" -", 0.3, 0.4), token(" there", 0.4, 0.8)]
    assert [word.text for word in words_of(tokens, "en")] == ["Hello-", "there"]


def test_a_character_in_two_tokens_is_one() -> None:
    whole = "é".encode()
    tokens = [token(b" caf" + whole[:1], 0.0, 0.2), token(whole[1:], 0.2, 0.4)]
    assert [word.text for word in words_of(tokens, "fr")] == ["café"]


def test_languages_without_spaces_have_a_word_for_each_token_of_whole_characters() -> None:
    raw = "好".encode()
    tokens = [token("你", 0.0, 0.2), token(raw[:2], 0.2, 0.3), token(raw[2:], 0.3, 0.4), token("。", 0.4, 0.5)]
    assert [word.text for word in words_of(tokens, "zh")] == ["你", "好。"]


def test_nothing_gives_no_words() -> None:
    assert words_of([], "en") == []
    assert words_of([token(" .", 0.0, 0.1)], "en") == []
