"""A server with OpenAI's chat API instead of the embedded model: llama-server, vLLM, Ollama and others.

The same interface and the same events as ``LanguageModel``. Each request is one streaming POST to
``/chat/completions``. Until its first word a request is tried again when the server fails it; afterwards the caller
has heard something, and a failure is one. Replacing or cancelling a request closes its connection, which makes
the server stop.

What only an embedded model can do is left out: nothing is read ahead (servers keep a prefix cache of their own),
and of a conversation the session file keeps the text.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from aiphone.clock import Clock
from aiphone.errors import InferenceError
from aiphone.events import Event, ReplyEnded, ReplyText, Stage, WorkFailed
from aiphone.inference.chat import Cleaner, tidy
from aiphone.inference.llm_work import SavedState, SessionSnapshot
from aiphone.inference.openai_http import Endpoint, EndpointError, request
from aiphone.inference.openai_wire import EXTRAS, chat_request, model_names, read_piece, refusal
from aiphone.inference.reply_text import ReplyAssembler
from aiphone.persona import Message, Persona

log = logging.getLogger(__name__)

_CONTROL = (
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>"),
    *("<|end_header_id|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<start_of_turn>", "<end_of_turn>"),
    *("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<s>", "</s>"),
)
"""Control texts of the usual templates: a server may take them for what they name, whoever said them."""

_MOST_CUTS = 4
"""How often a conversation is halved for one reply before the server's refusal is believed."""

_CHARACTERS_A_TOKEN = 3.0
"""Few, to be on the safe side: only the server knows how long a conversation is in its tokens."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a server may take, in seconds, and how often it is asked."""

    connect: float = 3.0
    first: float = 15.0
    """From the request to the first word, all attempts together."""
    attempt: float = 8.0
    """Until one attempt's first word; then it is given up and tried again."""
    stall: float = 6.0
    """Between two pieces of a reply."""
    attempts: int = 3
    pause: float = 0.2
    """Before the second attempt; doubled before each further one."""


@dataclass(slots=True, eq=False)
class _Reply:
    """A request under way."""

    call_id: str
    generation: int
    persona: Persona
    messages: list[Message]
    grammar: str | None
    arrived: float
    task: asyncio.Task[None] | None = None
    assembler: ReplyAssembler = field(default_factory=ReplyAssembler)
    produced: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    first_at: float | None = None
    reason: str = ""
    """Why the reply ended, once the server said so."""


class OpenAiModel:
    """A remote language model. All methods belong to the main thread and return at once, but ``start`` and ``stop``.

    ``key``
        sent as a bearer token; empty for none. It is never logged.
    ``model``
        as the server calls it; empty takes the first that the server lists.
    ``n_ctx_per_call``
        tokens of one conversation; estimated from its characters.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        post: Callable[[Event], object],
        clock: Clock,
        model: str = "",
        key: str = "",
        n_ctx_per_call: int = 8192,
        patience: Patience | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._post = post
        self._clock = clock
        self._model = model
        self._key = key
        self._room = n_ctx_per_call * _CHARACTERS_A_TOKEN
        self._patience = patience or Patience()
        self._clean = Cleaner(_CONTROL)
        self._refused: set[str] = set()
        self._personas: dict[str, Persona] = {}
        self._replies: dict[str, _Reply] = {}
        self._counts = {"requests": 0, "failures": 0, "retries": 0, "tokens_generated": 0}
        self._first = 0.0
        self._last_error = ""
        self._reachable = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="llm", daemon=True)

    # ------------------------------------------------------------------ main thread

    def start(self) -> None:
        """Start the thread and ask the server for its models; a server out of reach is a warning, since it may come."""
        if self._key and not self._endpoint.tls and not self._endpoint.loopback:
            log.warning("The key of the language model server travels unencrypted: use https in --llm-url.")
        self._thread.start()
        probe = asyncio.run_coroutine_threadsafe(self._probe(), self._loop)
        try:
            probe.result(self._patience.connect * 2 + 1)
        except (InferenceError, TimeoutError) as error:
            self._last_error = str(error) or "it does not answer"
            log.warning("%s. Calls hear an apology until it answers.", _sentence(self._last_error))

    def open(
        self,
        call_id: str,
        persona: Persona,
        session_key: str | None = None,
        *,
        restore: SavedState | None = None,
    ) -> None:
        """See ``TextGenerator``; there is no state to put back."""
        del session_key, restore
        self._ask(self._open, call_id, persona)

    def generate(
        self,
        call_id: str,
        generation: int,
        messages: Sequence[Message],
        *,
        speculative: bool = False,
        grammar: str | None = None,
    ) -> None:
        """See ``TextGenerator``. ``grammar`` is passed on; servers other than llama.cpp's may refuse it."""
        del speculative
        if not self._thread.is_alive():
            self._post(WorkFailed(call_id, generation, Stage.GENERATE, "the language model is not running"))
            return
        self._ask(self._generate, call_id, generation, tuple(messages), grammar)

    def read_ahead(self, call_id: str, generation: int, messages: Sequence[Message]) -> None:
        """Nothing: a server is asked when there is a question."""

    def promote(self, call_id: str, generation: int) -> None:
        """Nothing: a server knows no lower priority."""

    def cancel(self, call_id: str, generation: int) -> None:
        """See ``TextGenerator``. The connection is closed at once."""
        self._ask(self._cancel, call_id, generation)

    def snapshot(self, call_id: str, *, with_kv: bool = True) -> None:
        """See ``TextGenerator``; it holds no state, so that the conversation is kept as text."""
        del with_kv
        self._ask(lambda: self._post(SessionSnapshot(call_id, f"openai:{self._model}", "", (), None)))

    def close_call(self, call_id: str) -> None:
        """See ``TextGenerator``."""
        self._ask(self._close_call, call_id)

    def status(self) -> dict[str, object]:
        """See ``TextGenerator``."""
        return {
            "ready": self._thread.is_alive() and self._reachable,
            "model": self._model or "the server's own",
            "url": str(self._endpoint),
            "calls": len(self._personas),
            "working": len(self._replies),
            "seconds_to_first": round(self._first, 3),
            "last_error": self._last_error,
            **self._counts,
        }

    def stop(self, timeout: float = 5.0) -> None:
        """Close all connections and end the thread, after what was asked of it before."""
        if self._thread.is_alive():
            self._ask(self._loop.stop)
            self._thread.join(timeout)
            if self._thread.is_alive():
                log.warning("The language model's thread did not end within %.0f s.", timeout)
        elif not self._loop.is_closed():
            self._loop.close()

    def _ask(self, method: Callable[..., object], *arguments: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(method, *arguments)

    # ------------------------------------------------------------------ language model thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        finally:
            self._loop.close()

    def _open(self, call_id: str, persona: Persona) -> None:
        self._personas[call_id] = persona

    def _close_call(self, call_id: str) -> None:
        self._drop(call_id)
        self._personas.pop(call_id, None)

    def _cancel(self, call_id: str, generation: int) -> None:
        reply = self._replies.get(call_id)
        if reply is not None and reply.generation <= generation:
            self._drop(call_id)

    def _drop(self, call_id: str) -> None:
        reply = self._replies.pop(call_id, None)
        if reply is not None and reply.task is not None:
            reply.task.cancel()

    def _generate(self, call_id: str, generation: int, messages: Sequence[Message], grammar: str | None) -> None:
        self._drop(call_id)
        persona = self._personas.get(call_id)
        if persona is None:
            reason = f"the call {call_id} is not open in the language model"
            self._post(WorkFailed(call_id, generation, Stage.GENERATE, reason))
            return
        kept = self._fit(tidy(messages, self._clean))
        assembler = ReplyAssembler(persona.stop)
        reply = _Reply(call_id, generation, persona, kept, grammar, self._clock.now(), assembler=assembler)
        self._replies[call_id] = reply
        reply.task = self._loop.create_task(self._answer(reply))

    def _fit(self, messages: list[Message], room: float | None = None) -> list[Message]:
        """Without the oldest turns where the conversation is too long; the persona and the last message stay."""
        room = self._room if room is None else room
        system = [message for message in messages[:1] if message.role == "system"]
        turns = messages[len(system) :]
        while len(turns) > 1 and sum(len(message.content) for message in (*system, *turns)) > room:
            turns = turns[1:]
            while len(turns) > 1 and turns[0].role != "user":
                turns = turns[1:]
        return [*system, *turns]

    async def _answer(self, reply: _Reply) -> None:
        """One reply from its request to its last word. Cancelled from outside, it says nothing more."""
        self._counts["requests"] += 1
        try:
            await self._with_retries(reply)
        except EndpointError as error:
            self._failed(reply, str(error))
        except Exception as error:
            log.exception("The language model server's answer could not be used.")
            self._failed(reply, f"the language model server's answer could not be used ({type(error).__name__})")
        else:
            self._ended(reply)

    async def _with_retries(self, reply: _Reply) -> None:
        patience = self._patience
        deadline = self._loop.time() + patience.first
        pause, attempt, shortened = patience.pause, 1, 0
        while True:
            try:
                return await self._attempt(reply, min(patience.attempt, deadline - self._loop.time()))
            except EndpointError as error:
                self._last_error = str(error)
                if reply.first_at is not None:
                    raise
                if error.status in (400, 422) and self._adapt(error, reply, shortened):
                    shortened += 1
                    continue
                wait = max(error.wait, pause)
                attempt += 1
                if not error.retry or attempt > patience.attempts or self._loop.time() + wait >= deadline:
                    raise
                self._counts["retries"] += 1
                if attempt > 2 and error.status == 200:  # some say nothing at all when a conversation is too long
                    self._shorten(reply)
                log.info("%s: reply %d is asked for again: %s", reply.call_id, reply.generation, error)
                await asyncio.sleep(wait)
                pause *= 2

    def _adapt(self, error: EndpointError, reply: _Reply, shortened: int) -> bool:
        """Whether a request that the server does not understand can be said in another way."""
        detail = error.detail.lower()
        if "max_completion_tokens" in detail and "max_tokens" not in self._refused:
            self._refused.add("max_tokens")
            return True
        if any(name in detail for name in EXTRAS) and not self._refused.issuperset(EXTRAS):
            self._refused.update(EXTRAS)
            return True
        return "context" in detail and shortened < _MOST_CUTS and self._shorten(reply)

    def _shorten(self, reply: _Reply) -> bool:
        """Leave out the oldest turns, about half of the conversation; False when there are none to leave out."""
        length = sum(len(message.content) for message in reply.messages)
        kept = self._fit(reply.messages, length / 2)
        if len(kept) == len(reply.messages):
            return False
        log.info("%s: the oldest messages no longer fit and are left out.", reply.call_id)
        reply.messages = kept
        return True

    async def _attempt(self, reply: _Reply, limit: float) -> None:
        """One request. Raises ``EndpointError`` for everything that can go wrong on the way."""
        try:
            async with asyncio.timeout(max(limit, 0.001)) as waiting:
                if not self._model:
                    await self._probe()
                sampling = reply.persona.sampling
                body = chat_request(self._model, reply.messages, sampling, reply.grammar, self._refused)
                answer = await request(
                    self._endpoint,
                    "POST",
                    "/chat/completions",
                    key=self._key,
                    body=body,
                    connect_timeout=self._patience.connect,
                )
                async with answer:
                    if answer.status != 200:
                        raise refusal(answer.status, answer.headers, await answer.text(), self._model)
                    self._reachable = True
                    if "json" in answer.headers.get("content-type", ""):
                        self._take(reply, await answer.text(1 << 20))
                        return
                    async for data in answer.events():
                        if data == "[DONE]":
                            return
                        self._take(reply, data)
                        if reply.first_at is not None:
                            waiting.reschedule(self._loop.time() + self._patience.stall)
                        if reply.assembler.stopped or (reply.reason and reply.reason != "stop"):
                            return
        except TimeoutError:
            where = "fell silent in the middle of a reply" if reply.first_at is not None else "takes too long"
            raise EndpointError(f"the language model server {where}", retry=True) from None
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, ValueError):
            raise EndpointError("the language model server broke off", retry=True) from None
        if not reply.reason:
            status = 200 if reply.first_at is None else 0
            raise EndpointError("the language model server broke off", retry=True, status=status)

    def _take(self, reply: _Reply, data: str) -> None:
        """One event of the stream, or a whole answer. Raises ``EndpointError``."""
        piece = read_piece(data)
        reply.prompt_tokens = piece.prompt_tokens or reply.prompt_tokens
        reply.cached_tokens = piece.cached_tokens or reply.cached_tokens
        reply.reason = piece.reason or reply.reason
        if not piece.text:
            return
        reply.produced += 1
        if reply.first_at is None:
            reply.first_at = self._clock.now()
            self._first = reply.first_at - reply.arrived
        self._say(reply, reply.assembler.feed(piece.text.encode("utf-8", "replace")))
        if reply.produced > 2 * reply.persona.sampling.max_tokens:
            reply.reason = "length"  # a server that does not keep to what it was told

    def _say(self, reply: _Reply, text: str) -> None:
        if text and self._replies.get(reply.call_id) is reply:
            self._post(ReplyText(reply.call_id, reply.generation, text, self._clock.now()))

    def _ended(self, reply: _Reply) -> None:
        self._say(reply, reply.assembler.finish())
        if self._replies.get(reply.call_id) is not reply:
            return
        del self._replies[reply.call_id]
        self._last_error = ""
        self._counts["tokens_generated"] += reply.produced
        now = self._clock.now()
        self._post(
            ReplyEnded(
                reply.call_id,
                reply.generation,
                reply.reason or "stop",
                prompt_tokens=reply.prompt_tokens,
                cached_tokens=reply.cached_tokens,
                reply_tokens=reply.produced,
                seconds_to_first=(reply.first_at if reply.first_at is not None else now) - reply.arrived,
                seconds=now - reply.arrived,
            )
        )

    def _failed(self, reply: _Reply, reason: str) -> None:
        self._counts["failures"] += 1
        self._last_error = reason
        log.warning("%s: reply %d failed: %s", reply.call_id, reply.generation, reason)
        if self._replies.get(reply.call_id) is reply:
            del self._replies[reply.call_id]
            self._post(WorkFailed(reply.call_id, reply.generation, Stage.GENERATE, reason))

    async def _probe(self) -> None:
        """Ask which models there are. Raises ``EndpointError``."""
        try:
            async with asyncio.timeout(self._patience.connect * 2):
                answer = await request(
                    self._endpoint, "GET", "/models", key=self._key, connect_timeout=self._patience.connect
                )
                async with answer:
                    if answer.status != 200:
                        raise refusal(answer.status, answer.headers, await answer.text(), self._model)
                    names = model_names(await answer.text(1 << 20))
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, TimeoutError):
            raise EndpointError(f"the language model server at {self._endpoint} broke off", retry=True) from None
        self._reachable = True
        if not names and not self._model:
            raise EndpointError(f"the language model server at {self._endpoint} has no model", retry=True)
        if self._model and names and self._model not in names:
            log.warning("The language model server lists no model '%s', but %s.", self._model, ", ".join(names[:5]))
        self._model = self._model or names[0]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
