"""SIP over TLS: calls that come in, and lines, with certificates that are right and wrong."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from sip_harness import Agent, Message, sdp

pytestmark = pytest.mark.integration


@dataclass
class Authority:
    """Issues certificates into a folder."""

    folder: Path
    name: str

    def __post_init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        self.file = self.folder / f"{self.name}.pem"
        certificate = self._sign(self.subject, self.key.public_key(), authority=True, names=[])
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def _sign(self, subject, public_key, *, authority, names):
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def issue(self, name: str, address: str = "127.0.0.1", *, with_rsa: bool = False) -> Path:
        """A certificate for an address, with its key in the same file."""
        key = rsa.generate_private_key(65537, 2048) if with_rsa else ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, address)])
        names = [x509.IPAddress(ipaddress.ip_address(address)), x509.DNSName(address)]
        certificate = self._sign(subject, key.public_key(), authority=False, names=names)
        path = self.folder / f"{name}.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        return path


@dataclass
class World:
    agent: Agent
    port: int
    ours: Authority
    others: Authority
    folder: Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("tls")
    ours, others = Authority(folder, "ours"), Authority(folder, "others")
    port = free_port()
    tls = {"port": port, "certificate": str(ours.issue("server")), "authorities": str(ours.file)}
    agent = Agent(settings={"tls": tls})
    assert agent.started["event"] == "started", agent.started
    yield World(agent, port, ours, others, folder)
    stopped = agent.stop()
    assert stopped is not None
    assert stopped["sockets"] == 0


class Registrar:
    """Takes one TLS connection after the other and says 200 to every REGISTER in it."""

    def __init__(self, certificate: Path, client_authority: Path | None = None) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate)
        if client_authority is not None:
            self.context.verify_mode = ssl.CERT_REQUIRED
            self.context.load_verify_locations(client_authority)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.peers: list[dict[str, object]] = []
        self.open: ssl.SSLSocket | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        while True:
            try:
                raw, _ = self.socket.accept()
            except OSError:
                return
            with raw:
                raw.settimeout(5)
                try:
                    with self.context.wrap_socket(raw, server_side=True) as connection:
                        self.open = connection
                        self.peers.append(connection.getpeercert() or {})
                        self._serve(connection)
                except OSError:
                    continue
                finally:
                    self.open = None

    def _serve(self, connection: ssl.SSLSocket) -> None:
        data = ""
        while True:
            part = connection.recv(65535).decode()
            if not part:
                return
            data += part
            while "\r\n\r\n" in data:
                text, _, data = data.partition("\r\n\r\n")
                message = Message(text + "\r\n\r\n")
                if message.method == "REGISTER":
                    kept = [f"{k}: {v}" for k, v in message.headers if k in ("via", "from", "to", "call-id", "cseq")]
                    contact = f"Contact: {message['contact']};expires=300"
                    answer = "\r\n".join(["SIP/2.0 200 OK", *kept, contact, "Content-Length: 0", "", ""])
                    connection.sendall(answer.encode())

    def close(self) -> None:
        connection = self.open
        if connection is not None:
            with contextlib.suppress(OSError):  # the other side may have closed it meanwhile
                connection.shutdown(socket.SHUT_RDWR)
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self.thread.join(10)


@pytest.mark.behaviour("A call over TLS", "RFC 3261 section 26.2.1")
def test_a_call_over_tls(world: World) -> None:
    context = ssl.create_default_context(cafile=str(world.ours.file))
    with (
        socket.create_connection(("127.0.0.1", world.port), timeout=5) as raw,
        context.wrap_socket(raw, server_hostname="127.0.0.1") as connection,
    ):
        local = "{}:{}".format(*connection.getsockname())

        def request(method: str, cseq: int, to: str, body: str = "") -> None:
            text = (
                f"{method} sip:ai@127.0.0.1:{world.port};transport=tls SIP/2.0\r\n"
                f"Via: SIP/2.0/TLS {local};branch=z9hG4bK{method}{cseq}\r\nMax-Forwards: 70\r\n"
                f"From: <sip:tls@{local}>;tag=1\r\nTo: {to}\r\nCall-ID: tls@test\r\nCSeq: {cseq} {method}\r\n"
                f"Contact: <sip:tls@{local};transport=tls>\r\n"
                + ("Content-Type: application/sdp\r\n" if body else "")
                + f"Content-Length: {len(body)}\r\n\r\n{body}"
            )
            connection.sendall(text.encode())

        request("INVITE", 1, "<sip:ai@127.0.0.1>", sdp(40_000))
        received = ""
        while "SIP/2.0 200" not in received or not received.endswith("\r\n"):
            received += connection.recv(65535).decode()
        answer = received[received.index("SIP/2.0 200") :]
        assert re.search(r"^Contact: <sips?:[^>]*transport=TLS", answer, re.MULTILINE | re.IGNORECASE)
        found = re.search(r"^To: ([^\r]+)", answer, re.MULTILINE)
        assert found is not None
        request("ACK", 1, found[1])
        call_id = world.agent.wait("CallConfirmed")["call_id"]
        request("BYE", 2, found[1])
        world.agent.wait("CallEnded", call_id=call_id)


def line(world: World, name: str, port: int) -> None:
    world.agent.do("add_line", line_id=name, username="1000", password="x", server_ip="127.0.0.1", server_port=port,
                   transport="tls")  # fmt: skip


@pytest.mark.behaviour("A line registers over TLS, and shows its certificate to a server that asks",
                       "RFC 3261 sections 10, 26.3.2.1")  # fmt: skip
def test_a_line_over_tls(world: World) -> None:
    registrar = Registrar(world.ours.issue("registrar"), world.ours.file)
    try:
        line(world, "good", registrar.port)
        world.agent.wait("LineChanged", line_id="good", state="registered")
        assert registrar.peers[0]["subject"] == ((("commonName", "127.0.0.1"),),)
        world.agent.do("remove_line", line_id="good")
        world.agent.wait("LineChanged", line_id="good", state="stopped")
    finally:
        registrar.close()


@pytest.mark.behaviour("A server whose certificate is not believed, or is another's", "RFC 5922 section 7")
@pytest.mark.parametrize("wrong", ["authority", "name"])
def test_a_certificate_that_is_wrong(world: World, wrong: str) -> None:
    certificate = world.others.issue("stranger") if wrong == "authority" else world.ours.issue("other", "192.0.2.9")
    registrar = Registrar(certificate)
    try:
        line(world, wrong, registrar.port)
        failed = world.agent.wait("LineChanged", line_id=wrong, state="failed")
        assert "certificate" in failed["reason"]
        world.agent.do("remove_line", line_id=wrong)
    finally:
        registrar.close()
