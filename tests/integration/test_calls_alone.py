"""Calls to servers of their own: what outlives a call and a restart, another voice, and the doctor."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sqlite3
import time
from pathlib import Path

import pytest
from callers import GREETING, answer, greeted, heard
from server_process import CAPITAL, Server, in_loop, run_command, write_script

from aiphone.caller import Caller

pytestmark = pytest.mark.integration

THANKS = "Thank you very much."


# ------------------------------------------------------------------ memory


def test_a_caller_is_remembered_in_the_next_call_and_after_kill_9(tmp_path: Path) -> None:
    session = tmp_path / "session"
    flags = ("--greeting", GREETING, "--session", str(session), "--reply-tokens", "16", "--log-level", "debug")

    async def converse(server: Server, user: str, question: str) -> None:
        async with Caller(user=user) as caller:
            call, _ = await greeted(caller, server)
            await answer(call, question)
            await call.hangup()

    def last_prompt(server: Server, user: str) -> str:
        (call_id, *_) = [c["call_id"] for c in server.status()["recent_calls"][::-1] if f":{user}@" in c["caller"]]
        return [line for line in server.log.splitlines() if f" {call_id}: prompt [" in line][-1]

    async def both(server: Server) -> None:
        await asyncio.gather(converse(server, "karl", THANKS), converse(server, "lisa", THANKS))

    async def killed(server: Server) -> None:
        """With karl on the line, as soon as what was said last is in the file."""
        async with Caller(user="karl") as caller:
            call, _ = await greeted(caller, server)
            await answer(call, "Tell me about Rome.")
            while not re.search(r"rome", kept("karl"), re.IGNORECASE):
                await asyncio.sleep(0.02)
            server.process.kill()
            server.process.wait()

    def kept(user: str) -> str:
        """The file as it is now, for whoever reads it beside the server."""
        with contextlib.closing(sqlite3.connect(f"file:{session}?mode=ro", uri=True)) as file:
            query = "SELECT messages FROM conversation WHERE key LIKE ?"
            return str(file.execute(query, (f"%:{user}@%",)).fetchone()[0])

    with Server(*flags) as server:
        in_loop(converse(server, "karl", CAPITAL))
        server.wait_idle()
        in_loop(both(server))
        server.wait_idle()
        assert "capital of France" in last_prompt(server, "karl")
        assert "Paris" in last_prompt(server, "karl")
        assert "capital of France" not in last_prompt(server, "lisa")
        assert "Traceback" not in server.log
        in_loop(killed(server))
    listed = run_command("sessions", "list", "--session", str(session))
    assert listed.returncode == 0
    assert "karl@127.0.0.1 " in listed.stdout
    assert "lisa@127.0.0.1 " in listed.stdout

    with Server(*flags) as server:
        in_loop(converse(server, "karl", THANKS))
        server.wait_idle()
        assert "capital of France" in last_prompt(server, "karl")
        assert "about Rome" in last_prompt(server, "karl")
        server.wait_log(r"\d+ tokens of a saved conversation are back", 1)
        assert server.stop() == 0


# ------------------------------------------------------------------ another voice, and the doctor


def test_a_speech_command_that_hangs_or_fails_is_replaced_by_the_voice_behind_it(
    tmp_path: Path, needs_espeak: str
) -> None:
    command = write_script(
        tmp_path / "speak",
        f'if [ -e "{tmp_path}/hang" ]; then sleep 60; fi\n'
        f'if [ -e "{tmp_path}/fail" ]; then echo "no voice today" >&2; exit 3; fi\n'
        f"exec {needs_espeak} --stdin --stdout\n",
    )

    async def converse(server: Server) -> str:
        async with Caller() as caller:
            call, _ = await greeted(caller, server)
            reply = await answer(call, CAPITAL)
            await call.hangup()
            return heard(call, reply)

    with Server("--greeting", GREETING, "--filler", "", "-s", str(command)) as server:
        (tmp_path / "hang").touch()
        assert "paris" in in_loop(converse(server))
        server.wait_log(r"speech command .*speak' did not finish within 10 s and was stopped", 1)
        (tmp_path / "hang").unlink()
        (tmp_path / "fail").touch()
        in_loop(converse(server))
        server.wait_idle()
        voice = server.status()["models"]["voice"]["voices"][0]
        assert voice["failures"] >= 1
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 10
        assert "Traceback" not in server.log


@pytest.fixture
def needs_espeak(needs) -> str:  # type: ignore[no-untyped-def]
    return str(needs("espeak-ng", "espeak-ng"))


def test_the_doctor_calls_itself_and_says_that_all_is_well() -> None:
    done = run_command("doctor", "-hp", "0", "--sip-port", "0", timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All is well." in done.stdout
    for line in (
        "extensions",
        "whisper model",
        "language model",
        "voice",
        "pjsua2",
        "INVITE to 200 OK",
        "wire to wire",
    ):
        assert re.search(rf"^  ok +{line} ", done.stdout, re.MULTILINE), line
    assert re.search(r"it heard +What is the capital of France\?", done.stdout)
    assert re.search(r"it answered .*Paris", done.stdout)
    for part in ("patience", "transcript", "first token", "first phrase", "first audio", "playout", "sum"):
        assert re.search(rf"^ +{part} +\d+ ms$", done.stdout, re.MULTILINE), part
    assert "Traceback" not in done.stderr
