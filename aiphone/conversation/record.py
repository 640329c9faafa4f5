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
