"""Who gets a sequence and cells, and who gives them up.

Giving up, in this order: what is being read ahead, templates no open call uses, caches of idle calls (least recently
used first), templates in use, speculative requests (latest first). Everything given up is read again when it is needed,
so the price is time, never words. A speculative request takes only what is free.

Thread rule: language model thread only.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from aiphone.inference.llm_backend import Backend
from aiphone.inference.llm_slots import KvPool, KvSequence, common_prefix
from aiphone.inference.llm_work import Call, Job, SavedState, Template

log = logging.getLogger(__name__)

_SHIFT_PROBE = 16
"""So many tokens in a row must reappear before cached ones are moved to a new place."""


class Room:
    """Sequences and cells of one context, and the rules for handing them out."""

    def __init__(self, backend: Backend, share: int, max_templates: int) -> None:
        self._backend = backend
        self._share = share
        self._max_templates = max_templates
        self.pool = KvPool(backend)
        self.calls: dict[str, Call] = {}
        self.templates: list[Template] = []

    # ------------------------------------------------------------------ books

    @property
    def free_cells(self) -> int:
        """Cells neither filled nor promised to a request that was let in."""
        promised = 0
        for call in self.calls.values():
            if call.job is not None and call.job.admitted:
                promised += call.missing + self._reply_room(call.job)
        promised += sum(template.missing for template in self.templates if template.seq is not None)
        return self._backend.n_ctx - self.pool.cells - promised

    def _reply_room(self, job: Job) -> int:
        return max(0, min(job.max_tokens - job.produced, self._share - len(job.tokens)))

    # ------------------------------------------------------------------ templates

    def template_for(self, tokens: list[int]) -> Template:
        """The template with these tokens, new if need be. It counts one more user."""
        for template in self.templates:
            if template.tokens == tokens:
                break
        else:
            template = Template(tokens)
            self.templates.append(template)
        template.users += 1
        return template

    def drop_user(self, template: Template) -> None:
        """An open call less. Templates without users stay as long as there is room for them."""
        template.users -= 1
        if template.users <= 0 and template.seq is None:
            self.templates.remove(template)

    def place_template(self, template: Template) -> bool:
        """Give a template a sequence if that costs no call anything; True when it has one."""
        if template.seq is not None:
            return True
        if template.unreadable:
            return False
        placed = [other for other in self.templates if other.seq is not None]
        unused = [other for other in placed if other.users <= 0]
        while unused and (
            len(placed) >= self._max_templates
            or self.pool.free_sequences == 0
            or self.free_cells < len(template.tokens)
        ):
            oldest = min(unused, key=lambda other: other.used_at)
            unused.remove(oldest)
            placed.remove(oldest)
            self._give_up_template(oldest)
        if len(placed) >= self._max_templates or self.free_cells < len(template.tokens):
            return False
        template.seq = self.pool.acquire()
        if template.seq is None:
            return False
        self.pool.begin_template(template.seq)
        return True

    def abandon_template(self, template: Template) -> None:
        """Reading it failed: do without."""
        template.unreadable = True
        self._give_up_template(template)

    def _give_up_template(self, template: Template) -> None:
        if template.seq is not None:
            self.pool.release(template.seq)
            template.seq = None
        if template.users <= 0:
            self.templates.remove(template)

    # ------------------------------------------------------------------ calls

    def admit(self, call: Call, job: Job) -> bool:
        """Give a request its sequence and cells, keep what it can use of the cache; False when there is no room yet."""
        best, saved = self._best_template(call, job)
        need = len(job.tokens) - saved + self._reply_room(job)
        while call.seq is None:
            call.seq = self.pool.acquire()
            if call.seq is None and (job.speculative or not self._give_up_one(call)):
                return False
        while self.free_cells + self._reclaimable(call, job) < need:
            if job.speculative:
                return False
            if not self._give_up_one(call):
                if not call.seq.tokens:
                    return False
                self.pool.clear(call.seq)
            best, saved = self._best_template(call, job)  # it may just have gone
            need = len(job.tokens) - saved + self._reply_room(job)
        self._prepare(call.seq, job, best)
        job.admitted = True
        if job.cached_tokens is None:
            job.cached_tokens = len(call.seq.tokens)
        return True

    def waits_for_template(self, call: Call, job: Job) -> bool:
        """True when the persona's template is being read and would save this request more than its own cache."""
        template = call.template
        if template is None or template.seq is None or template.missing == 0:
            return False
        held = common_prefix(call.seq.tokens, job.tokens) if call.seq is not None else 0
        return held < common_prefix(template.tokens, job.tokens)

    def _best_template(self, call: Call, job: Job) -> tuple[Template | None, int]:
        """The template to fork from, if one beats what the call's own sequence holds; and the tokens saved in all."""
        own = 0
        if call.seq is not None:
            own = common_prefix(call.seq.tokens, job.tokens)
            if own < len(call.seq.tokens) and not self._backend.can_cut:
                own = 0
        best, saved = None, own
        for template in self.templates:
            if template.seq is not None and template.missing == 0:
                usable = min(self.pool.usable(template.seq, job.tokens), len(job.tokens) - 1)
                if usable > saved:
                    best, saved = template, usable
        return best, saved

    def _reclaimable(self, call: Call, job: Job) -> int:
        """Cells the call's own sequence frees when it is cut to what the request can use."""
        if call.seq is None:
            return 0
        kept = max(common_prefix(call.seq.tokens, job.tokens), call.seq.shared)
        return max(0, len(call.seq.tokens) - kept)

    def _prepare(self, seq: KvSequence, job: Job, best: Template | None) -> None:
        if best is not None and best.seq is not None:
            self.pool.fork(best.seq, seq, min(self.pool.usable(best.seq, job.tokens), len(job.tokens) - 1))
            return
        common = common_prefix(seq.tokens, job.tokens)
        if job.history_dropped and self._backend.can_shift and common < len(seq.tokens):
            self._shift(seq, job.tokens, common)
            common = common_prefix(seq.tokens, job.tokens)
        # At least one token must be decoded for its logits, and the one that the end of the turn is asked after.
        last = len(job.tokens) - 1
        if job.end_at is not None and job.end_at >= seq.shared and self._backend.can_cut:
            last = min(last, job.end_at)
        self.pool.rewind(seq, min(common, last))

    def _shift(self, seq: KvSequence, tokens: list[int], common: int) -> None:
        """The oldest turns went: move what followed them up to where the prompt has it now."""
        probe = tokens[common : common + _SHIFT_PROBE]
        if len(probe) < _SHIFT_PROBE:
            return
        for at in range(max(common + 1, seq.shared), len(seq.tokens) - _SHIFT_PROBE + 1):
            if seq.tokens[at : at + _SHIFT_PROBE] == probe:
                self.pool.drop_middle(seq, common, at)
                return

    def restore(self, call: Call, saved: SavedState) -> str:
        """Put a stored state back; returns why that did not work, empty when it did."""
        if saved.kv is None:
            return "it holds text only"
        if not saved.tokens or len(saved.tokens) > self._share:
            return "it is longer than a call's share of the context"
        call.seq = call.seq or self.pool.acquire()
        while call.seq is None or self.free_cells < len(saved.tokens):
            if not self._give_up_unneeded(call):
                return "there is no room for it at the moment"
            call.seq = call.seq or self.pool.acquire()
        if not self.pool.adopt(call.seq, saved.tokens, saved.kv):
            return "llama.cpp does not accept it"
        return ""

    def forget(self, call: Call) -> None:
        """The call is over: everything it held is free."""
        if call.seq is not None:
            self.pool.release(call.seq)
            call.seq = None
        if call.template is not None:
            self.drop_user(call.template)
            call.template = None

    def preempt(self, call: Call) -> None:
        """Take a request's cells; it waits again and goes on where it was."""
        if call.job is not None:
            call.job.admitted = False
        if call.seq is not None:
            self.pool.release(call.seq)
            call.seq = None

    # ------------------------------------------------------------------ giving up

    def _give_up_unneeded(self, keep: Call) -> bool:
        """What nobody waits for: what is read ahead, unused templates, then idle calls' caches."""
        if self._give_up_reading_ahead(keep):
            return True
        unused = [t for t in self.templates if t.seq is not None and t.users <= 0]
        if unused:
            self._give_up_template(min(unused, key=lambda template: template.used_at))
            return True
        idle = [c for c in self.calls.values() if c.seq is not None and c is not keep and not _working(c)]
        if idle:
            self.preempt(min(idle, key=lambda call: call.used_at))
            return True
        return False

    def _give_up_reading_ahead(self, keep: Call) -> bool:
        """Stop reading ahead for the latest such call and forget what was read; the conversation itself stays."""
        ahead = [c for c in self.calls.values() if c is not keep and c.job is not None and c.job.ahead]
        if not ahead:
            return False
        latest = max(ahead, key=lambda call: call.job.arrived if call.job else 0.0)
        job, latest.job = latest.job, None
        if latest.seq is not None and job is not None and job.admitted:
            self.pool.rewind(latest.seq, job.cached_tokens or 0)
        return True

    def _give_up_one(self, keep: Call) -> bool:
        """Free something for a request that counts; False when there is nothing left to take."""
        if self._give_up_unneeded(keep):
            return True
        templates = [t for t in self.templates if t.seq is not None]
        if templates:
            self._give_up_template(min(templates, key=lambda template: template.used_at))
            return True
        speculative = [c for c in _others(self.calls.values(), keep) if c.job and c.job.speculative and c.seq]
        if speculative:
            latest = max(speculative, key=lambda call: call.job.arrived if call.job else 0.0)
            log.debug("%s: its speculative reply gives way to %s", latest.call_id, keep.call_id)
            self.preempt(latest)
            return True
        return False

    def give_up_for_batch(self) -> bool:
        """llama.cpp found no cells for a batch although the books say so: free anything but the oldest request."""
        working = [call for call in self.calls.values() if _working(call)]
        if not working:
            return False
        oldest = min(working, key=_urgency)
        if self._give_up_one(oldest):
            return True
        # Whoever holds nothing yet frees nothing, however late it came.
        holding = [call for call in _others(working, oldest) if call.seq is not None and _private(call.seq)]
        if holding:
            self.preempt(max(holding, key=_urgency))
            return True
        return False


def _working(call: Call) -> bool:
    return call.job is not None and call.job.admitted


def _private(seq: KvSequence) -> int:
    """Cells that are nobody else's."""
    return len(seq.tokens) - seq.shared


def _others(calls: Iterable[Call], but: Call) -> list[Call]:
    return [call for call in calls if call is not but]


def _urgency(call: Call) -> tuple[bool, float]:
    job = call.job
    return (job.speculative, job.arrived) if job is not None else (True, 0.0)
