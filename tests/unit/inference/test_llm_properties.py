"""Random interleavings of everything a telephone can do to the language model.

After each operation the books must match the cache cell for cell, and a reply must be what the model says to that
prompt alone: nothing lost, repeated, or from another call.
"""

import pytest
from fake_llama import FakeLlama, whole_reply
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from aiphone.events import ReplyEnded, ReplyText, WorkFailed
from aiphone.inference.llm_scheduler import Limits, Scheduler
from aiphone.inference.llm_work import SessionSnapshot
from aiphone.persona import Message, Persona, Sampling
from aiphone.store.sessions import SavedConversation

CALLS = [f"c{number}" for number in range(5)]
PERSONAS = [
    Persona(prompt=prompt, sampling=Sampling(temperature=0, max_tokens=most))
    for prompt, most in (
        ("You are {name}.", 40),
        ("A pirate called {name} answers here.", 5),
        ("Be brief, be kind.", 20),
    )
]
WORDS = st.text("abc ", min_size=1, max_size=40)


class Calls(RuleBasedStateMachine):
    @initialize(
        cells=st.integers(260, 900),
        sequences=st.integers(2, 9),
        can_cut=st.booleans(),
        can_shift=st.booleans(),
        batch=st.integers(8, 64),
    )
    def begin(self, cells, sequences, can_cut, can_shift, batch):
        self.model = FakeLlama(
            n_ctx=cells, n_seq_max=sequences, can_cut=can_cut, can_shift=can_cut and can_shift, n_batch=batch
        )
        self.events = []
        self.scheduler = Scheduler(
            self.model,
            post=self.events.append,
            clock=self.model.clock,
            limits=Limits(n_ctx_per_call=250, max_queue=4, max_wait=2.0, max_templates=2),
        )
        self.messages = {}
        self.prompts = {}
        self.generation = 0
        self.dropped = set()
        self.saved = []
        for call, persona in zip(CALLS[:4], [*PERSONAS, PERSONAS[0]], strict=True):
            self.open(call, persona, 99)

    @property
    def room(self):
        return self.scheduler._room

    @rule(call=st.sampled_from(CALLS), persona=st.sampled_from(PERSONAS), pick=st.integers(0, 5))
    def open(self, call, persona, pick):
        saved = self.saved[pick] if pick < len(self.saved) else None
        self.give_up(call)
        self.scheduler.open(call, persona, None, saved)
        self.messages[call] = [persona.system_message()]

    def give_up(self, call):
        """What runs for this call is dropped without a word."""
        job = self.room.calls[call].job if call in self.room.calls else None
        if job is not None and not job.ahead:
            self.dropped.add((call, job.generation))

    @rule(
        call=st.sampled_from(CALLS),
        words=WORDS,
        speculative=st.booleans(),
        fresh=st.booleans(),
        steps=st.sampled_from([0, 1, 2, 5, 40]),
    )
    def ask(self, call, words, speculative, fresh, steps):
        if call not in self.messages:
            self.open(call, PERSONAS[0], 0)
        self.give_up(call)
        talk = self.messages[call]
        if talk[-1].role == "user":
            talk[-1] = Message("user", words if fresh else talk[-1].content + words)
        else:
            talk.append(Message("user", words))
        self.generation += 1
        self.scheduler.generate(call, self.generation, talk, speculative=speculative)
        job = self.room.calls[call].job
        if job is not None and job.generation == self.generation:
            self.prompts[call, self.generation] = (list(job.tokens), job.max_tokens)
        self.work(steps)

    @rule(call=st.sampled_from(CALLS), words=WORDS, steps=st.sampled_from([0, 1, 3, 20]))
    def hear(self, call, words, steps):
        """Part of what a caller is saying; nothing may come of it but speed."""
        if call in self.messages:
            talk = self.messages[call]
            known = talk if talk[-1].role == "user" else [*talk, Message("user", words)]
            self.scheduler.read_ahead(call, self.generation + 1, known)
            self.work(steps)

    @rule(calls=st.lists(st.sampled_from(CALLS), min_size=2, max_size=5), words=WORDS, steps=st.integers(0, 60))
    def rush(self, calls, words, steps):
        """Several callers ask at once."""
        for call in calls:
            self.ask(call, words, speculative=False, fresh=True, steps=0)
        self.work(steps)

    @rule(call=st.sampled_from(CALLS), words=WORDS)
    def talk(self, call, words):
        """A whole turn, the reply heard to its end."""
        self.ask(call, words, speculative=False, fresh=False, steps=60)
        said = "".join(e.text for e in self.events if isinstance(e, ReplyText) and e.generation == self.generation)
        if said:
            self.messages[call].append(Message("assistant", said))

    @rule(call=st.sampled_from(CALLS), heard=st.integers(1, 12))
    def interrupt(self, call, heard):
        if call not in self.messages or self.messages[call][-1].role != "user":
            return
        self.give_up(call)
        self.scheduler.cancel(call, self.generation)
        text = "".join(e.text for e in self.events if isinstance(e, ReplyText) and e.call_id == call)[-12:][:heard]
        if text:
            self.messages[call].append(Message("assistant", text))

    @rule(call=st.sampled_from(CALLS))
    def promote(self, call):
        if call in self.room.calls and self.room.calls[call].job is not None:
            self.scheduler.promote(call, self.room.calls[call].job.generation)

    @rule(call=st.sampled_from(CALLS))
    def hang_up(self, call):
        self.give_up(call)
        self.scheduler.close_call(call)
        self.messages.pop(call, None)

    @rule(call=st.sampled_from(CALLS))
    def save(self, call):
        self.scheduler.snapshot(call)
        snapshot = self.events[-1]
        assert isinstance(snapshot, SessionSnapshot)
        self.saved.append(
            SavedConversation((), snapshot.tokens, snapshot.kv, snapshot.fingerprint, snapshot.template_digest)
        )

    @rule(steps=st.integers(1, 30))
    def work(self, steps):
        for _ in range(steps):
            self.scheduler.step()

    @rule()
    def time_passes(self):
        self.model.clock.advance(2.5)

    @rule(code=st.sampled_from([1, -1, 2]), failures=st.integers(1, 3))
    def library_fails(self, code, failures):
        left = [failures]

        def fail(entries):
            left[0] -= 1
            return code if left[0] >= 0 else 0

        self.model.fail = fail
        self.scheduler.step()
        self.model.fail = lambda entries: 0

    @invariant()
    def books_match_the_cache(self):
        if not hasattr(self, "model"):
            return
        held = [call.seq for call in self.room.calls.values() if call.seq] + [
            template.seq for template in self.room.templates if template.seq
        ]
        assert len({seq.seq_id for seq in held}) == len(held)
        assert len(held) + self.room.pool.free_sequences == self.model.n_seq_max
        for seq in held:
            assert self.model.held(seq.seq_id) == seq.tokens
        assert self.room.pool.cells == len(self.model.cells) <= self.model.n_ctx
        assert len(self.model.samplers) == sum(
            1 for call in self.room.calls.values() if call.job and not call.job.ahead
        )

    @invariant()
    def replies_are_what_the_model_says_alone(self):
        if not hasattr(self, "model"):
            return
        said = {}
        for event in self.events:
            if isinstance(event, ReplyText):
                said[event.call_id, event.generation] = said.get((event.call_id, event.generation), "") + event.text
        ended = {(e.call_id, e.generation): e for e in self.events if isinstance(e, ReplyEnded)}
        for key, text in said.items():
            whole = whole_reply(*self.prompts[key])
            assert whole.startswith(text)
            if key in ended and ended[key].reason != "overflow":
                assert text == whole

    def teardown(self):
        if not hasattr(self, "model"):
            return
        for call in list(self.room.calls.values()):
            if call.job is not None:
                self.scheduler.promote(call.call_id, call.job.generation)
        for _ in range(3000):
            if not self.scheduler.step():
                if not self.scheduler.waiting:
                    break
                self.model.clock.advance(3.0)
        else:
            pytest.fail("it does not come to rest")
        outcomes = [(e.call_id, e.generation) for e in self.events if isinstance(e, (ReplyEnded, WorkFailed))]
        assert len(outcomes) == len(set(outcomes))
        for key in self.prompts:
            assert (key in outcomes) or (key in self.dropped), f"{key} was never answered"
        self.books_match_the_cache()
        self.replies_are_what_the_model_says_alone()
        for call in CALLS:
            self.scheduler.close_call(call)
        for template in list(self.room.templates):
            assert template.users == 0
            self.room._give_up_template(template)
        assert self.model.cells == []
        assert self.room.pool.free_sequences == self.model.n_seq_max
        assert not self.model.samplers


TestCalls = Calls.TestCase
TestCalls.settings = settings(
    max_examples=80,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)
