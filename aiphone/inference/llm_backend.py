"""What the scheduler needs from a language model library, as an interface.

``llama_cpp_api.LlamaCpp`` is the real one. Tests bring a small one of their own that keeps its cache in a dictionary,
so that rules about sequences can be checked token by token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from aiphone.cores import Cores
from aiphone.persona import Message, Sampling


@dataclass(frozen=True, slots=True)
class BackendOptions:
    """How a model is loaded and its context made."""

    threads: int
    n_seq_max: int
    n_ctx_per_call: int
    max_calls: int
    n_batch: int = 256
    """Most tokens in one decode."""
    n_ctx_total: int | None = None
    """Cells of the KV cache; None chooses them (see ``n_ctx``)."""
    kv_budget: int = 96 << 20
    """Bytes of KV cache that are always affordable."""
    full_calls: int = 2
    """Calls whose whole share fits at once, however large the model's cells are."""
    use_gpu: bool = True
    n_gpu_layers: int = -1
    """Layers on the accelerator; -1 is all."""
    flash_attn: bool | None = None
    """As asked for; None lets llama.cpp decide."""
    kv_types: tuple[str, str] = ("f16", "f16")
    """Of keys and of values: ``"f16"`` or ``"q8_0"``."""
    cores: Cores = field(default_factory=Cores)
    """Who else computes; ``threads`` is for a machine on which nobody does."""

    @property
    def kv_name(self) -> str:
        """The types in one word: ``q8_0``, or ``q8_0/f16`` where they are not the same."""
        return "/".join(dict.fromkeys(self.kv_types))

    @property
    def flash(self) -> bool | None:
        """Whether the context has flash attention; None lets llama.cpp decide."""
        # llama.cpp can quantise values only where it does not transpose them.
        return True if self.kv_types[1] != "f16" else self.flash_attn

    def n_ctx(self, bytes_per_token: float) -> int:
        """Cells for all calls together.

        A telephone conversation fills a tenth of its share, so the cache is not the sum of the shares: it is what
        ``kv_budget`` buys, but room for ``full_calls`` whole shares, and never more than all shares. Idle
        calls' cells are taken when they are needed, and read again later.
        """
        if self.n_ctx_total is not None:
            return self.n_ctx_total
        everything = (self.max_calls + 1) * self.n_ctx_per_call
        least = min(self.full_calls, self.max_calls) * self.n_ctx_per_call
        affordable = int(self.kv_budget / max(bytes_per_token, 1.0))
        return min(everything, max(least, affordable)) // 256 * 256 or 256


@dataclass(frozen=True, slots=True)
class Entry:
    """A run of tokens of one sequence in a batch."""

    seq: int
    pos: int
    """Position of the first token."""
    tokens: Sequence[int]
    logits: bool
    """Whether the last token's logits are wanted."""


class Sampler(Protocol):
    """Chooses tokens for one request; holds its random state. Freed with ``close``."""

    def close(self) -> None:
        """Free it. A second call does nothing."""
        ...


class Backend(Protocol):
    """One model with one shared context. Language model thread only."""

    n_ctx: int
    """Cells in all."""
    n_ctx_train: int
    n_seq_max: int
    n_batch: int
    can_cut: bool
    """False for recurrent and hybrid models: a sequence can only be kept whole or cleared."""
    can_shift: bool
    """Whether positions of cached tokens can be moved (K-shift)."""
    kv_bytes_per_token: float
    description: str
    fingerprint: str
    """Names the weights and the format of their cache; a saved state fits only the same."""
    chat_template: str | None
    gpu: list[str]

    def tokenize(self, text: str) -> list[int]: ...
    def piece(self, token: int, *, special: bool = False) -> bytes: ...
    def is_eog(self, token: int) -> bool: ...
    def control_texts(self) -> list[str]: ...
    def apply_template(self, template: str, messages: Sequence[Message], *, add_assistant: bool) -> str | None: ...
    def decode(self, entries: Sequence[Entry]) -> int: ...
    def sample(self, sampler: Sampler, index: int) -> int | None: ...
    def probability(self, tokens: Sequence[int], index: int) -> float: ...
    def new_sampler(self, sampling: Sampling, grammar: str | None) -> Sampler: ...
    def seq_rm(self, seq: int, p0: int, p1: int = -1) -> bool: ...
    def seq_cp(self, src: int, dst: int, p1: int) -> None: ...
    def seq_shift(self, seq: int, p0: int, delta: int) -> None: ...
    def seq_len(self, seq: int) -> int: ...
    def state_get(self, seq: int) -> bytes | None: ...
    def state_set(self, seq: int, data: bytes) -> bool: ...
    def close(self) -> None: ...
