"""Small tools for classes that pjsua2 calls back ("directors") and for its parameters. SIP thread only."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any, TypeVar

import pjsua2 as pj

log = logging.getLogger(__name__)

C = TypeVar("C", bound=Callable[..., None])


def guarded(callback: C) -> C:
    """For methods that pjsua2 calls: an exception that crosses into C++ would end the process.

    Where the object has a method ``failed``, it is called then.
    """

    @functools.wraps(callback)
    def safe(self: Any, prm: Any) -> None:
        try:
            callback(self, prm)
        except Exception:
            log.exception("%s failed", callback.__qualname__)
            failed = getattr(self, "failed", None)
            if failed is not None:
                failed()

    return safe  # type: ignore[return-value]


def operation(code: int, reason: str = "", headers: dict[str, str] | None = None) -> Any:
    """pjsua2's parameter for answer and hangup: one audio stream, nothing else."""
    prm = pj.CallOpParam(True)
    prm.statusCode = code
    prm.reason = reason
    prm.opt.audioCount = 1
    prm.opt.videoCount = 0
    if hasattr(prm.opt, "textCount"):
        prm.opt.textCount = 0
    if headers:
        vector = pj.SipHeaderVector()
        for name, value in headers.items():
            one = pj.SipHeader()
            one.hName, one.hValue = name, value
            vector.append(one)
        prm.txOption.headers = vector
    return prm
