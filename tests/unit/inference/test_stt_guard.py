"""What the guard takes, cuts and doubts; all without a model."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiphone.inference.stt_guard import (
    FLASH_CONTEXTS,
    Doubt,
    GuardPolicy,
    Spoken,
    clean,
    context_steps,
    find_repetition,
    is_looping,
    is_silent,
    judge,
    token_cap,
    token_key,
    windows,
)

POLICY = GuardPolicy(margins=(96, 256))
RATE = 16_000


def spoken(text: str, logprob: float = -0.1) -> list[Spoken]:
    return [Spoken(f" {word}".encode(), logprob) for word in text.split()]


def keys(text: str) -> list[bytes]:
    return [token_key(word.encode()) for word in text.split()]


# ------------------------------------------------------------------ how much context


def test_the_steps_go_up_to_the_full_context() -> None:
    assert context_steps(POLICY, 2 * RATE, 1500) == [196, 356, 0]
    assert context_steps(POLICY, 24 * RATE, 1500) == [1296, 0]
    assert context_steps(POLICY, 28 * RATE, 1500) == [0]


def test_a_fixed_context_is_the_first_step_but_never_hears_less_than_the_audio() -> None:
    assert context_steps(POLICY, 2 * RATE, 1500, fixed=300) == [300, 356, 0]
    assert context_steps(POLICY, 2 * RATE, 1500, fixed=768) == [768, 0]
    assert context_steps(POLICY, 20 * RATE, 1500, fixed=300)[0] == 1000


@given(st.integers(0, 30 * RATE), st.integers(0, 1500), st.sampled_from([(), FLASH_CONTEXTS]))
def test_steps_always_rise_cover_the_audio_and_end_full(samples: int, fixed: int, allowed: tuple[int, ...]) -> None:
    steps = context_steps(POLICY, samples, 1500, fixed, allowed)
    assert all(step in allowed for step in steps[:-1]) or not allowed
    assert steps[-1] == 0
    assert steps[:-1] == sorted(set(steps[:-1]))
    assert all(step * RATE >= samples * 50 for step in steps[:-1])


def test_the_cap_grows_with_the_audio_and_can_be_lowered() -> None:
    assert token_cap(POLICY, 2 * RATE) == 24
    assert token_cap(POLICY, 2 * RATE, most=10) == 10
    assert token_cap(POLICY, 2 * RATE, most=100) == 24


# ------------------------------------------------------------------ repetitions


@pytest.mark.parametrize(
    ("text", "second"),
    [
        ("the conference is full the conference is full", 4),
        ("The conference is full. the CONFERENCE is full!", 4),
        ("well I said is in use is in use", 6),
        ("to and to and to and to and", 2),
        ("no no no no no no", 1),
        ("no no no", None),
        ("five five five one two", None),
        ("press 1 to record your greeting or press 2 to erase your greeting", None),
        ("one two three", None),
        ("", None),
    ],
)
def test_find_repetition(text: str, second: int | None) -> None:
    assert find_repetition(keys(text)) == second


def test_punctuation_tokens_do_not_hide_a_repetition() -> None:
    assert find_repetition([b"a", b"b", b"c", b"", b"a", b"b", b"c", b""]) == 4


@given(st.lists(st.sampled_from([b"a", b"b", b"c", b""]), max_size=30))
def test_the_quick_check_at_the_end_agrees_with_the_full_one(words: list[bytes]) -> None:
    looped = any(is_looping(words[:length]) for length in range(len(words) + 1))
    assert looped == (find_repetition(words) is not None)


def test_parts_of_characters_are_compared_as_bytes() -> None:
    assert token_key(b" Hello,") == b"hello"
    assert token_key(b"\xe3\x81") == b"\xe3\x81"
    assert token_key(b" ...") == b""


# ------------------------------------------------------------------ judgement


def test_a_plain_sentence_is_taken() -> None:
    verdict = judge(POLICY, spoken("what is the capital of France?"), 2.0, 24, 0.01, last=False)
    assert (verdict.text, verdict.retry, verdict.cut) == ("what is the capital of France?", False, False)


def test_a_repetition_faster_than_speech_is_cut_without_another_decoding() -> None:
    verdict = judge(POLICY, spoken("this number is not answering " * 2), 1.6, 21, 0.0, last=False)
    assert (verdict.text, verdict.retry, verdict.cut) == ("this number is not answering", False, True)


def test_a_repetition_that_may_be_real_is_decoded_again_and_then_believed() -> None:
    tokens = spoken("is anybody there is anybody there")
    first = judge(POLICY, tokens, 3.0, 30, 0.0, last=False)
    assert first.doubt is Doubt.REPEATED
    final = judge(POLICY, tokens, 3.0, 30, 0.0, last=True)
    assert (final.text, final.retry, final.cut) == ("is anybody there is anybody there", False, False)


def test_a_text_at_the_cap_is_doubted_and_a_loop_at_the_cap_is_cut() -> None:
    words = "one two three four five six seven eight nine ten"
    assert judge(POLICY, spoken(words), 2.5, 10, 0.0, last=False).doubt is Doubt.CAPPED
    assert not judge(POLICY, spoken(words), 2.5, 10, 0.0, last=True).retry
    looped = judge(POLICY, spoken("please hold on " * 4), 10.0, 12, 0.0, last=True)
    assert (looped.text, looped.cut) == ("please hold on", True)


def test_improbable_text_asks_for_more_context() -> None:
    tokens = spoken("follow bada pangi", logprob=-1.1)
    assert judge(POLICY, tokens, 1.5, 21, 0.0, last=False).doubt is Doubt.IMPROBABLE
    assert judge(POLICY, tokens, 1.5, 21, 0.0, last=True).text == "follow bada pangi"


def test_a_text_that_compresses_too_well_is_doubted() -> None:
    tokens = [Spoken(b"ha" * 200, -0.1), Spoken(b" stop", -0.1)]
    assert judge(POLICY, tokens, 20.0, 130, 0.0, last=False).doubt is Doubt.COMPRESSES


def test_nothing_is_nothing() -> None:
    assert judge(POLICY, [], 2.0, 24, 0.9, last=False).text == ""


@pytest.mark.parametrize(
    ("text", "logprob", "no_speech", "kept"),
    [
        ("Thank you.", -0.1, 0.02, True),
        ("Thank you.", -0.1, 0.5, False),
        ("Thank you.", -0.9, 0.0, False),
        ("Thanks for watching!", -0.3, 0.4, False),
        ("I would like a table for two", -0.3, 0.4, True),
        ("Be Be Be Be", -0.1, 0.87, False),
        ("I'm going to put the oil in the pan.", -1.6, 0.0, False),
        ("a bad line but speech", -0.9, 0.0, True),
    ],
)
def test_what_whisper_says_to_noise_is_dropped_when_it_doubts_itself(
    text: str, logprob: float, no_speech: float, kept: bool
) -> None:
    assert bool(judge(POLICY, spoken(text, logprob), 2.0, 24, no_speech, last=True).text) is kept


# ------------------------------------------------------------------ text


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("  Hello   there. ", "Hello there."),
        ("[BLANK_AUDIO]", ""),
        ("(music) Hello (door closes)", "Hello"),
        ("*sighs* Yes.", "Yes."),
        ("♪ la la ♪", "la la"),
        (" ... ", ""),
        ("It's 5.", "It's 5."),
        ("<|en|>Hi", "Hi"),
        ("Grüß dich", "Grüß dich"),
    ],
)
def test_clean(raw: str, text: str) -> None:
    assert clean(raw) == text


# ------------------------------------------------------------------ audio


def test_silence_is_silent_and_a_short_word_in_it_is_not() -> None:
    quiet = (np.random.default_rng(1).standard_normal(RATE) * 3e-4).astype(np.float32)
    assert is_silent(POLICY, quiet)
    assert is_silent(POLICY, np.empty(0, np.float32))
    assert is_silent(POLICY, quiet[:100])
    quiet[8000:11200] += np.float32(0.02)
    assert not is_silent(POLICY, quiet)


def test_short_audio_is_padded_and_keeps_its_samples() -> None:
    pcm = np.ones(4000, np.float32)
    (piece,) = windows(POLICY, pcm)
    assert len(piece) == 17_600
    np.testing.assert_array_equal(piece[:4000], pcm)
    assert not piece[4000:].any()


def test_long_audio_is_cut_in_its_pauses() -> None:
    pcm = np.sin(np.arange(70 * RATE, dtype=np.float32))
    for pause in (20, 44):
        pcm[pause * RATE : pause * RATE + 4800] = 0
    pieces = windows(POLICY, pcm)
    assert [round(len(piece) / RATE) for piece in pieces] == [20, 24, 26]
    assert sum(map(len, pieces)) == len(pcm)


def talking(*seconds: float) -> np.ndarray:
    """A voice, a pause, a voice ... of so many seconds each, and the noise of the line under all of it."""
    draw = np.random.default_rng(3)
    parts = [
        draw.normal(0, 0.001 if number % 2 else 0.1, round(length * RATE)).astype(np.float32)
        for number, length in enumerate(seconds)
    ]
    return np.concatenate(parts)


def test_after_some_seconds_a_window_ends_with_the_next_pause() -> None:
    pcm = talking(2, 0.6, 4, 0.2, 1, 0.6, 6, 0.6, 1)
    pieces = windows(POLICY, pcm)
    assert [len(piece) / RATE for piece in pieces] == pytest.approx([8.05, 6.6, 1.35], abs=0.05)
    np.testing.assert_array_equal(np.concatenate(pieces), pcm)


def test_a_pause_with_nothing_behind_it_ends_no_window() -> None:
    for behind in (0.0, 0.1, 0.2):
        assert len(windows(POLICY, talking(7, 3, behind))) == 1
    assert len(windows(POLICY, talking(7, 3, 0.6))) == 2


def test_in_a_noisy_line_nothing_is_a_pause() -> None:
    pcm = talking(7, 1, 4)
    assert len(windows(POLICY, pcm)) == 2
    assert len(windows(POLICY, pcm + np.random.default_rng(4).normal(0, 0.03, len(pcm)).astype(np.float32))) == 1


@given(
    st.lists(st.tuples(st.floats(0.1, 9), st.floats(0.05, 2)), min_size=1, max_size=12),
    st.lists(st.floats(0.2, 1), min_size=1, max_size=4),
)
def test_what_is_said_later_moves_no_cut(phrases: list[tuple[float, float]], shares: list[float]) -> None:
    pcm = talking(*(length for phrase in phrases for length in phrase))
    *complete, _ = windows(POLICY, pcm)
    ends = np.cumsum([0, *map(len, complete)]).tolist()
    for share in shares:
        *earlier, _ = windows(POLICY, pcm[: int(share * len(pcm))])
        assert np.cumsum([0, *map(len, earlier)]).tolist() == ends[: len(earlier) + 1]


@given(st.integers(1, 100 * RATE))
def test_no_window_is_longer_than_the_context(samples: int) -> None:
    pieces = windows(POLICY, np.zeros(samples, np.float32))
    assert max(map(len, pieces)) <= 28 * RATE
    assert sum(map(len, pieces)) >= samples
