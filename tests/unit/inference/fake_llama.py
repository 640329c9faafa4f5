"""A language model small enough to check by hand.

Tokens are bytes, and four control tokens. The cache is a list of cells, each with a position, a token and the
sequences it belongs to, as in llama.cpp's unified cache. The next token is a function of *everything* the
sequence holds, so a single wrong, missing or foreign token changes all that follows.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from aiphone.clock import ManualClock
from aiphone.errors import InferenceError
from aiphone.inference.llm_backend import Entry
from aiphone.persona import Message, Sampling

START, END, BREAK = 256, 257, 258
CONTROL = {"<|im_start|>": START, "<|im_end|>": END, "<|endoftext|>": BREAK}
REPLY_TOKENS = 12


def next_token(tokens: list[int]) -> int:
    """What the model says after ``tokens``."""
    reply = 0
    for token in reversed(tokens):
        if token == START:
            break
        reply += 1
    if reply - len("assistant\n") >= REPLY_TOKENS:
        return END
    return ord("a") + zlib.crc32(b"".join(token.to_bytes(2, "big") for token in tokens)) % 26


def end_probability(tokens: list[int], ends: Sequence[int]) -> float:
    """The probability that one of ``ends`` comes after ``tokens``."""
    held = b"".join(token.to_bytes(2, "big") for token in [*tokens, *ends])
    return zlib.crc32(held) / 2**32


def whole_reply(prompt: list[int], max_tokens: int = 10_000) -> str:
    """The reply to a prompt, computed without any cache."""
    tokens = list(prompt)
    while len(tokens) - len(prompt) < max_tokens and (token := next_token(tokens)) != END:
        tokens.append(token)
    return bytes(tokens[len(prompt) :]).decode()


@dataclass(eq=False)
class Cell:
    pos: int
    token: int
    seqs: set[int]


@dataclass
class FakeSampler:
    open: set
    closed: bool = False

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.open.remove(id(self))


@dataclass
class FakeLlama:
    clock: ManualClock = field(default_factory=ManualClock)
    n_ctx: int = 2000
    n_seq_max: int = 8
    n_batch: int = 64
    n_ctx_train: int = 4096
    can_cut: bool = True
    can_shift: bool = True
    kv_bytes_per_token: float = 10.0
    description: str = "fake"
    fingerprint: str = "fake:f16"
    chat_template: str | None = "chatml"
    gpu: list = field(default_factory=list)
    token_seconds: float = 0.001

    def __post_init__(self):
        self.cells: list[Cell] = []
        self.samplers: set[int] = set()
        self.batches: list[list[Entry]] = []
        self.fail = lambda entries: 0
        self.not_numbers: set[int] = set()
        self.closed = False

    # vocabulary

    def tokenize(self, text):
        tokens, rest = [], text
        while rest:
            for name, token in CONTROL.items():
                if rest.startswith(name):
                    tokens.append(token)
                    rest = rest[len(name) :]
                    break
            else:
                tokens += rest[0].encode()
                rest = rest[1:]
        return tokens

    def piece(self, token, *, special=False):
        return bytes([token]) if token < 256 else b""

    def is_eog(self, token):
        return token in (END, BREAK)

    def control_texts(self):
        return list(CONTROL)

    def apply_template(self, template, messages: list[Message], *, add_assistant):
        text = "".join(f"<|im_start|>{m.role}\n{m.content}<|im_end|>\n" for m in messages)
        return text + "<|im_start|>assistant\n" * add_assistant

    # memory

    def held(self, seq):
        """Tokens of a sequence in order of position; positions must be 0 to n - 1, each once."""
        mine = sorted((cell for cell in self.cells if seq in cell.seqs), key=lambda cell: cell.pos)
        assert [cell.pos for cell in mine] == list(range(len(mine))), f"positions of sequence {seq}"
        return [cell.token for cell in mine]

    def decode(self, entries):
        assert entries
        assert sum(len(e.tokens) for e in entries) <= self.n_batch
        self.batches.append(entries)
        self.clock.advance(self.token_seconds * sum(len(e.tokens) for e in entries))
        code = self.fail(entries)
        if code:
            return code
        if len(self.cells) + sum(len(e.tokens) for e in entries) > self.n_ctx:
            return 1
        self.row = []
        self.after = []
        for entry in entries:
            assert 0 <= entry.seq < self.n_seq_max
            assert len(self.held(entry.seq)) == entry.pos
            self.cells += [Cell(entry.pos + i, token, {entry.seq}) for i, token in enumerate(entry.tokens)]
            self.row.append(entry.seq)
            self.after.append(self.held(entry.seq))
        return 0

    def sample(self, sampler, index):
        assert not sampler.closed
        assert self.batches[-1][index].logits
        seq = self.row[index]
        return None if seq in self.not_numbers else next_token(self.held(seq))

    def probability(self, tokens, index):
        """How probable each token is depends on everything before it."""
        assert self.batches[-1][index].logits
        if self.row[index] in self.not_numbers:
            return float("nan")
        return end_probability(self.after[index], tokens)

    def new_sampler(self, sampling: Sampling, grammar):
        if grammar == "bad":
            raise InferenceError("The grammar of this request does not parse as GBNF: correct its rules.")
        sampler = FakeSampler(self.samplers)
        self.samplers.add(id(sampler))
        self.keep = [*getattr(self, "keep", []), sampler]  # ids stay unique
        return sampler

    def seq_rm(self, seq, p0, p1=-1):
        if not self.can_cut and p0 > 0:
            return False
        for cell in self.cells:
            if seq in cell.seqs and cell.pos >= p0 and (p1 < 0 or cell.pos < p1):
                cell.seqs.discard(seq)
        self.cells = [cell for cell in self.cells if cell.seqs]
        return True

    def seq_cp(self, src, dst, p1):
        assert not self.held(dst)
        if not self.can_cut:
            assert p1 == len(self.held(src))
        for cell in self.cells:
            if src in cell.seqs and cell.pos < p1:
                cell.seqs.add(dst)

    def seq_shift(self, seq, p0, delta):
        assert self.can_shift
        for cell in self.cells:
            if seq in cell.seqs and cell.pos >= p0:
                assert cell.seqs == {seq}, "a shared cell was moved"
                cell.pos += delta

    def seq_len(self, seq):
        return len(self.held(seq))

    def state_get(self, seq):
        return b"".join(token.to_bytes(2, "big") for token in self.held(seq))

    def state_set(self, seq, data):
        if len(data) % 2 or len(self.cells) + len(data) // 2 > self.n_ctx:
            return False
        for pos in range(len(data) // 2):
            self.cells.append(Cell(pos, int.from_bytes(data[2 * pos : 2 * pos + 2], "big"), {seq}))
        return True

    def close(self):
        self.closed = True
