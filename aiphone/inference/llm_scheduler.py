"""One batch for all calls: the loop of the language model thread, without the thread.

Theory of operation. Each request is a list of tokens (the rendered conversation) that its sequence has to catch up
with. ``step`` does one turn of the loop:

1. *Admit*: waiting requests get a sequence and cells, the most urgent first (``llm_room``). The common prefix of
   the prompt and what the sequence holds is kept, the rest is removed: an interruption, a corrected guess
   and the next turn of a conversation are all the same operation. An empty sequence forks the persona's template.
2. *Fill* one batch: a token of each generating call, then chunks of waiting prompts, no more than ``llm_pace`` allows.
3. *Decode*.
4. *Sample* for each request that has caught up, and post its text. The new token makes the list longer by one, so
   generating is catching up again.

Urgency is the time a request came plus the time its prompt takes to read: short prompts go first, and age makes up for
length. Speculative requests come after all others, and generate only while that costs the others little.

A request that loses its cells (see ``llm_room``) catches up again later. It never loses or repeats text.

Thread rule: language model thread only; ``LanguageModel`` is the thread-safe face of this class.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aiphone.clock import Clock
from aiphone.errors import InferenceError
from aiphone.events import Event, ReplyEnded, ReplyText, Stage, TurnEndByWords, WorkFailed
from aiphone.inference.chat import ChatFormat, choose_format
from aiphone.inference.llm_backend import Backend, Entry
from aiphone.inference.llm_pace import Pace
from aiphone.inference.llm_prompt import Prompts
from aiphone.inference.llm_room import Room
from aiphone.inference.llm_slots import KvSequence, common_prefix
from aiphone.inference.llm_work import Call, Job, SavedState, SessionSnapshot, Template
from aiphone.inference.reply_text import ReplyAssembler
from aiphone.persona import Message, Persona

log = logging.getLogger(__name__)

_NO_SLOT = 1
"""``llama_decode``: could not find a KV slot for the batch."""

_SMALLEST_TEMPLATE = 8
"""Prefixes shorter than this are read again rather than kept."""

_KV_WORTH = 32
"""A saved conversation of fewer tokens is read again as fast as its state is loaded."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the scheduler promises and refuses."""

    n_ctx_per_call: int = 2048
    gap_budget: float = 0.10
    """Seconds that reading a prompt may add to 2.5 times the usual pause between two tokens of a generating call."""
    idle_budget: float = 0.25
    """Longest decode in seconds while nobody generates."""
    max_queue: int = 64
    """Waiting requests."""
    max_wait: float = 15.0
    """Seconds a request may wait for room before it fails."""
    max_templates: int = 4
    max_kv_bytes: int = 128 << 20
    """A snapshot larger than this is text only."""


@dataclass(slots=True, eq=False)
class _Part:
    """Whose tokens an entry of the batch holds."""

    seq: KvSequence
    call: Call | None
    template: Template | None
    ends: bool = False
    """The last token is the caller's last word."""


class Scheduler:
    """See the module's docstring."""

    def __init__(self, backend: Backend, *, post: Callable[[Event], object], clock: Clock, limits: Limits) -> None:
        self._backend = backend
        self._post = post
        self._clock = clock
        self._limits = limits
        self._share = min(limits.n_ctx_per_call, backend.n_ctx_train or limits.n_ctx_per_call, backend.n_ctx)
        if self._share < limits.n_ctx_per_call:
            log.warning("A conversation is limited to %d tokens by this model or its context.", self._share)
        self._format: ChatFormat = choose_format(
            backend.chat_template,
            lambda messages, add: backend.apply_template(backend.chat_template or "", messages, add_assistant=add),
            backend.control_texts(),
        )
        self._prompts = Prompts(backend, self._format, self._share)
        self._room = Room(backend, self._share, limits.max_templates)
        self._pace = Pace(limits.gap_budget, limits.idle_budget, backend.n_batch)
        self._generated = 0
        self._read = 0
        self._rate = 0.0

    # ------------------------------------------------------------------ requests

    def open(self, call_id: str, persona: Persona, session_key: str | None, restore: SavedState | None) -> None:
        """Get to know a call, and prepare its persona's template."""
        if call_id in self._room.calls:
            self.close_call(call_id)
        template = None
        try:
            prefix = self._prompts.persona_prefix(persona)
        except InferenceError as error:  # the same will be said, with a turn to say it in, when it generates
            log.warning("%s: %s", call_id, error)
            prefix = []
        if len(prefix) >= _SMALLEST_TEMPLATE and len(prefix) < self._share // 2:
            template = self._room.template_for(prefix)
            template.used_at = self._clock.now()
        call = Call(call_id, persona, template, session_key, used_at=self._clock.now())
        self._room.calls[call_id] = call
        if restore is not None:
            self._restore(call, restore)

    def _restore(self, call: Call, saved: SavedState) -> None:
        if saved.fingerprint != self._backend.fingerprint:
            why = "it was made with another model or cache format"
        elif saved.template_digest != self._format.digest:
            why = "it was made with another chat template"
        else:
            why = self._room.restore(call, saved)
        if why:
            log.info("%s: the saved conversation is read again from its text: %s.", call.call_id, why)
        else:
            log.info("%s: %d tokens of a saved conversation are back.", call.call_id, len(saved.tokens))

    def generate(
        self,
        call_id: str,
        generation: int,
        messages: Sequence[Message],
        *,
        speculative: bool = False,
        grammar: str | None = None,
    ) -> None:
        """Begin a reply. A request of the same call that is still running is dropped without a word."""
        call = self._room.calls.get(call_id)
        if call is None:
            self._fail(call_id, generation, f"the call {call_id} is not open in the language model")
            return
        moved = self._moved(call)
        self._end_job(call)
        waiting = [other for other in self._waiting() if other.job is not None and not other.job.ahead]
        if len(waiting) >= self._limits.max_queue:
            victim = next((c for c in reversed(waiting) if c.job and c.job.speculative), None)
            if speculative or victim is None:
                self._fail(call_id, generation, f"{len(waiting)} requests are waiting already")
                return
            self._fail_job(victim, f"{len(waiting)} requests are waiting already")
        try:
            before = call.dropped
            tokens = self._prompts.fit(call, messages)
            sampler = self._backend.new_sampler(call.persona.sampling, grammar)
        except InferenceError as error:
            self._fail(call_id, generation, str(error))
            return
        now = self._clock.now()
        call.job = Job(
            generation=generation,
            tokens=tokens,
            prompt_tokens=len(tokens),
            speculative=speculative,
            sampler=sampler,
            assembler=ReplyAssembler(self._format.stop(call.persona)),
            max_tokens=max(1, call.persona.sampling.max_tokens),
            arrived=now,
            waiting_since=now,
            history_dropped=moved or call.dropped > before,
            end_at=self._prompts.end_at(tokens) if speculative else None,
        )

    def read_ahead(self, call_id: str, generation: int, messages: Sequence[Message]) -> None:
        """Read what is known of a conversation whose last message goes on, while there is nothing better to do.

        Nothing is posted. Ignored while a reply of the call is under way, and by models whose cache cannot be cut: for
        them a wrong guess would cost more than a right one saves.
        """
        call = self._room.calls.get(call_id)
        if call is None or not self._backend.can_cut or (call.job is not None and not call.job.ahead):
            return
        moved = self._moved(call)
        self._end_job(call)
        before = call.dropped
        try:
            tokens = self._prompts.unfinished(call, messages)
        except InferenceError as error:  # the request itself will say so
            log.debug("%s: not read ahead: %s", call_id, error)
            return
        if call.seq is not None and common_prefix(call.seq.tokens, tokens) == len(tokens):
            return
        if call.seq is None and call.template is not None and len(tokens) <= len(call.template.tokens):
            return
        now = self._clock.now()
        call.job = Job(
            generation=generation,
            tokens=tokens,
            prompt_tokens=len(tokens),
            speculative=True,
            sampler=None,
            assembler=ReplyAssembler(),
            max_tokens=0,
            arrived=now,
            waiting_since=now,
            history_dropped=moved or call.dropped > before,
        )

    @staticmethod
    def _moved(call: Call) -> bool:
        """Turns were left out for a request that never came to the cache: it still is as it was before."""
        return call.job is not None and not call.job.admitted and call.job.history_dropped

    def promote(self, call_id: str, generation: int) -> None:
        """A speculative request turned out to be right: from now on it counts like any other."""
        call = self._room.calls.get(call_id)
        if call is not None and call.job is not None and call.job.generation == generation and not call.job.ahead:
            call.job.speculative = False
            call.job.waiting_since = self._clock.now()

    def cancel(self, call_id: str, generation: int) -> None:
        """Drop a request of this generation or an older one, without a word. What was read stays in the cache."""
        call = self._room.calls.get(call_id)
        if call is not None and call.job is not None and call.job.generation <= generation:
            self._end_job(call)

    def close_call(self, call_id: str) -> None:
        """The call is over."""
        call = self._room.calls.get(call_id)
        if call is not None:
            self._end_job(call)
            self._room.forget(call)
            del self._room.calls[call_id]

    def snapshot(self, call_id: str, *, with_kv: bool = True) -> None:
        """Post a ``SessionSnapshot`` of what the call's sequence holds."""
        call = self._room.calls.get(call_id)
        seq = call.seq if call is not None else None
        tokens = tuple(seq.tokens) if seq is not None else ()
        state = None
        size = len(tokens) * self._backend.kv_bytes_per_token
        if with_kv and seq is not None and len(tokens) >= _KV_WORTH and size <= self._limits.max_kv_bytes:
            state = self._backend.state_get(seq.seq_id)
        self._post(SessionSnapshot(call_id, self._backend.fingerprint, self._format.digest, tokens, state))

    # ------------------------------------------------------------------ the loop

    @property
    def waiting(self) -> bool:
        """Whether a request is waiting for room."""
        return any(call.job is not None and not call.job.admitted for call in self._room.calls.values())

    def step(self) -> bool:
        """One turn of the loop; False when there was nothing to decode."""
        self._expire()
        self._admit()
        parts, entries, generating = self._fill()
        if not entries:
            return False
        began = self._clock.now()
        code = self._backend.decode(entries)
        seconds = self._clock.now() - began
        if code == 0:
            total = sum(len(entry.tokens) for entry in entries)
            self._measure(generating, total - generating, seconds)
            for index, (part, entry) in enumerate(zip(parts, entries, strict=True)):
                self._decoded(part, entry, index)
        else:
            if code != _NO_SLOT:
                log.error("llama_decode failed with %d for a batch of %d sequences.", code, len(parts))
            self._one_by_one(parts, entries)
        return True

    def _expire(self) -> None:
        now = self._clock.now()
        for call in self._waiting():
            job = call.job
            if job is not None and self._room.waits_for_template(call, job):
                job.waiting_since = now  # it is being read for, and its wait for room has not begun
            if job is None or job.speculative or job.produced or now - job.waiting_since <= self._limits.max_wait:
                continue
            self._fail_job(call, f"no room in the language model for {now - job.waiting_since:.0f} s")

    def _waiting(self) -> list[Call]:
        """Calls whose request has no room yet, the most urgent first."""
        waiting = [call for call in self._room.calls.values() if call.job is not None and not call.job.admitted]
        return sorted(waiting, key=self._urgency)

    def _urgency(self, call: Call) -> tuple[bool, bool, float]:
        job = call.job
        if job is None:
            return (True, True, 0.0)
        missing = call.missing if job.admitted else len(job.tokens)
        return (job.ahead, job.speculative, job.arrived + missing * self._pace.read_cost)

    def _admit(self) -> None:
        deferred = False
        for call in self._waiting():
            job = call.job
            if job is None or (deferred and job.speculative):
                continue
            if call.template is not None:
                call.template.used_at = self._clock.now()
                if not deferred:
                    self._room.place_template(call.template)
                if self._room.waits_for_template(call, job):
                    continue
            if not self._room.admit(call, job):
                if job.ahead:  # no room for it now; it is not worth waiting for
                    self._end_job(call)
                deferred = deferred or not job.speculative
                if deferred:
                    break  # nobody overtakes a request that waits for room
        if not deferred:
            for template in list(self._room.templates):
                if template.users > 0:
                    self._room.place_template(template)

    def _fill(self) -> tuple[list[_Part], list[Entry], int]:
        parts: list[_Part] = []
        entries: list[Entry] = []
        working = [call for call in self._room.calls.values() if call.job is not None and call.job.admitted]
        working.sort(key=self._urgency)
        speaking = [call for call in working if call.missing == 1 and call.job is not None and not call.job.ahead]
        counts = [call for call in speaking if call.job is not None and not call.job.speculative]
        if counts and self._pace.step_cost > self._limits.gap_budget:
            speaking = counts  # guesses wait while those who speak can hardly keep up
        # Logits are kept for one token of each sequence, so the batch always has room for all who speak.
        for call in speaking[: self._backend.n_batch]:
            self._add(parts, entries, call, None, 1)
        generating = len(entries)
        left = min(self._pace.chunk(len(counts)), self._backend.n_batch - generating)
        for reader, template in self._readers(working):
            if left <= 0:
                break
            missing = template.missing if template is not None else reader.missing if reader is not None else 0
            take = min(left, missing)
            if reader is not None and reader.job is not None and reader.job.ahead:
                # Whoever asks next must not wait longer for this decode than for a word of somebody else.
                take = min(take, self._pace.chunk(max(generating, 1)))
            self._add(parts, entries, reader, template, take)
            left -= take
        return parts, entries, generating

    def _readers(self, working: Sequence[Call]) -> list[tuple[Call | None, Template | None]]:
        """Who still has to read, in order: templates that a request waits for, requests, guesses, other templates, and
        what is read ahead."""
        unread = [template for template in self._room.templates if template.seq is not None and template.missing > 0]
        wanted = {id(call.template) for call in self._waiting() if call.template is not None}
        order: list[tuple[Call | None, Template | None]] = [(None, t) for t in unread if id(t) in wanted]
        ahead = [call for call in working if call.job is not None and call.job.ahead]
        order += [(call, None) for call in working if call.missing > 1 and call not in ahead]
        order += [(None, t) for t in unread if id(t) not in wanted]
        order += [(call, None) for call in ahead]
        return order

    def _add(
        self,
        parts: list[_Part],
        entries: list[Entry],
        call: Call | None,
        template: Template | None,
        take: int,
    ) -> None:
        if template is not None:
            seq, wanted, tokens = template.seq, False, template.tokens
        elif call is not None and call.job is not None:
            seq, wanted, tokens = call.seq, take == call.missing and not call.job.ahead, call.job.tokens
        else:
            return
        if seq is None or take <= 0:
            return
        at, end = len(seq.tokens), len(seq.tokens) + take
        word = call.job.end_at if call is not None and call.job is not None else None
        if word is not None and at <= word < end:
            # Its logits cost a row of the output, not a decode of their own.
            parts.append(_Part(seq, call, None, ends=True))
            entries.append(Entry(seq.seq_id, at, tokens[at : word + 1], True))
            at = word + 1
        if at < end:
            parts.append(_Part(seq, call, template))
            entries.append(Entry(seq.seq_id, at, tokens[at:end], wanted))

    # ------------------------------------------------------------------ after a decode

    def _decoded(self, part: _Part, entry: Entry, index: int) -> None:
        self._room.pool.extend(part.seq, entry.tokens, template=part.template is not None)
        call = part.call
        if call is not None and call.job is not None and call.job.ahead and call.missing == 0:
            self._end_job(call)
        if not entry.logits or call is None or call.job is None or call.job.sampler is None:
            return
        if part.ends:
            self._tell_end(call, call.job, index)
            return
        token = self._backend.sample(call.job.sampler, index)
        if token is None:
            self._fail_job(call, "the model computed values that are not numbers")
            self._room.preempt(call)
            return
        self._took(call, call.job, token)

    def _tell_end(self, call: Call, job: Job, index: int) -> None:
        """The caller's last word was read: how probable is it that the turn ends there?"""
        job.end_at = None
        probability = self._backend.probability(self._prompts.end_tokens, index)
        if math.isfinite(probability):  # where it is not, the answer itself will fail
            self._post(TurnEndByWords(call.call_id, job.generation, probability))

    def _took(self, call: Call, job: Job, token: int) -> None:
        """A token was sampled for a request."""
        now = self._clock.now()
        self._generated += 1
        if job.first_at is None:
            job.first_at = now
        if self._backend.is_eog(token):
            self._finish(call, job, "stop")
            return
        job.tokens.append(token)
        job.produced += 1
        job.refused = 0
        self._say(call, job, job.assembler.feed(self._backend.piece(token)))
        if job.assembler.stopped:
            self._finish(call, job, "stop")
        elif job.produced >= job.max_tokens:
            self._finish(call, job, "length")
        elif len(job.tokens) >= self._share:
            self._finish(call, job, "overflow")

    def _say(self, call: Call, job: Job, text: str) -> None:
        if text:
            self._post(ReplyText(call.call_id, job.generation, text, self._clock.now()))

    def _finish(self, call: Call, job: Job, reason: str) -> None:
        self._say(call, job, job.assembler.finish())
        now = self._clock.now()
        ended = ReplyEnded(
            call.call_id,
            job.generation,
            reason,
            prompt_tokens=job.prompt_tokens,
            cached_tokens=job.cached_tokens or 0,
            reply_tokens=job.produced,
            seconds_to_first=(job.first_at if job.first_at is not None else now) - job.arrived,
            seconds=now - job.arrived,
        )
        self._end_job(call)
        self._post(ended)

    def _end_job(self, call: Call) -> None:
        if call.job is not None:
            if call.job.sampler is not None:
                call.job.sampler.close()
            call.job = None
            call.used_at = self._clock.now()

    def _fail_job(self, call: Call, reason: str) -> None:
        if call.job is not None:
            job = call.job
            self._end_job(call)
            if not job.ahead:
                self._fail(call.call_id, job.generation, reason)

    def _fail(self, call_id: str, generation: int, reason: str) -> None:
        log.warning("%s: reply %d failed: %s", call_id, generation, reason)
        self._post(WorkFailed(call_id, generation, Stage.GENERATE, reason))

    # ------------------------------------------------------------------ when a decode does not work

    def _one_by_one(self, parts: Sequence[_Part], entries: Sequence[Entry]) -> None:
        """Find who makes the batch fail, or has no room in it; the others go on."""
        for part in parts:
            self._room.pool.resync(part.seq)
        stuck = []
        moved = talked = False
        for part, entry in zip(parts, entries, strict=True):
            if len(part.seq.tokens) != entry.pos:
                continue  # it lost its cache just now, and catches up later
            code = self._backend.decode([entry])
            if code == 0:
                moved = True
                talked = talked or part.call is not None
                self._decoded(part, entry, 0)
            elif code == _NO_SLOT:
                self._room.pool.resync(part.seq)
                stuck.append(part)
            else:
                moved = True
                self._room.pool.clear(part.seq)
                self._give_up_part(part, f"llama.cpp could not decode this conversation (code {code})")
        if stuck:
            if not talked:
                self._count_refusals(stuck)
            self._make_room(stuck, moved)

    def _count_refusals(self, stuck: Sequence[_Part]) -> None:
        """Whoever is refused more often than there is something to take for it does not fit: a template that was given
        up is read again, and given up again, for ever."""
        for part in stuck:
            if part.call is None or part.call.job is None:
                continue
            part.call.job.refused += 1
            if part.call.job.refused > self._backend.n_seq_max:
                self._does_not_fit(part.call)

    def _make_room(self, stuck: Sequence[_Part], moved: bool) -> None:
        """llama.cpp has fewer cells than the books say. ``moved``: others of the batch went on."""
        if not moved:
            for part in stuck:
                if part.template is not None:  # or it would be placed, found stuck and given up for ever
                    self._room.abandon_template(part.template)
        if self._room.give_up_for_batch() or moved:
            return
        # Nothing is left to take from others: the most urgent does not fit at all, and those behind it perhaps do.
        for part in stuck:
            if part.call is not None:
                self._does_not_fit(part.call)
                return

    def _does_not_fit(self, call: Call) -> None:
        self._fail_job(call, "the context of the language model is full")
        self._room.preempt(call)

    def _give_up_part(self, part: _Part, reason: str) -> None:
        if part.template is not None:
            self._room.abandon_template(part.template)
        if part.call is not None:
            self._fail_job(part.call, reason)

    def fail_all(self, reason: str) -> None:
        """Something went wrong that nobody foresaw: every request fails, every cache is emptied."""
        for call in self._room.calls.values():
            self._fail_job(call, reason)
            self._room.preempt(call)
        for template in self._room.templates:
            if template.seq is not None:
                self._room.pool.clear(template.seq)
                self._room.pool.begin_template(template.seq)

    # ------------------------------------------------------------------ figures

    def _measure(self, generating: int, reading: int, seconds: float) -> None:
        self._pace.measured(generating, reading, seconds)
        self._read += reading
        if generating and not reading and seconds > 0:
            self._rate += 0.05 * (generating / seconds - self._rate)

    def status(self) -> dict[str, object]:
        """Figures for the status page."""
        calls = self._room.calls.values()
        replies = [call for call in calls if call.job is not None and not call.job.ahead]
        waiting = [call.job.waiting_since for call in replies if call.job is not None and not call.job.admitted]
        return {
            "model": self._backend.description,
            "n_ctx": self._backend.n_ctx,
            "n_ctx_per_call": self._share,
            "cells_used": self._room.pool.cells,
            "calls": len(self._room.calls),
            "working": len(replies) - len(waiting),
            "queue": len(waiting),
            "queue_seconds": round(self._clock.now() - min(waiting), 2) if waiting else 0.0,
            "reading_ahead": sum(1 for call in calls if call.job is not None and call.job.ahead),
            "sequences_free": self._room.pool.free_sequences,
            "templates_unread": sum(template.missing for template in self._room.templates if template.users > 0),
            "templates": sum(1 for template in self._room.templates if template.seq is not None),
            "tokens_per_second": round(self._rate, 1),
            "read_tokens_per_second": round(1 / self._pace.read_cost, 1),
            "tokens_generated": self._generated,
            "tokens_read": self._read,
            "kv_bytes_per_token": self._backend.kv_bytes_per_token,
            "chat_format": self._format.digest,
            "gpu": list(self._backend.gpu),
        }
