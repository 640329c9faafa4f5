"""The server is killed while it writes, at random moments, again and again: what it confirmed is there.

The same database lives through all of it. Each writer confirms on its standard output what the store said is written;
after the kill the database is opened as a server would, checked, and everything ever confirmed is looked for. A
second writer starts at once on the write-ahead log that the first one left behind.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest

from aiphone.store.calls import STOPPED
from aiphone.store.records import CallFilter
from aiphone.store.store import Store

pytestmark = pytest.mark.integration

KILLS = 200
AT_ONCE = 4
"""Databases that are written and killed side by side: a kill costs little but waiting for the next start."""
SEED = 3
PASSWORD = "opensesame"
ROOT = Path(__file__).resolve().parents[2]

WRITER = """
import sys
from pathlib import Path
from aiphone.store.records import SipClient, TurnRow, WordsRow
from aiphone.store.store import Store

store = Store(Path(sys.argv[1]), Path(sys.argv[2]))
client = "pbx" + sys.argv[3]

def confirm(*words):
    print(*words, flush=True)

confirm("open")
store.add_sip_client(SipClient(client, "100", "192.0.2.1"), sys.argv[4])
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
"""


class Life:
    """One database, its writer of the moment, and what was ever confirmed."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.path, self.key = directory / "phone.db", directory / "phone.key"
        self.calls: dict[int, dict[str, set[int]]] = {}
        self.ended: set[int] = set()
        self.clients: dict[str, bool] = {}
        self.writer: subprocess.Popen[str] | None = None

    def start(self, number: int) -> None:
        """A server begins to write."""
        self.writer = subprocess.Popen(
            [sys.executable, "-S", "-c", WRITER, str(self.path), str(self.key), str(number), PASSWORD],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": search_path()},
        )  # fmt: skip

    def kill(self, after: int, delay: float) -> int:
        """kill -9, so many confirmations and seconds later; returns how many writes were confirmed."""
        writer = self.writer
        assert writer is not None
        assert writer.stdout is not None
        assert writer.stderr is not None
        lines = [writer.stdout.readline() for _ in range(after)]
        time.sleep(delay)
        writer.kill()
        lines += writer.stdout.readlines()
        error = writer.stderr.read()
        writer.stdout.close()
        writer.stderr.close()
        assert not error, error
        assert writer.wait(30) == -signal.SIGKILL
        confirmed = [line.split() for line in lines if line.endswith("\n")]
        for words in confirmed:
            self.take(words)
        return len(confirmed)

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


def search_path() -> str:
    """Where the child finds this checkout and the packages, without the start-up work of ``site``."""
    return os.pathsep.join([str(ROOT), *(entry for entry in sys.path if entry)])


def test_nothing_confirmed_is_lost(tmp_path: Path) -> None:
    random_ = random.Random(SEED)
    lives = [Life(tmp_path / f"life{number}") for number in range(AT_ONCE)]
    confirmed = 0
    for round_ in range(KILLS // AT_ONCE):
        for life in lives:
            life.start(round_)
        for life in lives:
            # Some while the database is being opened, most in the middle of writing.
            early = random_.random() < 0.15
            after, delay = (0, random_.uniform(0.0, 0.3)) if early else (random_.randint(1, 20), 0.0)
            confirmed += life.kill(after, delay + random_.uniform(0.0, 0.01))
        for life in lives:
            life.look(all_of_it=False)
    for life in lives:
        life.look(all_of_it=True)
    print(f"{KILLS} kills, {confirmed} writes confirmed")
    assert confirmed > 10 * KILLS, "the writers were killed before they wrote anything worth the name"


def test_the_writer_imports_little() -> None:
    """The start of the process is what the test above waits for."""
    code = "import sys; import aiphone.store.store; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not re.search(r"\b(numpy|tornado|llama_cpp|onnxruntime)\b", loaded)
