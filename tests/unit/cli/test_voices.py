"""The voices that personas ask for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aiphone.cli import voices
from aiphone.cli.voices import VoicesOfPersonas
from aiphone.errors import ModelError
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
    def __init__(self) -> None:
        self.voices: dict[str, Any] = {}

    def add(self, voice: Any) -> None:
        self.voices[voice.name] = voice

    def knows(self, name: str) -> bool:
        return not name or name in self.voices


@pytest.fixture
def synthesiser(monkeypatch: pytest.MonkeyPatch) -> Synthesiser:
    def resolve(name: str, store: Any) -> Path:
        if name == "none":
            raise ModelError("there is no voice none")
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
    class Command:
        name = "say"

    wanted = shelf(synthesiser, Command())
    wanted.want("none@1.2")
    wanted.want("@1.2")
    assert list(synthesiser.voices) == ["say"]
    assert "the default voice speaks instead of none: there is no voice none" in caplog.text
    assert "say speaks at that" in caplog.text
