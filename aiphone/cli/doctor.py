"""``whisper-talk-llama doctor``: looks at every part, then calls itself and says how long each stage took."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import socket
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from aiphone import __version__
from aiphone.caller.audio import write_wav
from aiphone.cli.assembly import Phone, check_sip_port, line_hosts, sip_host, with_free_ports
from aiphone.cli.language_model import check_language_model
from aiphone.cli.status import sip_uri
from aiphone.clock import SystemClock
from aiphone.config import Settings
from aiphone.conversation.record import CallRecord
from aiphone.errors import AiphoneError, NetworkError
from aiphone.events import INTERNAL_RATE
from aiphone.inference.speech_command import find_program
from aiphone.models.resolve import resolve_onnx, resolve_voice, resolve_whisper
from aiphone.models.store import ModelStore

NO_CALL = "--no-call"
QUESTION = "What is the capital of France?"
EXTENSIONS = ("g711", "resample", "plc", "rtp", "rtcp", "telephone_event", "jitter", "ring", "tap", "engine")

_OK, _BAD = "ok", "FAIL"


def add_arguments(subparsers: Any) -> argparse.ArgumentParser:
    """The sub-command's own flag; everything else it takes is a flag of the server."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "doctor", help="check everything, then call itself", description=__doc__
    )
    parser.add_argument(NO_CALL, action="store_true", help="only look, do not call")
    return parser


def run(settings: Settings, *, call: bool = True) -> int:
    """Check and print; 0 when all is well, otherwise the first failure's exit code."""
    report = _Report()
    print(f"whisper-talk-llama {__version__} on Python {sys.version.split()[0]}, {os.cpu_count()} cores\n")
    _look(settings, report)
    if call and report.exit_code == 0:
        print()
        asyncio.run(_call(settings, report))
    print()
    print("All is well." if report.exit_code == 0 else "Something is wrong; see the lines marked FAIL.")
    return report.exit_code


class _Report:
    """Prints lines as they are known, and remembers the first failure."""

    def __init__(self) -> None:
        self.exit_code = 0

    def line(self, mark: str, what: str, text: str) -> None:
        print(f"  {mark:<5}{what:<22}{text}", flush=True)

    def check(self, what: str, look: Callable[[], str]) -> None:
        """Run ``look``; its text is the line, an ``AiphoneError`` a failure."""
        try:
            self.line(_OK, what, look())
        except AiphoneError as error:
            self.exit_code = self.exit_code or error.exit_code
            self.line(_BAD, what, str(error))


# ------------------------------------------------------------------------------------------------- looking


def _look(settings: Settings, report: _Report) -> None:
    store = ModelStore(Path(settings.models_dir))
    report.check("extensions", _extensions)
    report.check("whisper model", lambda: _file(resolve_whisper(settings.model_whisper, store)))
    report.check("language model", lambda: check_language_model(settings, store))
    report.check("voice activity model", lambda: _file(resolve_onnx("silero", "vad", store)))
    if settings.speak:
        report.check("speech command", lambda: find_program(settings.speak))
    else:
        report.check("voice", lambda: _file(resolve_voice(settings.voice, store)))
    report.check("web page port", lambda: _web_port(settings))
    report.check("SIP port", lambda: _sip_port(settings))
    report.line(_OK, "threads", f"{settings.threads} for each model (-t), {os.cpu_count()} cores")


def _extensions() -> str:
    missing = []
    for name in EXTENSIONS:
        try:
            importlib.import_module(f"aiphone.native.{name}")
        except ImportError:
            missing.append(name)
    if missing:
        raise AiphoneError(f"the compiled extensions {', '.join(missing)} are missing; run: make venv")
    return f"{len(EXTENSIONS)} compiled"


def _file(path: Path) -> str:
    return f"{path.name}, {path.stat().st_size / 1e6:.0f} MB"


def _web_port(settings: Settings) -> str:
    host, port = settings.host, settings.http_port
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = error.strerror or str(error)
            raise NetworkError(
                f"{host}:{port} is not free ({reason}); is the server running? Otherwise choose another with -hp"
            ) from None
    return f"{host}:{port} is free"


def _sip_port(settings: Settings) -> str:
    check_sip_port(settings)
    hosts = [sip_host(settings), *line_hosts(settings)]
    return f"{' and '.join(f'{host}:{settings.sip_port}' for host in hosts)} {'are' if hosts[1:] else 'is'} free"


# ------------------------------------------------------------------------------------------------- calling


async def _call(settings: Settings, report: _Report) -> None:
    clock = SystemClock()
    began = clock.now()
    # The answer must be the same each time it is asked, nothing may be said before it, and nothing be left behind.
    settings = replace(
        with_free_ports(settings), temp=0.0, filler="", session="", file="", lines=(), direct_from="local"
    )
    phone = Phone(settings, asyncio.get_running_loop(), clock)
    try:
        await asyncio.get_running_loop().run_in_executor(None, phone.load, lambda _: None)
        phone.start()
        assert phone.sip is not None
        report.line(_OK, "started", f"in {clock.now() - began:.1f} s")
        status = phone.sip.status()
        report.line(_OK, "pjsua2", f"{status.version}, {status.call_limit} calls at once")
        if status.note:
            report.line("note", "", status.note)
        await _converse(phone, report)
    except AiphoneError as error:
        report.exit_code = error.exit_code
        report.line(_BAD, "call", str(error))
    finally:
        await phone.stop()


async def _converse(phone: Phone, report: _Report) -> None:
    assert phone.models is not None
    assert phone.switchboard is not None
    with tempfile.TemporaryDirectory(prefix="aiphone-doctor-") as folder:
        question = Path(folder) / "question.wav"
        pcm = await asyncio.to_thread(phone.models.synthesiser.speak_now, QUESTION)
        write_wav(question, pcm, INTERNAL_RATE)
        # A process of its own, so that what it measures is not disturbed by what it measures.
        caller = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "aiphone.caller", sip_uri(phone), "--play", str(question), "--json",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await caller.communicate()
    if caller.returncode != 0 or not out:
        raise AiphoneError(f"the call failed: {err.decode().strip() or 'no reason given'}")
    heard: dict[str, Any] = json.loads(out)
    for _ in range(100):
        if phone.switchboard.recent:
            break
        await asyncio.sleep(0.02)
    if not phone.switchboard.recent:
        raise AiphoneError("the call did not end on our side; restart and try again")
    _print_call(report, heard, phone.switchboard.recent[-1])


def _print_call(report: _Report, heard: dict[str, Any], record: CallRecord) -> None:
    report.line(_OK, "INVITE to 200 OK", _ms(heard["invite_to_200_ms"]))
    report.line(_OK, "ACK to greeting", _ms(heard["ack_to_first_voiced_ms"]))
    said = [line for line in record.words if line.role == "user"]
    answers = [line for line in record.words if line.role == "assistant"][1:]
    asked = heard["questions"][0]
    ok = bool(said and answers and record.turns and asked["latency_ms"] is not None)
    report.line(_OK, "said to it", QUESTION)
    report.line(_OK if said else _BAD, "it heard", said[0].text if said else "nothing")
    report.line(_OK if answers else _BAD, "it answered", answers[0].text if answers else "nothing")
    if record.turns:
        for name, seconds in record.turns[0].parts().items():
            report.line("", f"  {name.replace('_', ' ')}", _ms(1000 * seconds))
        report.line("", "  sum", _ms(1000 * record.turns[0].total))
    report.line(_OK if ok else _BAD, "wire to wire", _ms(asked["latency_ms"]) + ", measured by the caller")
    received = heard["received"]
    report.line(_OK, "audio", f"{received['packets']} packets came, {received['lost']} lost")
    if not ok:
        report.exit_code = report.exit_code or AiphoneError.exit_code


def _ms(value: float | None) -> str:
    return "never" if value is None else f"{value:.0f} ms"
