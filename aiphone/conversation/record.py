"""What is known about a call."""

from __future__ import annotations

from dataclasses import dataclass, field

from aiphone.conversation.commands import Said
from aiphone.conversation.latency import TurnTimes


@dataclass(slots=True)
class CallRecord:
    """A call from INVITE to BYE; times are seconds on the monotonic clock."""

    call_id: str
    line_id: str
    caller: str
    """The other side's URI; in a call that we placed, whom we called."""
    caller_name: str
    called: str
    sip_call_id: str
    started: float
    answered: float | None = None
    ended: float | None = None
    end_code: int = 0
    end_reason: str = ""
    words: list[Said] = field(default_factory=list)
    turns: list[TurnTimes] = field(default_factory=list)

    @property
    def direction(self) -> str:
        """See ``direction_of``."""
        return direction_of(self.call_id)


def direction_of(call_id: str) -> str:
    """``"in"``; ``"out"`` for a call that we placed (``"o1"``), ``"web"`` for one of a browser (``"w1"``)."""
    return {"o": "out", "w": "web"}.get(call_id[:1], "in")
