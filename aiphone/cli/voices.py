"""The voices: the default one with its fallback, and those that personas ask for, loaded when they first do.

What a persona says without a model (greetings, fillers, apologies) is spoken once beforehand, in its own voice, so that
no caller waits for it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import zip_longest

from aiphone.config import Settings
from aiphone.errors import AiphoneError, ModelError, SpeechError
from aiphone.inference.piper_voice import PiperVoice
from aiphone.inference.speech_command import SpeechCommand, find_program
from aiphone.inference.tts import SpeechSynthesiser
from aiphone.inference.voice import Voice
from aiphone.models.resolve import resolve_voice
from aiphone.models.store import ModelStore
from aiphone.persona import Persona
from aiphone.priority import INFERENCE, lower_priority

log = logging.getLogger(__name__)

REHEARSED = 4_000_000
"""Bytes of stock phrases that are spoken beforehand: two minutes, half of what the synthesiser keeps. The other half is
for what models like to begin with."""


def load_voices(settings: Settings, store: ModelStore) -> list[Voice]:
    """The voice to speak with, and behind it the one to fall back on. Raises ``ModelError`` or ``SpeechError``."""
    if not settings.speak:
        return [PiperVoice(resolve_voice(settings.voice, store), threads=settings.threads)]
    find_program(settings.speak)
    # What callers speak is not known beforehand then; what we say is in the language of our prompts.
    language = "en" if settings.language == "auto" else settings.language
    voices: list[Voice] = [SpeechCommand(settings.speak, language=language)]
    try:
        voices.append(PiperVoice(resolve_voice(settings.voice, store), threads=settings.threads))
    except ModelError as error:
        log.warning("there is no voice to fall back on when the speech command fails: %s", error)
    return voices


class VoicesOfPersonas:
    """Gives ``synthesiser`` the voices that personas name, and rehearses what they say.

    A name is that of a Piper voice, or else a voice of the command that speaks (``-s``), if it takes one.
    A voice stays loaded, since calls may be using it. At another speed it shares its model with the voice itself.
    """

    def __init__(self, synthesiser: SpeechSynthesiser, default: Voice, store: ModelStore, threads: int) -> None:
        self._synthesiser = synthesiser
        self._store = store
        self._threads = threads
        self._default = default
        self._bases = {"": default, default.name: default}
        self._lock = threading.Lock()
        self._rehearsal = 0
        self._closed = False
        self._worker = ThreadPoolExecutor(1, "rehearsal", lower_priority, (INFERENCE,))

    # ------------------------------------------------------------------ main thread

    def rehearse(self, personas: Iterable[Persona]) -> None:
        """Speak the stock phrases of these personas, on a thread of its own; returns at once. Main thread only.

        Every greeting comes before anybody's second phrase. A later rehearsal takes the place of one that goes on.
        """
        each = [[(persona.voice_name(), text) for text in persona.stock_phrases()] for persona in personas]
        phrases = dict.fromkeys(phrase for row in zip_longest(*each) for phrase in row if phrase is not None)
        if self._closed:
            return
        self._rehearsal += 1
        self._worker.submit(partial(self._rehearse, self._rehearsal, tuple(phrases)))

    def close(self) -> None:
        """Rehearse no more; returns when the phrase that is being spoken is. Main thread only."""
        self._closed = True
        self._rehearsal += 1
        self._worker.shutdown(cancel_futures=True)

    # ------------------------------------------------------------------ any thread but the main one

    def _rehearse(self, number: int, phrases: Sequence[tuple[str, str]]) -> None:
        spoken = 0
        for voice, text in phrases:
            if number != self._rehearsal or spoken >= REHEARSED:
                return
            self.want(voice)
            try:
                pcm = self._synthesiser.cached(text, voice)
                spoken += (self._synthesiser.speak_now(text, voice) if pcm is None else pcm).nbytes
            except SpeechError as error:
                log.debug("not rehearsed: %s", error)  # said by whoever failed already; the call tries again

    def want(self, name: str) -> None:
        """Make a voice (``Persona.voice_name``) known; one that there is not is logged, and the default speaks.

        Loading one takes a second, and as long again where a command has to try it.
        """
        voice, _, speed = name.partition("@")
        with self._lock:
            if self._synthesiser.knows(name):
                return
            try:
                base = self._bases.get(voice)
                if base is None:
                    base = self._bases[voice] = self._load(voice)
                    self._synthesiser.add(base)
                if not speed:
                    return
                if isinstance(base, SpeechCommand) and not base.takes_speed:
                    log.warning("%s speaks at a speed of its own; put {speed} or {rate} into -s", base.name)
                elif isinstance(base, PiperVoice | SpeechCommand):
                    self._synthesiser.add(base.at_speed(float(speed), name))
            except AiphoneError as error:
                log.warning("the default voice speaks instead of %s: %s", voice, error)

    def _load(self, voice: str) -> Voice:
        """A voice that is not known yet. Raises ``ModelError`` or ``SpeechError`` when there is none of that name."""
        try:
            path = resolve_voice(voice, self._store)
        except ModelError:
            if isinstance(self._default, SpeechCommand) and self._default.takes_voice:
                told = self._default.in_voice(voice)
                for _ in told.synthesise("One."):  # a command that has no such voice says so now, and not to a caller
                    pass
                return told
            raise
        log.info("loading the voice %s", voice)
        return PiperVoice(path, name=voice, threads=self._threads)
