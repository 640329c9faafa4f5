from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiphone.speech.speakable import speakable

ENGLISH = [
    # markdown
    ("**Sure!** I can *help* with `that`.", "Sure! I can help with that."),
    ("# Opening hours\nWe open at ten.", "Opening hours. We open at ten."),
    ("- apples\n- pears\n* plums", "apples. pears. plums"),
    ("1. Apples\n2. Pears", "1, Apples. 2, Pears"),
    ("See [our page](https://example.com/a?b=c).", "See our page."),
    ("snake_case and _this_ and __that__", "snake_case and this and that"),
    ("| a | b |\n|---|---|\n| c | d |", "a, b. c, d"),
    ("```python\nx\n```", "x"),
    ("yes — of course", "yes, of course"),
    # addresses
    ("Go to https://www.example.com/.", "Go to example.com."),
    ("Go to https://example.com/help-desk?id=5.", "Go to example.com slash help desk."),
    ("Write to joe@example.com.", "Write to joe@example.com."),
    # emoji
    ("Great! 😀👍🏽 See you ❤️", "Great! See you"),
    ("Fine :-)", "Fine"),
    # money
    ("It costs $5.", "It costs 5 dollars."),
    ("$3.50 or £1.01", "3 dollars and 50 cents or 1 pound and 1 penny"),
    ("$0.99", "99 cents"),
    ("€1,200.00", "1,200 euros"),
    ("$1.5 million", "1.5 million dollars"),
    ("$2M", "2 million dollars"),
    # times
    ("at 10:30", "at 10 30"),
    ("at 9:05 a.m. on Monday", "at 9 oh 5 A M on Monday"),
    ("at 2:00 pm", "at 2 P M"),
    ("We are open 9am-5pm, Saturdays 10:30 a.m. - 1 p.m.", "We are open 9 A M to 5 P M, Saturdays 10 30 A M to 1 P M."),
    ("at 14:00.", "at 14 o'clock."),
    ("We open at 9 a.m. Please come.", "We open at 9 A M. Please come."),
    ("from 9am to 5pm", "from 9 A M to 5 P M"),
    ("until 5 p.m.", "until 5 P M."),
    # telephone numbers
    ("Call 555-1234.", "Call 5 5 5, 1 2 3 4."),
    ("Call (555) 123-4567 now", "Call 5 5 5, 1 2 3, 4 5 6 7 now"),
    ("+1 555-123-4567", "plus 1, 5 5 5, 1 2 3, 4 5 6 7"),
    ("Your code is 12345678.", "Your code is 1 2 3 4 5 6 7 8."),
    # measures
    ("5 km", "5 kilometers"),
    ("1 km", "1 kilometer"),
    ("20°C today, 60 mph wind", "20 degrees Celsius today, 60 miles an hour wind"),
    ("10mg", "10 milligrams"),
    ("1 ft", "1 foot"),
    ("5'10\"", "5 foot 10"),
    ("1/2 of it", "one half of it"),
    ("open 24/7", "open 24 7"),
    ("10-12 people", "10 to 12 people"),
    ("~5 minutes", "about 5 minutes"),
    ("2 * 3", "2 times 3"),
    ("the 1990s", "the 19 nineties"),
    ("1.5M users", "1.5 million users"),
    # dates
    ("on 2024-12-25", "on December 25, 2024"),
    ("on Jan. 5", "on January 5"),
    # abbreviations
    ("Dr. Smith lives in St. Paul.", "Doctor Smith lives in Saint Paul."),
    ("fruit, e.g. apples, i.e. food", "fruit, for example apples, that is food"),
    ("apples, pears, etc.", "apples, pears, et cetera."),
    ("the U.S. embassy", "the U S embassy"),
    ("J. R. Smith", "J R Smith"),
    ("So did I. We left.", "So did I. We left."),
    ("No. 5 and #6", "number 5 and number 6"),
    ("and/or", "and or"),
    ("Main St. is near", "Main Street is near"),
    # left alone
    (
        "The 21st of May, 1999: 1,250 people, 50% and 3.5 more.",
        "The 21st of May, 1999: 1,250 people, 50% and 3.5 more.",
    ),
    ("The answer is no. I think.", "The answer is no. I think."),
    ("Hello... are you there?", "Hello... are you there?"),
]


ENGLISH += [
    ("Call 020 7946 0958.", "Call 0 2 0, 7 9 4 6, 0 9 5 8."),
    ("It made £3m.", "It made 3 million pounds."),
    ("Only 99¢ or 1¢!", "Only 99 cents or 1 cent!"),
    ("Smith vs. Jones, e.g. Monday", "Smith versus Jones, for example Monday"),
    ("Tea, coffee, etc. We have it.", "Tea, coffee, et cetera. We have it."),
    ("On 11/22/2026 or 22/11/2026.", "On November 22, 2026 or November 22, 2026."),
    ("Am 22.11.2026.", "Am November 22, 2026."),
    ("On 45/45/2026", "On 45/45/2026"),
    ("HTTPS://WWW.Example.com/", "Example.com"),
    ("fish &amp; chips", "fish & chips"),
    ("3 x 4", "3 times 4"),
    ("It is at 192.168.1.1 in v2.0.1", "It is at 192 dot 168 dot 1 dot 1 in version 2 dot 0 dot 1"),
    ("Your PIN is 0042.", "Your PIN is 0 0 4 2."),
    ("At 07:30 use 0.5 l", "At 7 30 use 0.5 liters"),
]


@pytest.mark.parametrize(("text", "said"), ENGLISH, ids=[text[:30] for text, _ in ENGLISH])
def test_english(text: str, said: str) -> None:
    assert speakable(text, "en-us") == said


def test_other_languages_keep_their_words() -> None:
    assert speakable("**Um** 10:30 [hier](http://x.de) 🙂 z.B. 5 km", "de") == "Um 10:30 hier z.B. 5 km"


@pytest.mark.parametrize("text", ["", "🙂", "...", "---", "**", "\n"])
def test_nothing_to_say(text: str) -> None:
    assert speakable(text) == ""


@given(st.text(max_size=200))
def test_any_text_gives_one_line_that_can_be_spoken_or_nothing(text: str) -> None:
    said = speakable(text)
    assert "\n" not in said
    assert said == said.strip()
    assert said == "" or any(character.isalnum() for character in said)


@given(st.lists(st.from_regex(r"\A[a-z]{1,9}\Z"), min_size=1, max_size=12))
def test_plain_words_are_left_alone(words: list[str]) -> None:
    assert speakable(" ".join(words)) == " ".join(words)


@pytest.mark.parametrize("part", ["a_", "1,23", "$", "(", "| ", "1-", "a.", "http://", "[", "*", "<a", "\n- "])
def test_no_text_is_slow(part: str) -> None:
    # A pattern that backtracks takes minutes here.
    begin = time.process_time()
    speakable(part * (3000 // len(part)))
    assert time.process_time() - begin < 2
