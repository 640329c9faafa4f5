"""Lines and callers on other machines: network namespaces, a registrar in another one, a telephone behind NAT."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from captures import Capture
from namespaces import Machine
from server_process import CAPITAL, Server, in_loop, spoken, transcribed
from sip_harness import Agent, answered, close_all

from aiphone.caller import Caller, CallFailedError, Credentials
from aiphone.caller.sdp import audio
from aiphone.events import Pcm
from benchmarks.kamailio import Kamailio

pytestmark = pytest.mark.integration

PASSWORDS = {"1001": "correct-horse", "1002": "battery-staple"}
OURS, PBX = "10.77.0.1", "10.77.0.2"
NAT = {"port-restricted": 78, "symmetric": 79}
"""Networks behind the router, 192.168.N.0/24."""


@dataclass
class Office:
    """A server with nothing said about addresses, a registrar on another machine that is a router too."""

    server: Server
    ours: Machine
    pbx_machine: Machine
    phones: dict[str, Machine]
    pbx: Kamailio
    capture: Capture
    """Of what goes over our cable."""

    def wait_line(self, state: str) -> dict[str, Any]:
        with self.ours.inside():
            return self.server.wait_status(
                lambda status: [line["state"] for line in status["lines"] if line["line_id"] == "away"] == [state]
            )


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    kamailio, iptables = _program("kamailio"), _program("iptables")
    folder = tmp_path_factory.mktemp("pbx")
    with Machine() as ours, Machine() as there, Machine() as one, Machine() as other:
        phones = dict(zip(NAT, (one, other), strict=True))
        ours.plug(there, f"{OURS}/24", f"{PBX}/24")
        there.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
        for kind, phone in phones.items():
            net = f"192.168.{NAT[kind]}"
            there.plug(phone, f"{net}.1/24", f"{net}.2/24")
            phone.run("ip", "route", "add", "default", "via", f"{net}.1")
            # Masquerade lets in only what answers; with random ports, each destination sees another one of ours.
            random = ["--random-fully"] if kind == "symmetric" else []
            there.run(iptables, "-t", "nat", "-A", "POSTROUTING", "-s", f"{net}.2/32", "-j", "MASQUERADE", *random)
        with there.inside():
            pbx = Kamailio(kamailio, PASSWORDS, folder, host=PBX)
        calls = folder / "calls.pcap"
        with (
            there.inside(), pbx, ours.inside(),
            Server("--greeting", "Good morning.") as server, Capture(calls, "any") as capture,
        ):  # fmt: skip
            yield Office(server, ours, there, phones, pbx, capture)


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"there is no {name} (Debian: {name})")
    return path


def conversation(machine: Machine, caller_of: Callable[[], Caller], uri: str) -> Pcm:
    """The answer to a question, as the telephone there heard it: both sides have heard the other then."""

    async def talk() -> Pcm:
        async with caller_of() as caller:
            call = await caller.call(uri)
            await call.wait_reply(after=call.ack_at, silence=0.5)
            await call.play(spoken(CAPITAL))
            # With three at once the answer may come well behind "One moment."
            reply = await call.wait_reply(timeout=40, silence=2.5)
            await call.hangup()
            return call.recording().between(reply.first_voiced_at - 0.3, reply.ended_at)

    with machine.inside():
        return in_loop(talk())


@pytest.fixture(scope="module")
def line(office: Office) -> dict[str, Any]:
    """The client, added and started; what the status said before."""
    with office.ours.inside():
        before = office.server.status()
        office.server.post(
            "/api/sip-clients", client_id="away", username="1001", password=PASSWORDS["1001"], server_ip=PBX,
            server_port=office.pbx.port,
        )  # fmt: skip
        office.server.post("/api/sip-clients/away/start")
    return before


@pytest.fixture(scope="module")
def answers(office: Office, line: dict[str, Any]) -> dict[str, str]:
    """What telephones heard, all at once as each takes its time: through the registrar, and from behind the router.

    These call the line's user from the router's outside, which is the registrar's address: the line lets that in.
    """
    port = line["sip_uri"].rpartition(":")[2]
    office.wait_line("registered")
    spoken(CAPITAL)
    calls: dict[str, tuple[Machine, Callable[[], Caller], str]] = {
        kind: (office.phones[kind], partial(Caller, f"192.168.{net}.2", user="1003"), f"sip:1001@{OURS}:{port}")
        for kind, net in NAT.items()
    }
    there = partial(Caller, PBX, user="1002", credentials=Credentials("1002", PASSWORDS["1002"]))
    calls["registrar"] = (office.pbx_machine, there, office.pbx.uri("1001"))
    with ThreadPoolExecutor(len(calls)) as pool:
        futures = {name: pool.submit(conversation, *call) for name, call in calls.items()}
        heard = {name: future.result() for name, future in futures.items()}
    with office.ours.inside():
        office.server.wait_idle()
    return {name: transcribed(pcm) for name, pcm in heard.items()}


@pytest.mark.behaviour("A line at another machine, with nothing said about addresses", "RFC 3261 section 18")
def test_a_client_added_by_the_api_registers_elsewhere_and_takes_calls(
    office: Office, line: dict[str, Any], answers: dict[str, str]
) -> None:
    port = int(line["sip_uri"].rpartition(":")[2])
    assert line["sip_listening"] == [f"127.0.0.1:{port}"]
    status = office.wait_line("registered")
    assert status["sip_listening"] == [f"127.0.0.1:{port}", f"{OURS}:{port}"]
    assert status["sip_uri"] == f"sip:ai@127.0.0.1:{port}"
    assert office.pbx.routed.count("INVITE for 1001") == 1
    assert "paris" in answers["registrar"]


def test_strangers_are_refused_at_the_address_that_a_line_has_opened(office: Office, line: dict[str, Any]) -> None:
    port = line["sip_uri"].rpartition(":")[2]
    office.wait_line("registered")

    async def refused() -> int:
        async with Caller(PBX, user="1002") as caller:
            with pytest.raises(CallFailedError) as failure:
                await caller.call(f"sip:ai@{OURS}:{port}")
            return failure.value.status

    with office.pbx_machine.inside():
        assert in_loop(refused()) == 403


@pytest.mark.behaviour("A caller behind NAT, port-restricted or symmetric: both hear each other", "RFC 3581, RFC 4961")
@pytest.mark.parametrize("kind", NAT)
def test_a_caller_behind_nat_hears_and_is_heard(answers: dict[str, str], kind: str) -> None:
    assert "paris" in answers[kind]


@pytest.mark.behaviour("tshark finds nothing malformed in the SIP, RTP and RTCP of these calls", "RFC 3261, RFC 3550")
def test_tshark_finds_nothing_malformed(office: Office, line: dict[str, Any], answers: dict[str, str]) -> None:
    assert answers
    ports = [int(line["sip_uri"].rpartition(":")[2]), office.pbx.port]
    office.capture.check(sip_ports=ports, ours=[OURS], least={"sip": 10, "rtp": 300, "rtcp": 1})


@pytest.mark.behaviour("A call of ours to another machine, without a line", "RFC 3261 section 18")
def test_a_call_of_ours_to_another_machine() -> None:
    with Machine() as ours, Machine() as there:
        ours.plug(there, f"{OURS}/24", f"{PBX}/24")
        with ours.inside():
            agent = Agent(settings={"reach_out": True})

        async def scenario() -> None:
            async with Caller(PBX) as caller:
                call, offered = await answered(agent, caller, "o1")
                assert offered == OURS
                agent.do("hangup", call_id="o1")
                assert await call.wait_ended() == "remote"

        try:
            with there.inside():
                in_loop(scenario())
            assert agent.ask("status")["listening"] == ["127.0.0.1", OURS]
        finally:
            agent.stop()
            close_all()


@pytest.mark.behaviour(
    "Our BYE reaches a caller behind NAT who knows nothing of it", "RFC 3261 section 12.2.1.1, RFC 3581"
)
def test_our_bye_reaches_a_caller_behind_nat() -> None:
    with Machine() as ours, Machine() as router, Machine() as phone:
        ours.plug(router, f"{OURS}/24", f"{PBX}/24")
        router.plug(phone, "192.168.80.1/24", "192.168.80.2/24")
        router.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
        phone.run("ip", "route", "add", "default", "via", "192.168.80.1")
        router.run(
            _program("iptables"), "-t", "nat", "-A", "POSTROUTING", "-s", "192.168.80.2/32", "-j", "MASQUERADE",
            "--random-fully",
        )  # fmt: skip
        with ours.inside():
            agent = Agent(settings={"host": "0.0.0.0", "direct_networks": [f"{PBX}/32"]})

        async def scenario() -> None:
            async with Caller("192.168.80.2") as caller:
                calling = asyncio.create_task(caller.call(f"sip:ai@{OURS}:{agent.port}"))
                call_id = (await asyncio.to_thread(agent.wait, "IncomingCall"))["call_id"]
                call = await calling
                await asyncio.to_thread(agent.wait, "CallConfirmed")
                # The same from behind it within the call: a re-INVITE has the private address again.
                assert (await call.reinvite()).status == 200
                agent.do("hangup", call_id=call_id)
                assert await call.wait_ended(5) == "remote"
                await asyncio.to_thread(agent.wait, "CallEnded")

        try:
            with phone.inside():
                in_loop(scenario())
        finally:
            agent.stop()
            close_all()


@pytest.mark.behaviour("Behind a NAT ourselves: address and ports from a STUN server", "RFC 5389, RFC 8866 section 5.7")
def test_our_public_address_and_ports_by_stun() -> None:
    turnserver, iptables = _program("turnserver"), _program("iptables")
    there = "203.0.113.2"
    with Machine() as ours, Machine() as router, Machine() as world:
        ours.plug(router, "192.168.81.2/24", "192.168.81.1/24")
        router.plug(world, "203.0.113.1/24", f"{there}/24")
        router.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
        ours.run("ip", "route", "add", "default", "via", "192.168.81.1")
        # Other ports than ours, but the same for every destination.
        router.run(
            iptables, "-t", "nat", "-A", "POSTROUTING", "-s", "192.168.81.2/32", "-p", "udp", "-j", "MASQUERADE",
            "--to-ports", "1024-9999",
        )  # fmt: skip
        with world.inside():
            stun = subprocess.Popen(
                [turnserver, "-n", "-S", "-L", there, "-p", "3478", "--no-cli", "--no-tls", "--no-dtls",
                 "--log-file", "stdout", "--pidfile", "/dev/null"],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip

        async def scenario(agent: Agent) -> None:
            async with Caller(there) as caller:
                agent.do("place_call", call_id="o1", uri=caller.uri, line_id=None)
                call = await caller.incoming()
                offer = audio(call.remote_sdp)
                assert offer is not None
                assert offer.host == "203.0.113.1"
                assert 1024 <= offer.port <= 9999
                call.answer()
                ours = await asyncio.to_thread(agent.wait, "MediaNegotiated")
                assert ours["sockets"]["port"] != offer.port
                agent.do("hangup", call_id="o1")
                assert await call.wait_ended() == "remote"

        try:
            with ours.inside():
                agent = Agent(settings={"host": "0.0.0.0", "public_address": "203.0.113.1"}, stun=there)
            try:
                with world.inside():
                    in_loop(scenario(agent))
            finally:
                agent.stop()
                close_all()
        finally:
            stun.terminate()
            stun.wait(10)


@pytest.mark.sip_all
@pytest.mark.behaviour("Every third packet is lost, both ways: no call fails or is left behind", "RFC 3261 section 17")
def test_calls_where_every_third_packet_is_lost() -> None:
    iptables = _program("iptables")
    lossy = ("-p", "udp", "-m", "statistic", "--mode", "nth", "--every", "3", "--packet", "0", "-j", "DROP")
    with Machine() as ours, Machine() as there:
        ours.plug(there, f"{OURS}/24", f"{PBX}/24")
        for machine in (ours, there):
            machine.run(iptables, "-A", "INPUT", *lossy)
        with ours.inside():
            agent = Agent(settings={"host": "0.0.0.0", "direct_networks": [f"{PBX}/32"]})

        async def one(caller: Caller) -> None:
            call = await caller.call(f"sip:ai@{OURS}:{agent.port}")
            assert await call.wait_ended(40) == "remote"

        async def scenario() -> None:
            async with Caller(PBX) as caller:
                await asyncio.gather(*(one(caller) for _ in range(10)))

        def hang_up() -> None:
            for _ in range(10):
                agent.do("hangup", call_id=agent.wait("CallConfirmed", timeout=40)["call_id"])

        try:
            with ThreadPoolExecutor(1) as pool, there.inside():
                hanging_up = pool.submit(hang_up)
                in_loop(scenario())
                hanging_up.result()
            ended = [agent.wait("CallEnded", timeout=40) for _ in range(10)]
            assert {event["reason"] for event in ended} == {"the call ended normally"}
            assert agent.ask("status")["active_calls"] == 0
            assert agent.ask("facts")["sockets"] == 0
        finally:
            agent.stop()
            close_all()
