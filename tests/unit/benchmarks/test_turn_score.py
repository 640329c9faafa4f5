"""What became of a turn, from the times of packets."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.turn_score import Outcome, Tally, judge_call, judge_overlap, judge_turn, segments


def turn(heard: list[tuple[float, float]], first: float = 10.0, last: float = 12.0, until: float = 30.0) -> Outcome:
    return judge_turn("a", "question", first, last, until, heard)


def test_latency_runs_from_the_last_voiced_packet_to_the_first_audible_one() -> None:
    outcome = turn([(5.0, 7.0), (12.45, 14.0)])
    assert outcome.latency == pytest.approx(0.45)
    assert not outcome.cut_short
    assert not outcome.lost


def test_an_answer_that_begins_inside_the_turn_cuts_it_short_and_has_no_latency() -> None:
    outcome = turn([(11.5, 11.9), (12.6, 14.0)])
    assert outcome.cut_short
    assert outcome.latency is None
    assert not outcome.lost


def test_the_last_packets_of_the_answer_before_do_not_cut_a_turn_short() -> None:
    assert not turn([(8.0, 10.1), (10.2, 10.25), (12.4, 13.0)]).cut_short


def test_an_answer_after_eight_seconds_is_lost() -> None:
    assert turn([(20.5, 22.0)]).lost
    assert turn([]).lost
    assert not turn([(19.9, 22.0)]).lost


def test_an_answer_to_the_next_turn_is_not_an_answer_to_this_one() -> None:
    assert turn([(16.0, 17.0)], until=15.0).lost


def test_sentences_of_one_answer_are_one_answer_and_a_second_one_is_a_phantom() -> None:
    assert turn([(12.4, 13.0), (13.6, 15.0)]).phantoms == 0
    assert turn([(12.4, 13.0), (16.0, 17.0)]).phantoms == 1


def test_segments_join_what_no_long_silence_parts() -> None:
    assert segments([(0.0, 1.0), (1.5, 2.0), (4.0, 5.0)]) == [(0.0, 2.0), (4.0, 5.0)]
    assert segments([]) == []


def test_an_interruption_is_stopped_where_the_answer_falls_silent() -> None:
    overlap = judge_overlap("o", "over", 10.0, 12.0, [(8.0, 10.2), (12.6, 14.0)])
    assert overlap.stop == pytest.approx(0.2)


def test_the_new_answer_is_not_the_old_one_going_on() -> None:
    heard = [(8.0, 11.4), (12.3, 14.0)]
    assert judge_overlap("o", "over", 10.0, 12.0, heard).stop == pytest.approx(1.4)


def test_an_answer_that_goes_on_through_an_interruption_has_no_stop() -> None:
    assert judge_overlap("o", "over", 10.0, 12.0, [(8.0, 15.0)]).stop is None


def test_a_pause_between_sentences_is_not_a_stop() -> None:
    heard = [(8.0, 10.3), (10.9, 18.0)]
    assert judge_overlap("m", "back-channel", 10.0, 10.5, heard).stop is None


def test_an_answer_that_does_not_come_back_after_a_cough_was_stopped() -> None:
    assert judge_overlap("c", "cough", 10.0, 10.5, [(8.0, 10.3)]).stop == pytest.approx(0.3)


def test_a_sound_over_silence_says_nothing() -> None:
    assert not judge_overlap("c", "cough", 10.0, 10.5, [(2.0, 5.0)]).valid


def test_an_answer_that_ended_before_the_cough_was_not_stopped_by_it() -> None:
    assert not judge_overlap("c", "cough", 10.0, 10.5, [(2.0, 9.6)]).valid


def call(**more: Any) -> dict[str, Any]:
    base = {"name": "one", "error": "", "ended_by": "hangup", "ended_at": 40.0, "heard": [], "faint": [], "steps": []}
    return {**base, **more}


def say(label: str, first: float, last: float, what: str = "say") -> dict[str, Any]:
    return {"what": what, "label": label, "asked_at": first, "first_voiced": first, "last_voiced": last}


def test_a_call_is_judged_step_by_step() -> None:
    steps = [say("q", 2.0, 4.0), say("p", 10.0, 12.0)]
    tally = judge_call(call(steps=steps, heard=[(4.5, 6.0), (12.3, 14.0)]), {"q": "question", "p": "pause"})
    assert [outcome.kind for outcome in tally.turns] == ["question", "pause"]
    assert tally.latencies() == pytest.approx([500.0, 300.0])
    assert tally.share("cut_short") == 0.0
    assert tally.share("lost", ["digits"]) is None


def test_what_is_said_on_a_quiet_line_is_a_phantom() -> None:
    step = {"what": "stay", "label": "", "asked_at": 5.0, "first_voiced": None, "last_voiced": None}
    tally = judge_call(call(steps=[step], heard=[(1.0, 2.0), (9.0, 10.0)]), {})
    assert tally.phantoms == 1
    assert tally.quiet_seconds == pytest.approx(35.0)


def test_an_answer_that_is_talked_over_has_no_phantoms() -> None:
    steps = [say("q", 2.0, 4.0), say("m", 8.0, 8.4, "over")]
    heard = [(4.5, 6.0), (7.5, 20.0)]
    tally = judge_call(call(steps=steps, heard=heard, faint=heard), {"q": "question", "m": "back-channel"})
    assert tally.turns[0].phantoms == 0
    assert tally.false_stops() == ([], 1)


def test_calls_that_failed_are_told() -> None:
    assert judge_call({**call(), "error": "busy"}, {}).failed == ["one: busy"]
    assert judge_call(call(ended_by="remote"), {}).failed == ["one: the other side hung up"]


def test_tallies_add_up() -> None:
    both = Tally(phantoms=1, quiet_seconds=2.0)
    both.extend(Tally(phantoms=2, quiet_seconds=3.0, failed=["x"]))
    assert (both.phantoms, both.quiet_seconds, both.failed) == (3, 5.0, ["x"])
