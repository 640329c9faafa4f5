"""Who answers: everything about an assistant that a call needs to know.

A ``Persona`` is immutable and is fixed for a call when the call is answered; a change takes effect with the
next call.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from aiphone.actions import HANG_UP, TRANSFER, Action, explained, grammar


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen, in llama.cpp's terms. ``temperature`` 0 is greedy."""

    temperature: float = 0.3
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    seed: int = 0
    max_tokens: int = 160


@dataclass(frozen=True, slots=True)
class Message:
    """One entry of a conversation, as chat templates know it."""

    role: str
    """``"system"``, ``"user"`` or ``"assistant"``."""
    content: str


@dataclass(frozen=True, slots=True)
class Persona:
    """An assistant."""

    name: str = "LLaMA"
    """What the assistant calls itself (``-bn``)."""
    caller_name: str = "Caller"
    """What the transcript calls the other side (``-p``)."""
    prompt: str = (
        "You are a helpful AI assistant named {name}, answering the telephone. Keep your answers short and simple."
    )
    """System prompt. ``{name}`` and ``{caller}`` are filled in."""
    greeting: str = "Hello, this is {name}. How can I help you?"
    greeting_again: str = ""
    """Said instead to a caller whose conversation is remembered (``--session``); empty for the same greeting."""
    remember: bool = True
    """Whether conversations are kept from call to call, where there is a session file."""
    language: str = ""
    """What the caller speaks: a code as Whisper has it, or ``"auto"`` to find it out once for each call; empty for the
    recogniser's own (``-l``)."""
    vocabulary: str = ""
    """Names and words that callers are likely to say."""
    voice: str = ""
    """A voice's name, or empty for the default one."""
    speed: float = 1.0
    """How fast it speaks; 1 is the voice's own pace, more is faster."""
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    """Texts that end an answer, beside the model's own end; they are not said."""
    patience: float = 0.9
    """Seconds of silence after which the caller's turn is over, when neither voice nor words say more."""
    patience_floor: float = 0.5
    """The same for a turn that is over by all signs; never more than ``patience``. The answer is prepared meanwhile,
    which takes 0.6 s on two cores: there nobody hears of the wait. Where it is prepared sooner, 0.35 is sooner, and
    cuts in on half as many turns more."""
    patience_ceiling: float = 1.2
    """The same for one that is certainly not over; never less than ``patience``. Three times as long for a caller who
    asks for time."""
    interrupt_after: float = 0.15
    """Seconds of the caller's voice that stop the assistant."""
    filler: str = "One moment."
    """Said once when an answer takes long; empty for nothing."""
    filler_after: float = 1.6
    """Seconds from the caller's last sound until it is said."""
    think_limit: float = 20.0
    """Seconds after which an answer that has not begun is given up, with an apology."""
    idle_after: float = 15.0
    """Seconds of silence after which ``idle_prompt`` is said; 0 is never."""
    idle_limit: int = 3
    """After this many prompts without an answer the assistant says goodbye and hangs up."""
    idle_prompt: str = "Are you still there?"
    goodbye: str = "Goodbye."
    apology: str = "I am sorry, something went wrong. Could you say that again?"
    max_call_seconds: float = 0.0
    """Seconds after which a call is ended with the goodbye; 0 is never."""
    wake_command: str = ""
    """When set, turns that do not begin with it are not answered (``-w``)."""
    heard_ok: str = ""
    """Said when the wake command was all that was said (``-ho``)."""

    actions: tuple[str, ...] = ()
    """What the assistant may do besides talking (``actions.KINDS``)."""
    transfers: tuple[tuple[str, str], ...] = ()
    """To whom it may transfer callers: names and SIP URIs."""
    connecting: str = "One moment, I will connect you."
    """Said before a transfer when the model says nothing itself."""
    nobody_there: str = "I am sorry, nobody answers there."
    """Said when a transfer failed."""

    def system_message(self) -> Message:
        """The system prompt with the names filled in, and what the assistant may do."""
        may = explained(self.actions, dict(self.transfers))
        return Message("system", f"{self.fill(self.prompt)} {may}".strip())

    def voice_name(self) -> str:
        """What the synthesiser knows this voice at this speed by: ``joe``, ``joe@1.2`` or, of the default, ``@1.2``."""
        return self.voice if self.speed == 1.0 else f"{self.voice}@{self.speed:g}"

    def stock_phrases(self) -> tuple[str, ...]:
        """What it says without asking the model, names filled in; what a caller waits for first is first."""
        texts = [self.greeting, self.greeting_again, self.filler, self.apology, self.idle_prompt, self.goodbye]
        if self.wake_command:
            texts.append(self.heard_ok)
        if self.transfers:
            texts += [self.connecting, self.nobody_there]
        return tuple(dict.fromkeys(self.fill(text) for text in texts if text.strip()))

    def initial_prompt(self) -> str:
        """What Whisper is told before the first words. It goes on in the manner of its prompt, so that a bare list of
        names would cost capitals and punctuation; a sentence does not."""
        words = self.vocabulary.strip(" .,")
        return f"Glossary: {words}." if words else ""

    def grammar(self) -> str | None:
        """GBNF of an answer; None when nothing but talking is allowed."""
        return grammar(self.actions, dict(self.transfers)) or None

    def may(self, action: Action) -> bool:
        """Whether it is allowed. A model's text is never trusted, grammar or not."""
        known = action.kind != TRANSFER or action.argument in dict(self.transfers)
        return action.kind in self.actions and known

    def confirmation(self, action: Action) -> str:
        """What is said before an action when the model says nothing itself; never empty."""
        name = {HANG_UP: "goodbye", TRANSFER: "connecting"}.get(action.kind, "filler")
        return self.fill(str(getattr(self, name)).strip() or getattr(_DEFAULT, name))

    def fill(self, text: str) -> str:
        """Replace ``{name}`` and ``{caller}``; any other brace stays as it is."""
        return text.replace("{name}", self.name).replace("{caller}", self.caller_name)


_DEFAULT = Persona()
