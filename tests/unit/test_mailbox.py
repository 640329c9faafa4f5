from __future__ import annotations

import threading

from aiphone.mailbox import Mailbox


def test_one_wake_for_a_burst_and_events_in_order() -> None:
    wakes: list[int] = []
    box: Mailbox[int] = Mailbox(lambda: wakes.append(1))
    for number in range(5):
        assert box.post(number)
    assert len(wakes) == 1
    assert box.drain() == [0, 1, 2, 3, 4]
    box.post(5)
    assert len(wakes) == 2
    assert box.drain() == [5]
    assert box.drain() == []


def test_a_full_box_refuses_only_what_may_be_dropped() -> None:
    box: Mailbox[str] = Mailbox(lambda: None, capacity=2)
    assert box.post("a")
    assert box.post("b", droppable=True)
    assert not box.post("level", droppable=True)
    assert box.post("ended")
    assert box.drain() == ["a", "b", "ended"]
    assert box.refused == 1


def test_nothing_is_lost_between_many_producers() -> None:
    woken = threading.Event()
    box: Mailbox[tuple[int, int]] = Mailbox(woken.set)
    threads = [
        threading.Thread(target=lambda n=n: [box.post((n, k)) for k in range(200)])  # type: ignore[misc]
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    got: list[tuple[int, int]] = []
    while len(got) < 800:
        assert woken.wait(5.0)
        woken.clear()
        got += box.drain()
    for thread in threads:
        thread.join()
    for n in range(4):
        assert [k for m, k in got if m == n] == list(range(200))
