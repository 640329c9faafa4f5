"""The gate: our own voice at -6 to -30 dB, late by 50 to 300 ms, is masked; a caller is not."""

from __future__ import annotations

import numpy as np
import pytest

from aiphone.events import FRAME_SAMPLES, Pcm
from aiphone.speech.echo import FIRST_RETURN, EchoGate, frame_levels

RNG = np.random.default_rng(7)


def syllables(frames: int, level: float) -> Pcm:
    """Noise in bursts with pauses between them, as uneven as speech, at ``level`` dBFS in the bursts."""
    amplitude = 32768 * 10 ** (level / 20)
    rhythm: list[float] = []
    while len(rhythm) < frames:
        rhythm += [1.0] * RNG.integers(4, 13) + [0.02] * RNG.integers(2, 9)
    shape = np.repeat(rhythm[:frames], FRAME_SAMPLES)
    uneven = np.repeat(10 ** (RNG.uniform(-6, 0, frames) / 20), FRAME_SAMPLES)
    return (
        (RNG.standard_normal(frames * FRAME_SAMPLES) * amplitude * shape * uneven).clip(-32768, 32767).astype(np.int16)
    )


class Line:
    """A line that returns what is played, weaker and later, frame by frame."""

    def __init__(self, loss: float, delay: int) -> None:
        self.gate = EchoGate()
        self.played = 0
        self.lost = 0.0
        self._delay = delay
        self.change(loss)
        self._sent: list[Pcm] = [np.zeros(FRAME_SAMPLES, np.int16)] * (delay + 1)

    def change(self, loss: float) -> None:
        self._loss = 10 ** (-loss / 20)

    def play(self, pcm: Pcm, over: Pcm | None = None) -> list[bool]:
        """Play in steps of one frame, with the caller's voice on top; which frames were masked."""
        self.gate.queued(self.played, pcm)
        masked = []
        for i in range(len(pcm) // FRAME_SAMPLES):
            frame = slice(i * FRAME_SAMPLES, (i + 1) * FRAME_SAMPLES)
            self._sent.append(pcm[frame])
            self.played += FRAME_SAMPLES
            back = self._sent[-1 - self._delay].astype(float) * self._loss + RNG.standard_normal(FRAME_SAMPLES) * 8
            if over is not None:
                back = back + over[frame]
            received = RNG.random() >= self.lost
            level = frame_levels(back.astype(np.int16) * received)
            masked += self.gate.mask(level, self.played, [received])
        return masked


def audible(pcm: Pcm) -> list[bool]:
    return [level > -45 for level in frame_levels(pcm)]


@pytest.mark.parametrize("delay", [3, 8, 15])
@pytest.mark.parametrize("loss", [12, 18, 24, 30])
def test_echo_is_masked_from_the_first_word_on(loss: int, delay: int) -> None:
    line = Line(loss, delay)
    speech = syllables(250, -20)
    assert all(line.play(speech)[delay + 1 :])


@pytest.mark.parametrize("loss", [12, 24])
def test_a_caller_as_loud_as_we_are_gets_through(loss: int) -> None:
    line = Line(loss, 5)
    line.play(syllables(150, -20))
    caller = syllables(100, -20)
    masked = line.play(syllables(100, -20), over=caller)
    loud = audible(caller)
    heard = [not mask for mask, is_loud in zip(masked, loud, strict=True) if is_loud]
    assert np.mean(heard) > 0.8


def test_a_line_without_echo_asks_nothing_of_a_quiet_caller_after_two_seconds() -> None:
    line = Line(60, 5)
    assert line.gate.return_level == FIRST_RETURN
    line.play(syllables(100, -20))
    assert line.gate.return_level < -30
    caller = syllables(100, -38)
    heard = [not mask for mask in line.play(syllables(100, -20), over=caller)]
    assert np.mean([h for h, loud in zip(heard, audible(caller), strict=True) if loud]) > 0.9


def test_a_line_is_learned_while_the_caller_talks_over_us() -> None:
    line = Line(60, 5)
    line.play(syllables(150, -20), over=syllables(150, -26))
    assert line.gate.return_level < -12


def test_between_our_syllables_a_caller_weaker_than_our_echo_is_heard() -> None:
    line = Line(6, 5)
    line.play(syllables(250, -20))
    ours, caller = syllables(200, -20), syllables(200, -32)
    masked = line.play(ours, over=caller)
    back = [True] * 5 + [level > -40 for level in frame_levels(ours)][:-5]
    beside = [i for i in range(8, 190) if not any(back[i - 3 : i + 4]) and audible(caller)[i]]
    assert beside
    assert not any(masked[i] for i in beside)


@pytest.mark.parametrize("loss", [6, 12])
def test_packets_that_are_lost_prove_nothing(loss: int) -> None:
    line = Line(loss, 5)
    line.play(syllables(150, -20))
    line.lost = 0.1
    line.play(syllables(250, -20))
    line.lost = 0.0
    assert np.mean(line.play(syllables(100, -20))[6:]) > 0.99


def test_a_return_that_changes_is_followed_down_and_by_our_own_words_up() -> None:
    line = Line(12, 5)
    line.play(syllables(250, -20))
    assert -16 < line.gate.return_level < -8
    line.change(30)
    line.play(syllables(250, -20))
    assert line.gate.return_level < -20
    line.change(10)
    assert not all(line.play(syllables(10, -20))[6:])
    line.gate.heard()
    assert all(line.play(syllables(200, -20))[6:])


def test_nothing_is_masked_while_nothing_is_played() -> None:
    gate = EchoGate()
    assert gate.mask([-30.0, -20.0], 0) == [False, False]
    gate.queued(0, syllables(50, -20))
    gate.dropped()
    assert gate.mask([-30.0] * 5, 0) == [False] * 5
    assert not gate.sounding


def test_what_left_may_come_back_for_a_while() -> None:
    line = Line(12, 5)
    line.play(syllables(10, -20))
    assert line.gate.sounding
    line.play(np.zeros(30 * FRAME_SAMPLES, np.int16))
    assert line.gate.sounding
    line.play(np.zeros(10 * FRAME_SAMPLES, np.int16))
    assert not line.gate.sounding


def test_the_gate_follows_the_level_that_is_played() -> None:
    gate = EchoGate()
    gate.gain(-20.0)
    gate.queued(0, syllables(20, -20))
    assert gate.mask([-28.0] * 20, 20 * FRAME_SAMPLES) == [False] * 20
