"""Pace and sequences."""

import pytest
from fake_llama import FakeLlama
from hypothesis import given
from hypothesis import strategies as st

from aiphone.inference.llm_backend import BackendOptions
from aiphone.inference.llm_pace import Pace
from aiphone.inference.llm_slots import KvPool, common_prefix


def test_pace_begins_small_and_follows_the_measured_cost():
    pace = Pace(budget=0.1, idle_budget=0.2, n_batch=512)
    assert pace.chunk(0) == pace.chunk(1) == 16
    pace.measured(0, 16, 16 * 0.004)
    assert pace.chunk(1) == 20
    assert pace.chunk(0) == 45
    for _ in range(60):
        pace.measured(1, 50, 51 * 0.0001)
    assert pace.chunk(1) == 511
    for _ in range(50):
        pace.measured(1, 8, 9.0)
    assert pace.chunk(1) == 4


def test_pace_keeps_the_bound_on_a_machine_that_varies():
    steady, busy = Pace(0.1, 0.2, 512), Pace(0.1, 0.2, 512)
    for number in range(80):
        steady.measured(1, 20, 21 * 0.002)
        busy.measured(1, 20, 21 * (0.001 if number % 2 else 0.003))  # the same on average
    assert steady.chunk(1) == 40
    assert busy.chunk(1) * 0.003 <= 0.1
    assert busy.chunk(0) == pytest.approx(steady.chunk(0), rel=0.2)  # while nobody speaks the average counts


@pytest.mark.parametrize("speaking", [1, 2, 4, 8, 16])
def test_a_pause_beside_a_reader_is_within_what_is_promised_and_the_more_speak_the_more_is_read(speaking):
    token, alone = 0.010, 0.015

    def decode(tokens: int) -> float:
        return alone + (tokens - 1) * token

    pace = Pace(0.1, 0.25, 256)
    for _ in range(40):
        pace.measured(0, 20, 20 * token)
        pace.measured(speaking, 0, decode(speaking))
    usual, beside = decode(speaking), decode(speaking + pace.chunk(speaking))
    assert beside <= 2.5 * usual + 0.1
    assert beside - usual >= 0.7 * (1.5 * usual + 0.1)


@given(
    st.lists(st.tuples(st.integers(0, 16), st.integers(0, 300), st.floats(0, 10)), max_size=30),
    st.integers(0, 64),
)
def test_pace_always_makes_progress_and_fits_the_batch(measurements, generating):
    pace = Pace(0.1, 0.25, 256)
    for speaking, reading, seconds in measurements:
        pace.measured(speaking, reading, seconds)
    assert 4 <= pace.chunk(generating) <= 256 - generating


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_common_prefix(a, b):
    length = common_prefix(a, b)
    assert a[:length] == b[:length]
    assert length == min(len(a), len(b)) or a[length] != b[length]


def test_shared_cells_are_counted_once_and_never_moved():
    model = FakeLlama()
    pool = KvPool(model)
    source, one, two = pool.acquire(), pool.acquire(), pool.acquire()
    pool.begin_template(source)
    assert pool.adopt(source, list(range(10)), b"".join(n.to_bytes(2, "big") for n in range(10)))
    source.shared = 10
    pool.fork(source, one, 10)
    pool.fork(source, two, 6)
    assert pool.cells == len(model.cells) == 10
    pool.release(source)
    assert pool.cells == len(model.cells) == 10
    with pytest.raises(ValueError, match="shared"):
        pool.drop_middle(one, 2, 5)
    pool.release(one)
    assert pool.cells == len(model.cells) == 6
    pool.release(two)
    assert pool.cells == 0
    assert pool.free_sequences == model.n_seq_max


def test_cells_are_what_the_budget_buys():
    small = BackendOptions(threads=2, n_seq_max=36, n_ctx_per_call=2048, max_calls=32)
    assert small.n_ctx(23040) == 4352
    assert small.n_ctx(131072) == 4096  # two whole shares, whatever they cost
    assert small.n_ctx(10) == 33 * 2048
    one = BackendOptions(threads=2, n_seq_max=5, n_ctx_per_call=2048, max_calls=1)
    assert one.n_ctx(131072) == 2048
    assert BackendOptions(threads=2, n_seq_max=5, n_ctx_per_call=2048, max_calls=1, n_ctx_total=777).n_ctx(1) == 777
