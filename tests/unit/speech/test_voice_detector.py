from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiphone.errors import ConfigError
from aiphone.speech.voice_detector import (
    FRAME_SAMPLES,
    WINDOW_SAMPLES,
    DetectorSettings,
    Faded,
    Started,
    Stopped,
    Transition,
    VoiceDetector,
)


class Script:
    """Feeds frames and windows as a listener does; frame i arrives at 100 + i * 20 ms.

    ``faded`` is where each fade came, in number of the transitions in ``out``.
    """

    def __init__(self, settings: DetectorSettings | None = None) -> None:
        self.detector = VoiceDetector(settings)
        self.out: list[Transition] = []
        self.faded: list[tuple[int, Faded]] = []
        self.frames = 0
        self.windows = 0
        self.quiet = 0

    def play(self, frames: int, probability: float, level: float, received: bool = True) -> None:
        for _ in range(frames):
            self.detector.add_frame(level, 100 + self.frames * 0.02, received)
            self.frames += 1
            while self.frames * FRAME_SAMPLES >= (self.windows + 1) * WINDOW_SAMPLES:
                self.windows += 1
                if self.detector.quiet():
                    self.quiet += 1
                    probability = 0.0
                for item in self.detector.add_window(probability):
                    if isinstance(item, Faded):
                        self.faded.append((len(self.out), item))
                    else:
                        self.out.append(item)

    def at(self, frame: int) -> float:
        return pytest.approx(100 + frame * 0.02)


def test_a_voice_starts_and_stops_at_its_frames() -> None:
    script = Script()
    script.play(50, 0.0, -70)
    script.play(40, 0.9, -20)
    script.play(3, 0.9, -70)  # the network lags
    script.play(20, 0.0, -70)
    started, stopped = script.out
    assert started == Started(script.at(50))
    assert isinstance(stopped, Stopped)
    assert stopped.at == script.at(89)
    assert stopped.first == 50 * FRAME_SAMPLES - 3840
    assert stopped.end == 90 * FRAME_SAMPLES + 1920 or stopped.end <= 95 * FRAME_SAMPLES
    assert stopped.tail == stopped.end - 90 * FRAME_SAMPLES > 0


def test_the_stop_is_decided_soon_after_the_last_voiced_frame() -> None:
    script = Script()
    script.play(40, 0.9, -20)
    for frame in range(20):
        script.play(1, 0.9 if frame < 3 else 0.05, -70)
        if isinstance(script.out[-1], Stopped):
            break
    assert frame + 1 <= 8  # 160 ms


def test_the_pause_does_not_wait_for_the_network_to_forget_the_voice() -> None:
    script = Script()
    script.play(50, 0.0, -75)
    script.play(40, 0.95, -20)
    frame = 0
    while not isinstance(script.out[-1], Stopped):
        script.play(1, 0.9, -56)  # a room's reverberation: above the gate, far below the voice
        frame += 1
        assert frame <= 11  # 220 ms
    assert script.out[-1].at == script.at(89)
    script.play(14 - frame, 0.9, -56)
    script.play(10, 0.05, -75)
    assert len(script.out) == 2, "the network's echo of the voice began another one"


def test_who_goes_on_at_once_is_heard() -> None:
    script = Script()
    script.play(40, 0.95, -20)
    script.play(12, 0.5, -60)
    script.play(10, 0.95, -22)
    assert [type(event) for event in script.out] == [Started, Stopped, Started]


def test_a_closure_inside_a_word_is_no_pause() -> None:
    script = Script()
    script.play(20, 0.9, -20)
    script.play(5, 0.9, -75)
    script.play(20, 0.9, -20)
    assert [type(item) for item in script.out] == [Started]


def test_a_click_is_no_voice() -> None:
    script = Script()
    script.play(30, 0.0, -70)
    script.play(1, 0.9, -20)
    script.play(30, 0.0, -70)
    assert script.out == []


def test_the_first_voiced_frame_may_lie_before_the_first_voiced_window() -> None:
    script = Script()
    script.play(48, 0.0, -70)
    script.play(2, 0.2, -40)  # a soft begin that the network is not sure of
    script.play(20, 0.9, -20)
    assert script.out == [Started(script.at(48))]


def test_a_hissing_begin_of_a_word_is_part_of_the_voice() -> None:
    script = Script()
    script.play(42, 0.0, -70)
    script.play(8, 0.1, -45)  # the "s" of "stop": 160 ms that the network does not take for a voice
    script.play(20, 0.9, -20)
    assert script.out == [Started(script.at(42))]


def test_probability_alone_starts_nothing_below_the_lines_noise() -> None:
    script = Script()
    script.play(1500, 0.0, -35)  # half a minute of loud noise: the floor follows
    script.play(40, 0.9, -34)
    assert script.out == []
    script.play(40, 0.9, -24)
    assert [type(item) for item in script.out] == [Started]


def test_the_floor_rises_slowly_and_falls_fast() -> None:
    script = Script()
    script.play(100, 0.0, -40)
    risen = script.detector.floor
    assert -55 < risen < -45
    script.play(15, 0.0, -70)
    assert script.detector.floor < -69


def test_a_quiet_line_is_not_put_to_the_network() -> None:
    script = Script()
    script.play(160, 0.9, -75)
    assert script.windows == 100
    assert script.quiet == 100
    script.play(10, 0.9, -20)
    assert [type(item) for item in script.out] == [Started]


def test_lost_frames_are_silence_and_never_the_last_voiced_one() -> None:
    script = Script()
    script.play(40, 0.9, -20)
    script.play(20, 0.9, -20, received=False)  # concealment goes on with the voice
    stopped = script.out[-1]
    assert isinstance(stopped, Stopped)
    assert stopped.at == script.at(39)


def test_one_lost_frame_does_not_end_a_voice() -> None:
    script = Script()
    script.play(20, 0.9, -20)
    script.play(2, 0.9, -20, received=False)
    script.play(20, 0.9, -20)
    assert [type(item) for item in script.out] == [Started]


def test_a_long_stretch_is_cut_at_its_quietest_frame_without_loss() -> None:
    script = Script(DetectorSettings(max_stretch=2.0))
    script.play(50, 0.0, -70)
    script.play(70, 0.9, -20)
    script.play(1, 0.9, -50)
    script.play(60, 0.9, -20)
    script.play(30, 0.0, -70)
    kinds = [type(item) for item in script.out]
    assert kinds == [Started, Stopped, Started, Stopped]
    first, second = script.out[1], script.out[3]
    assert isinstance(first, Stopped)
    assert isinstance(second, Stopped)
    assert first.end == second.first == 120 * FRAME_SAMPLES
    assert script.out[2] == Started(script.at(120))


def test_the_pre_roll_of_a_stretch_does_not_repeat_the_one_before() -> None:
    script = Script()
    script.play(40, 0.9, -20)
    script.play(9, 0.0, -70)
    script.play(40, 0.9, -20)
    script.play(20, 0.0, -70)
    stops = [item for item in script.out if isinstance(item, Stopped)]
    assert len(stops) == 2
    assert stops[1].first >= stops[0].end


def test_settings_from_vth() -> None:
    settings = DetectorSettings.from_threshold(0.6)
    assert (settings.start, settings.stop) == (0.6, pytest.approx(0.45))
    with pytest.raises(ConfigError, match="-vth"):
        DetectorSettings(start=0.2, stop=0.3)


levels = st.sampled_from([-75.0, -60.0, -45.0, -25.0])


def test_a_fade_comes_before_the_pause_and_names_the_same_frame() -> None:
    script = Script()
    script.play(50, 0.0, -70)
    script.play(40, 0.9, -20)
    script.play(5, 0.9, -70)
    assert len(script.out) == 1, "no pause yet"
    (_, fade), *more = script.faded
    script.play(20, 0.0, -70)
    assert more == []
    stopped = script.out[-1]
    assert isinstance(stopped, Stopped)
    assert (fade.at, fade.first) == (stopped.at, stopped.first)
    assert fade.end <= stopped.end
    assert fade.end - round((fade.at - 100) * 16000) < 0.1 * 16000


def test_a_closure_inside_a_word_fades_and_the_next_one_again() -> None:
    script = Script()
    script.play(50, 0.0, -70)
    for _ in range(3):
        script.play(30, 0.9, -20)
        script.play(4, 0.9, -70)
    assert [type(item) for item in script.out] == [Started]
    assert [fade.at for _, fade in script.faded] == [script.at(frame) for frame in (79, 113, 147)]


def test_a_voice_that_has_hardly_begun_does_not_fade() -> None:
    script = Script()
    script.play(50, 0.0, -70)
    script.play(2, 0.9, -20)
    script.play(2, 0.9, -20)
    script.play(4, 0.9, -70)
    assert script.faded == []


@given(st.lists(st.tuples(st.integers(1, 40), st.floats(0, 1), levels, st.booleans()), max_size=40))
def test_any_line_starts_and_stops_in_turn_and_gives_no_sample_twice(
    parts: list[tuple[int, float, float, bool]],
) -> None:
    script = Script(DetectorSettings(max_stretch=3.0))
    for frames, probability, level, received in parts:
        script.play(frames, probability, level, received)
        assert script.detector.needed_from() <= script.frames * FRAME_SAMPLES
    end = 0
    previous: Transition | None = None
    for item in script.out:
        assert isinstance(item, Started) != isinstance(previous, Started)
        if isinstance(item, Stopped):
            assert isinstance(previous, Started)
            assert item.at >= previous.at
            assert end <= item.first < item.end <= script.frames * FRAME_SAMPLES
            assert item.end - item.first <= 3.0 * 16000 + WINDOW_SAMPLES
            end = item.end
        previous = item
    for number, fade in script.faded:
        started = script.out[number - 1]
        assert isinstance(started, Started), "a fade is a part of a voice"
        assert started.at <= fade.at
    assert len({fade.at for _, fade in script.faded}) == len(script.faded)
