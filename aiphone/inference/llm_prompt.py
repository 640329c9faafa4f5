"""From a conversation to the tokens a call's sequence has to hold.

The persona comes first and stays; when the conversation nears the call's share, the oldest turns are left out, many at
once: leaving out a little with each turn would mean reading most of the conversation with each turn.

Thread rule: language model thread only.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence

from aiphone.errors import InferenceError
from aiphone.inference.chat import ChatFormat
from aiphone.inference.llm_backend import Backend
from aiphone.inference.llm_slots import common_prefix
from aiphone.inference.llm_work import Call
from aiphone.persona import Message, Persona

log = logging.getLogger(__name__)

_KEEP = 0.6
"""When history must go, down to this part of the room."""

_ENDINGS = ("A", "9")
"""Two texts without a common beginning: what is alike in two prompts that differ in them does not depend on them."""

_MARKS = (".", "?", "!")
_PUNCTUATION = b".?!,;:- \n"


class Prompts:
    """Renders and tokenises for one model. ``share`` is how many tokens one conversation may take."""

    def __init__(self, backend: Backend, chat_format: ChatFormat, share: int) -> None:
        self._backend = backend
        self._format = chat_format
        self.share = share
        self._closing = self._what_closes()
        marks = [backend.tokenize(mark)[-1:] for mark in _MARKS]
        self.end_tokens: tuple[int, ...] = ()
        """What stands after the last word of a turn that is over: the end of the turn, or of a sentence. Empty for
        models whose prompts do not end a turn with one token of its own."""
        if self._closing:
            ends = {token for one, mark in zip(marks, _MARKS, strict=True) for token in one if self._is(token, mark)}
            self.end_tokens = (self._closing[0], *sorted(ends))

    def persona_prefix(self, persona: Persona) -> list[int]:
        """What all prompts of this persona begin with."""
        system = persona.system_message()
        one, other = (self._tokens([system, Message("user", text)], persona) for text in _ENDINGS)
        return one[: common_prefix(one, other)]

    def fit(self, call: Call, messages: Sequence[Message]) -> list[int]:
        """Tokens of the prompt; ``call.dropped`` says how many of the oldest turns it lacks.

        Raises ``InferenceError`` when the persona and the last message alone do not fit.
        """
        system = list(itertools.takewhile(lambda message: message.role == "system", messages))
        turns = list(messages)[len(system) :]
        room = self.share - min(call.persona.sampling.max_tokens, self.share // 4)
        if call.dropped >= len(turns):
            call.dropped = 0
        prompt = self._tokens([*system, *turns[call.dropped :]], call.persona)
        if len(prompt) <= room:
            return prompt
        while call.dropped < len(turns) - 1 and len(prompt) > room * _KEEP:
            call.dropped += 1
            while call.dropped < len(turns) - 1 and turns[call.dropped].role != "user":
                call.dropped += 1
            prompt = self._tokens([*system, *turns[call.dropped :]], call.persona)
        if len(prompt) > room:
            raise InferenceError(
                f"The persona and the last message take {len(prompt)} tokens and the conversation has room for {room}: "
                "shorten the persona's prompt, or raise the context of a call."
            )
        log.info("%s: the %d oldest messages no longer fit and are left out.", call.call_id, call.dropped)
        return prompt

    def unfinished(self, call: Call, messages: Sequence[Message]) -> list[int]:
        """Tokens of a prompt whose last message goes on: only those that stay, whatever comes next.

        Raises ``InferenceError`` as ``fit`` does.
        """
        if not messages:
            return []
        *before, last = messages
        one, other = (self.fit(call, [*before, Message(last.role, f"{last.content} {text}")]) for text in _ENDINGS)
        return one[: common_prefix(one, other)]

    def end_at(self, prompt: Sequence[int]) -> int | None:
        """Position of the last word of the caller's turn that the prompt ends with, its full stop left out.

        Recognisers end every transcript with one, so the word before it is where the model can still be asked.
        """
        start = len(prompt) - len(self._closing)
        if not self._closing or list(prompt[start:]) != self._closing:
            return None
        at = start - 1
        while at > 0 and all(sign in _PUNCTUATION for sign in self._backend.piece(prompt[at])):
            at -= 1
        return at if at > 0 else None

    def _what_closes(self) -> list[int]:
        """What all prompts have after the caller's last word, when it begins with a token that ends a turn."""
        try:
            one, other = (self._tokens([Message("user", text)], Persona()) for text in _ENDINGS)
        except InferenceError:  # whoever generates will be told
            return []
        same = common_prefix(one[::-1], other[::-1])
        closing = one[len(one) - same :]
        return closing if closing and self._backend.is_eog(closing[0]) else []

    def _is(self, token: int, mark: str) -> bool:
        return self._backend.piece(token) == mark.encode()

    def _tokens(self, messages: Sequence[Message], persona: Persona) -> list[int]:
        return self._backend.tokenize(self._format.render(messages, persona))
