"""Whole conversations with what others have made: a registrar over TCP and TLS, telephones, SRTP. `make test-sip`."""

from __future__ import annotations

import shutil
import wave
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from baresip import Baresip
from captures import Capture, Tls
from linphone import Linphone
from server_process import CAPITAL, SECRET_LINE, Server, in_loop, spoken, transcribed
from test_sip_tls import Authority
from twinkle import Twinkle

from aiphone.caller import Caller, Credentials, write_wav
from aiphone.caller.audio import load
from aiphone.events import Pcm
from aiphone.native import g722
from benchmarks.kamailio import REALM, Kamailio, free_port

pytestmark = [pytest.mark.integration, pytest.mark.sip_all]

PASSWORDS = {"1001": "correct-horse", "1002": "battery-staple", "1003": "a-third-word", "1004": "linphones",
             "1005": "baresips"}  # fmt: skip
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
srtp = "optional"
"""


@dataclass(frozen=True)
class Office:
    """A registrar, our server with its lines there, and what goes over the wire."""

    pbx: Kamailio
    server: Server
    capture: Capture
    tls: Tls

    def check(self) -> None:
        """What tshark says about our packets so far."""
        port = int(self.server.sip_uri.rpartition(":")[2])
        servers = (self.pbx.port, self.pbx.tls_port)
        least = {"sip": 40, "tls": 6, "rtp": 2000, "rtcp": 6}
        self.capture.check(sip_ports=[port, *servers], ours=[port], servers=servers, tls=self.tls, least=least)


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    program = shutil.which("kamailio")
    if program is None:
        pytest.skip("there is no kamailio (Debian: kamailio, kamailio-tls-modules)")
    folder = tmp_path_factory.mktemp("peers")
    authority = Authority(folder, "office")
    key = authority.issue("pbx", with_rsa=True)
    config = folder / "aiphone.toml"
    flags = (
        "--greeting",
        "Good morning.",
        "--filler",
        "",
        "--sip-tls-ca",
        str(authority.file),
        "--config",
        str(config),
    )
    spoken(CAPITAL)
    with (
        Kamailio(program, PASSWORDS, folder, certificate=str(key), readable=True) as pbx,
        Capture(folder / "calls.pcap") as capture,
    ):
        passwords = {int(user): word for user, word in PASSWORDS.items()}
        lines = LINES.format(port=pbx.port, tls_port=pbx.tls_port, passwords=passwords)
        config.write_text(f"{lines}\n{SECRET_LINE}", "utf-8")
        with Server(*flags, "--config", str(config)) as server:
            server.wait_status(
                lambda status: (
                    {("tcp", "registered"), ("tls", "registered")}
                    <= {(line["line_id"], line["state"]) for line in status["lines"]}
                )
            )
            yield Office(pbx, server, capture, Tls(pbx.tls_port, key))
            assert server.stop() == 0
            assert "Traceback" not in server.log


@pytest.fixture
def server(office: Office) -> Server:
    return office.server


@pytest.mark.behaviour(
    "A registrar with digest over TCP and TLS: a conversation through it", "RFC 3261 sections 10, 22, 26"
)
@pytest.mark.parametrize(("line", "user"), [("tcp", "1001"), ("tls", "1003")])
def test_a_conversation_through_a_registrar(office: Office, line: str, user: str) -> None:
    server, kamailio = office.server, office.pbx
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


def words_heard_by_baresip(folder: Path, uri: str, **known: str) -> str:
    """What baresip heard after it had called and asked."""
    program = shutil.which("baresip")
    if program is None:
        pytest.skip("there is no baresip (Debian: baresip-core)")
    # The greeting first, then the question; afterwards silence until the end.
    says = np.concatenate((np.zeros(8000 * 4, np.int16), spoken(CAPITAL), np.zeros(8000 * 12, np.int16)))
    phone = Baresip(program, folder / "b", dial=uri, says=says, seconds=14, **known)
    try:
        phone.wait("Call established")
        phone.process.wait(30)
    finally:
        phone.close()
    return transcribed(load(phone.heard))


@pytest.mark.behaviour("Baresip, with SRTP and through a registrar: a conversation", "RFC 3261, RFC 3711, RFC 4568")
@pytest.mark.parametrize(
    ("way", "user", "encryption"),
    [("direct", "2000", "srtp-mandf"), ("pbx", "1001", ""), ("pbx", "1003", "srtp-mandf")],
)
def test_a_conversation_with_baresip(office: Office, tmp_path: Path, way: str, user: str, encryption: str) -> None:
    uri, known = f"sip:{user}@127.0.0.1:{office.server.sip_uri.rpartition(':')[2]}", {}
    if way == "pbx":
        uri = office.pbx.uri(user)
        known = {"user": "1005", "server": f"127.0.0.1:{office.pbx.port}", "rest": f";auth_pass={PASSWORDS['1005']}"}
    words = words_heard_by_baresip(tmp_path, uri, encryption=encryption, **known)
    assert "good morning" in words
    assert "paris" in words
    assert encrypted(office, user) is bool(encryption)


@pytest.mark.behaviour("Baresip in wideband (G.722): a conversation", "RFC 3551 section 4.5.2")
@pytest.mark.skipif(not g722.available(), reason="libspandsp is not installed (Debian: libspandsp2)")
def test_a_conversation_in_wideband(office: Office, tmp_path: Path) -> None:
    words = words_heard_by_baresip(tmp_path, office.server.sip_uri, encryption="", codec="g722")
    assert "good morning" in words
    assert "paris" in words


def encrypted(office: Office, user: str) -> bool:
    """Whether the last call for a user was one with SRTP, from what its session descriptions said."""
    office.server.wait_idle()
    port = int(office.server.sip_uri.rpartition(":")[2])
    packets = office.capture.packets([port, office.pbx.port, office.pbx.tls_port], office.tls)
    (*_, last) = [one for one in packets if f"sip:{user}@" in one.summary and one.media_ports]
    return any("SAVP" in kind for kind in last.media_kinds)


@pytest.fixture
def linphone(tmp_path: Path) -> Callable[..., Linphone]:
    program = shutil.which("linphonec")
    if program is None:
        pytest.skip("there is no linphonec (Debian: linphone-cli)")
    return partial(Linphone, program, tmp_path / "l", port=free_port())


def conversation_of(phone: Linphone, server: Server, uri: str, folder: Path) -> str:
    """What linphone heard after it had called and asked."""
    phone.do(f"record {folder}/heard.wav")
    phone.do(f"call {uri}")
    phone.wait("Media streams established")
    # Its player begins anew with each file; the greeting is over by then.
    wait_state(server, "listening")
    return answer_to(phone, server, folder)


def wait_state(server: Server, state: str) -> None:
    """Until the only call there is has come so far."""
    server.wait_status(lambda status: [call["state"] for call in status["calls"]] == [state], timeout=40)


def answer_to(phone: Linphone, server: Server, folder: Path) -> str:
    """What linphone has heard when its question was answered."""
    question = folder / "question.wav"
    write_wav(question, np.concatenate((spoken(CAPITAL), np.zeros(8000 * 60, np.int16))))
    phone.do(f"play {question}")
    wait_state(server, "speaking")
    wait_state(server, "listening")
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


@pytest.mark.behaviour("Linphone through a registrar, plain and with SRTP: a conversation", "RFC 3261 sections 16, 22")
@pytest.mark.parametrize(("user", "encryption"), [("1001", "none"), ("1003", "srtp")])
def test_a_conversation_with_linphone_through_a_registrar(
    office: Office, linphone: Callable[..., Linphone], tmp_path: Path, user: str, encryption: str
) -> None:
    phone = registered(office, linphone, encryption=encryption)
    try:
        assert "paris" in conversation_of(phone, office.server, office.pbx.uri(user), tmp_path)
        assert encrypted(office, user) is (encryption == "srtp")
    finally:
        phone.close()


def registered(office: Office, linphone: Callable[..., Linphone], *, encryption: str = "none") -> Linphone:
    """A linphone that is there for the registrar."""
    registrar = f"127.0.0.1:{office.pbx.port}"
    phone = linphone(user="1004", realm=REALM, password=PASSWORDS["1004"], registrar=registrar, encryption=encryption)
    office.pbx.wait_registered("1004")
    return phone


@pytest.mark.behaviour("A registered linphone that we call: a conversation", "RFC 3261 sections 10, 16")
def test_a_conversation_with_a_linphone_that_we_call(
    office: Office, linphone: Callable[..., Linphone], tmp_path: Path
) -> None:
    phone = registered(office, linphone)
    try:
        phone.do("autoanswer enable")
        phone.do(f"record {tmp_path}/heard.wav")
        office.server.post("/api/calls", uri="1004", line_id="tcp")
        phone.wait("Media streams established")
        wait_state(office.server, "listening")
        words = answer_to(phone, office.server, tmp_path)
        assert "good morning" in words
        assert "paris" in words
        assert "INVITE for 1004" in office.pbx.routed
    finally:
        phone.close()


@pytest.mark.behaviour("Twinkle: a conversation", "RFC 3261, RFC 3550")
def test_a_conversation_with_twinkle(server: Server, tmp_path: Path) -> None:
    program = shutil.which("twinkle-console")
    if program is None:
        pytest.skip("there is no twinkle-console (Debian: twinkle-console)")
    phone = Twinkle(program, tmp_path, port=free_port(), rtp_port=18_000)
    try:
        phone.do(f"call {server.sip_uri}")
        wait_state(server, "listening")
        phone.say(spoken(CAPITAL))
        wait_state(server, "speaking")
        wait_state(server, "listening")
        phone.listen(1.0)  # what it keeps until it is time
        phone.do("bye")
        record = server.wait_idle()["recent_calls"][-1]
        words = transcribed(phone.heard())
    finally:
        phone.close()
    assert "good morning" in words
    assert "paris" in words
    assert record["end_reason"] == "the call ended normally"


@pytest.mark.behaviour("tshark finds nothing malformed in any of these calls, TLS and SRTP included",
                       "RFC 3261, RFC 3550, RFC 3711")  # fmt: skip
def test_tshark_finds_nothing_malformed_with_any_peer(office: Office) -> None:
    office.check()
