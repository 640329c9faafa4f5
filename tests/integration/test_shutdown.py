"""How the server ends: politely when asked once, at once when asked twice, and so that it can start again."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from server_process import Server, command, environment, in_loop
from sip_harness import Registrar, close_all

from aiphone.caller import Caller

pytestmark = pytest.mark.integration

SOON = 8.0
"""Seconds; the promise is 5 on a machine that has nothing else to do."""


@pytest.fixture
def registrar() -> Iterator[Registrar]:
    yield Registrar(user="1000", password="secret")
    close_all()


def test_a_signal_in_a_call_says_goodbye_unregisters_and_leaves_the_ports_free(
    registrar: Registrar, tmp_path: Path
) -> None:
    config = tmp_path / "phone.toml"
    config.write_text(
        "[[lines]]\nclient_id = 'office'\nusername = '1000'\npassword = 'secret'\n"
        f"server_ip = '127.0.0.1'\nserver_port = {registrar.port}\n",
        encoding="utf-8",
    )
    # The default greeting: the call is being spoken to when the signal comes.
    flags = ("--config", str(config), "--log-level", "debug")

    async def call_and_terminate(server: Server) -> tuple[str, float]:
        async with Caller() as caller:
            call = await caller.call(server.sip_uri)
            await call.wait_packet()
            began = time.monotonic()
            server.signal(signal.SIGTERM)
            reason = await call.wait_ended(SOON)
            assert [request.method for request in call.requests if request.method != "ACK"] == ["BYE"]
            code = await asyncio.to_thread(server.wait_exit)
            assert code == 0
            return reason, time.monotonic() - began

    with Server(*flags) as server:
        server.wait_status(lambda status: status["lines"][0]["state"] == "registered")
        http_port, sip_port = server.http_port, int(server.sip_uri.rpartition(":")[2])
        reason, seconds = in_loop(call_and_terminate(server))
    assert reason == "remote"
    assert seconds < SOON
    last = registrar.requests[-1]
    assert last["expires"] == "0" or "expires=0" in last["contact"]
    assert "secret" not in server.log
    assert "Traceback" not in server.log

    # The same ports once more, at once.
    with Server(http_port=http_port, sip_port=sip_port) as again:
        assert again.http_port == http_port
        assert again.sip_uri == server.sip_uri
        assert again.get("/readyz")[0] == 200

        async def call_and_vanish() -> float:
            async with Caller() as caller:
                call = await caller.call(again.sip_uri)
                await call.wait_packet()
                call.die()  # the goodbye is not answered, so that the end takes its time
                again.signal(signal.SIGINT)
                await asyncio.to_thread(again.wait_log, "saying goodbye")
                began = time.monotonic()
                again.signal(signal.SIGINT)
                assert await asyncio.to_thread(again.wait_exit) == 128 + signal.SIGINT
                return time.monotonic() - began

        assert in_loop(call_and_vanish()) < 1.5


def test_a_signal_while_the_models_are_loaded_is_obeyed(tmp_path: Path) -> None:
    process = subprocess.Popen(
        command("-hp", "0", "--sip-port", "0", "--data-dir", str(tmp_path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    try:
        assert process.stderr is not None
        assert "speech to text" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0
    assert "Traceback" not in err
