"""SRTP keys agreed on with baresip, and that they are the right ones: its packets are authentic under them."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from baresip import Baresip
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from sip_harness import Agent

pytestmark = pytest.mark.integration

Needs = Callable[[str, str], str]
LINES = ("optional", "mandatory", "off")


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    shared = Agent()
    for name in LINES:
        shared.do(
            "add_line", line_id=name, username=name, password="", server_ip="127.0.0.1", server_port=9,
            allowed_networks=["127.0.0.0/8"], policy={"srtp": name},
        )  # fmt: skip
    yield shared
    stopped = shared.stop()
    assert stopped is not None
    assert stopped["sockets"] == 0


def authentic(packet: bytes, key_and_salt: bytes) -> bool:
    """Whether an SRTP packet of the first 2**16 carries the tag that this key gives it (RFC 3711 sections 4.2, 4.3)."""
    key, salt = key_and_salt[:16], key_and_salt[16:]
    label = bytearray(salt)
    label[7] ^= 1  # the authentication key's label, above the 48-bit index 0
    cipher = Cipher(algorithms.AES(key), modes.CTR(bytes(label) + b"\0\0")).encryptor()
    auth_key = cipher.update(b"\0" * 20)
    expected = hmac.new(auth_key, packet[:-10] + b"\0\0\0\0", hashlib.sha1).digest()[:10]
    return hmac.compare_digest(expected, packet[-10:])


@pytest.mark.behaviour("SRTP with baresip: both sides have the same keys", "RFC 4568, RFC 3711")
@pytest.mark.parametrize(
    ("line", "encryption"), [("optional", "srtp"), ("optional", "srtp-mand"), ("mandatory", "srtp-mandf")]
)
def test_baresip_calls_with_srtp(agent: Agent, needs: Needs, tmp_path: Path, line: str, encryption: str) -> None:
    program = needs("baresip-core", "baresip")
    phone = Baresip(program, tmp_path / "b", encryption=encryption, dial=f"sip:{line}@127.0.0.1:{agent.port}")
    try:
        stream = agent.wait("MediaNegotiated")["stream"]
        call_id = agent.wait("CallConfirmed")["call_id"]
        assert stream["srtp_suite"] == "AES_CM_128_HMAC_SHA1_80"
        agent.do("packet", call_id=call_id)
        packet = bytes.fromhex(agent.wait("packet")["data"])
        assert authentic(packet, bytes.fromhex(stream["srtp_receive"]))
        assert not authentic(packet, bytes.fromhex(stream["srtp_send"]))
        phone.wait("Call established")
    finally:
        phone.close()
    agent.wait("CallEnded", call_id=call_id)


@pytest.mark.behaviour("A telephone that insists on SRTP, on a line without it", "RFC 4568 section 7.1")
def test_a_line_without_srtp_refuses(agent: Agent, needs: Needs, tmp_path: Path) -> None:
    program = needs("baresip-core", "baresip")
    phone = Baresip(program, tmp_path / "b", encryption="srtp-mand", dial=f"sip:off@127.0.0.1:{agent.port}")
    try:
        phone.wait("488")
    finally:
        phone.close()
