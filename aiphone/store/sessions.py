"""The ``--session`` file: one conversation for each line and caller, kept from call to call.

The container is SQLite with a rollback journal: a crash or power cut at any moment leaves the last complete state of
every conversation. A conversation is its text, always; the tokens and the KV state of the language model come with
it as a shortcut, marked with the model and chat template they belong to, and are worth nothing to any other.

A file that is damaged is moved aside to ``FILE.damaged-N`` and a new one is begun. A file that is something else
altogether is left alone and refused.
"""

from __future__ import annotations

import array
import contextlib
import json
import logging
import os
import sqlite3
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aiphone.errors import StorageError
from aiphone.persona import Message

log = logging.getLogger(__name__)

FORMAT = 1
"""Version of the layout, SQLite's ``user_version``."""

_APPLICATION_ID = 0x41495053  # "AIPS"
_MAGIC = b"SQLite format 3\x00"
_SMALLEST = 512
"""Bytes of the smallest page SQLite knows; no database is smaller."""

_SCHEMA = """
CREATE TABLE conversation (
    key TEXT PRIMARY KEY,
    updated REAL NOT NULL,
    messages TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    template TEXT NOT NULL,
    tokens BLOB NOT NULL,
    kv BLOB,
    kv_crc INTEGER
) STRICT;
CREATE INDEX conversation_updated ON conversation (updated);
"""


@dataclass(frozen=True, slots=True)
class SavedConversation:
    """A conversation as it is stored; it is also what the language model takes as ``SavedState``."""

    messages: tuple[Message, ...]
    tokens: tuple[int, ...] = field(default=(), repr=False)
    """What the model's sequence held."""
    kv: bytes | None = field(default=None, repr=False)
    """KV state of those tokens; None where reading again is as good."""
    fingerprint: str = ""
    """Weights and cache format that ``tokens`` and ``kv`` belong to."""
    template_digest: str = ""
    """Chat format that ``tokens`` and ``kv`` belong to."""
    updated: float = 0.0
    """Wall clock (seconds since 1970) of the last change; set by ``save``."""


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A line of the list of sessions."""

    key: str
    updated: float
    messages: int
    tokens: int
    bytes: int
    """What the conversation takes in the file."""


class SessionStore:
    """One session file. Any thread; calls wait for each other.

    ``max_bytes`` bounds the conversations together: beyond it the KV states of those longest not heard from go first,
    then the conversations. ``max_age`` in seconds forgets callers who did not call for so long; None keeps them.
    ``wall`` is the wall clock, since expiry must survive a restart. ``tend`` is False for who looks at a server's file:
    nothing is forgotten by these bounds, which are the server's, and a damaged file stays where it is.

    Raises ``StorageError`` when the file is not ours, cannot be written, or belongs to a newer version.
    """

    def __init__(
        self,
        path: Path,
        *,
        wall: Callable[[], float] = time.time,
        max_bytes: int = 512 << 20,
        max_age: float | None = None,
        tend: bool = True,
    ) -> None:
        self.path = path
        self._tend = tend
        self._wall = wall
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._lock = threading.Lock()
        self._db = self._open()
        if tend:
            with self._lock, self._saying("tidy up"):
                self._prune()

    # ------------------------------------------------------------------ opening

    def _open(self) -> sqlite3.Connection:
        try:
            size, head = _first_bytes(self.path)
        except OSError as error:
            raise StorageError(f"The session file {self.path} cannot be opened: {error.strerror}.") from None
        if not _MAGIC.startswith(head) and head.strip(b"\x00"):
            raise StorageError(f"{self.path} is not a session file: give another name with --session.")
        if head and not _MAGIC.startswith(head):
            reason = "it begins with zeros"
        elif 0 < size < _SMALLEST:  # SQLite would take it for an empty one
            reason = f"it ends after {size} bytes"
        else:
            try:
                return self._connect()
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError) and not _damaged(error):
                    raise StorageError(f"The session file {self.path} cannot be used: {error}.") from None
                reason = str(error)
        if not self._tend:
            raise StorageError(
                f"The session file {self.path} is damaged ({reason}): the server keeps it aside and begins a new one "
                "when it is started with it."
            )
        aside = self._move_aside()
        log.error(
            "The session file %s is damaged (%s): kept as %s, a new one is begun.",
            self.path,
            reason,
            aside.name,
        )
        try:
            return self._connect()
        except sqlite3.Error as error:
            raise StorageError(f"The session file {self.path} cannot be made: {error}.") from None

    def _connect(self) -> sqlite3.Connection:
        if not self.path.exists():
            with contextlib.suppress(FileExistsError, OSError):  # sqlite3 says it better if this fails
                os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        db = sqlite3.connect(self.path, timeout=5.0, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA secure_delete = ON")  # who is forgotten is gone from the file, too
            self._prepare(db)
        except BaseException:
            db.close()
            raise
        return db

    def _prepare(self, db: sqlite3.Connection) -> None:
        """Make the table in a new file; check an old one."""
        application = db.execute("PRAGMA application_id").fetchone()[0]
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if application == 0 and not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
            db.executescript(
                f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA application_id = {_APPLICATION_ID};"
                f"PRAGMA user_version = {FORMAT}; COMMIT;"
            )
            return
        if application != _APPLICATION_ID:
            raise StorageError(f"{self.path} is a database of another program: give another name with --session.")
        if version > FORMAT:
            raise StorageError(
                f"The session file {self.path} has format {version}, newer than this version's {FORMAT}: "
                "update this program or give another name with --session."
            )
        # A file that lost its end may pass the check below and fail when that end is read.
        pages, size = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
        if self.path.stat().st_size < pages * size:
            raise sqlite3.DatabaseError("its end is missing")
        verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)

    def _move_aside(self) -> Path:
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.damaged-{number}")).exists():
            number += 1
        try:
            self.path.rename(aside)
            journal = self.path.with_name(f"{self.path.name}-journal")
            if journal.exists():  # it belongs to the old file; beside a new one it would be played back into it
                journal.rename(aside.with_name(f"{aside.name}-journal"))
        except OSError as error:
            raise StorageError(
                f"The session file {self.path} is damaged and cannot be moved aside ({error.strerror}): "
                "make its directory writable."
            ) from None
        return aside

    # ------------------------------------------------------------------ conversations

    def load(self, key: str) -> SavedConversation | None:
        """The conversation of ``key``, or None. A KV state that does not match its checksum is left out."""
        with self._lock, self._saying("read"):
            row = self._db.execute(
                "SELECT messages, tokens, kv, kv_crc, fingerprint, template, updated FROM conversation WHERE key = ?",
                (key,),
            ).fetchone()
        if row is None or (self._max_age is not None and row[6] < self._wall() - self._max_age):
            return None
        messages, tokens, kv, crc, fingerprint, template, updated = row
        if kv is not None and zlib.crc32(kv) != crc:
            log.warning("The saved state of %s does not match its checksum and is read again from its text.", key)
            kv = None
        return SavedConversation(
            messages=tuple(Message(entry["role"], entry["content"]) for entry in json.loads(messages)),
            tokens=_unpack(tokens),
            kv=kv,
            fingerprint=fingerprint,
            template_digest=template,
            updated=updated,
        )

    def save(self, key: str, conversation: SavedConversation) -> None:
        """Store a conversation, all of it or none. Raises ``StorageError``, and the last state stays."""
        messages = [{"role": message.role, "content": message.content} for message in conversation.messages]
        kv = conversation.kv
        with self._lock, self._saying("write"), self._transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO conversation "
                "(key, updated, messages, fingerprint, template, tokens, kv, kv_crc) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    key,
                    self._wall(),
                    json.dumps(messages, ensure_ascii=False),
                    conversation.fingerprint,
                    conversation.template_digest,
                    _pack(conversation.tokens),
                    kv,
                    zlib.crc32(kv) if kv is not None else None,
                ),
            )
            self._bound()

    def list(self) -> list[SessionInfo]:
        """All conversations, the latest first."""
        with self._lock, self._saying("read"):
            rows = self._db.execute(
                "SELECT key, updated, json_array_length(messages), length(tokens) / 4, "
                "length(CAST(messages AS BLOB)) + length(tokens) + coalesce(length(kv), 0) "
                "FROM conversation ORDER BY updated DESC, key"
            ).fetchall()
        return [SessionInfo(*row) for row in rows]

    def forget(self, key: str) -> bool:
        """Remove a conversation from the file, bytes included; False when there is none."""
        with self._lock, self._saying("write"):
            with self._transaction():
                found = self._db.execute("DELETE FROM conversation WHERE key = ?", (key,)).rowcount > 0
            self._db.executescript("PRAGMA incremental_vacuum")
        return found

    def export(self, key: str) -> dict[str, object] | None:
        """The text of a conversation as plain values for JSON, or None."""
        conversation = self.load(key)
        if conversation is None:
            return None
        return {
            "key": key,
            "updated": conversation.updated,
            "messages": [{"role": m.role, "content": m.content} for m in conversation.messages],
            "tokens": len(conversation.tokens),
            "has_state": conversation.kv is not None,
            "model": conversation.fingerprint,
        }

    def close(self) -> None:
        """Close the file. A second call does nothing."""
        with self._lock:
            self._db.close()

    # ------------------------------------------------------------------ bounds

    def _prune(self) -> None:
        with self._transaction():
            if self._max_age is not None:
                oldest = self._wall() - self._max_age
                gone = self._db.execute("DELETE FROM conversation WHERE updated < ?", (oldest,)).rowcount
                if gone:
                    log.info("%d callers were forgotten: they had not called for a long time.", gone)
            self._bound()
        self._db.executescript("PRAGMA incremental_vacuum")

    def _bound(self) -> None:
        """Within a transaction: make the conversations fit ``max_bytes``."""
        size = "coalesce(sum(length(CAST(messages AS BLOB)) + length(tokens) + coalesce(length(kv), 0)), 0)"
        while self._db.execute(f"SELECT {size} FROM conversation").fetchone()[0] > self._max_bytes:
            oldest = "(SELECT key FROM conversation {} ORDER BY updated, key LIMIT 1)"
            with_kv = oldest.format("WHERE kv IS NOT NULL")
            if self._db.execute(f"UPDATE conversation SET kv = NULL, kv_crc = NULL WHERE key = {with_kv}").rowcount:
                continue
            if not self._db.execute(f"DELETE FROM conversation WHERE key = {oldest.format('')}").rowcount:
                return

    # ------------------------------------------------------------------ plumbing

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # a full disk has rolled back already
                self._db.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _saying(self, verb: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            cure = "free some disk space" if "full" in str(error) else "check the disk and its permissions"
            raise StorageError(f"Could not {verb} the session file {self.path} ({error}): {cure}.") from None


class SessionWriter:
    """Writes conversations on a thread of its own, so that a slow disk delays nobody.

    Of several states of one conversation only the latest is written. A write that fails stays and is tried again with
    the next one, and every ``retry`` seconds. ``max_pending`` bounds the bytes of KV state waiting; beyond it
    a conversation waits without its state. Its text is never dropped.
    """

    def __init__(self, store: SessionStore, *, max_pending: int = 256 << 20, retry: float = 30.0) -> None:
        self._store = store
        self._max_pending = max_pending
        self._retry = retry
        self._pending: dict[str, SavedConversation] = {}
        self._changed = threading.Condition()
        self._writing = False
        self._wanted = False
        self._stopping = False
        self._error = ""
        self._thread = threading.Thread(target=self._run, name="sessions", daemon=True)
        self._thread.start()

    @property
    def error(self) -> str:
        """Why the last write failed; empty when it did not. Any thread."""
        return self._error

    def submit(self, key: str, conversation: SavedConversation) -> None:
        """Have a conversation written. Any thread; returns at once."""
        with self._changed:
            self._pending.pop(key, None)
            held = sum(len(waiting.kv) for waiting in self._pending.values() if waiting.kv is not None)
            if conversation.kv is not None and held + len(conversation.kv) > self._max_pending:
                log.warning("The session file is written too slowly: %s is kept as text only.", key)
                conversation = SavedConversation(conversation.messages)
            self._pending[key] = conversation
            self._wanted = True
            self._changed.notify_all()

    def waiting(self, key: str) -> SavedConversation | None:
        """What is not in the file yet of a conversation, and newer than what is there. Any thread."""
        with self._changed:
            return self._pending.get(key)

    def discard(self, key: str) -> None:
        """Do not write what waits for ``key`` any more (the caller is to be forgotten). Any thread."""
        with self._changed:
            self._pending.pop(key, None)

    def flush(self, timeout: float) -> bool:
        """Wait until everything submitted was tried. Any thread. True when all of it is in the file."""
        with self._changed:
            self._wanted = self._wanted or bool(self._pending)
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._wanted and not self._writing, timeout)
            return not self._pending and not self._writing

    def close(self, timeout: float = 10.0) -> bool:
        """Write what waits, and end the thread; the store stays open. True when all of it is in the file."""
        complete = self.flush(timeout)
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(timeout)
        return complete

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._wanted and not self._stopping:
                    if not self._changed.wait(self._retry if self._pending else None):
                        break
                if self._stopping:
                    return
                batch = dict(self._pending)
                self._wanted = False
                self._writing = True
            for key, conversation in batch.items():
                self._write(key, conversation)
            with self._changed:
                self._writing = False
                self._changed.notify_all()

    def _write(self, key: str, conversation: SavedConversation) -> None:
        with self._changed:
            if self._pending.get(key) is not conversation:
                return  # discarded, or a newer one came
        try:
            self._store.save(key, conversation)
        except StorageError as error:
            if str(error) != self._error:
                log.error("%s The conversation is kept and tried again.", error)
            self._error = str(error)
            return
        except Exception as error:
            log.exception("A conversation could not be stored.")
            self._error = str(error)
        else:
            self._error = ""
        with self._changed:
            if self._pending.get(key) is conversation:
                del self._pending[key]


def _damaged(error: sqlite3.Error) -> bool:
    return error.sqlite_errorcode in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or "malformed" in str(error)


def _first_bytes(path: Path) -> tuple[int, bytes]:
    """Size of a file and as many of its first bytes as name its kind."""
    try:
        with path.open("rb") as file:
            head = file.read(len(_MAGIC))
            return file.seek(0, os.SEEK_END), head
    except FileNotFoundError:
        return 0, b""


def _pack(tokens: Sequence[int]) -> bytes:
    packed = array.array("i", tokens)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def _unpack(data: bytes) -> tuple[int, ...]:
    packed = array.array("i")
    packed.frombytes(data[: len(data) // 4 * 4])
    if sys.byteorder == "big":
        packed.byteswap()
    return tuple(packed)
