"""The voices: the default one with its fallback, and those that personas ask for, loaded when they first do."""

from __future__ import annotations

import logging
import threading

from aiphone.config import Settings
from aiphone.errors import AiphoneError, ModelError
from aiphone.inference.piper_voice import PiperVoice
from aiphone.inference.speech_command import SpeechCommand, find_program
from aiphone.inference.tts import SpeechSynthesiser
from aiphone.inference.voice import Voice
from aiphone.models.resolve import resolve_voice
from aiphone.models.store import ModelStore

log = logging.getLogger(__name__)


def load_voices(settings: Settings, store: ModelStore) -> list[Voice]:
    """The voice to speak with, and behind it the one to fall back on. Raises ``ModelError`` or ``SpeechError``."""
    if not settings.speak:
        return [PiperVoice(resolve_voice(settings.voice, store), threads=settings.threads)]
    find_program(settings.speak)
    voices: list[Voice] = [SpeechCommand(settings.speak, language=settings.language)]
    try:
        voices.append(PiperVoice(resolve_voice(settings.voice, store), threads=settings.threads))
    except ModelError as error:
        log.warning("there is no voice to fall back on when the speech command fails: %s", error)
    return voices


class VoicesOfPersonas:
    """Gives ``synthesiser`` the voices that personas name. Any thread but the main one: loading one takes a second.

    A voice stays loaded, since calls may be using it. At another speed it shares its model with the voice itself.
    """

    def __init__(self, synthesiser: SpeechSynthesiser, default: Voice, store: ModelStore, threads: int) -> None:
        self._synthesiser = synthesiser
        self._store = store
        self._threads = threads
        self._piper = {"": default, default.name: default}
        self._lock = threading.Lock()

    def want(self, name: str) -> None:
        """Make a voice (``Persona.voice_name``) known; one that there is not is logged, and the default speaks."""
        voice, _, speed = name.partition("@")
        with self._lock:
            if self._synthesiser.knows(name):
                return
            try:
                base = self._piper.get(voice)
                if base is None:
                    log.info("loading the voice %s", voice)
                    base = PiperVoice(resolve_voice(voice, self._store), name=voice, threads=self._threads)
                    self._piper[voice] = base
                    self._synthesiser.add(base)
                if not speed:
                    return
                if isinstance(base, PiperVoice):
                    self._synthesiser.add(base.at_speed(float(speed), name))
                else:
                    log.warning("a speech command has a speed of its own: %s speaks at that", base.name)
            except AiphoneError as error:
                log.warning("the default voice speaks instead of %s: %s", voice, error)
