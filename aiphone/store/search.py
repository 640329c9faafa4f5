"""Full-text search over conversations, with SQLite's FTS5 where it was compiled in.

There are two indexes. ``search`` has one document for each call that ended: who called, and all words in their order.
``search_who`` has one for each call from its beginning: the caller's URI and name in trigrams, which find any part of
three characters and more. The documents' numbers are the calls', so the latest matches come first without sorting, and
a page is found without looking at the rest. Both hold the index only; the text stays where it is, in the view
``call_text`` and in the table ``call``, which must read the same when a document is taken out as when it was put in.
Whoever changes what the view shows takes the call out before and puts it back after; who called never changes.

A database may come from a machine without FTS5, or from before an index; they are therefore not part of the layout's
versions but are made, and made again where they fell behind or have another layout, at each opening.
"""

from __future__ import annotations

import logging
import re
import sqlite3
import unicodedata

log = logging.getLogger(__name__)

_TABLE = """
CREATE VIRTUAL TABLE search USING fts5 (
    who, words, content = 'call_text', content_rowid = 'id', columnsize = 0,
    prefix = '1 2 3', tokenize = "unicode61 remove_diacritics 2"
)
"""
_WHO = """
CREATE VIRTUAL TABLE search_who USING fts5 (
    caller, caller_name, content = 'call', content_rowid = 'id', columnsize = 0, tokenize = "trigram"
)
"""
_TABLES = {"search": _TABLE.strip(), "search_who": _WHO.strip()}
SHORTEST_PART = 3
"""Characters of a part of a name that ``search_who`` finds; shorter ones are looked for without it."""
_STALE = "_search_stale"
"""Setting that says: the database was written to where there is no FTS5."""

_WORD = re.compile(r"[^\W_]+")


def available(db: sqlite3.Connection) -> bool:
    """Whether this SQLite has FTS5, with trigrams."""
    if sqlite3.sqlite_version_info < (3, 34):
        return False
    return bool(db.execute("SELECT count(*) FROM pragma_module_list WHERE name = 'fts5'").fetchone()[0])


def prepare(db: sqlite3.Connection, *, fts5: bool) -> None:
    """Make the indexes that are missing, and those that fell behind again. Within a transaction."""
    rows = db.execute("SELECT name, sql FROM sqlite_master WHERE name IN ('search', 'search_who')")
    there = dict(rows.fetchall())
    if not fts5:
        if there:
            db.execute("INSERT OR REPLACE INTO setting (name, value) VALUES (?, 'true')", (_STALE,))
        return
    stale = db.execute("DELETE FROM setting WHERE name = ?", (_STALE,)).rowcount > 0
    for name, table in _TABLES.items():
        if there.get(name) == table and not stale:
            continue
        if db.execute("SELECT 1 FROM call LIMIT 1").fetchone():
            log.info("The search index '%s' is made, which takes some seconds for many calls.", name)
        if name in there:
            db.execute(f"DROP TABLE {name}")
        db.execute(table)
        db.execute(f"INSERT INTO {name} ({name}) VALUES ('rebuild')")


def put_who(db: sqlite3.Connection, call_id: int) -> None:
    """Put a call that begins into the index of callers."""
    db.execute(
        "INSERT INTO search_who (rowid, caller, caller_name) SELECT id, caller, caller_name FROM call WHERE id = ?",
        (call_id,),
    )


def take_who(db: sqlite3.Connection, call_id: int) -> None:
    """Take a call out of the index of callers, before it is removed."""
    db.execute(
        "INSERT INTO search_who (search_who, rowid, caller, caller_name) "
        "SELECT 'delete', id, caller, caller_name FROM call WHERE id = ?",
        (call_id,),
    )


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
    """Write the indexes anew, without what was taken out: until then it is only marked as gone."""
    for name in _TABLES:
        db.execute(f"INSERT INTO {name} ({name}) VALUES ('optimize')")


def words_of(text: str) -> list[str]:
    """The words to look for in what someone typed."""
    return _WORD.findall(unicodedata.normalize("NFC", text))


def match(words: list[str]) -> str:
    """The FTS5 query for calls with all these words, the last of which may be a beginning."""
    return " ".join(f'"{word}"' for word in words) + "*"


def match_part(part: str) -> str:
    """The FTS5 query for calls whose caller's URI or name has ``part`` in it, of ``SHORTEST_PART`` or more."""
    quoted = part.replace('"', '""')
    return f'"{quoted}"'
