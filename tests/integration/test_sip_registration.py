"""Registration with the real pjsua2: digests, an outbound proxy, keep-alive, many lines at once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from sip_harness import Agent, Registrar, close_all

pytestmark = pytest.mark.integration

LINES = 100


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    shared = Agent(settings={"keep_alive_seconds": 1})
    yield shared
    stopped = shared.stop()
    close_all()
    assert stopped is not None
    assert not [line for line in shared.errors if "Traceback" in line], shared.errors


def add(agent: Agent, line_id: str, registrar: Registrar, **options: Any) -> None:
    wanted = {"username": "1000", "password": "secret", "server_ip": "127.0.0.1", "server_port": registrar.port}
    agent.do("add_line", line_id=line_id, **(wanted | options))


@pytest.mark.behaviour("Registration with a digest by SHA-256", "RFC 8760")
def test_a_digest_by_sha_256(agent: Agent) -> None:
    registrar = Registrar(algorithm="SHA-256")
    add(agent, "sha", registrar)
    agent.wait("LineChanged", line_id="sha", state="registered")
    assert "algorithm=SHA-256" in registrar.requests[-1]["authorization"]


@pytest.mark.behaviour("Registration by way of an outbound proxy", "RFC 3261 section 8.1.2")
def test_an_outbound_proxy(agent: Agent) -> None:
    proxy = Registrar()
    add(agent, "proxied", proxy, server_ip="pbx.invalid", server_port=5060, proxy=f"127.0.0.1:{proxy.port}")
    agent.wait("LineChanged", line_id="proxied", state="registered")
    assert proxy.requests[-1].text.startswith("REGISTER sip:pbx.invalid")


@pytest.mark.behaviour("Another name for authentication than the user", "RFC 3261 section 22")
def test_an_authentication_name_of_its_own(agent: Agent) -> None:
    registrar = Registrar(user="auth-id")
    add(agent, "named", registrar, auth_username="auth-id")
    agent.wait("LineChanged", line_id="named", state="registered")
    assert "sip:1000@" in registrar.requests[-1]["from"]


@pytest.mark.behaviour("Keep-alive of the way through a NAT, while registered", "RFC 5626 section 3.5")
def test_the_way_through_a_nat_is_kept_open(agent: Agent) -> None:
    registrar = Registrar()
    add(agent, "nat", registrar)
    agent.wait("LineChanged", line_id="nat", state="registered")
    source = registrar.quiet.get(timeout=5)
    assert source == registrar.requests[-1].source


@pytest.mark.behaviour("A hundred lines at one server, registered within 5 s", "RFC 3261 section 10")
def test_a_hundred_lines(agent: Agent) -> None:
    registrar = Registrar()
    begun = time.monotonic()
    for number in range(LINES):
        add(agent, f"l{number}", registrar)
    for number in range(LINES):
        agent.wait("LineChanged", line_id=f"l{number}", state="registered", timeout=30)
    print(f"{LINES} lines registered in {time.monotonic() - begun:.2f} s")
    assert len({request["contact"] for request in registrar.requests}) == LINES


@pytest.mark.behaviour("A registrar that restarts has forgotten us, and knows us again soon", "RFC 3261 section 10.2.4")
def test_a_registrar_that_restarts_is_told_again() -> None:
    agent = Agent(settings={"refresh_seconds": 1.0})
    first = Registrar()
    try:
        add(agent, "office", first)
        agent.wait("LineChanged", line_id="office", state="registered")
        first.close()
        begun = time.monotonic()
        contact, seconds = Registrar(port=first.port).contacts.get(timeout=10)
        print(f"registered again {time.monotonic() - begun:.2f} s after the restart")
        assert seconds > 0
        assert contact == first.contacts.get()[0]
        # Nobody noticed: no call was lost for it.
        assert "failed" not in [event["state"] for event in agent.seen if event["event"] == "LineChanged"]
    finally:
        agent.stop()
