"""Actions at the end of an answer."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiphone.actions import KINDS, Action, ActionFilter, check, explained, grammar
from aiphone.errors import ConfigError

TARGETS = {"sales": "sip:sales@example.com", "the front desk": "sip:100@example.com"}


def parted(*pieces: str) -> tuple[str, Action | None]:
    filter_ = ActionFilter()
    spoken = "".join([filter_.feed(piece) for piece in pieces])
    return spoken + filter_.finish(), filter_.action


@pytest.mark.parametrize(
    ("text", "spoken", "action"),
    [
        ("Goodbye. [hang up]", "Goodbye. ", Action("hang up")),
        ("I will connect you. [transfer sales]", "I will connect you. ", Action("transfer", "sales")),
        ("One moment. [transfer the front desk]", "One moment. ", Action("transfer", "the front desk")),
        ("Pressing. [press 42#]", "Pressing. ", Action("press", "42#")),
        ("Please wait. [hold]", "Please wait. ", Action("hold")),
        ("No action at all.", "No action at all.", None),
        ("A list [1] of things [2].", "A list [1] of things [2].", None),
        ("[dance] and [hang up] more", "[dance] and ", Action("hang up")),
        ("An open [bracket", "An open [bracket", None),
        ("One moment. [transfer sal", "One moment. ", None),
        ("One moment. [ha", "One moment. ", None),
        ("[press 0123456789012345678] is too long", "[press 0123456789012345678] is too long", None),
        ("[" + "x" * 200 + "]", "[" + "x" * 200 + "]", None),
    ],
)
def test_words_and_action_are_parted(text: str, spoken: str, action: Action | None) -> None:
    assert parted(text) == (spoken, action)


@given(st.text(alphabet="ab []hangupold", max_size=60), st.lists(st.integers(0, 60), max_size=6))
def test_pieces_make_no_difference(text: str, cuts: list[int]) -> None:
    edges = sorted({0, len(text), *(cut for cut in cuts if cut <= len(text))})
    pieces = [text[a:b] for a, b in itertools.pairwise(edges)]
    assert parted(*pieces) == parted(text)


@given(st.text(max_size=80))
def test_no_word_is_lost_without_an_action(text: str) -> None:
    spoken, action = parted(text)
    assert text.startswith(spoken)
    assert action is not None or spoken == text or text[len(spoken)] == "["


def test_nothing_allowed_is_nothing_said_and_no_grammar() -> None:
    assert explained((), TARGETS) == ""
    assert grammar((), TARGETS) == ""
    assert grammar(("transfer",), {}) == ""


def test_grammar_and_prompt_name_what_is_allowed_and_nothing_else() -> None:
    rules, prompt = grammar(("transfer", "hang up"), TARGETS), explained(("transfer", "hang up"), TARGETS)
    for text in (rules, prompt):
        assert "hang up" in text
        assert "sales" in text
        assert "the front desk" in text
        assert "press" not in text
        assert "hold" not in text
    assert "[0-9*#]{1,16}" in grammar(("press",), {})


def test_every_kind_has_a_way_to_be_asked_for() -> None:
    for kind in KINDS:
        assert grammar((kind,), TARGETS)
        assert explained((kind,), TARGETS)


@pytest.mark.parametrize(
    ("allowed", "targets", "sentence"),
    [
        (("fly",), {}, "there is no action 'fly'"),
        (("transfer",), {}, "at least one target"),
        (("transfer",), {"Sales!": "sip:a@b"}, "small letters"),
        (("transfer",), {"sales": "sales"}, "URI such as"),
    ],
)
def test_what_makes_no_sense_is_refused(allowed: tuple[str, ...], targets: dict[str, str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        check(allowed, targets)


def test_what_makes_sense_is_not() -> None:
    check(KINDS, TARGETS)
