"""Sequences of the shared context, and the cells they fill.

The context is one pool of cells (``kv_unified``). A cell holds one token at one position and may belong to several
sequences: a fork of a persona's prefix shares the cells of its source and costs nothing. This module keeps the
books: which sequence ids are free, which tokens each sequence holds, and how many cells are filled.

Rules:

* ``KvSequence.tokens`` is always what the cache holds for that sequence, in order, positions 0 to n - 1.
* A sequence id leaves the pool by ``acquire`` and comes back by ``release``, which empties it; there is no other way.
* Only whole forks from the front are shared, so of sequences with one ``origin`` the longest share counts once.

Thread rule: language model thread only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from aiphone.inference.llm_backend import Backend


@dataclass(slots=True, eq=False)
class KvSequence:
    """One ``llama_seq_id`` in use."""

    seq_id: int
    tokens: list[int] = field(default_factory=list)
    origin: int | None = None
    """Names the template this was forked from, or that this is."""
    shared: int = 0
    """How many leading tokens lie in cells shared with others of the same origin."""


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common beginning of two token lists."""
    limit = min(len(a), len(b))
    if a[:limit] == b[:limit]:
        return limit
    low, high = 0, limit  # invariant: a[:low] == b[:low], a[:high] != b[:high]
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low


class KvPool:
    """All sequences of one context."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._free = list(range(backend.n_seq_max - 1, -1, -1))
        self._used: dict[int, KvSequence] = {}
        self._origins = 0

    @property
    def free_sequences(self) -> int:
        """Sequence ids nobody holds."""
        return len(self._free)

    @property
    def cells(self) -> int:
        """Cells filled now, shared ones counted once."""
        private = 0
        shared: dict[int, int] = {}
        for seq in self._used.values():
            private += len(seq.tokens) - seq.shared
            if seq.origin is not None:
                shared[seq.origin] = max(shared.get(seq.origin, 0), seq.shared)
        return private + sum(shared.values())

    def acquire(self) -> KvSequence | None:
        """An empty sequence, or None when all are taken."""
        if not self._free:
            return None
        seq = KvSequence(self._free.pop())
        self._used[seq.seq_id] = seq
        return seq

    def release(self, seq: KvSequence) -> None:
        """Empty a sequence and give its id back. It must not be used afterwards."""
        self.clear(seq)
        del self._used[seq.seq_id]
        self._free.append(seq.seq_id)

    def clear(self, seq: KvSequence) -> None:
        """Remove everything; this never fails (llama.h: removing a whole sequence never fails)."""
        self._backend.seq_rm(seq.seq_id, 0)
        seq.tokens.clear()
        seq.origin, seq.shared = None, 0

    def rewind(self, seq: KvSequence, length: int) -> int:
        """Keep the first ``length`` tokens where the model can cut, else nothing; returns what is held now."""
        if length >= len(seq.tokens):
            return len(seq.tokens)
        if length > 0 and self._backend.can_cut and self._backend.seq_rm(seq.seq_id, length):
            del seq.tokens[length:]
            seq.shared = min(seq.shared, length)
            return length
        self.clear(seq)
        return 0

    def begin_template(self, seq: KvSequence) -> None:
        """``seq`` is going to be forked: all that it holds, now and later, counts as shared."""
        self._origins += 1
        seq.origin = self._origins
        seq.shared = len(seq.tokens)

    def usable(self, source: KvSequence, tokens: Sequence[int]) -> int:
        """How many tokens a fork of ``source`` would save for a prompt of ``tokens``."""
        length = common_prefix(source.tokens, tokens)
        if not self._backend.can_cut and length < len(source.tokens):
            return 0  # a state that cannot be cut can only be taken whole
        return length

    def fork(self, source: KvSequence, target: KvSequence, length: int) -> None:
        """Let ``target`` begin with the first ``length`` tokens of the template ``source``."""
        self.clear(target)
        self._backend.seq_cp(source.seq_id, target.seq_id, length)
        target.tokens = source.tokens[:length]
        target.origin, target.shared = source.origin, length

    def extend(self, seq: KvSequence, tokens: Sequence[int], *, template: bool = False) -> None:
        """Note that ``tokens`` were decoded into ``seq``."""
        seq.tokens.extend(tokens)
        if template:
            seq.shared = len(seq.tokens)

    def drop_middle(self, seq: KvSequence, start: int, end: int) -> None:
        """Remove tokens [start, end) and move the rest forward (K-shift). Cells from ``end`` on must not be shared."""
        if end < seq.shared:
            raise ValueError("cells shared with other sequences cannot be moved")
        self._backend.seq_rm(seq.seq_id, start, end)
        self._backend.seq_shift(seq.seq_id, end, start - end)
        del seq.tokens[start:end]
        seq.shared = min(seq.shared, start)

    def adopt(self, seq: KvSequence, tokens: Sequence[int], state: bytes) -> bool:
        """Put a saved state into the empty ``seq``; False, and still empty, when it does not hold those tokens."""
        if self._backend.state_set(seq.seq_id, state) and self._backend.seq_len(seq.seq_id) == len(tokens):
            seq.tokens = list(tokens)
            return True
        self.clear(seq)
        return False

    def resync(self, seq: KvSequence) -> None:
        """After a decode that failed half-way: remove what the cache holds beyond the books."""
        held = self._backend.seq_len(seq.seq_id)
        if held == len(seq.tokens):
            return
        if held < len(seq.tokens) or not self._backend.seq_rm(seq.seq_id, len(seq.tokens)):
            self.clear(seq)
