"""SIP clients, their passwords, and personas."""

from __future__ import annotations

import dataclasses
import errno
import logging
import os
import stat

import pytest
from cryptography.fernet import Fernet

from aiphone.errors import StorageError
from aiphone.persona import Persona, Sampling
from aiphone.store.records import DuplicateError, NotFoundError, PersonaRecord, SipClient, VersionError
from aiphone.store.secrets import Secrets
from aiphone.store.store import Store

CLIENT = SipClient(
    "pbx",
    "100",
    "192.0.2.1",
    5080,
    "Front desk",
    False,
    "Grüß Gott",
    "tls",
    "auth100",
    "sip:proxy",
    "",
    False,
    "mandatory",
)
PASSWORD = "s3same öffne dich"


@pytest.fixture
def paths(tmp_path):
    return tmp_path / "phone.db", tmp_path / "phone.key"


@pytest.fixture
def store(paths):
    store = Store(*paths)
    yield store
    store.close()


# ---------------------------------------------------------------------------------------------- SIP clients


def test_a_client_comes_back_as_it_was(store, paths):
    assert store.add_sip_client(CLIENT, PASSWORD) == CLIENT
    store.close()
    again = Store(*paths)
    assert again.sip_clients() == [CLIENT]
    assert again.sip_password("pbx") == PASSWORD
    again.close()


def test_each_field_is_kept(store):
    store.add_sip_client(SipClient("pbx", "1", "h"), "p")
    store.add_persona(PersonaRecord("night"))
    changed = dataclasses.replace(CLIENT, persona="night")
    store.update_sip_client(changed)
    stored = store.sip_client("pbx")
    assert stored == dataclasses.replace(changed, version=2)
    assert all(
        getattr(stored, field.name) != field.default
        for field in dataclasses.fields(SipClient)
        if field.name != "started"
    ), "a field with its default would not show that it is kept"


def test_started_is_remembered_and_is_no_edit(store, paths):
    store.add_sip_client(dataclasses.replace(CLIENT, started=True), PASSWORD)
    assert not store.sip_client("pbx").started
    store.set_started("pbx", True)
    store.update_sip_client(CLIENT, if_version=1)
    assert store.sip_client("pbx").started
    store.close()
    again = Store(*paths)
    assert again.sip_client("pbx").started
    again.close()


def test_a_change_keeps_the_password_unless_one_is_given(store):
    store.add_sip_client(CLIENT, PASSWORD)
    store.update_sip_client(dataclasses.replace(CLIENT, username="200"))
    assert (store.sip_client("pbx").username, store.sip_password("pbx")) == ("200", PASSWORD)
    store.update_sip_client(CLIENT, "other")
    assert store.sip_password("pbx") == "other"


def test_of_two_people_the_second_is_told(store):
    store.add_sip_client(CLIENT, PASSWORD)
    first = store.update_sip_client(dataclasses.replace(CLIENT, username="200"), if_version=1)
    assert first.version == 2
    with pytest.raises(VersionError, match="changed by someone else"):
        store.update_sip_client(dataclasses.replace(CLIENT, username="300"), "stolen", if_version=1)
    with pytest.raises(VersionError):
        store.delete_sip_client("pbx", if_version=1)
    assert store.sip_client("pbx").username == "200"
    assert store.sip_password("pbx") == PASSWORD
    store.delete_sip_client("pbx", if_version=2)
    assert store.sip_clients() == []


def test_what_is_not_there_is_said(store):
    for action in (
        lambda: store.sip_client("x"),
        lambda: store.update_sip_client(SipClient("x", "1", "h")),
        lambda: store.delete_sip_client("x"),
        lambda: store.set_started("x", True),
        lambda: store.sip_password("x"),
    ):
        with pytest.raises(NotFoundError, match="no SIP client 'x'"):
            action()
    with pytest.raises(NotFoundError, match="no persona 'x'"):
        store.add_sip_client(dataclasses.replace(CLIENT, persona="x"), "p")
    assert store.sip_clients() == []


def test_a_second_client_of_that_id_is_refused(store):
    store.add_sip_client(CLIENT, PASSWORD)
    with pytest.raises(DuplicateError, match="'pbx' already"):
        store.add_sip_client(SipClient("pbx", "1", "h"), "other")
    assert store.sip_password("pbx") == PASSWORD


# ---------------------------------------------------------------------------------------------- passwords


def test_the_password_is_in_no_file_and_in_no_text(store, paths, caplog):
    with caplog.at_level(logging.DEBUG):
        store.add_sip_client(CLIENT, "hunter2hunter2")
        store.update_sip_client(CLIENT, "hunter3hunter3")
    for file in paths[0].parent.iterdir():
        assert b"hunter" not in file.read_bytes(), file
    key = paths[1].read_text().strip()
    assert "hunter" not in caplog.text
    assert key not in caplog.text + repr(store) + repr(vars(store)) + repr(Secrets(paths[1]))


def test_the_key_file_is_private_and_made_once(store, paths):
    assert not paths[1].exists()
    store.add_sip_client(CLIENT, PASSWORD)
    key = paths[1].read_bytes()
    assert stat.S_IMODE(paths[1].stat().st_mode) == 0o600
    store.add_sip_client(SipClient("other", "1", "h"), "p")
    assert paths[1].read_bytes() == key


def test_a_key_file_that_others_can_read_is_made_private(store, paths, caplog):
    store.add_sip_client(CLIENT, PASSWORD)
    paths[1].chmod(0o644)
    assert store.sip_password("pbx") == PASSWORD
    assert stat.S_IMODE(paths[1].stat().st_mode) == 0o600
    assert "could be read by others" in caplog.text


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda path: path.unlink(), "there is no key file .*phone.key: put back the key file"),
        (lambda path: path.write_bytes(Fernet.generate_key()), "another key than the one in .*phone.key"),
        (lambda path: path.write_text("no key at all"), "phone.key is not a key file"),
        (lambda path: path.write_bytes(b"\xff" * 44), "phone.key is not a key file"),
        (lambda path: path.write_bytes(b""), "phone.key is not a key file"),
    ],
)
def test_without_its_key_a_password_is_not_to_be_had(store, paths, damage, sentence):
    store.add_sip_client(CLIENT, PASSWORD)
    damage(paths[1])
    with pytest.raises(StorageError, match=sentence) as caught:
        store.sip_password("pbx")
    assert "no key at all" not in str(caught.value)
    assert store.sip_clients() == [CLIENT], "the rest goes on"


@pytest.mark.parametrize("lost", [lambda path: path.unlink(), lambda path: path.write_bytes(Fernet.generate_key())])
def test_entering_the_password_again_cures_a_lost_key(store, paths, lost):
    store.add_sip_client(CLIENT, PASSWORD)
    lost(paths[1])
    store.update_sip_client(CLIENT, "again")
    assert store.sip_password("pbx") == "again"


def test_a_key_file_we_may_not_read_is_named(store, monkeypatch):
    store.add_sip_client(CLIENT, PASSWORD)

    def refuse(*_):  # not by its mode: root may read anything
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StorageError, match="Could not read the key file"):
        store.sip_password("pbx")


def test_a_key_that_cannot_be_written_leaves_no_client(tmp_path):
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "phone.db", tmp_path / "file" / "phone.key")
    with pytest.raises(StorageError, match=r"Could not (read|write) the key file"):
        store.add_sip_client(CLIENT, PASSWORD)
    assert store.sip_clients() == []
    store.close()


# ---------------------------------------------------------------------------------------------- personas


def test_the_default_persona_always_exists(store):
    assert store.personas() == [PersonaRecord("default")]
    assert store.persona("") == store.persona("default")
    assert store.persona("").persona() == Persona()
    with pytest.raises(StorageError, match="cannot be deleted"):
        store.delete_persona("default")


def test_a_change_of_the_default_persona_survives_a_restart(store, paths):
    store.update_persona(PersonaRecord("default", greeting="Welcome."))
    store.close()
    again = Store(*paths)
    assert again.persona("") == PersonaRecord("default", greeting="Welcome.", version=2)
    again.add_persona(PersonaRecord("night"))
    again.add_sip_client(dataclasses.replace(CLIENT, persona="night"), PASSWORD)
    again.delete_persona("night")
    assert again.sip_client("pbx").persona == "", "references are enforced in a database that needed no migration, too"
    again.close()


def test_a_persona_comes_back_as_it_was(store):
    persona = Persona(
        name="Luna", prompt="Be {name}.", language="es", max_call_seconds=600, sampling=Sampling(0.9, seed=7)
    )
    record = PersonaRecord.of("night", persona)
    assert record.persona() == persona
    assert store.add_persona(record) == record
    assert store.persona("night") == record
    assert [persona.name for persona in store.personas()] == ["default", "night"]


def test_every_field_of_a_persona_is_in_its_record():
    fields = {field.name for field in dataclasses.fields(Persona)} - {"name", "sampling"}
    fields |= {field.name for field in dataclasses.fields(Sampling)}
    assert fields <= {field.name for field in dataclasses.fields(PersonaRecord)}


def test_personas_are_changed_and_deleted_like_clients(store):
    store.add_persona(PersonaRecord("night"))
    store.add_sip_client(dataclasses.replace(CLIENT, persona="night"), PASSWORD)
    with pytest.raises(DuplicateError):
        store.add_persona(PersonaRecord("night"))
    assert store.update_persona(PersonaRecord("night", patience=2.0), if_version=1).version == 2
    with pytest.raises(VersionError):
        store.update_persona(PersonaRecord("night"), if_version=1)
    with pytest.raises(NotFoundError):
        store.update_persona(PersonaRecord("day"))
    with pytest.raises(VersionError):
        store.delete_persona("night", if_version=1)
    store.delete_persona("night")
    assert store.sip_client("pbx").persona == ""
    with pytest.raises(NotFoundError):
        store.persona("night")
