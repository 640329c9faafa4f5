"""From the switchboard's facts to events for watchers."""

from __future__ import annotations

from collections.abc import Callable

from aiphone.clock import Clock
from aiphone.conversation import facts as f
from aiphone.conversation.record import CallRecord
from aiphone.events import LineChanged
from aiphone.server.event_hub import EventHub


class EventFeed:
    """A watcher of the switchboard that publishes what it is told. Main thread only."""

    def __init__(
        self,
        hub: EventHub,
        *,
        clock: Clock,
        wall: Callable[[], float],
        store_id: Callable[[str], int | None],
        direction: Callable[[str], str],
    ) -> None:
        """``store_id`` and ``direction`` say a live call's number in the store and who called."""
        self._hub = hub
        self._clock = clock
        self._wall = wall
        self._store_id = store_id
        self._direction = direction

    def __call__(self, fact: f.Fact) -> None:
        """Publish one fact."""
        if isinstance(fact, LineChanged):
            self._hub.publish(
                "registration",
                client_id=fact.line_id,
                state=fact.state.value,
                reason=fact.reason,
                since=round(self._wall(), 3),
            )
            return
        call_id = fact.record.call_id
        call = self._store_id(call_id)
        match fact:
            case f.CallAdmitted():
                self._hub.publish(
                    "ringing", call_id=call_id, call=call, at=self._at(fact.record.started), **self._who(fact.record)
                )
            case f.CallAnswered():
                at = fact.record.answered if fact.record.answered is not None else self._clock.now()
                self._hub.publish("answered", call_id=call_id, call=call, at=self._at(at), **self._who(fact.record))
            case f.CallerChanged():
                at = self._at(self._clock.now())
                self._hub.publish("moved", call_id=call_id, call=call, at=at, **self._who(fact.record))
            case f.StateChanged():
                self._hub.publish("state", call_id=call_id, call=call, state=fact.state)
            case f.Hearing():
                self._hub.publish("hearing", call_id=call_id, call=call, text=fact.text)
            case f.Speaking():
                self._hub.publish("speaking", call_id=call_id, call=call, text=fact.text)
            case f.WordsSaid():
                self._hub.publish(
                    "words",
                    call_id=call_id,
                    call=call,
                    role=fact.role,
                    text=fact.text,
                    at=self._at(fact.at),
                    interrupted=fact.interrupted,
                )
            case f.TurnTimed():
                parts = {name: round(seconds, 4) for name, seconds in fact.times.parts().items()}
                self._hub.publish("turn", call_id=call_id, call=call, total=round(fact.times.total, 4), parts=parts)
            case f.CallOver():
                ended = fact.record.ended if fact.record.ended is not None else self._clock.now()
                self._hub.publish(
                    "ended",
                    call_id=call_id,
                    call=call,
                    code=fact.record.end_code,
                    reason=fact.record.end_reason,
                    at=self._at(ended),
                )

    def _who(self, record: CallRecord) -> dict[str, str]:
        return {
            "line_id": record.line_id,
            "caller": record.caller,
            "caller_name": record.caller_name,
            "called": record.called,
            "direction": self._direction(record.call_id),
        }

    def _at(self, monotonic: float) -> float:
        """Unix time of a moment on the monotonic clock."""
        return round(self._wall() - (self._clock.now() - monotonic), 3)
