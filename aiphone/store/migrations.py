"""The layout of the database and how an older one becomes today's.

``STEPS[n]`` brings version ``n`` to ``n + 1``; the version is SQLite's ``user_version`` and an empty file has 0. A step
that was released is never changed: what is wrong with it is put right by another one. Each runs in a transaction
with the change of the version, so that a database is always of exactly one version.

``tests/vectors/store/vN.sql`` holds a database of each version with data in it.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Sequence

log = logging.getLogger(__name__)

Step = Sequence[str]
"""SQL statements, one a string."""

_V1: Step = (
    """
    CREATE TABLE persona (
        name TEXT PRIMARY KEY,
        document TEXT NOT NULL,  -- JSON; a field that is missing has its default
        version INTEGER NOT NULL DEFAULT 1
    ) STRICT
    """,
    """
    CREATE TABLE sip_client (
        client_id TEXT PRIMARY KEY,
        username TEXT NOT NULL,
        server_ip TEXT NOT NULL,
        server_port INTEGER NOT NULL,
        display_name TEXT NOT NULL,
        auto_answer INTEGER NOT NULL,
        greeting TEXT NOT NULL,
        transport TEXT NOT NULL,
        auth_username TEXT NOT NULL,
        proxy TEXT NOT NULL,
        persona TEXT REFERENCES persona (name) ON DELETE SET NULL,
        enabled INTEGER NOT NULL,
        started INTEGER NOT NULL DEFAULT 0,
        version INTEGER NOT NULL DEFAULT 1,
        password BLOB NOT NULL  -- encrypted, see secrets.py
    ) STRICT
    """,
    "CREATE INDEX sip_client_persona ON sip_client (persona)",
    # AUTOINCREMENT: the number of a call that was removed is never given to another.
    """
    CREATE TABLE call (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        line_id TEXT NOT NULL,
        caller TEXT NOT NULL,
        caller_name TEXT NOT NULL,
        called TEXT NOT NULL,
        direction TEXT NOT NULL,
        started REAL NOT NULL,
        answered REAL,
        ended REAL,
        end_code INTEGER NOT NULL DEFAULT 0,
        end_reason TEXT NOT NULL DEFAULT '',
        recording TEXT NOT NULL DEFAULT '',
        media TEXT NOT NULL DEFAULT '{}'
    ) STRICT
    """,
    """
    CREATE TABLE words (
        call_id INTEGER NOT NULL REFERENCES call (id) ON DELETE CASCADE,
        number INTEGER NOT NULL,
        role TEXT NOT NULL,
        text TEXT NOT NULL,
        at REAL NOT NULL,
        interrupted INTEGER NOT NULL,
        PRIMARY KEY (call_id, number)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE turn (
        call_id INTEGER NOT NULL REFERENCES call (id) ON DELETE CASCADE,
        number INTEGER NOT NULL,
        at REAL NOT NULL,
        caller_text TEXT NOT NULL,
        assistant_text TEXT NOT NULL,
        interrupted INTEGER NOT NULL,
        parts TEXT NOT NULL,
        total REAL NOT NULL,
        PRIMARY KEY (call_id, number)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE VIEW call_text (id, who, words) AS  -- what full-text search looks through, see search.py
    SELECT id, caller || ' ' || caller_name, coalesce(
        (SELECT group_concat(text, ' ') FROM (SELECT text FROM words WHERE call_id = call.id ORDER BY number)), '')
    FROM call WHERE ended IS NOT NULL
    """,
    "CREATE TABLE setting (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT",
    """
    CREATE TABLE audit (
        id INTEGER PRIMARY KEY,
        at REAL NOT NULL,
        actor TEXT NOT NULL,
        action TEXT NOT NULL,
        target TEXT NOT NULL,
        detail TEXT NOT NULL
    ) STRICT
    """,
    "CREATE INDEX call_line ON call (line_id)",
    "CREATE INDEX call_open ON call (id) WHERE ended IS NULL",
)

# Version 2: the dashboard reads a day of turns, the history thousands of calls. Media statistics are the bulk of a
# call and are looked at one call at a time, so they move out of the way; the rest of each question is answered from
# an index alone.
_V2: Step = (
    """
    CREATE TABLE call_media (
        call_id INTEGER PRIMARY KEY REFERENCES call (id) ON DELETE CASCADE,
        media TEXT NOT NULL
    ) STRICT
    """,
    "INSERT INTO call_media SELECT id, media FROM call WHERE media <> '{}'",
    "ALTER TABLE call DROP COLUMN media",
    "CREATE INDEX call_started ON call (started, answered, ended)",
    "CREATE INDEX call_recording ON call (started) WHERE recording <> ''",
    "CREATE INDEX turn_at ON turn (at, total, interrupted, parts)",
)

# Version 3: SRTP by line. A month on the dashboard reads the times of a hundred thousand turns and the parts of a few:
# an index that has the times alone is read several times as fast.
_V3: Step = (
    "ALTER TABLE sip_client ADD COLUMN srtp TEXT NOT NULL DEFAULT 'off'",
    "DROP INDEX turn_at",
    "CREATE INDEX turn_time ON turn (at, total, interrupted)",
)

# Version 4: when each word of a caller was said, and how sure that is. A list for each word, [text, start, end,
# probability] with seconds from the line's ``at``, as JSON: it is only ever read and removed with its line.
_V4: Step = ("ALTER TABLE words ADD COLUMN spoken TEXT NOT NULL DEFAULT '[]'",)

STEPS: Sequence[Step] = (_V1, _V2, _V3, _V4)
VERSION = len(STEPS)


def version_of(db: sqlite3.Connection) -> int:
    """Version of the layout; 0 for an empty database."""
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def migrate(db: sqlite3.Connection, steps: Sequence[Step] = STEPS) -> int:
    """Bring a database up to ``len(steps)``; returns the version it had.

    ``db`` is in autocommit mode. Raises ``sqlite3.Error`` when a step fails; the database is then of the version before
    that step. Foreign keys are enforced again when this returns.
    """
    found = version_of(db)
    if found >= len(steps):
        return found
    # A step may put a table in the place of another, which must not take the rows that refer to it along.
    db.execute("PRAGMA foreign_keys = OFF")
    try:
        for version in range(found, len(steps)):
            _run(db, steps[version], version + 1)
    finally:
        db.execute("PRAGMA foreign_keys = ON")
    if found:
        log.warning("The database was brought from version %d to %d.", found, len(steps))
    return found


def _run(db: sqlite3.Connection, step: Step, version: int) -> None:
    db.execute("BEGIN IMMEDIATE")
    try:
        for statement in step:
            db.execute(statement)
        _check_references(db, version)
        db.execute(f"PRAGMA user_version = {version}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _check_references(db: sqlite3.Connection, version: int) -> None:
    if db.execute("PRAGMA foreign_key_check").fetchone() is not None:
        raise sqlite3.IntegrityError(f"step {version} leaves rows that refer to nothing")
