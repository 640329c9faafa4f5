"""How the API drives the phone: stored lines, what is dialled, models in use."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from aiphone.cli.control import PhoneControl, callable_uri, line_of
from aiphone.config import Settings
from aiphone.persona import Persona
from aiphone.store.records import SipClient
from aiphone.store.store import Store


class Sip:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.lines: list[Any] = []
        self.placed: list[tuple[str, str, str | None]] = []

    def add_line(self, line: Any) -> None:
        self.lines.append(line)

    def remove_line(self, client_id: str) -> None:
        self.lines = [line for line in self.lines if line.line_id != client_id]

    def place_call(self, call_id: str, uri: str, line_id: str | None) -> None:
        self.placed.append((call_id, uri, line_id))


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "phone.db", tmp_path / "phone.key")
    yield store
    store.close()


def control(store: Store, tmp_path: Any) -> tuple[PhoneControl, Sip]:
    sip = Sip()
    phone: Any = SimpleNamespace(
        settings=Settings(models_dir=str(tmp_path)), sip=sip, switchboard=None, by_line={}, persona=Persona(),
        prepare_speech=lambda personas: None,
    )  # fmt: skip
    return PhoneControl(phone, store, lambda: 5.0, lambda call_id: None, dict), sip


@pytest.mark.parametrize(
    ("typed", "uri"),
    [
        ("1002", "sip:1002@192.0.2.1"),
        ("+46701", "sip:+46701@192.0.2.1"),
        ("bob@example.org", "sip:bob@example.org"),
        ("SIP:bob@example.org", "SIP:bob@example.org"),
    ],
)
def test_a_number_is_one_at_the_lines_server(typed, uri):
    assert callable_uri(typed, SipClient("pbx", "100", "192.0.2.1")) == uri


def test_the_lines_port_and_transport_go_along():
    client = SipClient("pbx", "100", "2001:db8::1", 5070, transport="tcp")
    assert callable_uri("1002", client) == "sip:1002@[2001:db8::1]:5070;transport=tcp"


def test_a_lines_encryption_reaches_the_sip_side():
    assert line_of(SipClient("pbx", "100", "192.0.2.1", srtp="mandatory"), "p").policy.srtp == "mandatory"


def test_one_line_that_cannot_be_started_does_not_keep_the_others(store, tmp_path):
    for name in ("a", "b", "c"):
        store.add_sip_client(SipClient(name, "1\x07" if name == "b" else "1", "192.0.2.1"), "p")
        store.set_started(name, True)
    phone, sip = control(store, tmp_path)
    phone.start_stored_lines()
    assert [line.line_id for line in sip.lines] == ["a", "c"]
    state = phone.line_state("b")
    assert (state.state, state.since) == ("failed", 5.0)
    assert "control character" in state.reason
    phone.stop_line("b")
    assert phone.line_state("b").state == "stopped"


def test_a_model_that_was_chosen_is_not_in_use_before_the_next_start(store, tmp_path):
    phone, _ = control(store, tmp_path)
    before = {model.name: model for model in phone.models() if model.role == "whisper"}
    used = next(model.name for model in before.values() if model.in_use)
    other = next(name for name in before if name != used)
    assert before[used].chosen
    assert phone.choose_model(other)
    after = {model.name: model for model in phone.models()}
    assert (after[used].in_use, after[used].chosen) == (True, False)
    assert (after[other].in_use, after[other].chosen) == (False, True)
