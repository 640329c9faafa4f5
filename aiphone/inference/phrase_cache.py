"""Phrases that were spoken before: greetings, fillers, "goodbye", and whatever an assistant likes to begin with."""

from __future__ import annotations

import threading
from collections import OrderedDict

from aiphone.events import Pcm

Key = tuple[str, str]
"""Name of the voice, text as it was given to the voice."""


class PhraseCache:
    """Least recently used phrases go first. Any thread."""

    def __init__(self, capacity: int) -> None:
        """``capacity`` is in bytes of PCM: 32,000 are a second."""
        self._capacity = capacity
        self._phrases: OrderedDict[Key, Pcm] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: Key) -> Pcm | None:
        """The phrase, which is then the last to go; None when it is not here."""
        with self._lock:
            pcm = self._phrases.get(key)
            if pcm is not None:
                self._phrases.move_to_end(key)
            return pcm

    def put(self, key: Key, pcm: Pcm) -> None:
        """Keep a phrase; one that is larger than the whole cache is not kept."""
        if pcm.nbytes > self._capacity:
            return
        pcm.setflags(write=False)  # the same array is handed to every call that says this
        with self._lock:
            old = self._phrases.pop(key, None)
            self._bytes += pcm.nbytes - (0 if old is None else old.nbytes)
            self._phrases[key] = pcm
            while self._bytes > self._capacity:
                _, oldest = self._phrases.popitem(last=False)
                self._bytes -= oldest.nbytes

    def __len__(self) -> int:
        return len(self._phrases)

    @property
    def bytes(self) -> int:
        """Size of the PCM kept."""
        return self._bytes
