"""An answer that is held goes on between words; what was heard of it stays right."""

from __future__ import annotations

import numpy as np
import pytest

from aiphone.conversation.reply import Reply, without_lead

SECOND = 16_000


def spoken(*texts: str) -> Reply:
    """Phrases of one second each, queued one behind the other from position 100 on; every 200 ms a gap of 40 ms."""
    reply = Reply(1, held=False)
    reply.add_text(" ".join(texts))
    reply.finish_text()
    assert [phrase.text for phrase in reply.phrases] == list(texts)
    start = 100
    for number in range(len(texts)):
        pcm = np.full(SECOND, 1000 + number, np.int16)
        for gap in range(0, SECOND, SECOND // 5):
            pcm[gap : gap + 640] = 0
        reply.queued(number, start, pcm)
        reply.phrases[number].complete = True
        start += SECOND
    return reply


def test_what_was_not_heard_is_played_from_a_gap_on() -> None:
    reply = spoken("One two three.", "Four five six.")
    rest = reply.play_again(100 + SECOND // 2)
    assert len(rest) == 2
    assert not rest[0][:320].any()
    assert SECOND // 2 <= rest[0].size <= SECOND // 2 + SECOND * 2 // 5
    assert rest[1].size == SECOND
    assert rest[1].max() == 1001


def test_what_was_heard_is_right_after_a_hold() -> None:
    reply = spoken("One two three.", "Four five six.")
    at = 100 + SECOND // 2
    rest = reply.play_again(at)
    assert reply.heard(at) == "One"
    assert reply.heard(at + rest[0].size) == "One two three."
    assert reply.heard(at + rest[0].size + SECOND) == "One two three. Four five six."
    assert reply.end == at + sum(pcm.size for pcm in rest)


def test_nothing_is_left_of_what_was_heard() -> None:
    reply = spoken("One two three.")
    assert reply.play_again(100 + SECOND) == []
    assert reply.heard(100 + SECOND) == "One two three."


def test_a_phrase_that_was_hardly_begun_begins_again() -> None:
    reply = spoken("One two three.")
    (rest,) = reply.play_again(110)
    assert rest.size == SECOND


@pytest.mark.parametrize("lead", [0, 100, 5000])
def test_the_silence_before_an_answer_is_cut(lead: int) -> None:
    pcm = np.concatenate([np.zeros(lead, np.int16), np.full(3200, 8000, np.int16)])
    assert without_lead(pcm).size == 3200 + min(lead, 320)
    assert without_lead(np.zeros(800, np.int16)).size == 0
