"""What is not to be kept: calls and recordings that are too old, and callers who are to be forgotten."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from aiphone.errors import StorageError
from aiphone.store import search
from aiphone.store.dashboard import Dashboard
from aiphone.store.records import Removed

log = logging.getLogger(__name__)

DAY = 86_400.0
PIECE = 200
"""Calls removed in one transaction, so that other writers get their turn."""

_PORT = re.compile(r"(?<=[^:]):\d+$")


def same_caller(uri: str) -> str:
    """A caller's URI without the port: many phones take another one each time they start."""
    return _PORT.sub("", uri)


class Forgetting(Dashboard):
    """Removal that is one: rows, full-text index, recordings' files. Any thread; seconds for many calls.

    A recording's file goes before the row that names it: a crash in between leaves a row to try again with, never a
    file that nobody knows of.
    """

    def forget_caller(self, caller: str) -> Removed:
        """Remove every call of a caller, whatever port the URI has, and every trace of it in the database's files.

        What was copied away before, such as backups, is out of reach. Raises ``StorageError`` when a recording cannot
        be deleted or the database not be rewritten; it is then safe to try again.
        """
        key = same_caller(caller.strip())
        if not key:
            raise StorageError("An empty caller cannot be forgotten: give the URI as the history shows it.")
        callers = {row[0] for row in self._read("SELECT DISTINCT caller FROM call")}
        same = json.dumps([uri for uri in callers if same_caller(uri) == key])
        calls = self._numbers("caller IN (SELECT value FROM json_each(?))", same)
        removed, kept = self._remove_calls(calls)
        with self._write() as db:
            db.execute(
                "UPDATE audit SET target = replace(target, :key, '(forgotten)'), "
                "detail = replace(detail, :key, '(forgotten)') WHERE instr(target, :key) OR instr(detail, :key)",
                {"key": key},
            )
        self._rewrite()
        if kept:
            raise StorageError(
                f"{len(kept)} recordings of the caller could not be deleted, the first is {kept[0]}: "
                "make them deletable and try again."
            )
        return removed

    def apply_retention(self, now: float | None = None) -> Removed:
        """Remove what is older than ``retention`` allows; calls that go on stay. ``now`` None is now.

        A recording that cannot be deleted is logged and tried again the next time, and its call stays until then.
        """
        rules = self.retention()
        now = self._wall() if now is None else now
        removed = Removed()
        old = "ended IS NOT NULL AND started < ?"
        if rules.calls > 0:
            removed = self._remove_calls(self._numbers(old, now - rules.calls * DAY))[0]
        if rules.recordings > 0:
            aged = self._numbers(f"{old} AND recording <> ''", now - rules.recordings * DAY)
            gone = self._remove_recordings(aged)[0]
            removed = replace(removed, recordings=removed.recordings + len(gone))
        if rules.transcripts > 0:
            spoken = "EXISTS (SELECT 1 FROM words WHERE call_id = call.id)"
            aged = self._numbers(f"{old} AND {spoken}", now - rules.transcripts * DAY)
            self._remove_transcripts(aged)
            removed = replace(removed, transcripts=removed.transcripts + len(aged))
        if removed != Removed():
            log.info("Too old and removed: %s.", removed)
            self._give_back()
        return removed

    # ------------------------------------------------------------------ pieces

    def _numbers(self, condition: str, value: object) -> list[int]:
        return [row[0] for row in self._read(f"SELECT id FROM call WHERE {condition} ORDER BY id", (value,))]

    def _remove_calls(self, calls: list[int]) -> tuple[Removed, list[Path]]:
        """Remove calls with all that hangs on them, but for those whose recording's file is there and stays."""
        removed = Removed()
        kept: list[Path] = []
        for piece in _pieces(calls):
            recordings, staying = self._remove_recordings(piece)
            kept += staying.values()
            numbers = [number for number in piece if number not in staying]
            with self._write() as db:
                for number in numbers:
                    spoken = db.execute("SELECT 1 FROM words WHERE call_id = ?", (number,)).fetchone() is not None
                    self._delete_call(number)
                    removed = replace(removed, transcripts=removed.transcripts + spoken)
            removed = Removed(removed.calls + len(numbers), removed.transcripts, removed.recordings + len(recordings))
        return removed, kept

    def _remove_recordings(self, calls: list[int]) -> tuple[list[int], dict[int, Path]]:
        """Delete the files of these calls' recordings; which calls had one, and which still do."""
        removed: list[int] = []
        staying: dict[int, Path] = {}
        for piece in _pieces(calls):
            marks = json.dumps(piece)
            sql = "SELECT id, recording FROM call WHERE recording <> '' AND id IN (SELECT value FROM json_each(?))"
            for number, recording in self._read(sql, (marks,)):
                file = self.path.parent / recording
                try:
                    file.unlink(missing_ok=True)
                except OSError as error:
                    log.error("The recording %s cannot be deleted (%s): make it deletable.", file, error.strerror)
                    staying[number] = file
                else:
                    removed.append(number)
            with self._write() as db:
                db.executemany("UPDATE call SET recording = '' WHERE id = ?", [(number,) for number in removed])
        return removed, staying

    def _remove_transcripts(self, calls: list[int]) -> None:
        for piece in _pieces(calls):
            with self._write() as db:
                for number in piece:
                    self._unindex(number)
                    db.execute("DELETE FROM words WHERE call_id = ?", (number,))
                    db.execute("UPDATE turn SET caller_text = '', assistant_text = '' WHERE call_id = ?", (number,))
                    self._index(number)

    # ------------------------------------------------------------------ the files

    def _give_back(self) -> None:
        """Give the room of what was removed back to the file system."""
        with self._lock, self._saying("tidy up"):
            self._check_open()
            if self._fts5:
                search.merge(self._db)
            self._db.executescript("PRAGMA incremental_vacuum")
            self._empty_log()

    def _rewrite(self) -> None:
        """Write the whole database anew, so that nothing of what was removed is left in any of its files.

        ``secure_delete`` blanks what is deleted, but not the copies that SQLite leaves behind where it moves rows
        from page to page, and the full-text index only marks what is gone.
        """
        with self._lock, self._saying("rewrite"):
            self._check_open()
            if self._fts5:
                search.merge(self._db)
            self._db.execute("VACUUM")
            if not self._empty_log():
                raise StorageError(
                    f"The log of the database {self.path} is in use and still holds what was removed: try again."
                )

    def _empty_log(self) -> bool:
        busy: int = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        return not busy


def _pieces(calls: list[int]) -> Iterator[list[int]]:
    return (calls[start : start + PIECE] for start in range(0, len(calls), PIECE))
