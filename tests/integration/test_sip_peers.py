"""Whole conversations with what others have made: a registrar over TCP and TLS, telephones, SRTP. `make test-sip`."""

from __future__ import annotations

import shutil
import wave
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from baresip import Baresip
from linphone import Linphone
from server_process import CAPITAL, Server, in_loop, spoken, transcribed
from test_sip_tls import Authority

from aiphone.caller import Caller, Credentials, write_wav
from aiphone.events import Pcm
from benchmarks.kamailio import REALM, Kamailio, free_port

pytestmark = [pytest.mark.integration, pytest.mark.sip_all]

PASSWORDS = {"1001": "correct-horse", "1002": "battery-staple", "1003": "a-third-word"}
LINES = """\
[[lines]]
client_id = "tcp"
username = "1001"
password = "{passwords[1001]}"
server_ip = "127.0.0.1"
server_port = {port}
transport = "tcp"

[[lines]]
client_id = "tls"
username = "1003"
password = "{passwords[1003]}"
server_ip = "127.0.0.1"
server_port = {tls_port}
transport = "tls"

[[lines]]
client_id = "secret"
username = "2000"
server_ip = "127.0.0.1"
server_port = 9
srtp = "mandatory"
allowed_networks = ["127.0.0.0/8"]
"""


@pytest.fixture(scope="module")
def pbx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Kamailio, Path]]:
    program = shutil.which("kamailio")
    if program is None:
        pytest.skip("there is no kamailio (Debian: kamailio, kamailio-tls-modules)")
    folder = tmp_path_factory.mktemp("peers")
    authority = Authority(folder, "office")
    with Kamailio(program, PASSWORDS, folder, certificate=str(authority.issue("pbx"))) as kamailio:
        yield kamailio, authority.file


@pytest.fixture(scope="module")
def server(pbx: tuple[Kamailio, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    kamailio, authority = pbx
    config = tmp_path_factory.mktemp("config") / "aiphone.toml"
    passwords = {int(user): word for user, word in PASSWORDS.items()}
    config.write_text(LINES.format(port=kamailio.port, tls_port=kamailio.tls_port, passwords=passwords), "utf-8")
    spoken(CAPITAL)
    flags = ("--greeting", "Good morning.", "--filler", "", "--sip-tls-ca", str(authority), "--config", str(config))
    with Server(*flags) as server:
        yield server
        assert server.stop() == 0
        assert "Traceback" not in server.log


@pytest.mark.behaviour(
    "A registrar with digest over TCP and TLS: a conversation through it", "RFC 3261 sections 10, 22, 26"
)
@pytest.mark.parametrize(("line", "user"), [("tcp", "1001"), ("tls", "1003")])
def test_a_conversation_through_a_registrar(pbx: tuple[Kamailio, Path], server: Server, line: str, user: str) -> None:
    kamailio, _ = pbx
    server.wait_status(lambda status: ("registered", line) in [(x["state"], x["line_id"]) for x in status["lines"]])
    assert user in kamailio.registered

    async def talk() -> Pcm:
        async with Caller(user="1002", credentials=Credentials("1002", PASSWORDS["1002"])) as caller:
            call = await caller.call(kamailio.uri(user))
            await call.wait_reply(after=call.ack_at, silence=0.5)
            await call.play(spoken(CAPITAL))
            reply = await call.wait_reply(timeout=40)
            await call.hangup()
            return call.recording().between(reply.first_voiced_at - 0.3, reply.ended_at)

    assert "paris" in transcribed(in_loop(talk()))
    assert kamailio.routed.count(f"INVITE for {user}") == 1
    (record,) = [call for call in server.wait_idle()["recent_calls"] if call["line_id"] == line]
    assert record["end_reason"] == "the call ended normally"


@pytest.mark.behaviour("SRTP with baresip: a conversation", "RFC 3711, RFC 4568")
def test_a_conversation_with_srtp(server: Server, tmp_path: Path) -> None:
    program = shutil.which("baresip")
    if program is None:
        pytest.skip("there is no baresip (Debian: baresip-core)")
    # The greeting first, then the question; afterwards silence until the end.
    says = np.concatenate((np.zeros(8000 * 4, np.int16), spoken(CAPITAL), np.zeros(8000 * 12, np.int16)))
    port = server.sip_uri.rpartition(":")[2]
    phone = Baresip(
        program, tmp_path / "b", encryption="srtp-mandf", dial=f"sip:2000@127.0.0.1:{port}", says=says, seconds=14
    )
    try:
        phone.wait("Call established")
        phone.process.wait(30)
    finally:
        phone.close()
    with wave.open(str(phone.heard)) as file:
        heard = np.frombuffer(file.readframes(file.getnframes()), np.int16)
    words = transcribed(heard)
    assert "good morning" in words
    assert "paris" in words
    server.wait_idle()


@pytest.fixture
def linphone(tmp_path: Path) -> Callable[..., Linphone]:
    program = shutil.which("linphonec")
    if program is None:
        pytest.skip("there is no linphonec (Debian: linphone-cli)")
    return partial(Linphone, program, tmp_path / "l", port=free_port())


def conversation_of(phone: Linphone, server: Server, uri: str, folder: Path) -> str:
    """What linphone heard after it had called and asked."""
    question = folder / "question.wav"
    write_wav(question, np.concatenate((spoken(CAPITAL), np.zeros(8000 * 60, np.int16))))
    phone.do(f"record {folder}/heard.wav")
    phone.do(f"call {uri}")
    phone.wait("Media streams established")
    # Its player begins anew with each file; the greeting is over by then.
    server.wait_status(lambda status: [call["state"] for call in status["calls"]] == ["listening"])
    phone.do(f"play {question}")
    server.wait_status(lambda status: [call["state"] for call in status["calls"]] == ["speaking"], timeout=40)
    server.wait_status(lambda status: [call["state"] for call in status["calls"]] == ["listening"], timeout=40)
    phone.close()
    server.wait_idle()
    with wave.open(f"{folder}/heard.wav") as file:
        return transcribed(np.frombuffer(file.readframes(file.getnframes()), np.int16))


@pytest.mark.behaviour("Linphone, plain and with SRTP: a conversation", "RFC 3261, RFC 3711")
@pytest.mark.parametrize(("encryption", "user"), [("none", "ai"), ("srtp", "2000")])
def test_a_conversation_with_linphone(
    linphone: Callable[..., Linphone], server: Server, tmp_path: Path, encryption: str, user: str
) -> None:
    phone = linphone(encryption=encryption)
    try:
        port = server.sip_uri.rpartition(":")[2]
        words = conversation_of(phone, server, f"sip:{user}@127.0.0.1:{port}", tmp_path)
    finally:
        phone.close()
    assert "paris" in words


@pytest.mark.behaviour("Linphone through a registrar: a conversation", "RFC 3261 section 22")
def test_a_conversation_with_linphone_through_a_registrar(
    pbx: tuple[Kamailio, Path], linphone: Callable[..., Linphone], server: Server, tmp_path: Path
) -> None:
    kamailio, _ = pbx
    phone = linphone(user="1002", realm=REALM, password=PASSWORDS["1002"])
    try:
        assert "paris" in conversation_of(phone, server, kamailio.uri("1001"), tmp_path)
    finally:
        phone.close()
