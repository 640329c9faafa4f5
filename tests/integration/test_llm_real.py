"""llama.cpp with the starter model: what the unit tests' small model cannot show."""

import gc
import logging
import queue
import shutil
import signal
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aiphone.clock import SystemClock
from aiphone.cores import Cores
from aiphone.errors import ModelError
from aiphone.events import ReplyEnded, ReplyText, TurnEndByWords, WorkFailed
from aiphone.inference.llama_cpp_api import LlamaCpp
from aiphone.inference.llm import LanguageModel
from aiphone.inference.llm_backend import BackendOptions, Entry
from aiphone.inference.llm_scheduler import Limits, Scheduler
from aiphone.persona import Message, Persona, Sampling
from aiphone.store.sessions import SavedConversation, SessionStore

pytestmark = pytest.mark.integration

PERSONA = Persona(
    prompt="You are a helpful AI assistant who answers the telephone. "
    "Answer in one or two short sentences. Your name is {name}.",
    sampling=Sampling(temperature=0, max_tokens=40),
)
SHORT = Persona(prompt=PERSONA.prompt, sampling=Sampling(temperature=0, max_tokens=12))
OPTIONS = BackendOptions(threads=2, n_seq_max=12, n_ctx_per_call=1024, max_calls=8)
TOPICS = ["dogs", "Rome", "bread", "the sea", "trains", "snow", "music"]


@pytest.fixture(scope="module")
def path(model_file):
    return model_file("SmolLM2-135M-Instruct.Q4_1.gguf")


@pytest.fixture(scope="module")
def backend(path):
    backend = LlamaCpp(path, OPTIONS)
    yield backend
    backend.close()


def talk(*texts, persona=PERSONA):
    roles = ["user", "assistant"] * len(texts)
    return [
        persona.system_message(),
        *(Message(role, text) for role, text in zip(roles, texts, strict=False)),
    ]


class Desk:
    """A scheduler of its own over the shared model; leaves the context empty."""

    def __init__(self, backend, **limits):
        self.events = []
        self.backend = backend
        self.scheduler = Scheduler(
            backend,
            post=self.events.append,
            clock=SystemClock(),
            limits=Limits(n_ctx_per_call=1024, **limits),
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        room = self.scheduler._room
        for call_id in list(room.calls):
            self.scheduler.close_call(call_id)
        for template in list(room.templates):
            room._give_up_template(template)
        assert room.pool.cells == 0
        assert all(self.backend.seq_len(seq) == 0 for seq in range(self.backend.n_seq_max))

    def run(self):
        for _ in range(5000):
            if not self.scheduler.step():
                return
        pytest.fail("the scheduler does not come to rest")

    def reply(self, call_id, generation=1):
        assert not [e for e in self.events if isinstance(e, WorkFailed)]
        mine = (e for e in self.events if isinstance(e, ReplyText) and e.call_id == call_id)
        return "".join(e.text for e in mine if e.generation == generation)

    def ended(self, call_id, generation=1):
        return next(
            e for e in self.events if isinstance(e, ReplyEnded) and (e.call_id, e.generation) == (call_id, generation)
        )

    def held(self, call_id):
        return self.scheduler._room.calls[call_id].seq


def test_the_capital_of_france(path, capfd):
    events = queue.Queue()
    model = LanguageModel(path, post=events.put, clock=SystemClock(), threads=2, max_calls=4)
    model.start()
    model.open("c1", PERSONA)
    model.generate("c1", 1, talk("What is the capital of France?"))
    text = ""
    while isinstance(event := events.get(timeout=60), ReplyText):
        text += event.text
    assert isinstance(event, ReplyEnded)
    assert "Paris" in text
    assert model.status()["ready"]
    model.stop()
    assert capfd.readouterr().err == ""


def test_alone_and_beside_seven_others_the_words_are_the_same(backend):
    with Desk(backend) as alone:
        alone.scheduler.open("c", PERSONA, None, None)
        alone.scheduler.generate("c", 1, talk("What is the capital of France?"))
        alone.run()
        expected = alone.reply("c")
        expected_tokens = list(alone.held("c").tokens)
    with Desk(backend) as beside:
        beside.scheduler.open("c", PERSONA, None, None)
        for number, topic in enumerate(TOPICS):
            beside.scheduler.open(f"o{number}", SHORT, None, None)
            beside.scheduler.generate(f"o{number}", 1, talk(f"Tell me about {topic}."))
        for _ in range(5):
            beside.scheduler.step()
        beside.scheduler.generate("c", 1, talk("What is the capital of France?"))
        beside.run()
        assert beside.reply("c") == expected
        assert beside.held("c").tokens == expected_tokens
        assert len({beside.reply(f"o{number}") for number in range(7)}) == 7


def logits_after(backend, seq, tokens, held=0):
    assert backend.decode([Entry(seq, held, tokens[held:], True)]) == 0
    return backend.logits(0).copy()


def crowd(backend, mine, others):
    """Logits of sequence 0 after ``mine``, decoded in batches together with seven sequences of ``others``."""
    rows = []
    for at in range(0, len(mine), 4):
        entries = [Entry(0, at, mine[at : at + 4], True)]
        entries += [Entry(seq, at, other[at : at + 4], False) for seq, other in enumerate(others, 1)]
        assert backend.decode(entries) == 0
        rows.append(backend.logits(0).copy())
    for seq in range(8):
        backend.seq_rm(seq, 0)
    return np.stack(rows)


def test_what_others_say_does_not_change_a_single_bit(backend):
    """Isolation: the same batches with other people's words in them give the same logits, bit for bit."""
    random = np.random.default_rng(1)
    mine = backend.tokenize("<|im_start|>user\nTell me, please, what is the capital of France?<|im_end|>\n")[:16]
    one, two = (random.integers(20, 40000, (7, 16)).tolist() for _ in range(2))
    assert np.array_equal(crowd(backend, mine, one), crowd(backend, mine, two))


def test_how_many_threads_work_does_not_change_a_single_bit(path):
    """A decode takes the cores that are free, so the words must not depend on how many those are."""
    cores = Cores(2)
    backend = LlamaCpp(path, replace(OPTIONS, cores=cores))
    tokens = backend.tokenize("Tell me, please, what is the capital of France?") * 4
    rows = []
    for others in (0, 2):
        with cores.working(others) if others else nullcontext():
            rows.append([logits_after(backend, 0, tokens[:held], held - 1 if held > 1 else 0) for held in (1, 2, 3)])
            rows[-1].append(logits_after(backend, 0, tokens, 3))
        backend.seq_rm(0, 0)
    backend.close()
    assert np.array_equal(rows[0], rows[1])


def test_a_crowd_changes_logits_by_rounding_only(backend):
    """Cells of others weigh exactly 0, but they decide in which cells ours lie, and so the order of sums.

    The model rounds activations to 8 bits at each matrix, so a difference in the last bit can grow to a few hundredths
    of the logits' range. That is the bound; the choice of the next token survives it unless two are as close.
    """
    with Desk(backend) as desk:
        for number, topic in enumerate(TOPICS):
            desk.scheduler.open(f"o{number}", SHORT, None, None)
            desk.scheduler.generate(f"o{number}", 1, talk(f"Tell me about {topic}."))
        desk.run()
        used = desk.held("o3")
        tokens = [*used.tokens, 198]
        crowded = logits_after(backend, used.seq_id, tokens, len(used.tokens))
        desk.scheduler._room.pool.extend(used, tokens[-1:])
    fresh = logits_after(backend, 0, tokens)
    backend.seq_rm(0, 0)
    assert int(fresh.argmax()) == int(crowded.argmax())
    assert np.abs(fresh - crowded).max() < 0.1 * float(fresh.max() - fresh.min())


def test_an_interruption_and_a_returning_turn_read_only_what_is_new(backend):
    with Desk(backend) as desk:
        desk.scheduler.open("c", PERSONA, None, None)
        desk.scheduler.generate("c", 1, talk("Tell me about bread."))
        desk.run()
        heard = " ".join(desk.reply("c").split()[:4])
        desk.scheduler.generate("c", 2, talk("Tell me about bread.", heard, "Stop. What is the capital of France?"))
        desk.run()
        ended = desk.ended("c", 2)
        assert ended.prompt_tokens - ended.cached_tokens < 30
        assert desk.reply("c", 2)


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_llm_real import OPTIONS, PERSONA, ROME, Desk, LlamaCpp, SavedConversation, SessionStore, talk
from aiphone.store.sessions import SessionWriter

desk = Desk(LlamaCpp(Path(sys.argv[2]), OPTIONS))
desk.scheduler.open("c", PERSONA, None, None)
desk.scheduler.generate("c", 1, talk(ROME))
desk.run()
first = desk.reply("c")
desk.scheduler.snapshot("c")
held = desk.events[-1]
writer = SessionWriter(SessionStore(Path(sys.argv[3])))
text = tuple(talk(ROME, first)[1:])
writer.submit("line/bob", SavedConversation(text, held.tokens, held.kv, held.fingerprint, held.template_digest))
assert writer.flush(20)
desk.scheduler.generate("c", 2, talk(ROME, first, "What is my name?"))
for _ in range(6):
    desk.scheduler.step()
os.kill(os.getpid(), signal.SIGKILL)
"""
ROME = "My name is Bob. Tell me about Rome."


def test_after_kill_9_in_the_middle_of_an_answer_the_words_are_those_of_a_conversation_without_it(
    backend, path, tmp_path
):
    with Desk(backend) as desk:
        desk.scheduler.open("c", PERSONA, None, None)
        desk.scheduler.generate("c", 1, talk(ROME))
        desk.run()
        first = desk.reply("c")
        desk.scheduler.generate("c", 2, talk(ROME, first, "What is my name?"))
        desk.run()
        expected, tokens = desk.reply("c", 2), list(desk.held("c").tokens)
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(path), str(tmp_path / "sessions")]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    assert child.returncode == -signal.SIGKILL, child.stderr
    store = SessionStore(tmp_path / "sessions")
    saved = store.load("line/bob")
    store.close()
    assert saved.messages == tuple(talk(ROME, first)[1:])
    with Desk(backend) as later:
        later.scheduler.open("d", PERSONA, None, saved)
        later.scheduler.generate(
            "d", 2, [PERSONA.system_message(), *saved.messages, Message("user", "What is my name?")]
        )
        later.run()
        assert later.ended("d", 2).cached_tokens == len(saved.tokens)
        assert later.reply("d", 2) == expected
        assert later.held("d").tokens == tokens


def test_a_damaged_state_is_read_again(backend):
    with Desk(backend) as desk:
        desk.scheduler.open("c", SHORT, None, None)
        desk.scheduler.generate("c", 1, talk("Tell me about Rome."))
        desk.run()
        desk.scheduler.snapshot("c")
        snapshot = desk.events[-1]
    for kv in (snapshot.kv[: len(snapshot.kv) // 2], b"\xff" * 4000, b""):
        saved = SavedConversation((), snapshot.tokens, kv, snapshot.fingerprint, snapshot.template_digest)
        with Desk(backend) as later:
            later.scheduler.open("c", SHORT, None, saved)
            later.scheduler.generate("c", 1, talk("Tell me about Rome."))
            later.run()
            assert later.reply("c") == desk.reply("c")


def test_history_is_shifted_when_the_share_is_full(backend):
    with Desk(backend) as desk:
        desk.scheduler._share = 300
        desk.scheduler._room._share = desk.scheduler._prompts.share = 300
        desk.scheduler.open("c", PERSONA, None, None)
        said, cached = [], []
        for number, topic in enumerate(TOPICS):
            said.append(f"Tell me about {topic}.")
            desk.scheduler.generate("c", number, talk(*said))
            desk.run()
            cached.append(desk.ended("c", number).cached_tokens)
            said.append(desk.reply("c", number))
        assert desk.scheduler._room.calls["c"].dropped > 0
        assert all(said)
        assert backend.seq_len(desk.held("c").seq_id) == len(desk.held("c").tokens)
        drop = next(i for i in range(2, len(cached)) if cached[i] < cached[i - 1])
        assert cached[drop] > cached[0]


def test_a_grammar_is_kept(backend):
    with Desk(backend) as desk:
        desk.scheduler.open("c", PERSONA, None, None)
        grammar = 'root ::= "{\\"city\\": \\"" [A-Za-z ]+ "\\"}"'
        desk.scheduler.generate("c", 1, talk("What is the capital of France?"), grammar=grammar)
        desk.run()
        assert desk.reply("c").startswith('{"city": "')


def test_the_same_seed_says_the_same(backend):
    replies = []
    for seed in (7, 7, 8):
        persona = Persona(prompt=PERSONA.prompt, sampling=Sampling(temperature=1.0, seed=seed, max_tokens=30))
        with Desk(backend) as desk:
            desk.scheduler.open("c", persona, None, None)
            desk.scheduler.generate("c", 1, talk("Tell me a story.", persona=persona))
            desk.run()
            replies.append(desk.reply("c"))
    assert replies[0] == replies[1]
    assert replies[0] != replies[2]


def test_the_end_of_a_turn_is_likelier_after_a_question_than_within_it(backend):
    """Whatever full stop the recogniser put there, and beside the words of others."""
    texts = ["What is the capital of France?", "What is the capital.", "What is the capital of.", "My number is."]
    with Desk(backend) as desk:
        for number, text in enumerate(texts):
            desk.scheduler.open(f"c{number}", PERSONA, None, None)
            desk.scheduler.generate(f"c{number}", 1, talk(text), speculative=True)
        desk.run()
        told = {event.call_id: event.probability for event in desk.events if isinstance(event, TurnEndByWords)}
        assert "Paris" in desk.reply("c0")
    assert told["c0"] > 0.5
    assert told["c0"] > 5 * max(told["c1"], told["c2"], told["c3"])


def test_an_eight_bit_cache_works(path):
    options = BackendOptions(threads=2, n_seq_max=4, n_ctx_per_call=512, max_calls=2, kv_types=("q8_0", "q8_0"))
    backend = LlamaCpp(path, options)
    with Desk(backend) as desk:
        desk.scheduler.open("c", PERSONA, None, None)
        desk.scheduler.generate("c", 1, talk("What is the capital of France?"))
        desk.run()
        assert "Paris" in desk.reply("c")
    assert backend.kv_bytes_per_token < 0.54 * 23040
    backend.close()


def test_a_truncated_model_is_said_in_one_sentence(path, tmp_path, caplog, capfd):
    caplog.set_level(logging.CRITICAL)
    cut = tmp_path / "cut.gguf"
    with path.open("rb") as source, cut.open("wb") as target:
        shutil.copyfileobj(source, target)
        target.truncate(5_000_000)
    with pytest.raises(ModelError, match="download it again") as caught:
        LanguageModel(cut, post=print, clock=SystemClock(), threads=1, max_calls=1).start()
    assert str(cut) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_opening_and_closing_500_calls_leaks_nothing(backend):
    with Desk(backend) as desk:
        for number in range(500):
            desk.scheduler.open(f"c{number}", PERSONA, None, None)
            if number % 50 == 0:
                desk.scheduler.generate(f"c{number}", 1, talk("Hi."))
                desk.scheduler.step()
            desk.scheduler.close_call(f"c{number}")
        assert desk.scheduler.status()["calls"] == 0
        assert desk.scheduler.status()["sequences_free"] >= backend.n_seq_max - 1
    gc.collect()
