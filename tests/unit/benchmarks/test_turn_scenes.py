"""The scenes: who calls when, over which line, and that a plan survives its file."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict

import pytest

from aiphone.caller import tone
from benchmarks import turn_scenes as scenes
from benchmarks.turn_callers import Plan
from benchmarks.turn_corpus import Corpus, Turn


def turns(kind: str, count: int) -> tuple[Turn, ...]:
    return tuple(Turn(f"{kind} {number}", kind, kind, tone(300, 0.1)) for number in range(count))


@pytest.fixture
def corpus() -> Corpus:
    (story,) = turns("question", 1)
    return Corpus(
        turns("question", 9), turns("pause", 7), turns("digits", 5), story, turns("over", 3), turns("cough", 4)
    )


def test_one_caller_makes_calls_of_six_turns(corpus: Corpus) -> None:
    scene = scenes.level(corpus, 1, 14)
    assert [len(plan[0].steps) for plan in scene.calls] == [6, 6, 2]
    kinds = [scene.turns[step.label].kind for plan in scene.calls for step in plan[0].steps]
    assert kinds == ["question", "pause"] * 7


def test_several_callers_speak_in_turn(corpus: Corpus) -> None:
    scene = scenes.level(corpus, 4, 12)
    (calls,) = scene.calls
    starts = sorted(step.at for call in calls for step in call.steps)
    assert len(starts) == 12
    assert [later - earlier for earlier, later in itertools.pairwise(starts)] == pytest.approx([2.25] * 11)
    kinds = list(scene.kinds().values())
    assert kinds.count("pause") == kinds.count("question")


def test_lines_differ(corpus: Corpus) -> None:
    (calls,) = scenes.level(corpus, 12, 12).calls
    assert {call.codec for call in calls} == {"PCMU", "PCMA"}
    assert any(call.loss for call in calls)
    assert {call.echo_db for call in calls} >= {None, -6.0, -12.0, -20.0, -30.0}


def test_answers_are_talked_over_while_they_are_heard(corpus: Corpus) -> None:
    scene = scenes.overlaps(corpus, 4, 6, at_once=2)
    calls = [call for plan in scene.calls for call in plan]
    assert all(len(plan) <= 2 for plan in scene.calls)
    for call in calls:
        assert call.steps[0].seconds < 0
        assert any(step.what == "over" for step in call.steps)
    assert sum(turn.kind == "over" for turn in scene.turns.values()) == 4
    assert sum(turn.kind == "cough" for turn in scene.turns.values()) == 6


def test_a_plan_survives_its_file(corpus: Corpus) -> None:
    scene = scenes.special(corpus, 5)
    (plan,) = scene.plans("sip:ai@127.0.0.1:5060", "kept")
    assert Plan.from_json(json.dumps(asdict(plan))) == plan
    assert all(call.record == f"kept/{call.name}.wav" for call in plan.calls)
    assert set(scene.sounds()) == set(scene.turns)
    assert sum(step.what == "keys" and step.sound == "42#" for call in plan.calls for step in call.steps) == 2
