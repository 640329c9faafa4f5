# ruff: noqa: RUF001
from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiphone.speech.phrases import PhraseCutter


def cut(text: str, size: int = 4) -> list[str]:
    """The phrases of a text that arrives in pieces of ``size`` characters."""
    cutter = PhraseCutter()
    phrases: list[str] = []
    for at in range(0, len(text), size):
        phrases += cutter.feed(text[at : at + size])
    return phrases + cutter.finish()


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("The capital of France is Paris.", ["The capital of France", "is Paris."]),
        ("Yes.", ["Yes."]),
        ("Yes. No.", ["Yes. No."]),
        (
            "Sure. I can help you with that, Mr. Smith. What is your account number?",
            ["Sure. I can help", "you with that, Mr. Smith.", "What is your account number?"],
        ),
        (
            "Well, of course, I think that the museum opens at nine.",
            ["Well, of course,", "I think that the museum opens at nine."],
        ),
        ("It costs 3.50 euros. That is e.g. cheap.", ["It costs 3.50 euros.", "That is e.g. cheap."]),
        ("We like the U.S. embassy there. Do you?", ["We like the U.S. embassy there.", "Do you?"]),
        ("We open at 9 a.m. Please come early.", ["We open at 9 a.m.", "Please come early."]),
        ("Let me think... maybe so. Or not at all.", ["Let me think...", "maybe so.", "Or not at all."]),
        (
            "Go to https://example.com/a.b?c=d. Then stop.",
            ["Go to https://example.com/a.b?c=d.", "Then stop."],
        ),
        ("The answer is no. We are closed.", ["The answer is no.", "We are closed."]),
        ("Take the bus no. 5 today. It is free.", ["Take the bus no. 5 today.", "It is free."]),
        (
            "Here is a list:\n1. Apples here\n2. Pears there\n",
            ["Here is a list:", "1. Apples here", "2. Pears there"],
        ),
        ("Dr. J. R. Smith is here. Hello to you.", ["Dr. J. R. Smith", "is here.", "Hello to you."]),
        ('He said "Come in." Then he left.', ['He said "Come in."', "Then he left."]),
        ("你好。今天天气很好。我们去公园吧！", ["你好。今天天气很好。", "我们去公园吧！"]),
    ],
)
def test_phrases(text: str, phrases: list[str]) -> None:
    assert cut(text) == phrases


def test_a_phrase_is_given_as_soon_as_it_is_sure() -> None:
    cutter = PhraseCutter()
    assert cutter.feed("Good morning") == []
    assert cutter.feed(".") == []
    assert cutter.feed(" ") == ["Good morning."]
    assert cutter.feed("How are you? I am") == ["How are you?"]
    assert cutter.finish() == ["I am"]


def test_the_first_phrase_is_short_and_leaves_no_function_word_hanging() -> None:
    first = cut("The weather today is going to be mostly sunny with some clouds in the late afternoon.")[0]
    assert first == "The weather today"


def test_a_sentence_without_end_is_cut_at_a_clause() -> None:
    text = "one two three. " + "word " * 10 + "word, " + "word " * 40
    phrases = cut(text)
    assert phrases[0] == "one two three."
    assert phrases[1] == "word " * 10 + "word,"
    assert all(len(phrase.split()) <= 32 for phrase in phrases)


def test_a_lone_last_word_goes_with_the_one_before() -> None:
    cutter = PhraseCutter()
    assert cutter.feed("I am here. Bye") == ["I am here."]  # nobody could know
    assert cutter.finish() == ["Bye"]
    cutter = PhraseCutter()
    text = "We are open at nine or so"
    phrases = cutter.feed(text) + cutter.finish()
    assert all(len(phrase.split()) >= 2 for phrase in phrases)


def test_finish_makes_it_new() -> None:
    cutter = PhraseCutter()
    cutter.feed("One two three four five six seven eight nine.")
    cutter.finish()
    assert cutter.finish() == []
    assert cutter.feed("Good day, Sir, nice to meet you today. ")[0] == "Good day, Sir,"


texts = st.text(st.sampled_from("ab A1.,;:!?…-—\n\"')(/。！*") | st.characters(), max_size=300)


@given(texts, st.integers(1, 20))
def test_nothing_is_lost_and_nothing_depends_on_how_it_came(text: str, size: int) -> None:
    phrases = cut(text, size)
    assert re.sub(r"\s", "", "".join(phrases)) == re.sub(r"\s", "", text)
    assert all(phrase == phrase.strip() and phrase for phrase in phrases)


words = st.lists(st.sampled_from(["and", "house", "Mr.", "green,", "is", "blue.", "what?", "3.5", "U.S."]), min_size=2)


@given(words, st.integers(1, 9))
def test_a_phrase_of_words_is_never_lone_but_at_the_end(text: list[str], size: int) -> None:
    phrases = cut(" ".join(text), size)
    assert all(len(phrase.split()) >= 2 for phrase in phrases[:-1])
    assert all(len(phrase.split()) <= 32 for phrase in phrases)
    assert len(phrases[0].split()) <= 7
