"""What the language model's benchmarks share: our model with its events, its peers, and the workload.

Every peer has the same weights, threads, batch size and priority as ours, and the three take turns, so that a busy
machine slows all alike.
"""

from __future__ import annotations

import itertools
import os
import queue
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aiphone import priority
from aiphone.clock import SystemClock
from aiphone.config import default_models_dir
from aiphone.cores import wait_gently
from aiphone.events import Event, ReplyEnded, ReplyText, WorkFailed
from aiphone.inference.llama_cpp_api import LlamaCpp
from aiphone.inference.llm import LanguageModel
from aiphone.inference.llm_backend import BackendOptions, Entry, Sampler
from aiphone.inference.llm_scheduler import Limits
from aiphone.inference.llm_slots import common_prefix
from aiphone.persona import Message, Persona, Sampling

MODEL = default_models_dir(os.environ) / "SmolLM2-135M-Instruct.Q4_1.gguf"
TOPICS = ["a lighthouse", "a tiger", "the moon", "a baker", "a train", "the sea", "a robot", "a garden"]
SYSTEM = "You are a helpful assistant. You tell long stories."
LIMITS = Limits(n_ctx_per_call=4096)
FLASH: bool | None = None
"""Flash attention in ours and in the bare loop; None as it comes. Llama's own default is none."""


def fair_process() -> None:
    """Begin a benchmark: OpenMP as the server has it, and the same priority for all. Before anything is loaded."""
    wait_gently()
    priority.INFERENCE = 0  # our thread gives way to others; here the peers, who do not, would be the others


class Watched(LlamaCpp):
    """llama.cpp that notes when each token was chosen.

    Text is posted when it can be shown: a token may end in the middle of a character, and a pause between two texts is
    then one of two tokens.
    """

    def __init__(self, path: Path, options: BackendOptions) -> None:
        self._times: dict[int, list[float]] = {}
        super().__init__(path, options)

    def sample(self, sampler: Sampler, index: int) -> int | None:
        """See ``Backend``."""
        token = super().sample(sampler, index)
        self._times.setdefault(id(sampler), []).append(time.monotonic())
        return token

    def forget(self) -> list[float]:
        """Times in seconds of the tokens of the longest answer since the last time; what it noted is gone."""
        longest = max(self._times.values(), key=len, default=[])
        self._times = {}
        return longest


class Bench:
    """One embedded model and what it posts."""

    def __init__(
        self, path: Path, threads: int, *, calls: int = 8, n_ctx_total: int | None = 8192, **more: Any
    ) -> None:
        self.events: queue.Queue[Event] = queue.Queue()
        self.model = LanguageModel(
            path,
            post=self.events.put,
            clock=SystemClock(),
            threads=threads,
            max_calls=calls,
            limits=LIMITS,
            n_ctx_total=n_ctx_total,
            make_backend=self._watched,
            flash_attn=FLASH,
            **more,
        )
        self.model.start()

    def _watched(self, path: Path, options: BackendOptions) -> Watched:
        self.backend = Watched(path, options)
        return self.backend

    def until_ended(self, count: int) -> list[Event]:
        """All events up to the end of ``count`` replies."""
        seen: list[Event] = []
        while count:
            seen.append(self.events.get(timeout=600))
            if isinstance(seen[-1], WorkFailed):
                raise SystemExit(f"benchmarks.llm: {seen[-1].reason}")
            count -= isinstance(seen[-1], ReplyEnded)
        return seen

    def settle(self) -> None:
        """Wait until the personas are read."""
        self.model.snapshot("nobody")  # answered in order, so what came before has been taken in
        self.events.get(timeout=600)
        while True:
            time.sleep(0.4)  # longer than the status is old; a benchmark's rest, no test's
            if not self.model.status()["templates_unread"]:
                return


def persona(max_tokens: int, system: str = SYSTEM) -> Persona:
    """A greedy storyteller."""
    return Persona(prompt=system, sampling=Sampling(temperature=0, max_tokens=max_tokens))


def story(who: Persona, number: int) -> list[Message]:
    """A request that is answered at length; another one for each number."""
    topic = TOPICS[number % len(TOPICS)] + " and a friend" * (number // len(TOPICS))
    return [who.system_message(), Message("user", f"Tell me a long story about {topic}.")]


def words(count: int) -> str:
    """Filler of about ``count`` tokens."""
    lines = (f"Rule {n}: be polite to guest {n} at table {n % 7}. " for n in itertools.count())
    return "".join(itertools.islice(lines, max(1, count // 15)))


def at_once(bench: Bench, who: Persona, calls: int = 8) -> list[Event]:
    """So many callers ask at the same moment; everything until all were answered."""
    names = [f"b{number}" for number in range(calls)]
    for name in names:
        bench.model.open(name, who)
    bench.settle()
    for number, name in enumerate(names):
        bench.model.generate(name, 1, story(who, number))
    events = bench.until_ended(calls)
    for name in names:
        bench.model.close_call(name)
    return events


def speaking_rate(events: Sequence[Event]) -> float:
    """Tokens/s while all calls speak: from the last first token to the first last one."""
    times: dict[str, list[float]] = {}
    for event in events:
        if isinstance(event, ReplyText):
            times.setdefault(event.call_id, []).append(event.at)
    begin, end = max(t[0] for t in times.values()), min(t[-1] for t in times.values())
    count = sum(1 for mine in times.values() for t in mine if begin < t <= end)
    return count / (end - begin) if end > begin else float("nan")


def gaps(events: Sequence[Event]) -> list[float]:
    """Pauses between the pieces of each reply."""
    times: dict[str, list[float]] = {}
    for event in events:
        if isinstance(event, ReplyText):
            times.setdefault(event.call_id, []).append(event.at)
    return [b - a for mine in times.values() for a, b in itertools.pairwise(mine)]


def _bare_steps(backend: LlamaCpp, entries: Sequence[Entry], steps: int) -> float:
    """Tokens/s of a loop that does nothing but decode and pick, beginning with these, one for each sequence."""
    sampler = backend.new_sampler(Sampling(temperature=0), None)
    began = time.monotonic()
    for _ in range(steps):
        if backend.decode(entries):
            raise SystemExit("benchmarks.llm: the bare loop could not decode")
        picked = [backend.sample(sampler, index) or 0 for index in range(len(entries))]
        entries = [Entry(e.seq, e.pos + len(e.tokens), [token], True) for e, token in zip(entries, picked, strict=True)]
    rate = steps * len(entries) / (time.monotonic() - began)
    sampler.close()
    return rate


def bare_rate(backend: LlamaCpp, prompts: Sequence[Sequence[int]], steps: int) -> float:
    """Tokens/s of the bare loop, its prompts read before."""
    for seq, prompt in enumerate(prompts):
        backend.decode([Entry(seq, 0, prompt[:-1], False)])
    rate = _bare_steps(backend, [Entry(seq, len(p) - 1, p[-1:], True) for seq, p in enumerate(prompts)], steps)
    for seq in range(len(prompts)):
        backend.seq_rm(seq, 0)
    return rate


def bare_shared_rate(backend: LlamaCpp, prompts: Sequence[Sequence[int]], steps: int) -> float:
    """Tokens/s, reading included, of the bare loop whose sequences share what their prompts begin with, read before."""
    first, calls, width = prompts[0], len(prompts), backend.n_batch
    shared = min(common_prefix(first, prompt) for prompt in prompts[1:])
    for at in range(0, shared, width):
        backend.decode([Entry(calls, at, first[at : min(at + width, shared)], False)])
    for seq in range(calls):
        backend.seq_cp(calls, seq, shared)
    rate = _bare_steps(backend, [Entry(seq, shared, p[shared:], True) for seq, p in enumerate(prompts)], steps)
    for seq in range(calls + 1):
        backend.seq_rm(seq, 0)
    return rate


def locked(llama: Any, prompts: Sequence[Sequence[int]], max_tokens: int) -> tuple[float, list[float], list[float]]:
    """A thread for each prompt, one ``Llama``, one lock: tokens/s over all, times to the first token, pauses."""
    lock, firsts, counts = threading.Lock(), [0.0] * len(prompts), [0] * len(prompts)
    pauses: list[float] = []
    began = time.monotonic()

    def one(index: int) -> None:
        with lock:
            last = 0.0
            for _ in llama.create_completion(list(prompts[index]), max_tokens=max_tokens, temperature=0.0, stream=True):
                now = time.monotonic()
                firsts[index] = firsts[index] or now - began
                if last:
                    pauses.append(now - last)
                last = now
                counts[index] += 1

    threads = [threading.Thread(target=one, args=(index,)) for index in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.monotonic() - began), firsts, pauses


def rendered(backend: LlamaCpp, who: Persona, calls: int = 8) -> list[list[int]]:
    """The prompts as tokens."""
    template = backend.chat_template or ""
    texts = [backend.apply_template(template, story(who, n), add_assistant=True) or "" for n in range(calls)]
    return [backend.tokenize(text) for text in texts]


def high_level(path: Path, threads: int) -> Any:
    """llama-cpp-python's own class, with the batch size and context that ours has."""
    from llama_cpp import Llama

    return Llama(str(path), n_ctx=4096, n_batch=256, n_threads=threads, n_threads_batch=threads, verbose=False)
