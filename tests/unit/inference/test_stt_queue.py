"""The order of transcriptions: finals before partials, newest wins, nothing lost."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from aiphone.events import Urgency
from aiphone.inference.stt_queue import Job, WorkQueue

PCM = np.zeros(1, np.int16)


def job(call: str, generation: int = 1, *, partial: bool = False) -> Job:
    return Job(call, generation, PCM, "", 0.0, Urgency.PARTIAL if partial else Urgency.FINAL)


def test_finals_go_before_partials() -> None:
    queue = WorkQueue(workers=2)
    partial, final = job("a", partial=True), job("b")
    queue.put(partial)
    queue.put(final)
    assert queue.next() is final
    assert queue.next() is partial
    assert queue.next() is None


def test_a_final_stops_a_partial_that_is_in_its_way() -> None:
    queue = WorkQueue(workers=1)
    partial, final = job("a", partial=True), job("b")
    queue.put(partial)
    assert queue.next() is partial
    queue.put(final)
    assert partial.cancelled
    queue.done(partial)
    assert queue.next() is final
    assert queue.partials_dropped == 1


def test_a_final_leaves_partials_alone_while_a_worker_is_free() -> None:
    queue = WorkQueue(workers=2)
    partial, final = job("a", partial=True), job("b")
    queue.put(partial)
    assert queue.next() is partial
    queue.put(final)
    assert not partial.cancelled
    assert queue.next() is final


def test_only_as_many_partials_are_stopped_as_finals_wait() -> None:
    queue = WorkQueue(workers=2)
    older, younger = job("a", partial=True), job("b", partial=True)
    queue.put(older)
    queue.put(younger)
    assert (queue.next(), queue.next()) == (older, younger)
    queue.put(job("c"))
    assert (older.cancelled, younger.cancelled) == (False, True)
    queue.put(job("d"))
    assert older.cancelled


def test_no_partial_begins_while_a_final_waits_for_its_call() -> None:
    queue = WorkQueue(workers=2)
    first, second = job("a", 1), job("a", 2)
    queue.put(first)
    assert queue.next() is first
    queue.put(second)
    queue.put(job("b", partial=True))
    assert queue.next() is None
    queue.done(first)
    assert queue.next() is second


def test_the_newest_partial_of_a_call_waits() -> None:
    queue = WorkQueue(workers=1)
    first, second = job("a", partial=True), job("a", partial=True)
    queue.put(first)
    queue.put(second)
    assert queue.next() is second
    assert queue.next() is None
    assert queue.partials_dropped == 1


def test_a_running_partial_is_left_to_finish_when_the_next_comes() -> None:
    queue = WorkQueue(workers=1)
    first, second = job("a", partial=True), job("a", partial=True)
    queue.put(first)
    queue.next()
    queue.put(second)
    assert not first.cancelled
    queue.done(first)
    assert queue.next() is second


def test_a_final_makes_its_calls_partials_worthless() -> None:
    queue = WorkQueue(workers=2)
    running, waiting, final = job("a", partial=True), job("a", partial=True), job("a", 2)
    queue.put(running)
    queue.next()
    queue.put(waiting)
    queue.put(final)
    assert running.cancelled
    queue.done(running)
    assert queue.next() is final
    assert queue.next() is None


def test_a_partial_of_an_older_generation_is_refused() -> None:
    queue = WorkQueue(workers=1)
    queue.put(job("a", 2))
    assert not queue.put(job("a", 1, partial=True))
    assert queue.put(job("a", 2, partial=True))


def test_cancel_reaches_partials_too() -> None:
    queue = WorkQueue(workers=1)
    running = job("a", 1, partial=True)
    queue.put(running)
    queue.next()
    queue.put(job("a", 1, partial=True))
    queue.cancel("a", 1)
    assert running.cancelled
    assert queue.waiting == 0


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["final", "partial", "next", "done", "cancel", "release"]), st.sampled_from(["a", "b", "c"])
        ),
        max_size=60,
    ),
    st.integers(1, 3),
)
def test_in_any_order_the_newest_final_of_each_call_runs_once(steps: list[tuple[str, str]], workers: int) -> None:
    queue = WorkQueue(workers)
    running: list[Job] = []
    wanted: dict[str, Job] = {}
    ended: list[Job] = []

    def begin() -> None:
        while len(running) < workers and (taken := queue.next()) is not None:
            assert taken.call_id not in [other.call_id for other in running]
            running.append(taken)

    def end() -> None:
        taken = running.pop(0)
        queue.done(taken)
        if not taken.cancelled:
            ended.append(taken)

    for generation, (step, call) in enumerate(steps, start=1):
        match step:
            case "final":
                wanted[call] = job(call, generation)
                queue.put(wanted[call])
                going_on = [other for other in running if not other.cancelled]
                waiting = sum(newest not in running and newest not in ended for newest in wanted.values())
                assert len(going_on) + waiting <= workers or not any(other.partial for other in going_on)
            case "partial":
                queue.put(job(call, generation, partial=True))
            case "next":
                begin()
            case "done" if running:
                end()
            case "cancel":
                queue.cancel(call, generation)
                wanted.pop(call, None)
            case "release":
                queue.release(call)
                wanted.pop(call, None)
    begin()
    while running:
        end()
        begin()
    assert queue.waiting == 0
    for call, newest in wanted.items():
        assert [other for other in ended if other.call_id == call and not other.partial].count(newest) == 1
