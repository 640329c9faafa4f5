"""The language model as the main thread sees it: all calls answered by one thread out of one batch.

``TextGenerator`` is the interface (an HTTP server could stand behind it as well); ``LanguageModel`` the embedded
llama.cpp. Answers come as events through ``post``: ``ReplyText`` pieces, then one ``ReplyEnded`` or ``WorkFailed``
for each request that was not cancelled or replaced.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from aiphone import priority
from aiphone.clock import Clock
from aiphone.cores import Cores
from aiphone.errors import AiphoneError, InferenceError
from aiphone.events import Event, Stage, WorkFailed
from aiphone.inference.llm_backend import Backend, BackendOptions
from aiphone.inference.llm_scheduler import Limits, Scheduler
from aiphone.inference.llm_work import SavedState, SessionSnapshot
from aiphone.persona import Message, Persona

__all__ = ["LanguageModel", "SavedState", "SessionSnapshot", "TextGenerator"]

log = logging.getLogger(__name__)

_RETRY_WAITING = 0.5
"""Seconds between looks at requests that wait for room while nothing else happens."""

_STATUS_EVERY = 0.25


class TextGenerator(Protocol):
    """Something that answers conversations. Main thread only; every method returns at once."""

    def open(
        self,
        call_id: str,
        persona: Persona,
        session_key: str | None = None,
        *,
        restore: SavedState | None = None,
    ) -> None:
        """A call begins: its persona is prepared, a stored state put back."""
        ...

    def generate(
        self,
        call_id: str,
        generation: int,
        messages: Sequence[Message],
        *,
        speculative: bool = False,
        grammar: str | None = None,
    ) -> None:
        """Answer a conversation; ``messages`` is all of it, the system message first.

        For a speculative request ``TurnEndByWords`` may be posted before the answer.
        """
        ...

    def read_ahead(self, call_id: str, generation: int, messages: Sequence[Message]) -> None:
        """Prepare for a request whose last message is still being said; ``messages`` is all that is known.

        Costs other calls nothing, and nothing is ever posted for it. The next ``generate`` of the call uses what both
        have in common; a ``cancel`` of this generation or a newer one stops it.
        """
        ...

    def promote(self, call_id: str, generation: int) -> None:
        """A speculative request counts from now on."""
        ...

    def cancel(self, call_id: str, generation: int) -> None:
        """Drop a request of this generation or older; nothing more is posted for it once this took effect."""
        ...

    def snapshot(self, call_id: str, *, with_kv: bool = True) -> None:
        """Ask for a ``SessionSnapshot`` event."""
        ...

    def close_call(self, call_id: str) -> None:
        """The call is over."""
        ...

    def status(self) -> dict[str, object]:
        """Figures for the status page. Any thread."""
        ...


class LanguageModel:
    """llama.cpp in this process, behind one thread.

    ``threads``
        threads of one decode; set it on purpose, since every OpenMP pool of the process shares the cores.
    ``n_ctx_per_call``
        tokens of one conversation, clamped to what the model was trained for.
    ``max_calls``
        calls expected at once; sequences for all of them and for a few persona templates are made. Calls beyond
        llama.cpp's limit share sequences, and read again what they lost.
    ``n_gpu_layers``, ``use_gpu``, ``flash_attn``, ``kv_types``
        as in llama.cpp (``-ngl``, ``-ng``, ``-fa``, ``-nfa``, ``-ctk``/``-ctv``); -1 layers is all, ``flash_attn`` None
        lets llama.cpp decide, which takes it.
    ``n_ctx_total``
        cells of the shared KV cache; None chooses them (``BackendOptions.n_ctx``).
    ``cores``
        who else computes: a decode takes no more threads than are free.
    ``make_backend``
        replaces llama.cpp, for tests.

    ``start`` loads the model, a file that ``models.resolve`` has looked at; the constructor is quick.
    """

    def __init__(
        self,
        model_path: Path,
        *,
        post: Callable[[Event], object],
        clock: Clock,
        threads: int,
        max_calls: int,
        n_ctx_per_call: int = 2048,
        n_gpu_layers: int = -1,
        use_gpu: bool = True,
        flash_attn: bool | None = None,
        kv_types: tuple[str, str] = ("f16", "f16"),
        n_ctx_total: int | None = None,
        limits: Limits | None = None,
        cores: Cores | None = None,
        make_backend: Callable[[Path, BackendOptions], Backend] | None = None,
    ) -> None:
        for kind in kv_types:
            if kind not in ("f16", "q8_0"):
                raise InferenceError(f"The KV cache type '{kind}' is unknown: choose f16 or q8_0.")
        if kv_types[1] != "f16" and flash_attn is False:
            raise InferenceError("Values of type q8_0 need flash attention: drop -nfa, or choose f16.")
        self._path = model_path
        self._post = post
        self._clock = clock
        self._limits = limits or Limits(n_ctx_per_call=n_ctx_per_call)
        self._options = BackendOptions(
            threads=threads,
            n_seq_max=max_calls + self._limits.max_templates,
            n_ctx_per_call=self._limits.n_ctx_per_call,
            max_calls=max_calls,
            n_ctx_total=n_ctx_total,
            use_gpu=use_gpu,
            n_gpu_layers=n_gpu_layers,
            flash_attn=flash_attn,
            kv_types=kv_types,
            cores=cores or Cores(),
        )
        self._make_backend = make_backend or _llama_cpp
        self._changed = threading.Condition()
        self._requests: deque[Callable[[Scheduler], None]] = deque()
        self._stopping = False
        self._started = threading.Event()
        self._failure: AiphoneError | None = None
        self._status: dict[str, object] = {"model": model_path.name, "ready": False}
        self._thread = threading.Thread(target=self._run, name="llm", daemon=True)

    # ------------------------------------------------------------------ main thread

    def start(self) -> None:
        """Load the model on the language model's own thread and wait for it: seconds, so before the loop runs.

        Raises ``ModelError`` or ``InferenceError`` when the model cannot be loaded.
        """
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure

    def open(
        self,
        call_id: str,
        persona: Persona,
        session_key: str | None = None,
        *,
        restore: SavedState | None = None,
    ) -> None:
        """See ``TextGenerator``."""
        self._ask(lambda scheduler: scheduler.open(call_id, persona, session_key, restore))

    def generate(
        self,
        call_id: str,
        generation: int,
        messages: Sequence[Message],
        *,
        speculative: bool = False,
        grammar: str | None = None,
    ) -> None:
        """See ``TextGenerator``. A running request of the same call is replaced; what both share is not read again."""
        whole = tuple(messages)

        def request(scheduler: Scheduler) -> None:
            scheduler.generate(call_id, generation, whole, speculative=speculative, grammar=grammar)

        if not self._thread.is_alive():
            self._post(WorkFailed(call_id, generation, Stage.GENERATE, "the language model is not running"))
            return
        self._ask(request)

    def read_ahead(self, call_id: str, generation: int, messages: Sequence[Message]) -> None:
        """See ``TextGenerator``. Ignored while a reply of the call is under way."""
        known = tuple(messages)
        self._ask(lambda scheduler: scheduler.read_ahead(call_id, generation, known))

    def promote(self, call_id: str, generation: int) -> None:
        """See ``TextGenerator``."""
        self._ask(lambda scheduler: scheduler.promote(call_id, generation))

    def cancel(self, call_id: str, generation: int) -> None:
        """See ``TextGenerator``. Takes effect within one decode step."""
        self._ask(lambda scheduler: scheduler.cancel(call_id, generation))

    def snapshot(self, call_id: str, *, with_kv: bool = True) -> None:
        """See ``TextGenerator``. May be followed by ``close_call`` at once."""
        self._ask(lambda scheduler: scheduler.snapshot(call_id, with_kv=with_kv))

    def close_call(self, call_id: str) -> None:
        """See ``TextGenerator``."""
        self._ask(lambda scheduler: scheduler.close_call(call_id))

    def status(self) -> dict[str, object]:
        """See ``TextGenerator``; at most a quarter of a second old while the model is working."""
        return dict(self._status)

    def stop(self, timeout: float = 10.0) -> None:
        """End the thread after what was asked of it before, snapshots included; requests still running are dropped."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout)
            if self._thread.is_alive():
                log.warning("The language model's thread did not end within %.0f s.", timeout)

    def _ask(self, request: Callable[[Scheduler], None]) -> None:
        with self._changed:
            self._requests.append(request)
            self._changed.notify()

    # ------------------------------------------------------------------ language model thread

    def _run(self) -> None:
        priority.lower_priority(priority.INFERENCE)
        try:
            backend = self._make_backend(self._path, self._options)
        except AiphoneError as error:
            self._failure = error
            self._started.set()
            return
        except Exception as error:
            log.exception("The language model could not be loaded.")
            self._failure = InferenceError(f"llama.cpp failed while loading {self._path} ({error}): see the log.")
            self._started.set()
            return
        try:
            self._serve(backend)
        finally:
            self._status = {**self._status, "ready": False}
            backend.close()

    def _serve(self, backend: Backend) -> None:
        scheduler = Scheduler(backend, post=self._post, clock=self._clock, limits=self._limits)
        self._status = self._describe(scheduler)
        self._started.set()
        told = self._clock.now()
        busy = False
        while True:
            requests = self._take(busy=busy, waiting=scheduler.waiting)
            if requests is None:
                return
            try:
                for request in requests:
                    request(scheduler)
                busy = scheduler.step()
            except Exception as error:
                log.exception("The language model failed.")
                scheduler.fail_all(f"the language model failed ({type(error).__name__})")
                busy = False
            now = self._clock.now()
            if not busy or now - told >= _STATUS_EVERY:
                told = now
                self._status = self._describe(scheduler)

    def _take(self, *, busy: bool, waiting: bool) -> list[Callable[[Scheduler], None]] | None:
        """What was asked since the last time; waits when there is nothing to do. None ends the thread."""
        with self._changed:
            while not self._requests and not busy and not self._stopping:
                if not self._changed.wait(_RETRY_WAITING if waiting else None):
                    break
            if self._stopping and not self._requests:
                return None
            requests = list(self._requests)
            self._requests.clear()
        return requests

    def _describe(self, scheduler: Scheduler) -> dict[str, Any]:
        return {
            "ready": True,
            "file": self._path.name,
            "threads": self._options.threads,
            "kv_type": self._options.kv_name,
            "flash_attn": self._options.flash is not False,
            **scheduler.status(),
        }


def _llama_cpp(path: Path, options: BackendOptions) -> Backend:
    # Loads the native library, which nobody should have to wait for who only wants to read a session file.
    from aiphone.inference.llama_cpp_api import LlamaCpp

    return LlamaCpp(path, options)
