"""Settings that are changed at run time, and who changed what."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiphone.store.database import Database
from aiphone.store.records import AuditRow, Retention

PRIVATE = ("_", "auth.")
"""How the keys of settings begin that ``settings`` does not show."""


class SettingTables(Database):
    """Named values and the audit log. Any thread."""

    def __init__(self, path: Path, wall: Callable[[], float], *, exclusive: bool) -> None:
        super().__init__(path, exclusive=exclusive)
        self._wall = wall

    def settings(self) -> dict[str, Any]:
        """All settings but those whose key begins with one of ``PRIVATE``: the program's own, which may be secret."""
        rows = self._read("SELECT name, value FROM setting ORDER BY name")
        return {key: json.loads(value) for key, value in rows if not key.startswith(PRIVATE)}

    def setting(self, key: str, default: Any = None) -> Any:
        """One setting, a private one too."""
        rows = self._read("SELECT value FROM setting WHERE name = ?", (key,))
        return json.loads(rows[0][0]) if rows else default

    def set_setting(self, key: str, value: Any) -> None:
        """Keep a value that JSON can hold; None removes the setting."""
        with self._write() as db:
            if value is None:
                db.execute("DELETE FROM setting WHERE name = ?", (key,))
            else:
                text = json.dumps(value, ensure_ascii=False)
                db.execute("INSERT OR REPLACE INTO setting (name, value) VALUES (?, ?)", (key, text))

    def retention(self) -> Retention:
        """How long things are kept."""
        return Retention(**self.setting("retention", {}))

    def set_retention(self, retention: Retention) -> None:
        """Change how long things are kept; ``apply_retention`` acts on it."""
        values = {
            "calls": retention.calls,
            "transcripts": retention.transcripts,
            "recordings": retention.recordings,
        }
        self.set_setting("retention", values)

    def audit(self, actor: str, action: str, target: str, detail: str = "") -> None:
        """Write down that ``actor`` did ``action`` to ``target``. ``detail`` must not hold a password."""
        with self._write() as db:
            db.execute(
                "INSERT INTO audit (at, actor, action, target, detail) VALUES (?, ?, ?, ?, ?)",
                (self._wall(), actor, action, target, detail),
            )

    def audit_log(self, limit: int = 100, before: int | None = None) -> list[AuditRow]:
        """What was done, the latest first; ``before`` is the id of the last one already seen."""
        sql = "SELECT id, at, actor, action, target, detail FROM audit WHERE id < ? ORDER BY id DESC LIMIT ?"
        return [AuditRow(*row) for row in self._read(sql, (2**62 if before is None else before, limit))]
