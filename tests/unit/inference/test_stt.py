"""Speech to text for many calls, with a scripted model: queue, states, cancelling, failures."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fake_whisper import RATE, WAIT, Bench, FakeState, better_with_context, segment, voice

from aiphone.cores import Cores
from aiphone.errors import ConfigError, InferenceError
from aiphone.events import Event, PartialTranscript, Stage, Transcribed, Urgency, WorkFailed
from aiphone.inference.stt_guard import GuardPolicy
from aiphone.inference.stt_states import KEPT
from aiphone.inference.whisper_cpp import DecodeParams, Segment, Token


@pytest.fixture
def make() -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def build(**options: Any) -> Bench:
        made.append(Bench(**options))
        return made[-1]

    yield build
    for bench in made:
        if bench.model.held is not None:
            bench.model.held.set()
        bench.stt.close()
        assert bench.model.closed


def texts(events: list[Event]) -> list[tuple[str, int, str]]:
    return [(e.call_id, e.generation, e.text) for e in events if isinstance(e, Transcribed)]


# ------------------------------------------------------------------ the plain case


def test_a_turn_becomes_text(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.stt.submit("c1", 1, voice())
    (event,) = bench.inbox.wait(1)
    assert isinstance(event, Transcribed)
    assert (event.call_id, event.generation, event.text, event.retried) == ("c1", 1, "hello there", False)
    _, samples, params = bench.model.asked[0]
    assert samples == 2 * RATE
    assert params == DecodeParams(threads=2, audio_ctx=192, max_tokens=24, timestamps=True, token_timestamps=True)


def test_times_come_from_the_clock(make: Callable[..., Bench]) -> None:
    bench = make()
    gate = bench.model.hold()
    bench.stt.submit("c1", 1, voice())
    bench.started()
    bench.stt.submit("c2", 1, voice())
    bench.clock.advance(0.5)
    gate.set()
    first, second = bench.inbox.wait(2)
    assert isinstance(first, Transcribed)
    assert isinstance(second, Transcribed)
    assert (first.seconds, first.queued) == (0.5, 0.0)
    assert (second.seconds, second.queued) == (0.0, 0.5)


def test_silence_is_answered_without_asking_the_model(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.stt.submit("c1", 1, voice(level=5))
    bench.stt.submit("c1", 2, np.empty(0, np.int16))
    assert texts(bench.inbox.wait(1))[-1][2] == ""
    assert not bench.model.asked


# ------------------------------------------------------------------ early, before the pause is certain


def test_an_early_final_that_is_done_or_under_way_is_not_made_again(make: Callable[..., Bench]) -> None:
    bench = make()
    gate = bench.model.hold()
    bench.stt.submit("c1", 1, voice(), Urgency.EARLY)
    bench.started()
    bench.stt.insist("c1", 1, voice())
    gate.set()
    bench.inbox.wait(1)
    bench.stt.insist("c1", 1, voice())
    bench.stt.submit("c2", 1, voice())
    assert texts(bench.inbox.wait(2)) == [("c1", 1, "hello there"), ("c2", 1, "hello there")]
    assert len(bench.model.asked) == 2


@pytest.mark.parametrize("in_time", [False, True])
def test_a_doubtful_early_final_is_decoded_again_only_when_it_is_needed(
    make: Callable[..., Bench], in_time: bool
) -> None:
    bench = make()
    bench.model.answer = better_with_context
    gate = bench.model.hold()
    bench.stt.submit("c1", 1, voice(), Urgency.EARLY)
    bench.started()
    if in_time:
        bench.stt.insist("c1", 1, voice())
        gate.set()
    else:
        gate.set()
        bench.stt.submit("c2", 1, voice())
        bench.inbox.wait(1)
        assert len(bench.model.asked) == 4
        bench.stt.insist("c1", 1, voice())
    events = bench.inbox.wait(1 if in_time else 2)
    assert texts(events)[-1] == ("c1", 1, "good text")
    # The least context is tried once, whether or not the text was needed before the doubt.
    assert [params.audio_ctx for _, _, params in bench.model.asked[0 if in_time else 4 :]] == (
        [192, 512, 0] if in_time else [512, 0]
    )


def test_without_a_free_core_early_finals_and_partials_are_dropped_and_insisting_brings_the_final(
    make: Callable[..., Bench],
) -> None:
    cores = Cores(1)
    bench = make(cores=cores)
    with cores.working(1):
        bench.stt.submit("c1", 1, voice(), Urgency.EARLY)
        bench.stt.submit("c2", 1, voice(), Urgency.PARTIAL)
        bench.stt.submit("c3", 1, voice())
        bench.inbox.wait(1)
        bench.stt.insist("c1", 1, voice())
        assert texts(bench.inbox.wait(2)) == [("c3", 1, "hello there"), ("c1", 1, "hello there")]
    assert len(bench.model.asked) == 2
    assert bench.stt.status()["dropped"] >= 1


def test_a_call_alone_has_all_threads_and_leaves_a_core_to_calls_that_spoke_lately(make: Callable[..., Bench]) -> None:
    bench = make(cores=Cores(8))
    for number, call in enumerate(("c1", "c1", "c2", "c1"), start=1):
        bench.stt.submit(call, number, voice())
        bench.inbox.wait(number)
    bench.clock.advance(6.0)
    bench.stt.submit("c1", 5, voice())
    bench.inbox.wait(5)
    assert [params.threads for _, _, params in bench.model.asked] == [2, 2, 1, 1, 2]


# ------------------------------------------------------------------ the guard


def test_doubtful_text_is_decoded_with_more_context(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.model.answer = better_with_context
    bench.stt.submit("c1", 1, voice())
    (event,) = bench.inbox.wait(1)
    assert isinstance(event, Transcribed)
    assert (event.text, event.retried) == ("good text", True)
    assert [params.audio_ctx for _, _, params in bench.model.asked] == [192, 512, 0]
    assert bench.stt.status()["retried"] == 1


@pytest.mark.parametrize(("logprob", "text"), [(-0.8, "Same words."), (-2.0, "")])
def test_what_is_heard_twice_is_taken_if_it_is_credible(make: Callable[..., Bench], logprob: float, text: str) -> None:
    bench = make()
    bench.model.answer = lambda params, _stop: [
        segment("same words" if params.audio_ctx == 192 else "Same words.", logprob)
    ]
    bench.stt.submit("c1", 1, voice())
    bench.inbox.wait(1)
    bench.stt.submit("c1", 2, voice(), Urgency.EARLY)
    bench.stt.submit("c2", 1, voice())
    bench.inbox.wait(2)
    bench.stt.insist("c1", 2, voice())
    assert texts(bench.inbox.wait(3)) == [("c1", 1, text), ("c2", 1, text), ("c1", 2, text)]
    contexts = [params.audio_ctx for _, _, params in bench.model.asked]
    assert contexts == [192, 512, 192, 192, 512, 512]


def test_contexts_with_padding_have_states_to_themselves(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.model.answer = better_with_context
    for call in ("c1", "c2"):
        bench.stt.submit(call, 1, voice())
    bench.inbox.wait(2)
    bench.model.answer = lambda _params, _stop: [segment("good text")]
    bench.stt.submit("c1", 2, voice(4))
    bench.inbox.wait(3)
    contexts = [params.audio_ctx for _, _, params in bench.model.asked]
    assert contexts == [192, 512, 0] * 2 + [256]
    for state in bench.model.states:
        used = {context for (one, _, _), context in zip(bench.model.asked, contexts, strict=True) if one is state}
        assert used in ({192}, {512}, {0}, {256}, {512, 256})
    assert bench.stt.status()["states_free"] <= KEPT


def test_what_is_decoded_once_has_no_words_where_the_guard_doubts(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.model.answer = lambda _params, _stop: [segment("doubtful", -2.0)]
    bench.stt.submit("c1", 1, voice(), Urgency.ONCE)
    (event,) = bench.inbox.wait(1)
    assert isinstance(event, Transcribed)
    assert (event.text, event.words, event.retried, event.doubted) == ("", (), False, "doubtful")
    assert len(bench.model.asked) == 1


def test_what_is_cancelled_between_two_decodings_is_not_decoded_again(make: Callable[..., Bench]) -> None:
    bench = make()
    told = threading.Event()

    def doubtful(_params: DecodeParams, _stop: Any) -> list[Segment]:
        bench.stt.cancel("c1", 1)
        told.set()
        return [segment("doubtful", -2.0)]

    bench.model.answer = doubtful
    bench.stt.submit("c1", 1, voice())
    assert told.wait(WAIT)
    bench.model.answer = lambda _params, _stop: [segment("good text")]
    bench.stt.submit("c2", 1, voice())
    assert texts(bench.inbox.wait(1)) == [("c2", 1, "good text")]
    assert len(bench.model.asked) == 2


def test_a_loop_is_stopped_from_within_the_decoding(make: Callable[..., Bench]) -> None:
    bench = make()

    def loop(_params: DecodeParams, stop: Callable[[list[int]], bool]) -> list[Segment]:
        ids: list[int] = [50363]
        while not stop(ids):
            ids.append((len(ids) - 1) % 4)
        assert len(ids) == 9
        return [segment(" ".join(f"w{number}" for number in ids[1:]))]

    bench.model.answer = loop
    bench.stt.submit("c1", 1, voice(1.2))
    (event,) = bench.inbox.wait(1)
    assert isinstance(event, Transcribed)
    assert (event.text, event.retried) == ("w0 w1 w2 w3", False)
    assert bench.stt.status()["repetitions_cut"] == 1


def growing(seconds: float) -> np.ndarray:
    """A voice that gets louder and louder, so that no two windows of it are alike."""
    return np.linspace(1000, 9000, int(65 * RATE)).astype(np.int16)[: int(seconds * RATE)]


def test_of_a_long_turn_only_the_end_is_decoded_again(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.model.answer = lambda params, _stop: [
        replace(segment("hello there"), tokens=(Token(0, b" hello", 0.9, -0.1, 0.5, 0.9),))
    ]
    bench.stt.submit("c1", 1, growing(30), Urgency.PARTIAL)
    bench.inbox.wait(1)
    first = bench.model.asked[0][1]
    assert [samples for _, samples, _ in bench.model.asked] == [first, 30 * RATE - first]
    assert bench.model.asked[0][2].token_timestamps, "a final needs the times of the words"
    bench.stt.submit("c1", 1, growing(31))
    final = bench.inbox.wait(2)[1]
    assert isinstance(final, Transcribed)
    assert [samples for _, samples, _ in bench.model.asked[2:]] == [31 * RATE - first]
    assert [word.start for word in final.words] == [0.5, round(first / RATE + 0.5, 2)]
    assert (final.text, final.retried) == ("hello hello", False)
    bench.stt.submit("c1", 2, voice(2.0))  # the next turn
    bench.inbox.wait(3)
    bench.stt.submit("c2", 1, growing(30))  # what one call said is nothing to another
    bench.stt.submit("c1", 3, growing(30))
    bench.inbox.wait(5)
    assert [samples for _, samples, _ in bench.model.asked[4:]] == 2 * [first, 30 * RATE - first]


def test_a_long_turn_is_transcribed_in_windows(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.stt.submit("c1", 1, growing(65))
    (event,) = bench.inbox.wait(1)
    assert isinstance(event, Transcribed)
    assert len(bench.model.asked) >= 3
    assert event.text == " ".join(["hello there"] * len(bench.model.asked))
    assert not event.retried
    assert sum(samples for _, samples, _ in bench.model.asked) >= 65 * RATE


def test_the_flags_reach_whisper(make: Callable[..., Bench]) -> None:
    bench = make(audio_ctx=500, max_tokens=9, translate=True, language="de", beam_size=3)
    bench.stt.submit("c1", 1, voice(), prompt="Anna, Berta")
    bench.inbox.wait(1)
    params = bench.model.asked[0][2]
    assert (params.audio_ctx, params.max_tokens, params.translate, params.language) == (512, 9, True, "de")
    assert (params.beam_size, params.initial_prompt) == (3, "Anna, Berta")


def test_a_gpu_without_flash_attention_takes_any_context(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiphone.inference.stt.accelerators", lambda: ("Metal",))
    bench = make(use_gpu=True)
    bench.stt.submit("c1", 1, voice())
    bench.inbox.wait(1)
    assert bench.model.asked[0][2].audio_ctx == 100 + GuardPolicy().margins[0]
    assert bench.stt.status()["flash_attn"] is False


def test_flash_attention_uses_a_few_contexts_only(make: Callable[..., Bench]) -> None:
    bench = make(use_gpu=False)
    bench.model.answer = better_with_context
    bench.stt.submit("c1", 1, voice(4))
    bench.inbox.wait(1)
    assert [params.audio_ctx for _, _, params in bench.model.asked] == [256, 640, 0]


def test_a_language_is_detected_once_for_a_call(make: Callable[..., Bench]) -> None:
    bench = make(language="auto")
    bench.stt.submit("c1", 1, voice())
    bench.inbox.wait(1)
    bench.stt.submit("c1", 2, voice())
    bench.inbox.wait(2)
    bench.stt.submit("c2", 1, voice())
    bench.inbox.wait(3)
    assert [params.language for _, _, params in bench.model.asked] == ["de", "de", "de"]
    assert len(bench.model.detections) == 2


def test_a_language_that_is_a_guess_is_not_kept(make: Callable[..., Bench]) -> None:
    bench = make(language="auto")
    bench.model.spoken = ("de", 0.3)
    bench.stt.submit("c1", 1, voice())
    bench.inbox.wait(1)
    bench.model.spoken = ("en", 0.9)
    bench.stt.submit("c1", 2, voice())
    first, second = bench.inbox.wait(2)
    assert isinstance(first, Transcribed)
    assert isinstance(second, Transcribed)
    assert (first.language, second.language) == ("de", "en")
    bench.stt.submit("c1", 3, voice())
    bench.inbox.wait(3)
    assert len(bench.model.detections) == 2


def test_a_call_has_its_own_language_and_words(make: Callable[..., Bench], caplog: pytest.LogCaptureFixture) -> None:
    bench = make(language="en")
    bench.stt.begin("c1", language="de", prompt="Anna, Berta")
    bench.stt.begin("c2", prompt="Cäsar")
    with caplog.at_level(logging.WARNING, logger="aiphone"):
        bench.stt.begin("c3", language="xx")
    for number, call in enumerate(("c1", "c2", "c3"), start=1):
        bench.stt.submit(call, 1, voice())
        bench.inbox.wait(number)
    asked = [(params.language, params.initial_prompt) for _, _, params in bench.model.asked]
    assert asked == [("de", "Anna, Berta"), ("en", "Cäsar"), ("en", "")]
    assert "'xx'" in caplog.text


def test_a_persona_may_want_the_language_found_out(make: Callable[..., Bench]) -> None:
    bench = make(language="en")
    bench.model.spoken = ("de", 0.9)
    bench.stt.begin("c1", language="auto")
    for generation in (1, 2):
        bench.stt.submit("c1", generation, voice())
        bench.inbox.wait(generation)
    assert [params.language for _, _, params in bench.model.asked] == ["de", "de"]
    assert len(bench.model.detections) == 1


def test_a_language_is_not_kept_for_what_has_only_begun(make: Callable[..., Bench]) -> None:
    bench = make(language="auto")
    bench.model.spoken = ("de", 0.9)
    bench.stt.submit("c1", 1, voice(1.0), Urgency.PARTIAL)
    bench.inbox.wait(1)
    bench.model.spoken = ("en", 0.9)
    bench.stt.submit("c1", 1, voice(2.0))
    first, second = bench.inbox.wait(2)
    assert isinstance(first, PartialTranscript)
    assert isinstance(second, Transcribed)
    assert second.language == "en"


def test_a_language_is_kept_while_much_is_said(make: Callable[..., Bench]) -> None:
    bench = make(language="auto")
    bench.stt.submit("c1", 1, voice(3.5), Urgency.PARTIAL)
    bench.inbox.wait(1)
    bench.stt.submit("c1", 1, voice(4.0))
    bench.inbox.wait(2)
    assert len(bench.model.detections) == 1


def test_a_model_for_english_refuses_another_language() -> None:
    with pytest.raises(ConfigError, match=r"knows English only; for -l de give a multilingual model, such as -mw base"):
        Bench(english_only=True, language="de")


@pytest.mark.parametrize(
    ("flags", "named"), [({"language": "auto"}, "-l auto"), ({"translate": True}, "-tr"), ({"language": "en"}, "")]
)
def test_a_model_for_english_says_what_it_has_no_use_for(
    make: Callable[..., Bench], caplog: pytest.LogCaptureFixture, flags: dict[str, object], named: str
) -> None:
    with caplog.at_level(logging.WARNING, logger="aiphone"):
        bench = make(english_only=True, **flags)
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == bool(named)
    assert all(f"for {named} give a multilingual model" in text for text in texts)
    bench.stt.submit("c1", 1, voice())
    bench.inbox.wait(1)
    assert [params.language for _, _, params in bench.model.asked] == ["en"]


def test_a_persona_s_language_that_the_model_lacks_is_told(
    make: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    bench = make(english_only=True)
    with caplog.at_level(logging.WARNING, logger="aiphone"):
        bench.stt.begin("c1", language="en")
        bench.stt.begin("c2", language="")
    assert not caplog.records
    with caplog.at_level(logging.WARNING, logger="aiphone"):
        bench.stt.begin("c3", language="de")
    assert "the language 'de'" in caplog.text
    assert "-mw base" in caplog.text


def test_words_of_a_translation_are_english_ones(make: Callable[..., Bench]) -> None:
    whole, translated = make(language="ja"), make(language="ja", translate=True)
    tokens = tuple(Token(number, raw, 0.9, -0.1) for number, raw in enumerate((b" Ky", b"oto")))
    for bench in (whole, translated):
        bench.model.answer = lambda _params, _stop: [Segment(" Kyoto", 0.0, 1.0, 0.0, tokens)]
        bench.stt.submit("c1", 1, voice())
    (apart,), (together,) = whole.inbox.wait(1), translated.inbox.wait(1)
    assert isinstance(apart, Transcribed)
    assert isinstance(together, Transcribed)
    assert [word.text for word in together.words] == ["Kyoto"]
    assert [word.text for word in apart.words] == ["Ky", "oto"]


def test_an_unknown_language_is_refused() -> None:
    with pytest.raises(ConfigError, match="no language 'xx'"):
        Bench(language="xx")


# ------------------------------------------------------------------ queue


def test_a_newer_generation_takes_the_place_of_the_waiting_one(make: Callable[..., Bench]) -> None:
    bench = make()
    gate = bench.model.hold()
    bench.stt.submit("c0", 1, voice())
    bench.started()
    bench.stt.submit("c1", 1, voice(2))
    bench.stt.submit("c2", 1, voice())
    bench.stt.submit("c1", 2, voice(3))
    assert bench.stt.status()["waiting"] == 2
    gate.set()
    assert texts(bench.inbox.wait(3)) == [
        ("c0", 1, "hello there"),
        ("c1", 2, "hello there"),
        ("c2", 1, "hello there"),
    ]
    assert bench.stt.status()["superseded"] == 1


def test_a_newer_generation_stops_the_running_one(make: Callable[..., Bench]) -> None:
    bench = make()
    gate = bench.model.hold()
    bench.stt.submit("c1", 1, voice())
    bench.started()
    bench.stt.submit("c1", 2, voice())
    bench.started()  # the second began, although the gate is shut: the first was aborted
    gate.set()
    assert texts(bench.inbox.wait(1)) == [("c1", 2, "hello there")]
    assert bench.stt.status()["failed"] == 0


def test_an_older_generation_is_ignored(make: Callable[..., Bench]) -> None:
    bench = make()
    gate = bench.model.hold()
    bench.stt.submit("c1", 5, voice())
    bench.started()
    bench.stt.submit("c1", 4, voice())
    gate.set()
    assert texts(bench.inbox.wait(1)) == [("c1", 5, "hello there")]
    assert bench.stt.status()["waiting"] == 0


def test_cancel_stops_waiting_and_running_work_and_posts_nothing(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.model.hold()
    bench.stt.submit("c1", 1, voice())
    bench.started()
    bench.stt.submit("c2", 3, voice())
    bench.stt.cancel("c2", 2)  # older than what waits
    assert bench.stt.status()["waiting"] == 1
    bench.stt.cancel("c2", 3)
    bench.stt.cancel("c1", 1)
    bench.stt.cancel("nobody", 1)
    bench.stt.submit("c3", 1, voice())
    bench.started()  # so the worker came free
    assert bench.inbox.events == []


def test_one_call_is_never_in_two_workers(make: Callable[..., Bench]) -> None:
    bench = make(workers=3)
    for generation in range(1, 30):
        bench.stt.submit("c1", generation, voice())
    assert any(event[1] == 29 for event in texts(bench.inbox.wait(1))) or bench.inbox.wait(2)
    assert len(bench.model.states) == 1  # FakeState asserts that it is never entered twice


# ------------------------------------------------------------------ partials


def partials(events: list[Event]) -> list[tuple[str, str]]:
    return [(event.text, event.stable) for event in events if isinstance(event, PartialTranscript)]


def test_partials_say_what_two_in_a_row_agree_on(make: Callable[..., Bench]) -> None:
    bench = make()
    turn = (np.arange(4 * RATE) % 3001).astype(np.int16)
    for number, heard in enumerate(["I would like two", "I would like to book", "I would like to book a table"], 1):
        bench.model.answer = lambda _params, _stop, heard=heard: [segment(heard)]
        bench.stt.submit("c1", 3, turn[: number * RATE], Urgency.PARTIAL)
        bench.inbox.wait(number)
    assert partials(bench.inbox.events) == [
        ("I would like two", ""),
        ("I would like to book", "I would like"),
        ("I would like to book a table", "I would like to book"),
    ]
    assert {event.generation for event in bench.inbox.events if isinstance(event, PartialTranscript)} == {3}
    assert bench.stt.status()["partials"] == 3


def test_a_running_partial_is_stopped_for_a_final(make: Callable[..., Bench]) -> None:
    bench = make()
    gate = bench.model.hold()
    bench.stt.submit("c1", 1, voice(), Urgency.PARTIAL)
    bench.started()
    bench.stt.submit("c2", 1, voice())
    bench.started()  # the final began, although the gate is shut: the partial was stopped
    gate.set()
    assert bench.inbox.wait(1)[0].call_id == "c2"
    assert bench.stt.status()["partials_dropped"] == 1


def test_a_doubtful_partial_is_neither_told_nor_decoded_again(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.model.answer = lambda _params, _stop: [segment("doubtful", -2.0)]
    bench.stt.submit("c1", 1, voice(), Urgency.PARTIAL)
    bench.started()
    bench.model.answer = lambda _params, _stop: [segment("hello there")]
    bench.stt.submit("c2", 1, voice())
    assert isinstance(bench.inbox.wait(1)[0], Transcribed)
    assert [params.audio_ctx for _, _, params in bench.model.asked] == [192, 192]


def test_a_partial_that_fails_is_logged_and_not_told(
    make: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    bench = make()
    good = bench.model.answer

    def fail(_params: DecodeParams, _stop: object) -> list[Segment]:
        bench.model.answer = good
        raise InferenceError("whisper.cpp failed.")

    bench.model.answer = fail
    with caplog.at_level(logging.WARNING, logger="aiphone"):
        bench.stt.submit("c1", 1, voice(), Urgency.PARTIAL)
        bench.started()
        bench.stt.submit("c1", 2, voice())
        assert texts(bench.inbox.wait(1)) == [("c1", 2, "hello there")]
    assert len(bench.inbox.events) == 1


# ------------------------------------------------------------------ states


def test_all_calls_share_the_states_of_the_workers(make: Callable[..., Bench]) -> None:
    bench = make()
    assert bench.stt.status()["states"] == 0
    for number in range(1, 9):
        bench.stt.submit(f"c{number}", 1, voice())
        bench.inbox.wait(number)
    assert [state.runs for state in bench.model.states] == [8]
    assert (bench.stt.status()["states"], bench.stt.status()["states_free"]) == (1, 1)


def test_two_workers_use_two_states(make: Callable[..., Bench]) -> None:
    bench = make(workers=2)
    gate = bench.model.hold()
    for call in ("c1", "c2"):
        bench.stt.submit(call, 1, voice())
        bench.started()
    gate.set()
    bench.inbox.wait(2)
    assert len(bench.model.states) == 2


def test_a_silent_call_costs_no_state(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.stt.release("c1")
    bench.stt.cancel("c1", 1)
    assert not bench.model.states


def test_warming_up_leaves_a_state_to_begin_with(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.stt.warm_up()
    made = bench.stt.status()["states_free"]
    for number, seconds in enumerate((1, 2, 4), start=1):
        bench.stt.submit("c1", number, voice(seconds))
        bench.inbox.wait(number)
    assert bench.stt.status()["states"] == made


def test_releasing_a_running_call_gives_its_state_back_when_it_stops(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.model.hold()
    bench.stt.submit("c1", 1, voice())
    bench.started()
    bench.stt.release("c1")
    bench.stt.submit("c2", 1, voice())
    bench.started()
    assert len(bench.model.states) == 1
    assert bench.inbox.events == []


# ------------------------------------------------------------------ failures


@pytest.mark.parametrize(
    ("error", "reason"),
    [(InferenceError("whisper.cpp failed."), "whisper.cpp failed."), (RuntimeError("boom"), "speech to text failed")],
)
def test_a_failure_is_told_the_state_dropped_and_the_worker_lives(
    make: Callable[..., Bench], caplog: pytest.LogCaptureFixture, error: Exception, reason: str
) -> None:
    bench = make()

    def fail(_params: DecodeParams, _stop: object) -> list[Segment]:
        raise error

    good, bench.model.answer = bench.model.answer, fail
    with caplog.at_level(logging.WARNING, logger="aiphone"):
        bench.stt.submit("c1", 1, voice())
        (event,) = bench.inbox.wait(1)
    assert isinstance(event, WorkFailed)
    assert event.reason.startswith(reason)
    assert bench.model.states[0].closed
    assert "c1" in caplog.text
    bench.model.answer = good
    bench.stt.submit("c1", 2, voice())
    assert texts(bench.inbox.wait(2)) == [("c1", 2, "hello there")]
    assert bench.stt.status()["states"] == 1


def test_a_state_that_cannot_be_made_fails_one_call_only(
    make: Callable[..., Bench], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make()
    refusing = iter([True, False])
    new_state = bench.model.new_state

    def refuse_once() -> FakeState:
        if next(refusing):
            raise InferenceError("memory is short; lower --max-calls.")
        return new_state()

    monkeypatch.setattr(bench.stt._transcriber.states, "_make", refuse_once)
    with caplog.at_level(logging.WARNING, logger="aiphone"):
        bench.stt.submit("c1", 1, voice())
        (event,) = bench.inbox.wait(1)
    assert event == WorkFailed("c1", 1, Stage.TRANSCRIBE, "memory is short; lower --max-calls.")
    bench.stt.submit("c2", 1, voice())
    assert texts(bench.inbox.wait(2)) == [("c2", 1, "hello there")]


def test_a_result_that_cannot_be_delivered_does_not_end_the_worker(
    make: Callable[..., Bench], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make()
    post, refusing = bench.stt._post, iter([True, False])

    def refuse_once(event: Event) -> None:
        if next(refusing):
            raise RuntimeError("the mailbox is closed")
        post(event)

    monkeypatch.setattr(bench.stt, "_post", refuse_once)
    with caplog.at_level(logging.ERROR, logger="aiphone"):
        bench.stt.submit("c1", 1, voice())
        bench.stt.submit("c2", 1, voice())
        assert texts(bench.inbox.wait(1)) == [("c2", 1, "hello there")]
    assert "c1" in caplog.text


def test_close_stops_running_work(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.model.hold()
    bench.stt.submit("c1", 1, voice())
    bench.started()
    bench.stt.submit("c2", 1, voice())
    bench.stt.close()
    assert bench.model.closed
    assert bench.inbox.events == []
    bench.model.closed = False
    bench.model.states.clear()
