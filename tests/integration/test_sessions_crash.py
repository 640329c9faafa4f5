"""The session file after kill -9 at any moment, after any cut, and on a disk without room.

AIPHONE_TEST_ROUNDS raises the number of kills (and cuts the file at every byte).
"""

import logging
import os
import random
import subprocess
import sys

import pytest

from aiphone.persona import Message
from aiphone.store.sessions import SavedConversation, SessionStore

pytestmark = pytest.mark.integration

ROUNDS = int(os.environ.get("AIPHONE_TEST_ROUNDS", "0"))
CALLERS = 3

WRITER = """
import sys
from pathlib import Path
from aiphone.persona import Message
from aiphone.store.sessions import SavedConversation, SessionStore, SessionWriter

store = SessionStore(Path(sys.argv[1]))
writer = SessionWriter(store)
for number in range(int(sys.argv[2]), 1_000_000):
    text = f"turn {number}"
    kv = number.to_bytes(4, "big") * (500 + number % 7 * 20_000)
    said = (Message("user", text), Message("assistant", text))
    writer.submit(f"line:{number % 3}", SavedConversation(said, (number,) * 50, kv, "model", "template"))
    assert writer.flush(10)
    print(number, flush=True)  # from now on it may not be lost
"""


def numbers(store):
    """What each caller's conversation is, checked to be one and the same turn in all its parts."""
    found = {}
    for info in store.list():
        saved = store.load(info.key)
        number = int(saved.messages[1].content.split()[1])
        assert saved.messages[0].content == saved.messages[1].content
        assert saved.tokens == (number,) * 50
        assert saved.kv == number.to_bytes(4, "big") * (len(saved.kv) // 4)
        found[info.key] = number
    return found


def test_the_last_complete_state_survives_kill_9(tmp_path):
    path, chance = tmp_path / "sessions", random.Random(ROUNDS)
    told = -1
    for _ in range(ROUNDS or 12):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(told + 1)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        for _ in range(chance.randrange(1, 12)):
            told = max(told, int(child.stdout.readline()))
        # Somewhere within the next write: a moment of work of no fixed length, not of time.
        sum(range(chance.randrange(0, 200_000)))
        child.kill()
        rest = child.stdout.read().split()
        child.stdout.close()
        child.wait()
        told = max([told, *map(int, rest)])
        store = SessionStore(path)
        found = numbers(store)
        store.close()
        assert not list(tmp_path.glob("*.damaged-*"))
        for number in range(max(0, told - CALLERS + 1), told + 1):
            assert found[f"line:{number % CALLERS}"] in (number, number + CALLERS)


def test_a_file_cut_at_any_byte_is_whole_or_moved_aside(tmp_path, caplog):
    caplog.set_level(logging.CRITICAL)
    source = tmp_path / "whole"
    store = SessionStore(source)
    text = (Message("user", "turn 7"), Message("assistant", "turn 7"))
    store.save("line:1", SavedConversation(text, (7,) * 50, (7).to_bytes(4, "big") * 900, "model", "template"))
    store.close()
    data = source.read_bytes()
    for cut in range(0, len(data), 1 if ROUNDS else 4099):
        path = tmp_path / "cut"
        path.write_bytes(data[:cut])
        store = SessionStore(path)
        assert numbers(store) in ({}, {"line:1": 7})
        store.save("line:2", SavedConversation(text))
        assert store.load("line:2").messages == text
        store.close()
        for left in tmp_path.glob("cut*"):
            left.unlink()


FULL = """
import resource, signal, sys
from pathlib import Path
from aiphone.errors import StorageError
from aiphone.persona import Message
from aiphone.store.sessions import SavedConversation, SessionStore

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = SessionStore(Path(sys.argv[1]))
text = (Message("user", "kept"), Message("assistant", "kept"))
store.save("k", SavedConversation(text))
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))
try:
    store.save("k", SavedConversation(text[:1], (), b"x" * 1_000_000))
except StorageError as error:
    print(error)
assert store.load("k").messages == text
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
store.save("k", SavedConversation(text[:1], (), b"x" * 1_000_000))
assert len(store.load("k").kv) == 1_000_000
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files as Linux does")
def test_a_disk_without_room_keeps_what_it_had(tmp_path):
    path = tmp_path / "sessions"
    done = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Could not write the session file" in done.stdout
    assert done.stdout.count("\n") == 1
