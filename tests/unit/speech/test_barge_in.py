"""Words over the assistant: who wants to speak, who only listens, and what is our own voice."""

from __future__ import annotations

import pytest

from aiphone.speech.barge_in import Meaning, is_echo, meaning, wants_floor


@pytest.mark.parametrize(
    "text", ["", " ", "[BLANK_AUDIO]", "(coughing)", "*sighs*", "Thank you.", "you", "♪ music ♪", "..."]
)
def test_noise_means_nothing(text: str) -> None:
    assert meaning(text) is Meaning.NOTHING


@pytest.mark.parametrize(
    "text",
    [
        "Mm-hm.",
        "Mhm.",
        "Yeah.",
        "Yeah, yeah.",
        "Oh. Oh. Oh. Oh. Oh.",
        "Okay.",
        "Uh-huh, right.",
        "Oh, I see.",
        "Oh wow.",
        "D\u2019accord.",
    ],
)
def test_a_listener_wants_the_speaker_to_go_on(text: str) -> None:
    assert meaning(text) is Meaning.GO_ON


@pytest.mark.parametrize(
    "text", ["Stop.", "No.", "Wait, wait.", "Yeah, but what about Sunday?", "Okay, and how much is it?", "What?"]
)
def test_anything_else_wants_the_floor(text: str) -> None:
    assert meaning(text) is Meaning.STOP


SPOKEN = "The capital of France is Paris, which lies on the river Seine."


@pytest.mark.parametrize(
    ("heard", "echo"),
    [
        ("capital of France is Paris", True),
        ("The capital of Frances Paris which lies on the river", True),
        ("Paris.", True),
        ("", False),
        ("And what about the capital of Spain?", False),
        ("Stop.", False),
        ("the river Thames", False),
    ],
)
def test_our_own_words_are_recognised(heard: str, echo: bool) -> None:
    assert is_echo(heard, SPOKEN) is echo


def test_nothing_is_an_echo_of_silence() -> None:
    assert not is_echo("Hello.", "")


@pytest.mark.parametrize(
    "text",
    ["Stop.", "No!", "Hello?", "one second", "Okay, stop.", "Please wait.", "Hold on please", "Nein.", "Arrêtez"],
)
def test_a_word_that_wants_the_floor_does_so_in_doubt_too(text: str) -> None:
    assert wants_floor(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Hmmm...",
        "AHH!",
        "Amen.",
        "and the machan.",
        "I'm not a fan of the",
        "Right.",
        "Yeah.",
        "you",
        "Good.",
        "them.",
    ],
)
def test_what_whisper_makes_of_noise_does_not(text: str) -> None:
    assert not wants_floor(text)
