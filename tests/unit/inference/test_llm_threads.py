"""How many threads a decode gets, by what decodes cost lately."""

from collections import Counter

from aiphone.inference.llm_threads import Crew


def decodes(crew: Crew, count: int, tokens: int, cost: dict[int, float]) -> Counter[int]:
    chosen: Counter[int] = Counter()
    for _ in range(count):
        threads = crew.choose(tokens)
        chosen[threads] += 1
        crew.took(threads, tokens, cost[threads] * tokens)
    return chosen


QUIET = {1: 0.010, 4: 0.004}
BUSY = {1: 0.015, 4: 0.100}


def test_on_a_quiet_machine_a_decode_has_all_threads_and_one_is_tried_once_and_then_rarely() -> None:
    assert decodes(Crew(4), 1000, 1, QUIET)[1] == 1
    assert decodes(Crew(4), 10_000, 1, QUIET)[1] == 10


def test_one_thread_that_is_nearly_as_quick_is_tried_more_often() -> None:
    assert decodes(Crew(4), 1000, 1, {1: 0.005, 4: 0.004})[1] > 12


def test_a_trial_that_fell_into_a_bad_moment_is_made_again_some_day() -> None:
    crew = Crew(4)
    crew.took(4, 1, 0.010)
    crew.took(1, 1, 10.0)
    assert decodes(crew, 5000, 1, BUSY)[1] > 2500


def test_when_others_take_the_cores_one_thread_is_quicker_and_all_are_used_again_when_they_have_left() -> None:
    crew = Crew(4)
    decodes(crew, 50, 1, QUIET)
    decodes(crew, 10, 1, BUSY)
    assert decodes(crew, 100, 1, BUSY)[1] > 90
    decodes(crew, 400, 1, QUIET)
    assert decodes(crew, 100, 1, QUIET)[4] > 90


def test_a_prompt_and_a_token_are_judged_apart() -> None:
    crew = Crew(4)
    decodes(crew, 50, 1, BUSY)
    decodes(crew, 50, 64, QUIET)
    assert decodes(crew, 20, 1, BUSY)[1] > 15
    assert decodes(crew, 20, 64, QUIET)[4] > 15


def test_while_tokens_are_quick_with_all_threads_no_prompt_is_read_by_one() -> None:
    crew = Crew(4)
    decodes(crew, 50, 1, QUIET)
    assert decodes(crew, 500, 64, QUIET) == {4: 500}


def test_a_prompt_is_read_by_one_thread_when_tokens_have_shown_that_others_take_the_cores_and_by_all_later() -> None:
    crew = Crew(4)
    decodes(crew, 50, 1, QUIET)
    decodes(crew, 50, 64, QUIET)
    decodes(crew, 100, 1, BUSY)
    assert decodes(crew, 200, 64, BUSY)[1] > 190
    decodes(crew, 400, 1, QUIET)
    decodes(crew, 100, 64, QUIET)
    assert decodes(crew, 100, 64, QUIET) == {4: 100}


def test_one_thread_stays_one() -> None:
    assert decodes(Crew(1), 30, 1, {1: 0.01}) == {1: 30}
