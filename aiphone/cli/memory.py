"""Conversations that outlive calls: joins the session file to the language model.

At the start of a call the caller's saved conversation is looked up and its state handed to the model with ``open``;
after each interaction the model is asked for its state, and when that arrives it is written together with the text,
on the writer's thread.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

from aiphone.errors import StorageError
from aiphone.events import Event, LineChanged
from aiphone.inference.llm import SessionSnapshot, TextGenerator
from aiphone.persona import Message, Persona
from aiphone.store.sessions import SavedConversation, SessionStore, SessionWriter

log = logging.getLogger(__name__)


_ANONYMOUS = re.compile(r"sips?:(anonymous@|[^@]*@anonymous\.invalid$|@|$)|[^:]*:$", re.IGNORECASE)


def _anonymous(key: str) -> bool:
    """Whether a key names nobody in particular (RFC 3323 section 4.1): strangers would share one conversation."""
    return bool(_ANONYMOUS.search(key))


class Memory:
    """``--session FILE``. Stands before the language model: ``open`` puts the saved state back. Main thread only."""

    def __init__(self, store: SessionStore, writer: SessionWriter, model: TextGenerator) -> None:
        self._store = store
        self._writer = writer
        self._model = model
        self._restore: dict[str, SavedConversation] = {}
        self._to_keep: dict[str, tuple[str, tuple[Message, ...]]] = {}

    # ------------------------------------------------------------------- what is kept

    def recall(self, call_id: str, key: str) -> tuple[Message, ...]:
        """The saved history of ``key``; its model state goes to the next ``open`` of this call."""
        if _anonymous(key):
            return ()
        try:
            # On a full disk the last call waits to be written; what would be kept of this one takes its place.
            saved = self._writer.waiting(key) or self._store.load(key)
        except StorageError as error:
            log.error("%s: %s", call_id, error)
            return ()
        if saved is None:
            return ()
        self._restore[call_id] = saved
        log.info("%s: going on from %d messages", call_id, len(saved.messages))
        return saved.messages

    def keep(self, call_id: str, key: str, history: Sequence[Message]) -> None:
        """Save the history, with the model's state as it is now; not of a caller who hides the number."""
        if _anonymous(key):
            return
        self._to_keep[call_id] = (key, tuple(history))
        self._model.snapshot(call_id)

    def take(self, event: Event | LineChanged) -> bool:
        """True when the event was the model's state that ``keep`` asked for."""
        if not isinstance(event, SessionSnapshot):
            return False
        waiting = self._to_keep.pop(event.call_id, None)
        if waiting is not None:
            key, messages = waiting
            saved = SavedConversation(
                messages=messages,
                tokens=event.tokens,
                kv=event.kv,
                fingerprint=event.fingerprint,
                template_digest=event.template_digest,
            )
            self._writer.submit(key, saved)
        return True

    # ------------------------------------------------------------- the model, with a memory

    def open(self, call_id: str, persona: Persona) -> None:
        """A call begins; with what ``recall`` found."""
        self._model.open(call_id, persona, restore=self._restore.pop(call_id, None))

    def generate(
        self,
        call_id: str,
        generation: int,
        messages: Sequence[Message],
        *,
        speculative: bool = False,
        grammar: str | None = None,
    ) -> None:
        """Passed on."""
        self._model.generate(call_id, generation, messages, speculative=speculative, grammar=grammar)

    def read_ahead(self, call_id: str, generation: int, messages: Sequence[Message]) -> None:
        """Passed on."""
        self._model.read_ahead(call_id, generation, messages)

    def promote(self, call_id: str, generation: int) -> None:
        """Passed on."""
        self._model.promote(call_id, generation)

    def cancel(self, call_id: str, generation: int) -> None:
        """Passed on."""
        self._model.cancel(call_id, generation)

    def close_call(self, call_id: str) -> None:
        """Passed on."""
        self._restore.pop(call_id, None)
        self._model.close_call(call_id)
