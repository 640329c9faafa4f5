"""What the scheduler works on: calls, their requests, and persona templates. Plain records, no behaviour of note."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from aiphone.events import Event
from aiphone.inference.llm_backend import Sampler
from aiphone.inference.llm_slots import KvSequence
from aiphone.inference.reply_text import ReplyAssembler
from aiphone.persona import Persona


class SavedState(Protocol):
    """What a stored conversation brings along for the cache (``store.sessions.SavedConversation`` is one)."""

    @property
    def fingerprint(self) -> str:
        """Weights and cache format it was made with."""
        ...

    @property
    def template_digest(self) -> str:
        """Chat format it was made with."""
        ...

    @property
    def tokens(self) -> Sequence[int]:
        """Tokens the state holds."""
        ...

    @property
    def kv(self) -> bytes | None:
        """KV state of the sequence, or None when reading again was thought cheaper."""
        ...


@dataclass(frozen=True, slots=True)
class SessionSnapshot(Event):
    """The model's side of a conversation, to be stored with its text. Posted once for each ``snapshot``."""

    fingerprint: str
    template_digest: str
    tokens: tuple[int, ...] = field(repr=False)
    """What the sequence held; empty when its cache had been given away."""
    kv: bytes | None = field(repr=False)


@dataclass(slots=True, eq=False)
class Job:
    """One request for a reply.

    ``tokens`` is the prompt, followed by what was generated. The sequence catches up with it; when it has, the next
    token is sampled. So a job that loses its sequence simply catches up again later: nothing said is lost or repeated.
    """

    generation: int
    tokens: list[int]
    prompt_tokens: int
    speculative: bool
    sampler: Sampler | None
    """None when nothing is to be said: the prompt is only read ahead."""
    assembler: ReplyAssembler
    max_tokens: int
    arrived: float
    waiting_since: float
    history_dropped: bool
    """The oldest turns went with this very request, so the cache may be shifted."""
    end_at: int | None = None
    """Position of the caller's last word, while it is wanted how probable the end of the turn is after it."""
    admitted: bool = False
    cached_tokens: int | None = None
    produced: int = 0
    first_at: float | None = None
    refused: int = 0
    """How often llama.cpp found no cells for it since its last token, while no other conversation went on."""

    @property
    def ahead(self) -> bool:
        """Whether this only reads ahead."""
        return self.sampler is None


@dataclass(slots=True, eq=False)
class Call:
    """A call the model knows."""

    call_id: str
    persona: Persona
    template: Template | None
    session_key: str | None = None
    seq: KvSequence | None = None
    job: Job | None = None
    used_at: float = 0.0
    dropped: int = 0
    """Turns left out at the front since they no longer fit."""

    @property
    def missing(self) -> int:
        """Tokens that the sequence still has to read for the job."""
        if self.job is None or self.seq is None:
            return 0
        return len(self.job.tokens) - len(self.seq.tokens)


@dataclass(slots=True, eq=False)
class Template:
    """What all prompts of a persona begin with, read once."""

    tokens: list[int]
    seq: KvSequence | None = None
    users: int = 0
    used_at: float = 0.0
    unreadable: bool = False
    """llama.cpp failed on it once; prompts are read without it."""

    @property
    def missing(self) -> int:
        """Tokens still to be read."""
        return len(self.tokens) - (len(self.seq.tokens) if self.seq is not None else 0)
