"""All calls of the process: admits them, routes events to them, and lets go of them.

The main thread hands every event of the mailbox and of the media engine to ``dispatch``.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiphone import events as ev
from aiphone.conversation.call import Call, Stages
from aiphone.conversation.facts import CallAdmitted, CallOver, Watcher
from aiphone.conversation.machine import Conversation
from aiphone.conversation.record import CallRecord
from aiphone.errors import MediaError
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
        persona_named: Callable[[str], Persona] | None = None,
    ) -> None:
        """``persona_for`` names who answers a line; ``persona_named`` finds the one that a called number asks for;
        ``close_sockets`` takes back what no call wants;
        ``watch`` is told what happens (see ``facts``)."""
        self._stages = stages
        self._max_calls = max_calls
        self._persona_for = persona_for
        self._persona_named = persona_named
        self._close_sockets = close_sockets
        self._watch = watch
        self._calls: dict[str, Call] = {}
        self._closing = False
        self._messages: dict[str, str] = {}
        """For answering machines, by the ``call_id`` of calls that are about to be placed."""
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

    def media_of(self, call_id: str) -> Any:
        """The media engine's counters for a call, or None when it has no media."""
        call = self._calls.get(call_id)
        return call.media_stats() if call else None

    def hang_up(self, call_id: str) -> bool:
        """End a call; False when there is none of that name. ``CallEnded`` follows."""
        if call_id not in self._calls:
            return False
        self._stages.sip.hangup(call_id, reason="hung up by the owner")
        return True

    def leave_message(self, call_id: str, message: str) -> None:
        """If a machine answers the call that is about to be placed, leave ``message`` after its beep.

        Nothing is said in such a call until it is known who has answered; a person gets the conversation.
        """
        self._messages[call_id] = message

    def dispatch(self, event: ev.Event | ev.LineChanged) -> None:
        """Take one event."""
        match event:
            case ev.LineChanged():
                self.lines[event.line_id] = event
                self._watch(event)
            case ev.IncomingCall():
                self._admit(event)
            case ev.OutgoingCall():
                self._place(event)
            case _:
                self._route(event)

    def _admit(self, event: ev.IncomingCall) -> None:
        sip = self._stages.sip
        if self._closing or len(self._calls) >= self._max_calls:
            log.warning("refused a call from %s: %d calls are going on", event.caller, len(self._calls))
            sip.reject(event.call_id, 486, "Busy Here", RETRY_AFTER_SECONDS)
            return
        self._open(
            CallRecord(
                event.call_id,
                event.line_id,
                event.caller,
                event.caller_name,
                event.called,
                event.sip_call_id,
                event.at,
            ),
            event.persona,
        )
        sip.answer(event.call_id)
        log.info("%s: a call from %s", event.call_id, event.caller)

    def _place(self, event: ev.OutgoingCall) -> None:
        if self._closing or len(self._calls) >= self._max_calls:
            log.warning("gave up a call to %s: %d calls are going on", event.called, len(self._calls))
            self._messages.pop(event.call_id, None)
            self._stages.sip.hangup(event.call_id, reason="Busy")
            return
        self._open(CallRecord(event.call_id, event.line_id, event.called, "", event.called, "", event.at))
        log.info("%s: a call to %s", event.call_id, event.called)

    def _open(self, record: CallRecord, wanted: str = "") -> None:
        call_id = record.call_id
        named = self._persona_named if wanted else None
        persona = named(wanted) if named is not None else self._persona_for(record.line_id)
        call = Call(
            record,
            Conversation(call_id, persona),
            self._stages,
            feed=self._route,
            close_sockets=self._close_sockets,
            watch=self._watch,
            message=self._messages.pop(call_id, ""),
        )
        if self._stages.memory is not None and persona.remember:
            call.conversation.history[:] = self._stages.memory.recall(call_id, call.memory_key)
        self._calls[call_id] = call
        self.total += 1
        self._watch(CallAdmitted(record))
        self._stages.model.open(call_id, persona)

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

    def record(self, call_id: str, path: Path) -> None:
        """Record a call into a new stereo WAV file, from now to its end or ``stop_recording``.

        Raises ``StorageError`` when the file cannot be made, ``MediaError`` when the call is recorded already or has
        no media: it has some from ``CallAnswered`` on.
        """
        call = self._calls.get(call_id)
        if call is None:
            raise MediaError(f"There is no call {call_id} that could be recorded.")
        call.start_recording(path)

    def stop_recording(self, call_id: str) -> None:
        """End the recording of a call; nothing when there is none."""
        call = self._calls.get(call_id)
        if call is not None:
            call.stop_recording()

    def hang_up_all(self) -> None:
        """Say goodbye to every caller (BYE) and take no new calls; ``CallEnded`` follows for each."""
        self._closing = True
        for call_id in list(self._calls):
            self._stages.sip.hangup(call_id, reason="the server is shutting down")
