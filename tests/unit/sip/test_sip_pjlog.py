from __future__ import annotations

import logging

from aiphone.clock import ManualClock
from aiphone.sip.pjlog import BURST, MAX_LINE, LogFilter, pj_level, redact

MESSAGE = (
    "TX 500 bytes\r\nREGISTER sip:h SIP/2.0\r\n"
    'Authorization: Digest username="1000", realm="r", response="0123456789abcdef",\r\n cnonce="xyz"\r\n'
    "proxy-authorization : Digest zzz\r\nContact: <sip:a@b>\r\n\r\n"
    "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz|2^20|1:4\r\n"
)


def test_credentials_and_keys_are_removed():
    text = redact(MESSAGE)
    for secret in ("0123456789abcdef", "xyz", "zzz", "WVNfX19z", "1000"):
        assert secret not in text
    assert "Contact: <sip:a@b>" in text
    assert text.count("(removed)") == 3


def taken(lines, clock=None):
    written = []
    log = LogFilter(logging.getLogger("x"), clock or ManualClock(), lambda level, text: written.append((level, text)))
    for level, text in lines:
        log.take(level, text)
    return written


def test_levels():
    assert [level for level, _ in taken([(1, "a"), (2, "b"), (3, "c"), (5, "d")])] == [
        logging.WARNING, logging.WARNING, logging.DEBUG, logging.DEBUG
    ]  # fmt: skip


def test_lines_are_bounded_and_printable():
    [(_, text)] = taken([(1, "x\x1b[31m\r\ny\udce9" + "z" * 9000)])
    assert len(text) <= MAX_LINE
    assert "\x1b" not in text
    assert "\r" not in text
    text.encode()


def test_a_flood_is_counted_not_written():
    clock = ManualClock(100.0)
    written = []
    log = LogFilter(logging.getLogger("x"), clock, lambda level, text: written.append(text))
    for _ in range(1000):
        log.take(2, "bad request")
    assert len(written) == BURST
    clock.advance(1.5)
    log.take(2, "bad request")
    assert written[-2:] == [f"{1000 - BURST} more warnings like these were left out", "bad request"]


def test_the_level_follows_the_logger():
    logger = logging.getLogger("aiphone.test.pjlog")
    levels = {}
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        logger.setLevel(level)
        levels[level] = pj_level(logger)
    assert levels == {logging.DEBUG: 5, logging.INFO: 2, logging.WARNING: 2, logging.ERROR: 1}
