"""Work takes the cores that are free, one at least."""

from __future__ import annotations

import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiphone.cores import Cores, wait_gently


def test_work_alone_gets_what_it_wants_and_gives_it_back() -> None:
    cores = Cores(4)
    with cores.working(3) as threads:
        assert threads == 3
        assert cores.busy == 3
    assert cores.busy == 0


def test_work_beside_other_work_gets_what_is_left() -> None:
    cores = Cores(2)
    with cores.working(1), cores.working(2) as threads:
        assert threads == 1


def test_work_on_a_full_machine_gets_one_thread() -> None:
    cores = Cores(2)
    with cores.working(2), cores.working(2) as threads:
        assert threads == 1
        assert cores.busy == 3


def test_work_that_fails_gives_back_too() -> None:
    cores = Cores(2)
    with pytest.raises(ValueError, match="as told"), cores.working(2):
        raise ValueError("as told")
    assert cores.busy == 0


@given(st.integers(1, 16), st.lists(st.integers(1, 16), max_size=8))
def test_no_core_is_given_twice_but_for_the_one_that_everybody_gets(count: int, wants: list[int]) -> None:
    cores = Cores(count)
    entered = [cores.working(wanted) for wanted in wants]
    given_out = [manager.__enter__() for manager in entered]
    assert all(1 <= threads <= wanted for threads, wanted in zip(given_out, wants, strict=True))
    assert sum(given_out) <= max(count, 0) + len(wants)
    free = count
    for threads, wanted in zip(given_out, wants, strict=True):
        assert threads == max(1, min(wanted, free))
        free -= threads
    for manager in entered:
        manager.__exit__(None, None, None)
    assert cores.busy == 0


def test_patient_work_waits_for_a_core() -> None:
    cores, order = Cores(1), []

    def patient() -> None:
        with cores.working(1, patience=60.0):
            order.append("patient")

    with cores.working(1):
        thread = threading.Thread(target=patient)
        thread.start()
        order.append("first")
    thread.join(30)
    assert order == ["first", "patient"]
    assert cores.busy == 0


def test_patience_has_an_end() -> None:
    cores = Cores(1)
    with cores.working(1), cores.working(1, patience=0.001) as threads:
        assert threads == 1
        assert cores.busy == 2


def test_threads_look_for_each_other_for_a_moment_only_and_the_user_has_the_last_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "77")
    wait_gently()
    assert os.environ["GOMP_SPINCOUNT"] == "77"
    assert os.environ["OMP_WAIT_POLICY"] == "active"
    assert os.environ["KMP_BLOCKTIME"] == "0"
