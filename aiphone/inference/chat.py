"""From a conversation to the text a model reads.

Three ways, in this order: llama.cpp's own rendering of the GGUF's chat template (exact for the templates it knows, and
tolerant about who speaks first), the template itself run by jinja2, and for base models, which have none, the plain
transcript of whisper.cpp's talk-llama.

What callers and personas say is data: control tokens spelled out in it are removed before anything is rendered, so
nobody can open a system turn by saying so.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from aiphone.errors import InferenceError
from aiphone.persona import Message, Persona

Render = Callable[[Sequence[Message], bool], str | None]
"""Messages and whether the assistant speaks next, to text; None when this way does not work for them."""

NO_THINKING = "<think>\n\n</think>\n\n"
"""What hybrid reasoning models (their template mentions ``enable_thinking``) take as "answer at once"."""


class ChatFormat(Protocol):
    """Renders conversations for one model."""

    digest: str
    """Names the format; cached tokens are of use only with the same one."""

    def render(self, messages: Sequence[Message], persona: Persona) -> str:
        """The prompt, ending where the assistant speaks."""
        ...

    def stop(self, persona: Persona) -> tuple[str, ...]:
        """Texts that end a reply, beside the model's own end-of-generation tokens."""
        ...


def choose_format(template: str | None, native: Render, control_texts: Iterable[str]) -> ChatFormat:
    """The format for a model with this ``template``. ``native`` is llama.cpp's renderer of the same."""
    clean = Cleaner(control_texts)
    if template is None:
        return PlainTranscript(clean)
    return TemplateFormat(template, native, clean)


class Cleaner:
    """Removes the texts of control tokens."""

    def __init__(self, control_texts: Iterable[str]) -> None:
        texts = sorted(control_texts, key=len, reverse=True)
        self._pattern = re.compile("|".join(re.escape(text) for text in texts)) if texts else None

    def __call__(self, text: str) -> str:
        while self._pattern is not None:
            text, found = self._pattern.subn("", text)
            if not found:  # removing one can join the halves of another
                break
        return text


def tidy(messages: Sequence[Message], clean: Callable[[str], str]) -> list[Message]:
    """Cleaned, without empty entries, and neighbours of the same role joined: many templates insist on turns."""
    out: list[Message] = []
    for message in messages:
        content = clean(message.content).strip()
        if not content:
            continue
        if out and out[-1].role == message.role:
            out[-1] = Message(message.role, f"{out[-1].content}\n{content}")
        else:
            out.append(Message(message.role, content))
    return out


class TemplateFormat:
    """The chat template that the GGUF carries."""

    def __init__(self, template: str, native: Render, clean: Callable[[str], str]) -> None:
        self.digest = hashlib.sha256(template.encode()).hexdigest()[:16]
        self._clean = clean
        self._native = native
        self._jinja = _JinjaTemplate(template)
        self._suffix = NO_THINKING if "enable_thinking" in template else ""

    def render(self, messages: Sequence[Message], persona: Persona) -> str:  # noqa: ARG002 - others need it
        """Render; see ``ChatFormat``. Raises ``InferenceError`` when no way of rendering works."""
        turns = tidy(messages, self._clean)
        text = self._native(turns, True)
        if text is not None:
            return text + self._suffix
        for attempt in (turns, _user_first(turns), _without_system(_user_first(turns))):
            text = self._jinja(attempt)
            if text is not None:
                return text
        raise InferenceError(
            f"The chat template of this model cannot render the conversation ({self._jinja.reason}): "
            "choose another GGUF of it."
        )

    def stop(self, persona: Persona) -> tuple[str, ...]:
        """The persona's own: the template's end-of-turn token ends a reply."""
        return persona.stop


def _user_first(turns: Sequence[Message]) -> list[Message]:
    """A telephone assistant greets first; strict templates want the user to. The caller's hello stands in."""
    out = list(turns)
    at = 1 if out and out[0].role == "system" else 0
    if at < len(out) and out[at].role == "assistant":
        out.insert(at, Message("user", "Hello?"))
    return out


def _without_system(turns: Sequence[Message]) -> list[Message]:
    """For templates that know no system role: its text goes before the first user turn."""
    if len(turns) < 2 or turns[0].role != "system":
        return list(turns)
    first = Message(turns[1].role, f"{turns[0].content}\n\n{turns[1].content}")
    return [first, *turns[2:]]


class _JinjaTemplate:
    """The template run by jinja2 in its sandbox; compiled at first use, which most models never need."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._compiled: Callable[..., str] | None = None
        self.reason = "jinja2 is not installed"

    def __call__(self, turns: Sequence[Message]) -> str | None:
        try:
            from jinja2 import TemplateError
            from jinja2.sandbox import ImmutableSandboxedEnvironment
        except ImportError:
            return None

        def refuse(why: str) -> None:
            raise TemplateError(why)

        try:
            if self._compiled is None:
                environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
                self._compiled = environment.from_string(self._source).render
            return self._compiled(
                messages=[{"role": turn.role, "content": turn.content} for turn in turns],
                add_generation_prompt=True,
                raise_exception=refuse,
                enable_thinking=False,
                bos_token="",  # the tokeniser adds it
                eos_token="",
            )
        except (TemplateError, TypeError, ValueError) as error:
            self.reason = str(error)
            return None


class PlainTranscript:
    """A written conversation that the model goes on with, as whisper.cpp's talk-llama does for base models."""

    digest = "plain-1"

    def __init__(self, clean: Callable[[str], str]) -> None:
        self._clean = clean

    def render(self, messages: Sequence[Message], persona: Persona) -> str:
        """Render; see ``ChatFormat``."""
        bot, caller = persona.name, persona.caller_name
        parts = [f"Transcript of a telephone conversation between {caller} and {bot}.\n"]
        for turn in tidy(messages, self._clean):
            content = " ".join(turn.content.split())
            if turn.role == "system":
                parts.append(f"{content}\n\n")
            else:
                parts.append(f"{bot if turn.role == 'assistant' else caller}: {content}\n")
        parts.append(f"{bot}:")
        return "".join(parts)

    def stop(self, persona: Persona) -> tuple[str, ...]:
        """A new line begins the next speaker's turn."""
        return ("\n", f"{persona.caller_name}:", f"{persona.name}:", *persona.stop)
