"""The systems that take calls in the SIP benchmark, each in a process of its own, and ``Phone``: one from outside.

``ours``    the SIP agent and the media engine, with canned audio in place of models
``pjsua2``  pjsua2 with its own media: its streams, its conference bridge, an AudioMediaPlayer for each call

Commands go in and answers come out as JSON lines. What ``ours`` says is decoded, buffered and brought to 16 kHz for
a listener; so that pjsua2 decodes what comes at all, its calls are connected to the null sound device.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

MAX_CALLS = 900
_TONE = 0.15
"""Radians from one sample to the next."""


def say(value: dict[str, Any]) -> None:
    """Tell the benchmark."""
    print(json.dumps(value), flush=True)


def facts(**more: Any) -> dict[str, Any]:
    """CPU seconds and memory (MB) of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    rss = int(re.findall(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[0]) / 1000
    return {"cpu": usage.ru_utime + usage.ru_stime, "rss": rss, **more}


def read_commands(into: queue.Queue[Any]) -> None:
    """Put each command into a queue, and ``stop`` when there are no more."""

    def run() -> None:
        for line in sys.stdin:
            into.put(json.loads(line))
        into.put({"do": "stop"})

    threading.Thread(target=run, daemon=True).start()


def ours() -> None:
    """The SIP agent and the media engine."""
    from aiphone.clock import SystemClock
    from aiphone.events import CallEnded, Event, IncomingCall, LineChanged, MediaNegotiated
    from aiphone.media.engine import MediaCall, MediaEngine
    from aiphone.media.ports import RtpPortPool
    from aiphone.sip.agent import SipAgent
    from aiphone.sip.settings import LineConfig, SipSettings

    events: queue.Queue[Event | LineChanged | dict[str, Any]] = queue.Queue()
    ports = RtpPortPool("127.0.0.1", 20_000, 29_999)
    engine = MediaEngine(1000, rtp_timeout=60.0)
    engine.start()
    agent = SipAgent(SipSettings(host="127.0.0.1", port=0, max_calls=MAX_CALLS), ports, events.put, SystemClock())
    agent.start()
    canned = np.round(8000 * np.sin(np.arange(16_000) * _TONE)).astype(np.int16)
    calls: dict[str, MediaCall] = {}
    registered: set[str] = set()
    read_commands(events)
    say({"port": agent.port})
    feed_at = time.monotonic()
    while True:
        try:
            event = events.get(timeout=0.05)
        except queue.Empty:
            event = {}
        match event:
            case IncomingCall():
                agent.answer(event.call_id)
            case MediaNegotiated(sockets=sockets) if sockets is not None:
                calls[event.call_id] = engine.add(event.call_id, sockets, event.stream)
                calls[event.call_id].write(canned)
            case CallEnded():
                if event.call_id in calls:
                    calls.pop(event.call_id).close()
            case LineChanged():
                (registered.add if event.state.value == "registered" else registered.discard)(event.line_id)
            case {"do": "stop"}:
                break
            case {"do": "lines", "port": port, "users": users}:
                for user, password in users.items():
                    agent.add_line(LineConfig(user, user, password, "127.0.0.1", server_port=port))
            case {"do": "facts"}:
                say(facts(calls=len(calls), registered=len(registered)))
        if time.monotonic() >= feed_at:
            feed_at = time.monotonic() + 0.5
            for call in calls.values():
                if call.space > len(canned):
                    call.write(canned)
    agent.stop()
    engine.stop()


def pjsua2() -> None:
    """pjsua2 with its own media."""
    import pjsua2 as pj

    from aiphone.caller import write_wav

    folder = tempfile.TemporaryDirectory()
    canned = Path(folder.name) / "canned.wav"
    write_wav(canned, np.round(8000 * np.sin(np.arange(16_000) * 2 * _TONE)).astype(np.int16))
    commands: queue.Queue[dict[str, Any]] = queue.Queue()
    calls: dict[int, Any] = {}
    players: dict[int, Any] = {}
    ended: list[Any] = []

    class Call(pj.Call):  # type: ignore[misc]
        def onCallMediaState(self, _prm: Any) -> None:  # noqa: N802 - pjsua2's name
            with contextlib.suppress(pj.Error):
                media = self.getAudioMedia(-1)
                player = pj.AudioMediaPlayer()
                player.createPlayer(str(canned))
                player.startTransmit(media)
                media.startTransmit(endpoint.audDevManager().getPlaybackDevMedia())
                players[self.getId()] = player

        def onCallState(self, _prm: Any) -> None:  # noqa: N802
            if self.getInfo().state == pj.PJSIP_INV_STATE_DISCONNECTED:
                ended.append((calls.pop(self.getId(), None), players.pop(self.getId(), None)))

    class Account(pj.Account):  # type: ignore[misc]
        def onIncomingCall(self, prm: Any) -> None:  # noqa: N802
            call = calls[prm.callId] = Call(self, prm.callId)
            yes = pj.CallOpParam()
            yes.statusCode = 200
            call.answer(yes)

    config = pj.EpConfig()
    config.logConfig.level = config.logConfig.consoleLevel = 0
    config.uaConfig.threadCnt = 0
    config.uaConfig.mainThreadOnly = True
    config.uaConfig.maxCalls = MAX_CALLS
    config.medConfig.clockRate = config.medConfig.sndClockRate = 8000
    config.medConfig.noVad = True
    endpoint = pj.Endpoint()
    endpoint.libCreate()
    endpoint.libInit(config)
    transport = pj.TransportConfig()
    transport.boundAddress = "127.0.0.1"
    number = endpoint.transportCreate(pj.PJSIP_TRANSPORT_UDP, transport)
    endpoint.libStart()
    endpoint.audDevManager().setNullDev()
    account_config = pj.AccountConfig()
    account_config.idUri = "sip:ai@127.0.0.1"
    account_config.mediaConfig.transportConfig.boundAddress = "127.0.0.1"
    account = Account()
    account.create(account_config)
    read_commands(commands)
    say({"port": int(str(endpoint.transportGetInfo(number).localName).rpartition(":")[2])})
    while True:
        endpoint.libHandleEvents(10)
        # Not in a callback: what ends there is still in use.
        ended.clear()
        try:
            command = commands.get_nowait()
        except queue.Empty:
            continue
        if command["do"] == "stop":
            break
        say(facts(calls=len(calls)))
    folder.cleanup()
    # Its order of taking things down is not what is measured.
    sys.stdout.flush()
    os._exit(0)


class Phone:
    """A measured process, from outside."""

    def __init__(self, name: str = "ours") -> None:
        """``name`` is one of this module's systems. Raises ``EOFError`` when it does not come up."""
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"from benchmarks.sip_phones import main; main({name!r})"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.port = int(self._read()["port"])

    def __enter__(self) -> Phone:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        text = self.process.stdout.readline()
        if not text:
            raise EOFError(f"the process ended with {self.process.wait()}")
        line: dict[str, Any] = json.loads(text)
        return line

    def tell(self, **command: Any) -> None:
        """Send a command."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def facts(self) -> dict[str, Any]:
        """CPU seconds, memory in MB, calls, lines."""
        self.tell(do="facts")
        return self._read()


def main(name: str) -> None:
    """Be one of them until standard input is closed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192) if hard > 0 else soft, hard))
    {"ours": ours, "pjsua2": pjsua2}[name]()
