"""Full-text search over conversations, with SQLite's FTS5 where it was compiled in.

One document for each call that ended: who called, and all words in their order. The documents' numbers are the
calls', so the latest matches come first without sorting, and a page is found without looking at the rest. The table
holds the index only; the text stays where it is, in the view ``call_text``, which must read the same when a document
is taken out as when it was put in. Whoever changes what the view shows takes the call out before and puts it back
after.

A database may come from a machine without FTS5; the index is therefore not part of the layout's versions but is made,
and made up for, at each opening.
"""

from __future__ import annotations

import re
import sqlite3
import unicodedata

_TABLE = """
CREATE VIRTUAL TABLE search USING fts5 (
    who, words, content = 'call_text', content_rowid = 'id', columnsize = 0,
    tokenize = "unicode61 remove_diacritics 2"
)
"""
_STALE = "_search_stale"
"""Setting that says: the database was written to where there is no FTS5."""

_WORD = re.compile(r"[^\W_]+")


def available(db: sqlite3.Connection) -> bool:
    """Whether this SQLite has FTS5."""
    return bool(db.execute("SELECT count(*) FROM pragma_module_list WHERE name = 'fts5'").fetchone()[0])


def prepare(db: sqlite3.Connection, *, fts5: bool) -> None:
    """Make the index when there is none, and again when it fell behind. Within a transaction."""
    exists = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'search'").fetchone() is not None
    if not fts5:
        if exists:
            db.execute("INSERT OR REPLACE INTO setting (name, value) VALUES (?, 'true')", (_STALE,))
        return
    if not exists:
        db.execute(_TABLE)
    stale = db.execute("DELETE FROM setting WHERE name = ?", (_STALE,)).rowcount > 0
    if stale or not exists:
        db.execute("INSERT INTO search (search) VALUES ('rebuild')")


def put(db: sqlite3.Connection, call_id: int) -> None:
    """Put a call into the index. It must not be there."""
    db.execute("INSERT INTO search (rowid, who, words) SELECT id, who, words FROM call_text WHERE id = ?", (call_id,))


def take(db: sqlite3.Connection, call_id: int) -> None:
    """Take a call out of the index, before what ``call_text`` shows of it changes."""
    db.execute(
        "INSERT INTO search (search, rowid, who, words) SELECT 'delete', id, who, words FROM call_text WHERE id = ?",
        (call_id,),
    )


def merge(db: sqlite3.Connection) -> None:
    """Write the whole index anew, without what was taken out: until then it is only marked as gone."""
    db.execute("INSERT INTO search (search) VALUES ('optimize')")


def words_of(text: str) -> list[str]:
    """The words to look for in what someone typed."""
    return _WORD.findall(unicodedata.normalize("NFC", text))


def match(words: list[str]) -> str:
    """The FTS5 query for calls with all these words, the last of which may be a beginning."""
    return " ".join(f'"{word}"' for word in words) + "*"
