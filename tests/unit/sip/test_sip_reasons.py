from __future__ import annotations

from random import Random

import pytest

from aiphone.sip.reasons import BackOff, call_reason, placed_call_reason, registration_reason


@pytest.mark.parametrize(
    ("code", "words"),
    [(401, "wrong user name or password"), (403, "wrong user name or password"), (404, "does not know"),
     (408, "not reachable"), (503, "not reachable"), (0, "not reachable"), (171039, "not reachable"),
     (499, "refused")],
)  # fmt: skip
def test_registration_failures_in_plain_words(code, words):
    assert words in registration_reason(code, "Phrase")


def test_the_code_stands_beside_the_words():
    assert registration_reason(403, "Forbidden").endswith("(403 Forbidden)")
    assert registration_reason(0, "") == "server not reachable"


def test_ends_of_calls():
    assert call_reason(200) == "the call ended normally"
    assert call_reason(486) == "busy"
    assert call_reason(799, "Odd") == "Odd"
    assert call_reason(799) == "SIP 799"


def test_back_off_doubles_up_to_its_limit_with_jitter():
    back_off = BackOff(Random(1))
    delays = [back_off.after(503) for _ in range(8)]
    for number, delay in enumerate(delays):
        middle = min(2.0 * 2**number, 20.0)
        assert 0.75 * middle <= delay <= 1.25 * middle
    back_off.reset()
    assert back_off.after(408) <= 2.5


def test_a_refusal_is_not_asked_again_soon():
    back_off = BackOff(Random(2))
    assert back_off.after(403) >= 22.5
    assert max(back_off.after(401) for _ in range(20)) <= 750


def test_the_server_s_own_wish_is_followed():
    assert BackOff(Random(3)).after(503, retry_after=120) == 120
    assert BackOff(Random(3)).after(503, retry_after=10**8) == 3600
    assert BackOff(Random(3)).after(503, retry_after=0) >= 1.5


def test_very_many_failures():
    back_off = BackOff(Random(4))
    for _ in range(2000):
        assert back_off.after(503) <= 25


def test_ends_of_calls_that_we_placed():
    assert placed_call_reason(486) == "busy"
    assert placed_call_reason(408) == "no answer"
    assert placed_call_reason(404) == "nobody there has that number"
    assert placed_call_reason(200) == call_reason(200)
    assert placed_call_reason(799, "Odd") == "Odd"
