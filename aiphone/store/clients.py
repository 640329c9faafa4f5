"""SIP clients and personas: what the owner sets up."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from aiphone.errors import StorageError
from aiphone.store.records import (
    DEFAULT_PERSONA,
    DuplicateError,
    NotFoundError,
    PersonaRecord,
    SipClient,
    VersionError,
)
from aiphone.store.secrets import Secrets
from aiphone.store.settings import SettingTables

_CLIENT = tuple(field.name for field in fields(SipClient))
_FLAGS = ("auto_answer", "enabled", "started")
_EDITED = tuple(name for name in _CLIENT if name not in ("client_id", "started", "version"))
_SELECT = f"SELECT {', '.join(_CLIENT)} FROM sip_client"
_PERSONA = tuple(field.name for field in fields(PersonaRecord) if field.name not in ("name", "version"))


class ClientTables(SettingTables):
    """SIP clients with their passwords, and personas. Any thread."""

    def __init__(self, path: Path, key_path: Path, wall: Callable[[], float], *, exclusive: bool) -> None:
        super().__init__(path, wall, exclusive=exclusive)
        self._secrets = Secrets(key_path)
        with self._write() as db:
            # Empty: until it is edited it has the defaults of whatever version of the program runs.
            db.execute("INSERT OR IGNORE INTO persona (name, document) VALUES (?, '{}')", (DEFAULT_PERSONA,))

    # ------------------------------------------------------------------ SIP clients

    def sip_clients(self) -> list[SipClient]:
        """All SIP clients by their id."""
        return [_client(row) for row in self._read(f"{_SELECT} ORDER BY client_id")]

    def sip_client(self, client_id: str) -> SipClient:
        """One SIP client. Raises ``NotFoundError``."""
        rows = self._read(f"{_SELECT} WHERE client_id = ?", (client_id,))
        if not rows:
            raise _no_client(client_id)
        return _client(rows[0])

    def add_sip_client(self, client: SipClient, password: str) -> SipClient:
        """Add a SIP client, not started; ``version`` is set. Raises ``DuplicateError``, and ``NotFoundError`` for
        a persona that does not exist."""
        token = self._secrets.encrypt(password)
        client = replace(client, started=False, version=1)
        with self._write() as db:
            if db.execute("SELECT 1 FROM sip_client WHERE client_id = ?", (client.client_id,)).fetchone():
                raise DuplicateError(f"There is a SIP client '{client.client_id}' already: give another client_id.")
            _need_persona(db, client.persona)
            values = {**_values(client), "password": token}
            names = ", ".join(values)
            marks = ", ".join(f":{name}" for name in values)
            db.execute(f"INSERT INTO sip_client ({names}) VALUES ({marks})", values)
        return client

    def update_sip_client(
        self, client: SipClient, password: str | None = None, if_version: int | None = None
    ) -> SipClient:
        """Change everything but ``client_id`` and ``started``; ``password`` None leaves it. Returns what is stored now.

        Raises ``NotFoundError``, and ``VersionError`` when ``if_version`` is given and is not the stored version.
        """
        token = None if password is None else self._secrets.encrypt(password)
        with self._write() as db:
            stored = _stored_client(db, client.client_id, if_version)
            _need_persona(db, client.persona)
            changed = replace(client, started=stored.started, version=stored.version + 1)
            changes = ", ".join(f"{name} = :{name}" for name in (*_EDITED, "version"))
            db.execute(f"UPDATE sip_client SET {changes} WHERE client_id = :client_id", _values(changed))
            if token is not None:
                db.execute("UPDATE sip_client SET password = ? WHERE client_id = ?", (token, client.client_id))
        return changed

    def delete_sip_client(self, client_id: str, if_version: int | None = None) -> None:
        """Remove a SIP client and its password; its calls stay. Raises as ``update_sip_client``."""
        with self._write() as db:
            _stored_client(db, client_id, if_version)
            db.execute("DELETE FROM sip_client WHERE client_id = ?", (client_id,))

    def set_started(self, client_id: str, started: bool) -> None:
        """Remember whether the client is to register, now and at the next start. Raises ``NotFoundError``."""
        with self._write() as db:
            sql = "UPDATE sip_client SET started = ? WHERE client_id = ?"
            if not db.execute(sql, (started, client_id)).rowcount:
                raise _no_client(client_id)

    def sip_password(self, client_id: str) -> str:
        """The password, to register with. Raises ``StorageError`` when the key file is not the one it needs."""
        rows = self._read("SELECT password FROM sip_client WHERE client_id = ?", (client_id,))
        if not rows:
            raise _no_client(client_id)
        return self._secrets.decrypt(rows[0][0], f"the SIP client '{client_id}'")

    # ------------------------------------------------------------------ personas

    def personas(self) -> list[PersonaRecord]:
        """All personas by name, the default one first."""
        sql = "SELECT name, document, version FROM persona ORDER BY name <> ?, name"
        return [_persona(row) for row in self._read(sql, (DEFAULT_PERSONA,))]

    def persona(self, name: str) -> PersonaRecord:
        """One persona; an empty name is the default one. Raises ``NotFoundError``."""
        name = name or DEFAULT_PERSONA
        rows = self._read("SELECT name, document, version FROM persona WHERE name = ?", (name,))
        if not rows:
            raise _no_persona(name)
        return _persona(rows[0])

    def add_persona(self, record: PersonaRecord) -> PersonaRecord:
        """Add a persona. Raises ``DuplicateError``."""
        record = replace(record, version=1)
        with self._write() as db:
            if db.execute("SELECT 1 FROM persona WHERE name = ?", (record.name,)).fetchone():
                raise DuplicateError(f"There is a persona '{record.name}' already: give another name.")
            db.execute("INSERT INTO persona (name, document) VALUES (?, ?)", (record.name, _json(record)))
        return record

    def update_persona(self, record: PersonaRecord, if_version: int | None = None) -> PersonaRecord:
        """Change a persona; returns what is stored now. Raises ``NotFoundError`` or ``VersionError``."""
        with self._write() as db:
            record = replace(record, version=_persona_version(db, record.name, if_version) + 1)
            db.execute(
                "UPDATE persona SET document = ?, version = ? WHERE name = ?",
                (_json(record), record.version, record.name),
            )
        return record

    def delete_persona(self, name: str, if_version: int | None = None) -> None:
        """Remove a persona; who was answered by it is answered by the default one.

        Raises ``NotFoundError``, ``VersionError``, and ``StorageError`` for the default persona.
        """
        if name == DEFAULT_PERSONA:
            raise StorageError(f"The persona '{name}' cannot be deleted because it answers by default: edit it.")
        with self._write() as db:
            _persona_version(db, name, if_version)
            db.execute("DELETE FROM persona WHERE name = ?", (name,))


def _client(row: tuple[Any, ...]) -> SipClient:
    values = dict(zip(_CLIENT, row, strict=True))
    values.update({name: bool(values[name]) for name in _FLAGS}, persona=values["persona"] or "")
    return SipClient(**values)


def _values(client: SipClient) -> dict[str, Any]:
    return {**asdict(client), "persona": client.persona or None}


def _stored_client(db: sqlite3.Connection, client_id: str, if_version: int | None) -> SipClient:
    row = db.execute(f"{_SELECT} WHERE client_id = ?", (client_id,)).fetchone()
    if row is None:
        raise _no_client(client_id)
    stored = _client(row)
    if if_version not in (None, stored.version):
        raise _changed(f"The SIP client '{client_id}'")
    return stored


def _persona(row: tuple[str, str, int]) -> PersonaRecord:
    document = json.loads(row[1])
    return PersonaRecord(name=row[0], version=row[2], **{name: document[name] for name in _PERSONA if name in document})


def _json(record: PersonaRecord) -> str:
    return json.dumps({name: getattr(record, name) for name in _PERSONA}, ensure_ascii=False)


def _persona_version(db: sqlite3.Connection, name: str, if_version: int | None) -> int:
    row = db.execute("SELECT version FROM persona WHERE name = ?", (name,)).fetchone()
    if row is None:
        raise _no_persona(name)
    if if_version not in (None, row[0]):
        raise _changed(f"The persona '{name}'")
    return int(row[0])


def _need_persona(db: sqlite3.Connection, name: str) -> None:
    if name and db.execute("SELECT 1 FROM persona WHERE name = ?", (name,)).fetchone() is None:
        raise _no_persona(name)


def _no_client(client_id: str) -> NotFoundError:
    return NotFoundError(f"There is no SIP client '{client_id}': the list of SIP clients shows those that are.")


def _no_persona(name: str) -> NotFoundError:
    return NotFoundError(f"There is no persona '{name}': the list of personas shows those that are.")


def _changed(what: str) -> VersionError:
    return VersionError(f"{what} was changed by someone else meanwhile: look at it again, then make your change.")
