from __future__ import annotations

import base64

from aiphone.sip.sdes import agreed, cryptos
from aiphone.sip.sdp import parse

ONE, TWO, THREE = (bytes([n]) * 30 for n in (1, 2, 3))


def described(*lines, media="m=audio 4000 RTP/SAVP 0"):
    return "\r\n".join(["v=0", "o=- 1 1 IN IP4 h", "s=-", "c=IN IP4 192.0.2.1", "t=0 0", media, *lines, ""])


def crypto(tag, key, suite="AES_CM_128_HMAC_SHA1_80", rest=""):
    return f"a=crypto:{tag} {suite} inline:{base64.b64encode(key).decode()}{rest}"


def test_the_answer_repeats_the_tag_of_the_line_it_takes():
    offer = described(crypto(1, ONE), crypto(2, TWO, "AES_CM_128_HMAC_SHA1_32"))
    answer = described(crypto(2, THREE, "AES_CM_128_HMAC_SHA1_32", "|2^20|1:4"))
    keys = agreed(answer, offer)
    assert keys is not None
    assert (keys.suite, keys.send, keys.receive) == ("AES_CM_128_HMAC_SHA1_32", THREE, TWO)
    other = agreed(offer, answer)
    assert other is not None
    assert (other.send, other.receive) == (TWO, THREE)


def test_nothing_agreed():
    assert agreed(described(crypto(1, ONE)), described(crypto(2, TWO))) is None
    assert agreed(described(), described(crypto(1, TWO))) is None
    assert agreed("nonsense", described(crypto(1, ONE))) is None
    closed = described(crypto(1, ONE), media="m=audio 0 RTP/SAVP 0")
    assert agreed(closed, described(crypto(1, ONE))) is None


def test_lines_that_cannot_be_used_are_passed_over():
    lines = [
        crypto(1, ONE, "AES_256_CM_HMAC_SHA1_80"),
        crypto(2, b"short"),
        "a=crypto:3 AES_CM_128_HMAC_SHA1_80 inline:" + "!" * 40,
        "a=crypto:x",
        "a=crypto:",
        crypto(4, ONE, rest=" UNENCRYPTED_SRTCP"),
        crypto(5, TWO),
    ]
    found = cryptos(parse(described(*lines)).media[0])
    assert [one.tag for one in found] == [5]


def test_keys_are_not_shown():
    keys = agreed(described(crypto(1, ONE)), described(crypto(1, TWO)))
    assert "\\x01" not in repr(keys)
