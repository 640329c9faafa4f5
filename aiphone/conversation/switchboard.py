"""All calls of the process: admits them, routes events to them, and lets go of them.

The main thread hands every event of the mailbox and of the media engine to ``dispatch``.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

from aiphone import events as ev
from aiphone.conversation.call import Call, Stages
from aiphone.conversation.facts import CallAdmitted, CallOver, Watcher
from aiphone.conversation.machine import Conversation
from aiphone.conversation.record import CallRecord
from aiphone.persona import Persona

log = logging.getLogger(__name__)

RETRY_AFTER_SECONDS = 30
"""What a caller beyond the limit is told: about the length of a short call."""

RECENT_CALLS = 50
"""Ended calls that are remembered for the status page."""


class Switchboard:
    """The calls. Main thread only."""

    def __init__(
        self,
        stages: Stages,
        *,
        max_calls: int,
        persona_for: Callable[[str], Persona],
        close_sockets: Callable[[ev.RtpSockets], None],
        watch: Watcher,
    ) -> None:
        """``persona_for`` names who answers a line; ``close_sockets`` takes back what no call wants;
        ``watch`` is told what happens (see ``facts``)."""
        self._stages = stages
        self._max_calls = max_calls
        self._persona_for = persona_for
        self._close_sockets = close_sockets
        self._watch = watch
        self._calls: dict[str, Call] = {}
        self._closing = False
        self.lines: dict[str, ev.LineChanged] = {}
        """Last known state of every line."""
        self.recent: deque[CallRecord] = deque(maxlen=RECENT_CALLS)
        """Calls that ended, oldest first."""
        self.total = 0
        """Calls answered since the start."""

    @property
    def active(self) -> list[CallRecord]:
        """The calls going on."""
        return [call.record for call in self._calls.values()]

    def state_of(self, call_id: str) -> str:
        """State of a call's conversation, for people."""
        call = self._calls.get(call_id)
        return call.conversation.state.value if call else "ended"

    def dispatch(self, event: ev.Event | ev.LineChanged) -> None:
        """Take one event."""
        match event:
            case ev.LineChanged():
                self.lines[event.line_id] = event
                self._watch(event)
            case ev.IncomingCall():
                self._admit(event)
            case _:
                self._route(event)

    def _admit(self, event: ev.IncomingCall) -> None:
        sip = self._stages.sip
        if self._closing or len(self._calls) >= self._max_calls:
            log.warning("refused a call from %s: %d calls are going on", event.caller, len(self._calls))
            sip.reject(event.call_id, 486, "Busy Here", RETRY_AFTER_SECONDS)
            return
        record = CallRecord(
            event.call_id,
            event.line_id,
            event.caller,
            event.caller_name,
            event.called,
            event.sip_call_id,
            event.at,
        )
        persona = self._persona_for(event.line_id)
        call = Call(
            record,
            Conversation(event.call_id, persona),
            self._stages,
            feed=self._route,
            close_sockets=self._close_sockets,
            watch=self._watch,
        )
        if self._stages.memory is not None:
            call.conversation.history[:] = self._stages.memory.recall(event.call_id, call.memory_key)
        self._calls[event.call_id] = call
        self.total += 1
        self._watch(CallAdmitted(record))
        self._stages.model.open(event.call_id, persona)
        sip.answer(event.call_id)
        log.info("%s: a call from %s", event.call_id, event.caller)

    def _route(self, event: ev.Event) -> None:
        call = self._calls.get(event.call_id)
        if call is None:
            if isinstance(event, ev.MediaNegotiated) and event.sockets is not None:
                self._close_sockets(event.sockets)
            return
        call.handle(event)
        if isinstance(event, ev.CallEnded):
            del self._calls[event.call_id]
            media = call.media_stats()
            call.release()
            call.record.ended = event.at
            call.record.end_code = event.code
            call.record.end_reason = call.record.end_reason or event.reason
            self.recent.append(call.record)
            self._watch(CallOver(call.record, media))
            log.info("%s: ended (%d %s)", event.call_id, event.code, call.record.end_reason)

    def hang_up_all(self) -> None:
        """Say goodbye to every caller (BYE) and take no new calls; ``CallEnded`` follows for each."""
        self._closing = True
        for call_id in list(self._calls):
            self._stages.sip.hangup(call_id, reason="the server is shutting down")
