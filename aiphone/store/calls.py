"""Calls: written as they happen, read as history."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from aiphone.spoken_word import SpokenWord
from aiphone.store import search
from aiphone.store.clients import ClientTables
from aiphone.store.records import CallFilter, CallPage, CallRow, NotFoundError, TurnRow, WordsRow

log = logging.getLogger(__name__)

MOST_PER_PAGE = 500
"""Calls that one page may have."""

FEW = 200
"""Calls that are looked up one by one rather than compared."""
PIECE = 20_000
"""Numbers of calls among which two indexes are compared at once."""

_FIELDS = tuple(field.name for field in fields(CallRow))
_CALL = ", ".join(f"call.{name}" for name in _FIELDS if name != "media") + (
    ", (SELECT media FROM call_media WHERE call_id = call.id)"
)
STOPPED = "the server stopped during the call"
"""``end_reason`` of the calls that a crash ended."""


class CallTables(ClientTables):
    """Calls, their words and their turns. Any thread.

    Writes about a call that was removed meanwhile (its caller was forgotten) do nothing: the rest of that call is not
    kept either.
    """

    def __init__(self, path: Path, key_path: Path, wall: Callable[[], float], *, exclusive: bool) -> None:
        super().__init__(path, key_path, wall, exclusive=exclusive)
        self._numbering = threading.Lock()
        highest = self._read("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'call'")
        self._last_call = int(highest[0][0])
        if exclusive:
            self._end_open_calls()

    def _end_open_calls(self) -> None:
        """End the calls that the last run of the server did not live to end, at the last thing known of them."""
        with self._write() as db:
            for (call_id,) in db.execute("SELECT id FROM call WHERE ended IS NULL").fetchall():
                db.execute(
                    "UPDATE call SET end_reason = ?, ended = max(started, coalesce(answered, 0), "
                    "coalesce((SELECT max(at) FROM words WHERE call_id = call.id), 0), "
                    "coalesce((SELECT max(at + total) FROM turn WHERE call_id = call.id), 0)) WHERE id = ?",
                    (STOPPED, call_id),
                )
                self._index(call_id)

    # ------------------------------------------------------------------ writing

    def reserve_call(self) -> int:
        """A number for ``begin_call``. Does not touch the disk and never waits: for threads that must not."""
        with self._numbering:
            self._last_call += 1
            return self._last_call

    def begin_call(
        self,
        *,
        line_id: str,
        caller: str,
        caller_name: str = "",
        called: str = "",
        direction: str = "in",
        started: float | None = None,
        call_id: int | None = None,
    ) -> int:
        """Add a call; returns its number. ``call_id`` is a number from ``reserve_call``, ``started`` None is now."""
        number = self.reserve_call() if call_id is None else call_id
        with self._write() as db:
            db.execute(
                "INSERT INTO call (id, line_id, caller, caller_name, called, direction, started) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    number,
                    *map(_clean, (line_id, caller, caller_name, called, direction)),
                    self._wall() if started is None else started,
                ),
            )
            if self._fts5:
                search.put_who(db, number)
        return number

    def call_answered(self, call_id: int, at: float | None = None) -> None:
        """Both sides may speak."""
        with self._write() as db:
            when = self._wall() if at is None else at
            db.execute("UPDATE call SET answered = ? WHERE id = ?", (when, call_id))

    def add_words(self, words: WordsRow) -> None:
        """Add a line of a conversation, or replace the one of that number."""
        with self._write() as db:
            ended = db.execute("SELECT ended FROM call WHERE id = ?", (words.call_id,)).fetchone()
            if ended is None:
                return
            if ended[0] is not None:
                self._unindex(words.call_id)
            db.execute(
                "INSERT OR REPLACE INTO words (call_id, number, role, text, at, interrupted, spoken) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    words.call_id,
                    words.number,
                    words.role,
                    _clean(words.text),
                    words.at,
                    words.interrupted,
                    _json(words.spoken),
                ),
            )
            if ended[0] is not None:
                self._index(words.call_id)

    def add_turn(self, turn: TurnRow) -> None:
        """Add a turn, or replace the one of that number: its texts are known later than its times."""
        with self._write() as db:
            db.execute(
                "INSERT OR REPLACE INTO turn "
                "(call_id, number, at, caller_text, assistant_text, interrupted, parts, total) "
                "SELECT ?, ?, ?, ?, ?, ?, ?, ? WHERE EXISTS (SELECT 1 FROM call WHERE id = ?)",
                (
                    turn.call_id,
                    turn.number,
                    turn.at,
                    _clean(turn.caller_text),
                    _clean(turn.assistant_text),
                    turn.interrupted,
                    json.dumps({name: round(seconds, 6) for name, seconds in turn.parts.items()}),
                    turn.total,
                    turn.call_id,
                ),
            )

    def end_call(
        self,
        call_id: int,
        code: int,
        reason: str,
        media: Mapping[str, Any] | None = None,
        recording: str = "",
        ended: float | None = None,
    ) -> None:
        """The call is over. ``media`` is anything JSON can hold; ``ended`` None is now; an empty ``recording`` leaves
        what ``set_recording`` said. A second call does nothing.
        """
        with self._write() as db:
            found = db.execute(
                "UPDATE call SET ended = ?, end_code = ?, end_reason = ?, "
                "recording = coalesce(nullif(?, ''), recording) "
                "WHERE id = ? AND ended IS NULL",
                (self._wall() if ended is None else ended, code, _clean(reason), _clean(recording), call_id),
            ).rowcount
            if not found:
                self._discard(call_id, recording)
                return
            if media:
                db.execute("INSERT INTO call_media (call_id, media) VALUES (?, ?)", (call_id, json.dumps(media)))
            self._index(call_id)

    def set_recording(self, call_id: int, recording: str) -> None:
        """Where the recording of a call is; of a call that was removed meanwhile, the file is deleted."""
        with self._write() as db:
            sql = "UPDATE call SET recording = ? WHERE id = ?"
            if not db.execute(sql, (_clean(recording), call_id)).rowcount:
                self._discard(call_id, recording)

    def _discard(self, call_id: int, recording: str) -> None:
        """Delete a recording that belongs to no call, because its caller was forgotten."""
        if recording and not self._db.execute("SELECT 1 FROM call WHERE id = ?", (call_id,)).fetchone():
            file = self.path.parent / recording
            try:
                file.unlink(missing_ok=True)
            except OSError as error:
                log.error("The recording %s cannot be deleted (%s): delete it by hand.", file, error.strerror)

    def _index(self, call_id: int) -> None:
        if self._fts5:
            search.put(self._db, call_id)

    def _unindex(self, call_id: int) -> None:
        if self._fts5:
            search.take(self._db, call_id)

    def _delete_call(self, call_id: int) -> None:
        """Remove a call and what hangs on it, within a transaction."""
        self._unindex(call_id)
        if self._fts5:
            search.take_who(self._db, call_id)
        self._db.execute("DELETE FROM call WHERE id = ?", (call_id,))

    # ------------------------------------------------------------------ reading

    def call(self, call_id: int) -> CallRow:
        """One call. Raises ``NotFoundError``."""
        rows = self._read(f"SELECT {_CALL} FROM call WHERE id = ?", (call_id,))
        if not rows:
            raise NotFoundError(f"There is no call {call_id}: it never was, or was removed.")
        return _call(rows[0])

    def words(self, call_id: int) -> list[WordsRow]:
        """The conversation of a call, in its order; empty when there is none."""
        sql = "SELECT call_id, number, role, text, at, interrupted, spoken FROM words WHERE call_id = ? ORDER BY number"
        return [
            WordsRow(
                of_call, number, role, text, at, bool(interrupted), tuple(SpokenWord(*w) for w in json.loads(spoken))
            )
            for of_call, number, role, text, at, interrupted, spoken in self._read(sql, (call_id,))
        ]

    def turns(self, call_id: int) -> list[TurnRow]:
        """The turns of a call, in their order; empty when there are none."""
        sql = (
            "SELECT call_id, number, at, caller_text, assistant_text, interrupted, parts, total "
            "FROM turn WHERE call_id = ? ORDER BY number"
        )
        return [
            TurnRow(number_of_call, number, at, heard, said, bool(interrupted), json.loads(parts), total)
            for number_of_call, number, at, heard, said, interrupted, parts, total in self._read(sql, (call_id,))
        ]

    def calls(self, where: CallFilter | None = None, limit: int = 50, before: int | None = None) -> CallPage:
        """A page of calls, the latest first. ``before`` is ``next_before`` of the page before it.

        Calls that go on are found by everything but ``text``: their words are searched once they ended. A number as
        ``text`` is also looked for within the callers' numbers: nobody types all of one.
        """
        limit = max(1, min(limit, MOST_PER_PAGE))
        where = where or CallFilter()
        number = where.text.strip().removeprefix("+")
        if not number.isdecimal() or len(number) < search.SHORTEST_PART or where.caller:
            return self._page(where, limit, before)
        said = self._page(where, limit, before)
        called = self._page(replace(where, text="", caller=number), limit, before)
        both = sorted({call.id: call for call in (*said.calls, *called.calls)}.values(), key=lambda call: -call.id)
        more = len(both) > limit or said.next_before is not None or called.next_before is not None
        return CallPage(tuple(both[:limit]), both[:limit][-1].id if more else None)

    def _page(self, where: CallFilter, limit: int, before: int | None) -> CallPage:
        found = self._question(where)
        if found is None:
            return CallPage((), None)
        tables, conditions, values, piecewise = found
        number = _ORDER[tables]
        conditions = [f"{number} < :before AND {number} >= :floor", *conditions]
        sql = f"SELECT {_CALL} FROM {tables} WHERE {' AND '.join(conditions)} ORDER BY {number} DESC LIMIT :limit"
        # Numbers grow with time but for a few, so the bounds keep the search among the right calls.
        sql_bounds = "SELECT (SELECT min(id) FROM call), (SELECT max(id) FROM call)"  # apart, each is one step
        if where.since is not None or where.until is not None:
            sql_bounds = "SELECT min(id), max(id) FROM call WHERE started >= :since AND started < :until"
        first, last = self._read(sql_bounds, {key: values[key] for key in ("since", "until") if key in values})[0]
        rows: list[Any] = []
        end = 0 if first is None else last + 1 if before is None else min(before, last + 1)
        while first is not None and end > first and len(rows) <= limit:
            floor = max(first, end - PIECE) if piecewise else first
            rows += self._read(sql, {**values, "before": end, "floor": floor, "limit": limit + 1 - len(rows)})
            end = floor
        page = tuple(_call(row) for row in rows[:limit])
        return CallPage(page, page[-1].id if len(rows) > limit else None)

    def _question(self, where: CallFilter) -> tuple[str, list[str], dict[str, Any], bool] | None:
        """Tables, conditions and their values for a filter; None when nothing can match.

        The last says that two indexes are asked, best for a piece of the calls at a time: the whole answer of one of
        them is collected for each piece.
        """
        words = search.words_of(where.text)
        if where.text.strip() and not words:
            return None
        by_words = bool(words) and self._fts5
        by_part = len(where.caller) >= search.SHORTEST_PART and self._fts5
        tables = _BY_WORDS if by_words else _BY_PART if by_part else _ALL
        number = _ORDER[tables]
        conditions: list[str] = []
        values: dict[str, Any] = {}
        if by_words:
            conditions.append("search MATCH :match")
            values["match"] = search.match(words)
        elif words:
            conditions.append("ended IS NOT NULL")
            for index, word in enumerate(words):
                conditions.append(
                    f"(caller || ' ' || caller_name LIKE :word{index} ESCAPE '\\' OR EXISTS "
                    f"(SELECT 1 FROM words WHERE call_id = call.id AND text LIKE :word{index} ESCAPE '\\'))"
                )
                values[f"word{index}"] = _like(word)

        def also(sql: str, column: str) -> None:
            # Answered from an index of its own: fetching each call that the first one found takes longer by far.
            few = [row[0] for row in self._read(f"{sql} LIMIT {FEW}", values)]
            if len(few) < FEW:
                conditions.append(f"{number} IN (SELECT value FROM json_each(:few{len(values)}))")
                values[f"few{len(values)}"] = json.dumps(few)
            else:
                conditions.append(f"+{number} IN ({sql} AND {column} < :before AND {column} >= :floor)")

        if by_part:
            values["part"] = search.match_part(where.caller)
            if by_words:
                also("SELECT rowid FROM search_who WHERE search_who MATCH :part", "rowid")
            else:
                conditions.append("search_who MATCH :part")
        elif where.caller:
            values["caller"] = _like(where.caller)
            like = "(caller LIKE :caller ESCAPE '\\' OR caller_name LIKE :caller ESCAPE '\\')"
            if by_words:
                also(f"SELECT id FROM call WHERE {like}", "id")
            else:
                conditions.append(like)
        if where.line:
            values["line"] = where.line
            if tables == _ALL:
                conditions.append("line_id = :line")
            else:
                also("SELECT id FROM call WHERE line_id = :line", "id")
        if where.since is not None or where.until is not None:
            values |= {
                "since": -1e300 if where.since is None else where.since,
                "until": 1e300 if where.until is None else where.until,
            }
            conditions.append("started >= :since AND started < :until")
        return tables, conditions, values, tables != _ALL and bool(where.line or (by_words and where.caller))


_ALL = "call"
_BY_WORDS = "search CROSS JOIN call ON call.id = search.rowid"
_BY_PART = "search_who CROSS JOIN call ON call.id = search_who.rowid"
_ORDER = {_ALL: "call.id", _BY_WORDS: "search.rowid", _BY_PART: "search_who.rowid"}
"""The number of a call, which calls are listed by, for each way to look for them."""


def _call(row: tuple[Any, ...]) -> CallRow:
    values = dict(zip(_FIELDS, row, strict=True))
    return CallRow(**{**values, "media": json.loads(values["media"] or "{}")})


def _json(spoken: tuple[SpokenWord, ...]) -> str:
    words = [(_clean(word.text), word.start, word.end, word.probability) for word in spoken]
    return json.dumps(words, ensure_ascii=False, separators=(",", ":"))


def _like(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"


def _clean(text: str) -> str:
    """Text that any program can read back: what came over the network may hold half a character, or NUL."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "")
