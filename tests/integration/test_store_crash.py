"""The server is killed while it writes, at random moments, again and again: what it confirmed is there.

The same database lives through all of it. Each writer confirms through a pipe what the store said is written; after
the kill the database is opened as a server would, checked, and everything ever confirmed is looked for. A second
writer starts at once on the write-ahead log that the first one left behind.

Writers are forked from a small process that has imported the store already, so that a kill costs milliseconds.
``AIPHONE_TEST_KILLS=2000`` makes it a long run.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiphone.store.calls import STOPPED
from aiphone.store.records import CallFilter
from aiphone.store.store import Store

pytestmark = pytest.mark.integration

KILLS = int(os.environ.get("AIPHONE_TEST_KILLS", "200"))
SEED = 3
PASSWORD = "opensesame"
ROOT = Path(__file__).resolve().parents[2]

NURSERY = """
import os, sys
from pathlib import Path
from aiphone.store.records import SipClient, TurnRow, WordsRow
from aiphone.store.store import Store

def confirm(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def write(path, key, number, password):
    store = Store(Path(path), Path(key))
    client = "pbx" + number
    confirm("open")
    store.add_sip_client(SipClient(client, "100", "192.0.2.1"), password)
    confirm("client", client, 0)
    started = False
    while True:
        call = store.begin_call(line_id=client, caller="sip:ann@192.0.2.9", started=1000.0)
        confirm("call", call)
        for number in range(1, 4):
            store.add_words(WordsRow(call, number, "user", f"word{call}x{number} " + "padding " * 40, 1000.0 + number))
            confirm("words", call, number)
            with store.batch():
                store.add_turn(TurnRow(call, number, 1000.0, "a" * 300, "b" * 300, False, {"patience": 0.5}, 0.5))
                store.add_turn(TurnRow(call, number + 10, 1000.0, "a", "b", False, {"patience": 0.5}, 0.5))
            confirm("turns", call, number)
        store.end_call(call, 200, "bye", {"lost": call})
        confirm("ended", call)
        started = not started
        store.set_started(client, started)
        confirm("client", client, int(started))

for line in sys.stdin:  # what a writer is to do, one at a time
    words = line.rstrip("\\n").split("\\t")
    child = os.fork()
    if not child:
        try:
            write(*words)
        except BaseException as error:
            confirm("error", repr(error))
            os._exit(1)
    confirm("pid", child)
    status = os.waitpid(child, 0)[1]
    confirm("over", os.WTERMSIG(status) if os.WIFSIGNALED(status) else -1)
"""


class Nursery:
    """The process that writers are forked from."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._in, self._out = self.process.stdin, self.process.stdout

    def kill_a_writer(self, *words: str, after: int, delay: float) -> list[list[str]]:
        """A writer lives until it confirmed so much, and for so many seconds more; what it confirmed."""
        self._in.write("\t".join(words) + "\n")
        self._in.flush()
        confirmed: list[list[str]] = []
        child = 0
        while not child or len(confirmed) < after:
            line = self._out.readline().split()
            if line[0] == "pid":
                child = int(line[1])
            else:
                assert line[0] != "error", line
                confirmed.append(line)
        if delay:
            time.sleep(delay)  # a moment by chance, anywhere within a write
        os.kill(child, signal.SIGKILL)
        while (line := self._out.readline().split())[0] != "over":
            assert line[0] != "error", line
            confirmed.append(line)
        assert line[1] == str(int(signal.SIGKILL))
        return confirmed

    def close(self) -> None:
        self._in.close()
        self._out.close()
        assert self.process.wait(30) == 0


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    made = Nursery()
    yield made
    made.close()


class Life:
    """One database, and what was ever confirmed."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.path, self.key = directory / "phone.db", directory / "phone.key"
        self.calls: dict[int, dict[str, set[int]]] = {}
        self.ended: set[int] = set()
        self.clients: dict[str, bool] = {}

    def take(self, words: list[str]) -> None:
        """Note what was confirmed."""
        kind, *rest = words
        if kind == "client":
            self.clients[rest[0]] = rest[1] == "1"
        elif kind == "call":
            self.calls.setdefault(int(rest[0]), defaultdict(set))
        elif kind == "ended":
            self.ended.add(int(rest[0]))
        elif kind in ("words", "turns"):
            self.calls[int(rest[0])][kind].add(int(rest[1]))

    def look(self, *, all_of_it: bool) -> None:
        """Open the database and find what was confirmed: of the latest calls, or of all."""
        store = Store(self.path, self.key)
        try:
            assert store.check() == []
            numbers = sorted(self.calls)
            for number in numbers if all_of_it else numbers[-3:]:
                self.look_at_call(store, number)
            stored = {client.client_id: client for client in store.sip_clients()}
            assert set(self.clients) <= set(stored)
            *earlier, last = self.clients or [""]
            changed = [client for client in earlier if stored[client].started is not self.clients[client]]
            assert not changed, "lines come back as they were"
            if last:
                # Its last change may have been written and not confirmed any more; from now on it stays.
                self.clients[last] = stored[last].started
                assert store.sip_password(last) == PASSWORD
            assert all(call.ended is not None for call in store.calls(limit=500).calls)
            if numbers and self.calls[numbers[-1]]["words"]:
                found = store.calls(CallFilter(text=f"word{numbers[-1]}x1")).calls
                assert [call.id for call in found] == [numbers[-1]], "the index knows what the tables know"
        finally:
            store.close()

    def look_at_call(self, store: Store, number: int) -> None:
        """Find a call and everything of it that was confirmed."""
        call = store.call(number)
        if number in self.ended:
            assert (call.end_reason, call.media) == ("bye", {"lost": number})
        else:
            assert call.end_reason in (STOPPED, "bye")
        assert self.calls[number]["words"] <= {line.number for line in store.words(number)}
        turns = {turn.number for turn in store.turns(number)}
        assert self.calls[number]["turns"] <= turns
        assert {turn + 10 for turn in turns if turn < 10} == {turn for turn in turns if turn > 10}, "half a batch"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where that can be had: a kill, unlike a power cut, takes nothing that a process has written."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as name:
        yield Path(name)


def test_nothing_confirmed_is_lost(folder: Path, nursery: Nursery) -> None:
    random_ = random.Random(SEED)
    life = Life(folder / "life")
    confirmed = 0
    for round_ in range(KILLS):
        # Some while the database is being opened, most in the middle of writing.
        early = random_.random() < 0.15
        words = nursery.kill_a_writer(
            str(life.path), str(life.key), str(round_), PASSWORD,
            after=0 if early else random_.randint(1, 20),
            delay=random_.uniform(0.0, 0.02 if early else 0.003),
        )  # fmt: skip
        for one in words:
            life.take(one)
        confirmed += len(words)
        life.look(all_of_it=False)
    life.look(all_of_it=True)
    print(f"{KILLS} kills, {confirmed} writes confirmed")
    assert confirmed > 8 * KILLS, "the writers were killed before they wrote anything worth the name"


def test_the_writer_imports_little() -> None:
    """The start of the process is what the test above waits for."""
    code = "import sys; import aiphone.store.store; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not re.search(r"\b(numpy|tornado|llama_cpp|onnxruntime)\b", loaded)
