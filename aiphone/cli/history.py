"""Writes what happens in the calls to the store, on a thread of its own.

The main thread hands over facts and goes on at once; the disk may take its time. A write that fails (a full disk) stays
first in the queue and is tried again, so that nothing is lost as long as the queue holds.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from aiphone.clock import Clock
from aiphone.conversation.facts import CallAdmitted, CallAnswered, CallOver, Fact, TurnTimed, WordsSaid
from aiphone.conversation.record import CallRecord
from aiphone.errors import StorageError
from aiphone.store.records import TurnRow, WordsRow
from aiphone.store.store import Store

log = logging.getLogger(__name__)

BATCH = 500
"""Most writes that share one flush to the disk."""
REMEMBERED = 1000
"""Calls whose number in the store is known after their end, for those who are told of the end later."""

Job = Callable[[], object]


def incoming(record: CallRecord) -> str:
    """The direction of calls where no other is known."""
    del record
    return "in"


@dataclass(slots=True)
class _Live:
    """What must be known of a call to number its lines."""

    number: int
    words: int = 0
    turns: int = 0
    heard: list[str] = field(default_factory=list)
    """What the caller said since the last answer began."""
    unfinished: TurnRow | None = None
    """The turn whose answer is being spoken: its text comes when it is over."""


class History:
    """A watcher that fills the store. ``watch`` and what is named so: main thread; the rest: any thread.

    ``direction`` says of a call whether it is ``"in"``, ``"out"`` or ``"web"``. ``retry`` is seconds between two
    attempts at a write that failed, ``tidy_every`` seconds between two looks at what is too old to keep (0 is never).
    ``capacity`` bounds the writes that wait; beyond it the newest are given up and counted in ``lost``.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        wall: Callable[[], float],
        *,
        direction: Callable[[CallRecord], str] = incoming,
        capacity: int = 50_000,
        retry: float = 5.0,
        tidy_every: float = 3600.0,
    ) -> None:
        self._store = store
        self._clock = clock
        self._wall = wall
        self._direction = direction
        self._capacity = capacity
        self._retry = retry
        self._tidy_every = tidy_every
        self._live: dict[str, _Live] = {}
        self._numbers: dict[str, int] = {}
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._error = ""
        self._lost = 0
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------------ the main thread's side

    def watch(self, fact: Fact) -> None:
        """Take a fact. Main thread; returns at once, never raises."""
        match fact:
            case CallAdmitted():
                self._begin(fact.record)
            case CallAnswered():
                live = self._live.get(fact.record.call_id)
                if live is not None:
                    at = self._clock.now() if fact.record.answered is None else fact.record.answered
                    self._submit(partial(self._store.call_answered, live.number, self._wall_time(at)))
            case WordsSaid():
                self._words(fact)
            case TurnTimed():
                self._turn(fact)
            case CallOver():
                self._end(fact)
            case _:
                pass

    def number_of(self, call_id: str) -> int | None:
        """Number in the store of a call that goes on or ended lately, by its live id. Main thread.

        It is known from ``CallAdmitted`` on; the row follows within moments.
        """
        return self._numbers.get(call_id)

    def recorded(self, call_id: str, recording: str) -> None:
        """Say where the recording of a call is, at any time after its beginning. Main thread."""
        number = self._numbers.get(call_id)
        if number is not None:
            self._submit(partial(self._store.set_recording, number, recording))

    def _begin(self, record: CallRecord) -> None:
        number = self._store.reserve_call()
        self._live[record.call_id] = _Live(number)
        self._numbers[record.call_id] = number
        while len(self._numbers) > REMEMBERED + len(self._live):
            del self._numbers[next(call_id for call_id in self._numbers if call_id not in self._live)]
        self._submit(
            partial(
                self._store.begin_call,
                line_id=record.line_id,
                caller=record.caller,
                caller_name=record.caller_name,
                called=record.called,
                direction=self._direction(record),
                started=self._wall_time(record.started),
                call_id=number,
            )
        )

    def _words(self, fact: WordsSaid) -> None:
        live = self._live.get(fact.record.call_id)
        if live is None:
            return
        live.words += 1
        at = self._wall_time(fact.at)
        row = WordsRow(live.number, live.words, fact.role, fact.text, at, fact.interrupted, fact.words)
        self._submit(partial(self._store.add_words, row))
        if fact.role == "user":
            live.heard.append(fact.text)
        elif live.unfinished is not None:
            turn = replace(live.unfinished, assistant_text=fact.text, interrupted=fact.interrupted)
            live.unfinished = None
            self._submit(partial(self._store.add_turn, turn))

    def _turn(self, fact: TurnTimed) -> None:
        live = self._live.get(fact.record.call_id)
        if live is None:
            return
        live.turns += 1
        times = fact.times
        live.unfinished = TurnRow(
            call_id=live.number,
            number=live.turns,
            at=self._wall_time(times.voice_ended),
            caller_text=" ".join(live.heard),
            assistant_text="",
            interrupted=False,
            parts=times.parts(),
            total=times.total,
        )
        live.heard.clear()
        self._submit(partial(self._store.add_turn, live.unfinished))

    def _end(self, fact: CallOver) -> None:
        live = self._live.pop(fact.record.call_id, None)
        if live is None:
            return
        record = fact.record
        self._submit(
            partial(
                self._store.end_call,
                live.number,
                record.end_code,
                record.end_reason,
                plain(fact.media),
                ended=self._wall_time(self._clock.now() if record.ended is None else record.ended),
            )
        )

    def _wall_time(self, at: float) -> float:
        """A time of the monotonic clock on the wall clock."""
        return self._wall() - (self._clock.now() - at)

    def _submit(self, job: Job) -> None:
        with self._changed:
            if len(self._jobs) >= self._capacity:
                if not self._lost:
                    log.error("The store is too slow or cannot be written: parts of the history are lost.")
                self._lost += 1
                return
            self._jobs.append(job)
            self._changed.notify_all()

    # ------------------------------------------------------------------ for everybody

    @property
    def error(self) -> str:
        """Why writing does not work at the moment; empty when it does."""
        return self._error

    @property
    def waiting(self) -> int:
        """Writes that are not in the store yet."""
        return len(self._jobs)

    @property
    def lost(self) -> int:
        """Writes given up since the start."""
        return self._lost

    def flush(self, timeout: float) -> bool:
        """Wait until all that was handed over is in the store; False when it is not within ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._jobs, timeout)

    def close(self, timeout: float = 5.0) -> bool:
        """Write what waits and end the thread; the store stays open. True when all of it is in the store."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(timeout)
        if self._jobs:
            log.error("%d writes to the history were lost: %s", len(self._jobs), self._error or "no time was left")
        return not self._jobs

    # ------------------------------------------------------------------ the writer's side

    def _run(self) -> None:
        tidy_at = self._clock.now()
        failed = False
        while True:
            with self._changed:
                if failed:
                    self._changed.wait_for(lambda: self._stopping, self._retry)
                else:
                    self._changed.wait_for(lambda: self._jobs or self._stopping, self._tidy_every or None)
                stopping = self._stopping
            failed = not self._write_waiting()
            if stopping:
                return
            if self._tidy_every and not failed and self._clock.now() >= tidy_at:
                tidy_at = self._clock.now() + self._tidy_every
                self._attempt(self._store.apply_retention)

    def _write_waiting(self) -> bool:
        """Write until nothing waits; False when the store does not take it now."""
        while True:
            with self._changed:
                jobs = [self._jobs[index] for index in range(min(BATCH, len(self._jobs)))]
            if not jobs:
                return True
            # Together first, for one flush to the disk; and one by one where that does not work, to find out which.
            done = len(jobs) if self._attempt(partial(self._all, jobs), quiet=True) is True else self._one_by_one(jobs)
            with self._changed:
                for _ in range(done):
                    self._jobs.popleft()
                if done == len(jobs):
                    self._error = ""
                self._changed.notify_all()
            if done < len(jobs):
                return False

    def _all(self, jobs: list[Job]) -> None:
        with self._store.batch():
            for job in jobs:
                job()

    def _one_by_one(self, jobs: list[Job]) -> int:
        """How many of the jobs are done with; one that can never work is dropped."""
        for index, job in enumerate(jobs):
            if self._attempt(job) is False:
                return index
        return len(jobs)

    def _attempt(self, job: Job, *, quiet: bool = False) -> bool | None:
        """True when it worked, False when it may work later, None when it never will."""
        try:
            job()
        except StorageError as error:
            if str(error) != self._error:
                log.error("%s What was to be written is kept and tried again.", error)
            self._error = str(error)
            return False
        except Exception:
            if not quiet:
                log.exception("A write to the history failed.")
            return None
        return True


def plain(media: Any) -> dict[str, Any]:
    """Media statistics as values for JSON, without those that are no numbers."""
    if media is None:
        return {}
    values = dataclasses.asdict(media) if dataclasses.is_dataclass(media) and not isinstance(media, type) else media
    return {
        name: value
        for name, value in dict(values).items()
        if not (isinstance(value, float) and not math.isfinite(value)) and _is_json(value)
    }


def _is_json(value: object) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
