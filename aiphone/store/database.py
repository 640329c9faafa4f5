"""The file under the store: SQLite with a write-ahead log, one writer and as many readers as there are questions.

A write is in the file, flushed to the disk, when the method that makes it returns: a crash or power cut afterwards does
not undo it. Writes wait for each other under a lock. A read never waits: it has a connection of its own, from a
small pool, and sees the last complete write.

One server at a time may have a database open (a lock file says so), because it ends the calls that a crash left open
and numbers the new ones. Commands may open it beside a server.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from aiphone.errors import StorageError
from aiphone.store import migrations, search

log = logging.getLogger(__name__)

APPLICATION_ID = 0x41495048  # "AIPH"
CHECK_AT_START = 64 << 20
"""Bytes up to which a database is read through at each start (some tenths of a second)."""
_MAGIC = b"SQLite format 3\x00"
_BUSY = 5.0
"""Seconds that a connection waits for another program's, such as a backup's."""


class Database:
    """An open database. Any thread. Raises ``StorageError`` when it cannot be used, with the cure."""

    def __init__(self, path: Path, *, exclusive: bool) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._idle: list[sqlite3.Connection] = []
        self._closed = False
        with contextlib.ExitStack() as undo:
            self._make_private()
            if exclusive:
                undo.callback(os.close, self._claim())
            with self._saying("open"):
                self._db = self._connect()
                undo.callback(self._db.close)
                self._prepare()
            self._undo = undo.pop_all()

    # ------------------------------------------------------------------ opening

    def _make_private(self) -> None:
        """See that the directory is there and that the files will be readable by their owner alone."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600)
            try:
                os.fchmod(descriptor, 0o600)  # SQLite gives the log and its index the mode of the database
                head = os.read(descriptor, len(_MAGIC))
            finally:
                os.close(descriptor)
        except OSError as error:
            raise StorageError(
                f"The database {self.path} cannot be opened ({error.strerror}): check --data-dir and its permissions."
            ) from None
        if head and head != _MAGIC:
            raise self._damaged("it is not an SQLite database")

    def _claim(self) -> int:
        """Keep other processes out until the descriptor is closed."""
        # A file of its own: closing any descriptor of the database itself would drop SQLite's locks on it.
        try:
            descriptor = os.open(f"{self.path}.lock", os.O_CREAT | os.O_RDWR, 0o600)
        except OSError as error:
            raise StorageError(f"The lock file {self.path}.lock cannot be opened: {error.strerror}.") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise StorageError(
                f"The database {self.path} is used by a running server: stop that one or give another --data-dir."
            ) from None
        except OSError as error:  # a file system without locks
            log.warning("The database %s cannot be locked (%s): start one server only.", self.path, error.strerror)
        return descriptor

    def _connect(self, *, reader: bool = False) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=_BUSY, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA cache_size = -8000")
            if reader:
                db.execute("PRAGMA query_only = ON")
                return db
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA foreign_keys = ON")
            db.execute("PRAGMA secure_delete = ON")
            db.execute("PRAGMA journal_size_limit = 16000000")
        except BaseException:
            db.close()
            raise
        return db

    def _prepare(self) -> None:
        """Check what is there, and bring it up to date."""
        db = self._db
        application = int(db.execute("PRAGMA application_id").fetchone()[0])
        version = migrations.version_of(db)
        if application != APPLICATION_ID and db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise StorageError(f"{self.path} is a database of another program: give another --data-dir.")
        if version > migrations.VERSION:
            raise StorageError(
                f"The database {self.path} has version {version}, newer than this program's {migrations.VERSION}: "
                "update this program, or put back a backup from before."
            )
        if self.path.stat().st_size <= CHECK_AT_START and (problems := self.check()):
            raise self._damaged(problems[0])
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # heeded when the file is new
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        migrations.migrate(db)
        self._fts5 = search.available(db)
        with self._write():
            search.prepare(db, fts5=self._fts5)

    # ------------------------------------------------------------------ using

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """Make several writes one: all of them or none, and one flush to the disk. Other writers wait meanwhile."""
        with self._write():
            yield

    def check(self) -> list[str]:
        """Read the whole database through; what is wrong with it, nothing when all is well. Seconds for a large one."""
        return [str(row[0]) for row in self._read("PRAGMA quick_check(10)") if row[0] != "ok"]

    def backup(self, target: Path) -> None:
        """Write a copy of the database as it is now; calls go on meanwhile. Raises ``StorageError``."""
        backup_database(self.path, target)

    def close(self) -> None:
        """Close the file. A second call does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            while self._idle:
                self._idle.pop().close()
            self._undo.close()

    # ------------------------------------------------------------------ for the tables

    @contextlib.contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """A transaction, or a part of the one that goes on: what is done within is done whole or not at all."""
        with self._lock, self._saying("write"):
            self._check_open()
            db = self._db
            nested = db.in_transaction
            db.execute("SAVEPOINT part" if nested else "BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("RELEASE part" if nested else "COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # a full disk has undone everything already
                    if nested:
                        db.execute("ROLLBACK TO part")
                        db.execute("RELEASE part")
                    else:
                        db.execute("ROLLBACK")
                raise

    def _read(self, sql: str, values: Sequence[Any] | dict[str, Any] = ()) -> list[Any]:
        """The rows that answer a question, each a tuple."""
        with self._saying("read"):
            self._check_open()
            try:
                db = self._idle.pop()
            except IndexError:
                db = self._connect(reader=True)
            try:
                return db.execute(sql, values).fetchall()
            finally:
                self._idle.append(db)
                if self._closed:  # while we were reading
                    with contextlib.suppress(IndexError):
                        self._idle.pop().close()

    def _check_open(self) -> None:
        if self._closed:
            raise StorageError(f"The database {self.path} is closed: the server is shutting down.")

    @contextlib.contextmanager
    def _saying(self, verb: str) -> Iterator[None]:
        """Turn SQLite's errors into ours."""
        try:
            yield
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
            raise  # a defect of ours
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise self._damaged(str(error)) from None
            cure = {
                sqlite3.SQLITE_FULL: "free some disk space",
                sqlite3.SQLITE_BUSY: "another program holds it, end that one",
            }.get(code, "check the disk and its permissions")
            raise StorageError(f"Could not {verb} the database {self.path} ({error}): {cure}.") from None

    def _damaged(self, why: str) -> StorageError:
        return StorageError(
            f"The database {self.path} is damaged ({why}): move it and its -wal and -shm files away, then put a copy "
            "made by 'whisper-talk-llama backup' in its place, or start without one to begin anew."
        )


def backup_database(path: Path, target: Path) -> None:
    """Copy a database, also one that a running server uses, to a new file that only its owner can read.

    Raises ``StorageError`` when there is no database, when ``target`` exists or cannot be written, or when the
    database is damaged; ``target`` is there whole or not at all.
    """
    if not path.is_file():
        raise StorageError(f"There is no database {path}: check --data-dir.")
    if target.exists():
        raise StorageError(f"{target} exists: give the backup another name.")
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        with contextlib.closing(sqlite3.connect(path, timeout=_BUSY, isolation_level=None)) as db:
            if db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
                raise StorageError(f"{path} is not a database of this program: check --data-dir.")
            # Not a copy of the pages: what was deleted does not come along, and a damaged page is found.
            db.execute("VACUUM INTO ?", (str(temporary),))
        with contextlib.closing(sqlite3.connect(temporary)) as copy:
            problem = copy.execute("PRAGMA quick_check(1)").fetchone()[0]
            if problem != "ok":
                raise StorageError(f"The database {path} is damaged ({problem}): keep your last backup.")
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.rename(target)
    except sqlite3.Error as error:
        raise StorageError(f"Could not back up {path} to {target} ({error}): check the disk and its space.") from None
    except OSError as error:
        raise StorageError(f"Could not write the backup {target} ({error.strerror}): give another place.") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
