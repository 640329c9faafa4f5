"""SIP status codes in plain words, and when to try again."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

_REGISTRATION = {
    401: "wrong user name or password",
    403: "wrong user name or password, or this account may not register here",
    404: "the server does not know this account",
    405: "the server does not take registrations",
    406: "the server does not accept our registration",
    407: "wrong user name or password for the proxy",
    408: "server not reachable: no answer",
    410: "the account no longer exists at the server",
    416: "the server does not accept this address",
    420: "the server asks for a feature we do not have",
    423: "the server wants another registration time",
    480: "the account is not available at the server",
    500: "the server has an internal error",
    502: "server not reachable: no working connection to it",
    503: "server not reachable or overloaded",
    504: "server not reachable: it got no answer further on",
    603: "the server declines this account",
}

_CALL = {
    200: "the call ended normally",
    400: "the request was malformed",
    403: "the caller may not call here",
    404: "nobody here has that name",
    408: "no answer in time",
    480: "not available",
    481: "the call no longer exists on the other side",
    486: "busy",
    487: "the caller hung up before the answer",
    488: "no codec in common",
    491: "another change of the call was under way",
    500: "internal error",
    503: "not reachable or overloaded",
    603: "declined",
}

_PLACED = {
    401: "wrong user name or password",
    403: "the other side does not allow this call",
    404: "nobody there has that number",
    407: "wrong user name or password",
    408: "no answer",
    410: "nobody there has that number any more",
    480: "nobody is available there",
    484: "the number is incomplete",
    486: "busy",
    487: "given up before the answer",
    500: "the other side has an internal error",
    502: "not reachable",
    503: "not reachable or overloaded",
    504: "not reachable",
    600: "busy",
    603: "declined",
    604: "nobody there has that number",
}

PERMANENT = frozenset({401, 403, 404, 405, 407, 410, 416, 420, 603})
"""Refusals that another attempt a few seconds later will not change; asking often gets an address banned."""


def registration_reason(code: int, phrase: str = "") -> str:
    """Why a REGISTER failed, for the page and the log: plain words and the code."""
    known = _REGISTRATION.get(code)
    if known is None:
        known = "the server refused" if 400 <= code < 700 else "server not reachable"
    detail = f"{code} {phrase}".strip() if code >= 300 else phrase
    return f"{known} ({detail})" if detail else known


def call_reason(code: int, phrase: str = "") -> str:
    """Why a call ended: plain words where we have them, else what the other side said."""
    return _CALL.get(code) or phrase or f"SIP {code}"


def placed_call_reason(code: int, phrase: str = "") -> str:
    """Why a call that we placed ended, in plain words."""
    return _PLACED.get(code) or call_reason(code, phrase)


@dataclass(slots=True)
class BackOff:
    """Waiting times between attempts: doubling, with jitter so that many lines do not come back as one.

    A server that is away is asked again after 2 s, then up to every 20 s; one that refused, after 30 s, then
    up to every 10 min. SIP thread only.
    """

    random: Random
    soon: float = 2.0
    soon_limit: float = 20.0
    later: float = 30.0
    later_limit: float = 600.0
    failures: int = field(default=0, init=False)

    def after(self, code: int, retry_after: int | None = None) -> float:
        """Seconds until the next attempt, after one more failure with ``code``.

        ``retry_after`` is the server's own wish (RFC 3261 section 20.33), followed up to an hour.
        """
        first, limit = (self.later, self.later_limit) if code in PERMANENT else (self.soon, self.soon_limit)
        delay = min(first * 2.0 ** min(self.failures, 16), limit)
        self.failures += 1
        delay *= self.random.uniform(0.75, 1.25)
        if retry_after is not None:
            delay = max(delay, min(float(retry_after), 3600.0))
        return delay

    def reset(self) -> None:
        """After a success."""
        self.failures = 0
