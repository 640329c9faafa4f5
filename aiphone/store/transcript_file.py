"""The file given with ``-f``: the words of all calls, one line each, as they are spoken."""

from __future__ import annotations

import logging
from pathlib import Path

from aiphone.errors import StorageError

log = logging.getLogger(__name__)


class TranscriptFile:
    """Appends lines. Main thread only."""

    def __init__(self, path: Path) -> None:
        """Open for appending. Raises ``StorageError`` when that is not possible."""
        self._path = path
        try:
            self._file = path.open("a", encoding="utf-8", buffering=1)
        except OSError as error:
            raise StorageError(f"the transcript file {path} cannot be written: {error.strerror}; check -f") from None

    def add(self, call_id: str, who: str, text: str) -> None:
        """Append one line. A full disk is logged and costs the line, never the call."""
        try:
            self._file.write(f"[{call_id}] {who}: {' '.join(text.split())}\n")
        except OSError as error:
            log.error("a line of the transcript file %s was lost: %s", self._path, error.strerror)

    def close(self) -> None:
        """Close the file."""
        try:
            self._file.close()
        except OSError as error:
            log.error("the transcript file %s did not close: %s", self._path, error.strerror)
