"""The voices that personas ask for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aiphone.cli import voices
from aiphone.cli.voices import VoicesOfPersonas
from aiphone.errors import ModelError, SpeechError
from aiphone.inference.speech_command import SpeechCommand
from aiphone.persona import Persona


class Voice:
    """What is used of a PiperVoice."""

    loaded: list[str] = []  # noqa: RUF012 - a journal of all of them

    def __init__(self, path: Path, *, name: str, threads: int) -> None:
        self.name, self.speed = name, 1.0
        self.loaded.append(f"{path}:{threads}")

    def at_speed(self, speed: float, name: str) -> Voice:
        other = object.__new__(Voice)
        other.name, other.speed = name, speed
        return other


class Synthesiser:
    """Journals what it speaks; ``done`` when that was the ``last``."""

    phrase = np.zeros(100, np.int16)

    def __init__(self) -> None:
        self.voices: dict[str, Any] = {}
        self.spoken: list[tuple[str, str]] = []
        self.known: set[tuple[str, str]] = set()
        self.refused = self.last = ""
        self.during: Callable[[], None] | None = None
        self.done = threading.Semaphore(0)

    def cached(self, text: str, voice: str) -> np.ndarray | None:
        return self.phrase if (voice, text) in self.known else None

    def speak_now(self, text: str, voice: str) -> np.ndarray:
        if text == self.refused:
            raise SpeechError("no breath")
        during, self.during = self.during, None
        if during is not None:
            during()
        self.spoken.append((voice, text))
        if text == self.last:
            self.done.release()
        return self.phrase

    def add(self, voice: Any) -> None:
        self.voices[voice.name] = voice

    def knows(self, name: str) -> bool:
        return not name or name in self.voices


@pytest.fixture
def synthesiser(monkeypatch: pytest.MonkeyPatch) -> Synthesiser:
    def resolve(name: str, store: Any) -> Path:
        if name in ("none", "nobody"):  # Piper has every other
            raise ModelError(f"there is no voice {name}")
        return Path(name)

    monkeypatch.setattr(voices, "PiperVoice", Voice)
    monkeypatch.setattr(voices, "resolve_voice", resolve)
    monkeypatch.setattr(Voice, "loaded", [])
    return Synthesiser()


def shelf(synthesiser: Synthesiser, default: Any = None) -> VoicesOfPersonas:
    default = default or Voice(Path("joe"), name="joe", threads=2)
    synthesiser.add(default)
    return VoicesOfPersonas(synthesiser, default, None, 2)  # type: ignore[arg-type]


def test_a_voice_is_loaded_once_and_at_each_speed_it_is_the_same(synthesiser: Synthesiser) -> None:
    wanted = shelf(synthesiser)
    for persona in (Persona(), Persona(voice="amy"), Persona(voice="amy", speed=1.2), Persona(voice="amy", speed=0.9)):
        wanted.want(persona.voice_name())
        wanted.want(persona.voice_name())
    assert Voice.loaded == ["joe:2", "amy:2"]
    assert {name: voice.speed for name, voice in synthesiser.voices.items()} == {
        "joe": 1.0, "amy": 1.0, "amy@1.2": 1.2, "amy@0.9": 0.9,
    }  # fmt: skip


def test_the_default_voice_has_speeds_too(synthesiser: Synthesiser) -> None:
    shelf(synthesiser).want(Persona(speed=1.25).voice_name())
    assert synthesiser.voices["@1.25"].speed == 1.25
    assert Voice.loaded == ["joe:2"]


def test_what_there_is_not_is_logged_and_the_default_speaks(
    synthesiser: Synthesiser, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = shelf(synthesiser, SpeechCommand("talk --loud"))
    wanted.want("none@1.2")
    wanted.want("@1.2")
    assert list(synthesiser.voices) == ["talk"]
    assert "the default voice speaks instead of none: there is no voice none" in caplog.text
    assert "talk speaks at a speed of its own; put {speed} or {rate} into -s" in caplog.text


def test_a_command_that_can_be_told_its_speed_is(synthesiser: Synthesiser) -> None:
    shelf(synthesiser, SpeechCommand("talk --pace {speed} --words={rate}")).want(Persona(speed=1.2).voice_name())
    assert synthesiser.voices["@1.2"].arguments("", Path()) == ["talk", "--pace", "1.2", "--words=210"]
    assert synthesiser.voices["talk"].arguments("", Path()) == ["talk", "--pace", "1", "--words=175"]


def test_a_command_that_can_be_told_its_voice_speaks_every_persona_in_its_own(
    synthesiser: Synthesiser, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    script = tmp_path / "talk"
    script.write_text('#!/bin/sh\n[ "$1" != nobody ] || exit 3\nexec head -c 4000 /dev/urandom\n', encoding="utf-8")
    script.chmod(0o755)
    wanted = shelf(synthesiser, SpeechCommand(f"{script} {{voice}} {{speed}}"))
    for name in ("none", "none@1.2", "amy", "nobody", "@1.2"):
        wanted.want(name)
    said = {name: voice.arguments("", Path())[1:] for name, voice in synthesiser.voices.items() if name != "amy"}
    assert said == {"talk": ["", "1"], "none": ["none", "1"], "none@1.2": ["none", "1.2"], "@1.2": ["", "1.2"]}
    assert Voice.loaded == ["amy:2"]
    assert "the default voice speaks instead of nobody: the speech command 'nobody' failed with status 3" in caplog.text


# ------------------------------------------------------------------------------------------- rehearsing


ANN = Persona(greeting="I am {name}.", name="Ann", filler="Hm.", apology="", idle_prompt="", goodbye="Bye.")
BOB = Persona(greeting="Bob.", voice="amy", filler="Hm.", apology="Oh.", idle_prompt="", goodbye="")


def rehearsed(synthesiser: Synthesiser, *personas: Persona) -> list[tuple[str, str]]:
    wanted = shelf(synthesiser)
    wanted.rehearse(personas)
    assert synthesiser.done.acquire(timeout=5.0)
    wanted.close()
    return synthesiser.spoken


def test_stock_phrases_are_spoken_in_the_voice_of_each_greetings_first(synthesiser: Synthesiser) -> None:
    synthesiser.last = "Oh."
    assert rehearsed(synthesiser, ANN, BOB, ANN) == [
        ("", "I am Ann."), ("amy", "Bob."), ("", "Hm."), ("amy", "Hm."), ("", "Bye."), ("amy", "Oh."),
    ]  # fmt: skip
    assert Voice.loaded == ["joe:2", "amy:2"]


def test_what_is_spoken_already_is_not_spoken_again_and_a_failure_costs_one_phrase(synthesiser: Synthesiser) -> None:
    synthesiser.known, synthesiser.refused, synthesiser.last = {("", "I am Ann.")}, "Hm.", "Bye."
    assert rehearsed(synthesiser, ANN) == [("", "Bye.")]


def test_so_many_personas_that_their_phrases_push_each_other_out_are_not_all_rehearsed(
    synthesiser: Synthesiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(voices, "REHEARSED", 4 * Synthesiser.phrase.nbytes)
    crowd = [replace(ANN, name=f"No. {number}") for number in range(9)]
    synthesiser.last = "I am No. 3."
    assert rehearsed(synthesiser, *crowd) == [("", f"I am No. {number}.") for number in range(4)]


def test_a_change_of_personas_ends_the_rehearsal_of_the_former(synthesiser: Synthesiser) -> None:
    wanted = shelf(synthesiser)
    synthesiser.last, synthesiser.during = "Oh.", lambda: wanted.rehearse([BOB])
    wanted.rehearse([ANN])
    assert synthesiser.done.acquire(timeout=5.0)
    wanted.close()
    assert synthesiser.spoken == [("", "I am Ann."), ("amy", "Bob."), ("amy", "Hm."), ("amy", "Oh.")]


def test_after_the_end_nothing_is_rehearsed(synthesiser: Synthesiser) -> None:
    wanted = shelf(synthesiser)
    wanted.close()
    wanted.rehearse([ANN])
    assert synthesiser.spoken == []
