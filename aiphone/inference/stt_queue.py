"""Whose audio is transcribed next: what waits, what runs, and what is given up.

The rules, which bound the queue by the number of calls and keep the answers fresh:

* Finals (what was said up to a pause) go before partials (what is being said), whoever they belong to. While a final
  waits for a worker no partial is begun, and one that runs is stopped for it.
* A call has at most one final and one partial waiting and one piece of work running. Newer work takes the place in
  the queue of what waits. A newer final also stops what runs: that answer would be thrown away.
* An early final (of a pause that is not certain) is like any other, but for the owner, who may drop it; ``find`` tells
  whether a call's final is still there when it turns out to be needed.
* A call's partial is worth nothing once a final of the same audio or more is there: the final drops it.
* Calls are served in the order in which they began to wait.

Data only: no threads, and no lock but the owner's.
"""

from __future__ import annotations

from dataclasses import dataclass

from aiphone.events import Pcm, Urgency


@dataclass(slots=True, eq=False)
class Job:
    """A piece of work. ``asked`` is when it was asked for; ``cancelled`` stops it while it runs."""

    call_id: str
    generation: int
    pcm: Pcm
    prompt: str
    asked: float
    urgency: Urgency = Urgency.FINAL
    cancelled: bool = False

    @property
    def partial(self) -> bool:
        """Whether it is of what is being said."""
        return self.urgency is Urgency.PARTIAL


class WorkQueue:
    """See the module. ``workers`` is how many pieces of work run at once."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._finals: dict[str, Job] = {}
        self._partials: dict[str, Job] = {}
        self._running: dict[str, Job] = {}
        self.superseded = 0
        """Finals that never began because a newer one came."""
        self.partials_dropped = 0
        """Partials that never began, or were stopped for a final."""
        self.dropped = 0
        """Partials and early finals for which no core was free."""

    @property
    def waiting(self) -> int:
        """Pieces of work that wait."""
        return len(self._finals) + len(self._partials)

    def put(self, job: Job) -> bool:
        """Take a piece of work; False when what the call has is newer."""
        call, running = job.call_id, self._running.get(job.call_id)
        waiting = self._finals.get(call)
        known = [other.generation for other in (waiting, running) if other is not None and not other.partial]
        if any(job.generation < generation for generation in known):
            return False
        # Assigning to a key keeps its place in the order.
        if job.partial:
            self.partials_dropped += call in self._partials
            self._partials[call] = job
            return True
        self.superseded += waiting is not None
        self._finals[call] = job
        self._drop_partial(call)
        if running is not None:
            self._stop(running)
        self._make_room()
        return True

    def next(self) -> Job | None:
        """The piece of work to begin with now, which then runs until ``done``."""
        for line in (self._finals, self._partials):
            for call, job in line.items():
                if call not in self._running:
                    del line[call]
                    self._running[call] = job
                    return job
            if self._finals:
                return None
        return None

    def find(self, call: str, generation: int) -> Job | None:
        """The call's final of this generation that waits or runs."""
        for job in (self._finals.get(call), self._running.get(call)):
            if job is not None and job.generation == generation and not job.partial and not job.cancelled:
                return job
        return None

    def done(self, job: Job) -> None:
        """It has ended, however it did."""
        del self._running[job.call_id]

    def drop(self, job: Job) -> None:
        """Give up what was begun with: there is no core for it."""
        self.dropped += 1
        self.done(job)

    def cancel(self, call: str, generation: int) -> None:
        """Give up a call's work of this generation and older ones."""
        for line in (self._finals, self._partials):
            waiting = line.get(call)
            if waiting is not None and waiting.generation <= generation:
                del line[call]
        running = self._running.get(call)
        if running is not None and running.generation <= generation:
            running.cancelled = True

    def release(self, call: str) -> None:
        """Give up all of a call's work."""
        self._finals.pop(call, None)
        self._partials.pop(call, None)
        if call in self._running:
            self._running[call].cancelled = True

    def clear(self) -> None:
        """Give up everything."""
        self._finals.clear()
        self._partials.clear()
        for job in self._running.values():
            job.cancelled = True

    def _drop_partial(self, call: str) -> None:
        self.partials_dropped += self._partials.pop(call, None) is not None

    def _stop(self, job: Job) -> None:
        self.partials_dropped += job.partial and not job.cancelled
        job.cancelled = True

    def _make_room(self) -> None:
        """Stop as many partials as there are finals without a worker; the youngest first."""
        leaving = sum(job.cancelled for job in self._running.values())
        free = self._workers - len(self._running) + leaving
        for job in reversed(self._running.values()):
            if free >= len(self._finals):
                return
            if job.partial and not job.cancelled:
                self._stop(job)
                free += 1
