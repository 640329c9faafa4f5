"""Beeps of answering machines: found in every pitch and length they have, and in nothing that people say."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest

from aiphone.events import FRAME_SAMPLES, INTERNAL_RATE, Pcm
from aiphone.native import g711
from aiphone.speech.tones import Tone, ToneDetector

SOUNDS = Path("/usr/share/asterisk/sounds/en_US_f_Allison")
GREETINGS = ("vm-intro", "vm-isunavail", "vm-leavemsg", "vm-theperson", "vm-goodbye", "tt-somethingwrong", "vm-options")


def tone(*frequencies: float, seconds: float = 0.4, db: float = -20.0) -> Pcm:
    t = np.arange(round(seconds * INTERNAL_RATE)) / INTERNAL_RATE
    wave_form = sum(np.sin(2 * np.pi * one * t) for one in frequencies) / len(frequencies)
    return np.asarray(wave_form * 32767 * 10 ** (db / 20), np.int16)


def silence(seconds: float, noise_db: float = -65.0) -> Pcm:
    noise = np.random.default_rng(1).normal(0, 32767 * 10 ** (noise_db / 20), round(seconds * INTERNAL_RATE))
    return noise.astype(np.int16)


def tones_in(*parts: Pcm) -> list[Tone]:
    pcm = np.concatenate(parts)
    detector = ToneDetector()
    found = [detector.add(pcm[at : at + FRAME_SAMPLES]) for at in range(0, len(pcm) - FRAME_SAMPLES + 1, FRAME_SAMPLES)]
    return [one for one in found if one is not None]


def recording(name: str) -> Pcm:
    path = SOUNDS / f"{name}.wav"
    if not path.is_file():
        pytest.skip("no recordings here (Debian: asterisk-core-sounds-en-wav)")
    with wave.open(str(path)) as file:
        pcm = np.frombuffer(file.readframes(file.getnframes()), np.int16)
    return np.repeat(pcm, 2)  # to 16 kHz, with an image above 4 kHz that is weak enough


@pytest.mark.parametrize("frequency", [355.0, 440.0, 700.0, 1000.0, 1337.0, 1400.0, 2000.0])
@pytest.mark.parametrize("seconds", [0.15, 0.5, 1.2])
@pytest.mark.parametrize("db", [-35.0, -20.0, -6.0])
def test_a_beep_of_any_pitch_length_and_level(frequency: float, seconds: float, db: float) -> None:
    (found,) = tones_in(silence(0.3), tone(frequency, seconds=seconds, db=db), silence(0.3))
    assert found.frequency == pytest.approx(frequency, rel=0.03)
    assert found.seconds == pytest.approx(seconds, abs=0.06)


def test_a_beep_that_has_been_through_a_telephone_line() -> None:
    beep = np.concatenate((silence(0.2), tone(1000.0, db=-30.0), silence(0.2, -50.0)))
    narrow = g711.decode_ulaw(g711.encode_ulaw(beep[::2].copy()))
    assert len(tones_in(np.repeat(narrow, 2))) == 1


@pytest.mark.parametrize(
    "sound",
    [
        tone(697.0, 1209.0),  # a key
        tone(440.0, 480.0, seconds=1.0),  # ringing
        tone(1000.0, seconds=0.06),
        tone(2100.0, seconds=3.0),  # a fax machine
        tone(200.0, seconds=0.5),
    ],
    ids=["key", "ringback", "click", "fax", "hum"],
)
def test_what_is_no_beep(sound: Pcm) -> None:
    assert tones_in(silence(0.2), sound, silence(0.3)) == []


def test_of_three_tones_in_a_row_only_the_last_may_be_one() -> None:
    tones = [tone(frequency, seconds=0.33) for frequency in (950.0, 1400.0, 1800.0)]
    (found,) = tones_in(silence(0.2), *tones, silence(0.3))
    assert found.frequency == pytest.approx(1800.0, rel=0.02)


@pytest.mark.parametrize("name", GREETINGS)
def test_real_speech_has_no_beep_and_what_follows_it_is_one(name: str) -> None:
    greeting = recording(name)
    assert tones_in(greeting, silence(0.3)) == []
    (found,) = tones_in(greeting, silence(0.4), tone(1000.0), silence(0.3))
    assert found.frequency == pytest.approx(1000.0, rel=0.02)


def test_the_beep_of_a_real_machine() -> None:
    (found,) = tones_in(silence(0.3), recording("beep"), silence(0.3))
    assert found.frequency == pytest.approx(700.0, rel=0.02)
