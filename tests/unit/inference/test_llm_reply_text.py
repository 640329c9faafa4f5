import pytest

from aiphone.inference.reply_text import ReplyAssembler


def pieces(text, size, stop=()):
    data = text.encode()
    reply = ReplyAssembler(stop)
    out = [reply.feed(data[at : at + size]) for at in range(0, len(data), size)]
    return [*out, reply.finish()], reply


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_never_half_a_character(size):
    parts, _ = pieces("  Grüße, 你好 👋🏽!", size)
    assert "".join(parts) == "Grüße, 你好 👋🏽!"
    assert not any("\ufffd" in part for part in parts)


def test_bytes_that_are_no_text_are_replaced():
    reply = ReplyAssembler()
    assert reply.feed(b"a\xff") + reply.finish() == "a\ufffd"
    cut = ReplyAssembler()
    assert cut.feed("é".encode()[:1]) == ""
    assert cut.finish() == "\ufffd"


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_a_stop_text_ends_the_reply_and_is_not_spoken(size):
    parts, reply = pieces("Hello there.\nCaller: and then", size, ("\nCaller:",))
    assert "".join(parts) == "Hello there."
    assert reply.stopped
    assert reply.feed(b"more") == ""


def test_what_only_looks_like_a_stop_text_is_spoken_late():
    reply = ReplyAssembler(("STOP",))
    assert reply.feed(b"a ST") == "a "
    assert reply.feed(b"ORE") == "STORE"
    assert reply.feed(b" STO") == " "
    assert reply.finish() == "STO"


def test_leading_blanks_go_and_inner_ones_stay():
    reply = ReplyAssembler(("\n",))
    assert reply.feed(b" \n ") == ""
    assert reply.feed(b" Yes") == "Yes"
    assert reply.feed(b" sir") == " sir"


@pytest.mark.parametrize("size", [1, 4, 100])
def test_thoughts_are_not_spoken(size):
    parts, _ = pieces("<think>\nThey ask. <b>\n</think>\n\nParis.", size)
    assert "".join(parts) == "Paris."


def test_a_lesser_sign_is_no_thought():
    parts, _ = pieces("<thin ice> ahead", 1)
    assert "".join(parts) == "<thin ice> ahead"


def test_thoughts_without_end_say_nothing():
    parts, _ = pieces("<think>hm, hm", 3)
    assert "".join(parts) == ""
