"""Calls at a rate and held, lines registered at once, and a flood of strangers beside calls in progress.

    python -m benchmarks.sip [--quick] [--json FILE]

The SIP agent and the media engine run in a process of their own, with canned audio instead of models. sipp (Debian:
sip-tester) makes the calls and sends back every packet it gets, so that RTP flows both ways; what a packet went
through is measured in one more call, by the package's own caller. Post-dial delay is from INVITE to 180, answering
from INVITE to 200, both as sipp saw them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import queue
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from benchmarks.report import Row, as_json, machine, percentile, table

LINES = 100
PACKET = 0.020

SCENARIO = """<?xml version="1.0" encoding="UTF-8" ?>
<scenario name="held call">
<send retrans="500" start_rtd="pdd" start_rtd2="answer"><![CDATA[
INVITE sip:ai@[remote_ip]:[remote_port] SIP/2.0
Via: SIP/2.0/UDP [local_ip]:[local_port];branch=[branch]
Max-Forwards: 70
From: <sip:sipp@[local_ip]:[local_port]>;tag=[pid]b[call_number]
To: <sip:ai@[remote_ip]:[remote_port]>
Call-ID: [call_id]
CSeq: 1 INVITE
Contact: <sip:sipp@[local_ip]:[local_port]>
Content-Type: application/sdp
Content-Length: [len]

v=0
o=b 1 1 IN IP4 [local_ip]
s=-
c=IN IP4 [media_ip]
t=0 0
m=audio [media_port] RTP/AVP 0
a=rtpmap:0 PCMU/8000
]]></send>
<recv response="100" optional="true"/>
<recv response="180" optional="true" rtd="pdd"/>
<recv response="200" rrs="true" rtd="answer"/>
<send><![CDATA[
ACK [next_url] SIP/2.0
Via: SIP/2.0/UDP [local_ip]:[local_port];branch=[branch]
Max-Forwards: 70
From: <sip:sipp@[local_ip]:[local_port]>;tag=[pid]b[call_number]
To: <sip:ai@[remote_ip]:[remote_port]>[peer_tag_param]
Call-ID: [call_id]
CSeq: 1 ACK
Content-Length: 0

]]></send>
<pause milliseconds="{hold}"/>
<send retrans="500"><![CDATA[
BYE [next_url] SIP/2.0
Via: SIP/2.0/UDP [local_ip]:[local_port];branch=[branch]
Max-Forwards: 70
From: <sip:sipp@[local_ip]:[local_port]>;tag=[pid]b[call_number]
To: <sip:ai@[remote_ip]:[remote_port]>[peer_tag_param]
Call-ID: [call_id]
CSeq: 2 BYE
Content-Length: 0

]]></send>
<recv response="200"/>
</scenario>
"""


# --------------------------------------------------------------------------- the process that is measured


def child() -> None:
    """The SIP agent and the media engine; commands and answers are JSON lines."""
    from aiphone.clock import SystemClock
    from aiphone.events import CallEnded, Event, IncomingCall, LineChanged, MediaNegotiated
    from aiphone.media.engine import MediaCall, MediaEngine
    from aiphone.media.ports import RtpPortPool
    from aiphone.sip.agent import SipAgent
    from aiphone.sip.settings import LineConfig, SipSettings

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192) if hard > 0 else soft, hard))
    events: queue.Queue[Event | LineChanged | dict[str, Any]] = queue.Queue()
    ports = RtpPortPool("127.0.0.1", 20_000, 29_999)
    engine = MediaEngine(1000, rtp_timeout=60.0)
    engine.start()
    agent = SipAgent(SipSettings(host="127.0.0.1", port=0, max_calls=900), ports, events.put, SystemClock())
    agent.start()
    canned = np.round(8000 * np.sin(np.arange(16_000) * 0.15)).astype(np.int16)
    calls: dict[str, MediaCall] = {}
    registered: set[str] = set()

    def say(value: dict[str, Any]) -> None:
        print(json.dumps(value), flush=True)

    def commands() -> None:
        for line in sys.stdin:
            events.put(json.loads(line))
        events.put({"do": "stop"})

    threading.Thread(target=commands, daemon=True).start()
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
            case {"do": "lines", "port": port, "count": count}:
                for number in range(count):
                    agent.add_line(LineConfig(f"l{number}", f"u{number}", "x", "127.0.0.1", server_port=port))
            case {"do": "facts"}:
                usage = resource.getrusage(resource.RUSAGE_SELF)
                rss = int(re.findall(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[0]) / 1000
                say({"cpu": usage.ru_utime + usage.ru_stime, "rss": rss, "calls": len(calls),
                     "registered": len(registered)})  # fmt: skip
        if time.monotonic() >= feed_at:
            feed_at = time.monotonic() + 0.5
            for call in calls.values():
                if call.space > len(canned):
                    call.write(canned)
    agent.stop()
    engine.stop()


class Phone:
    """The measured process, from outside."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.sip", "--child"],
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
        line: dict[str, Any] = json.loads(self.process.stdout.readline())
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


# --------------------------------------------------------------------------- what is done to it


def held_calls(phone: Phone, sipp: str, folder: Path, rate: int, held: int) -> list[Row]:
    """``rate`` new calls a second up to ``held``, all of them with RTP both ways."""
    ramp = held / rate
    scenario = folder / "held.xml"
    scenario.write_text(SCENARIO.replace("{hold}", str(round((ramp + 5) * 1000))), encoding="utf-8")
    process = subprocess.Popen(
        [
            sipp, f"127.0.0.1:{phone.port}", "-sf", str(scenario), "-i", "127.0.0.1", "-m", str(held), "-r", str(rate),
            "-l", str(held), "-rtp_echo", "-mi", "127.0.0.1", "-mp", "31000", "-nostdin", "-trace_rtt", "-rtt_freq",
            "1", "-timeout", f"{ramp * 2 + 40:.0f}s",
        ],
        cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    time.sleep(ramp + 1.5)
    first = phone.facts()
    begun = time.monotonic()
    gaps = asyncio.run(packet_gaps(phone.port, 2.0))
    last = phone.facts()
    cpu = (last["cpu"] - first["cpu"]) / (time.monotonic() - begun)
    process.wait(120)
    times = response_times(folder)
    lost = held - len(times.get("2", times.get("answer", [])))
    delays, answers = times.get("pdd", times.get("1", [])), times.get("answer", times.get("2", []))
    return [
        Row(f"calls held, of {held}", "calls", last["calls"] - 0.0, held, at_least=True),
        Row("calls lost", "calls", float(lost), 0),
        Row("post-dial delay p50", "ms", percentile(delays, 0.50)),
        Row(f"post-dial delay p99 at {rate} calls/s", "ms", percentile(delays, 0.99), 50),
        Row("answered (200) p99", "ms", percentile(answers, 0.99)),
        Row(f"CPU with {held} held, of one core", "%", cpu * 100),
        Row("CPU for each call", "%", cpu * 100 / held),
        Row("packet later than its time, p99", "ms", percentile(gaps, 0.99)),
        Row("memory", "MB", last["rss"]),
    ]


def response_times(folder: Path) -> dict[str, list[float]]:
    """sipp's response times in ms, by the name of the timer."""
    found: dict[str, list[float]] = {}
    for path in folder.glob("*_rtt.csv"):
        for line in path.read_text(encoding="utf-8").splitlines()[1:]:
            words = line.split(";")
            if len(words) >= 3:
                found.setdefault(words[2], []).append(float(words[1]))
    return found


async def packet_gaps(port: int, seconds: float) -> list[float]:
    """How much later than 20 ms after the one before each packet of a call came, in ms."""
    from aiphone.caller import Caller

    async with Caller() as caller:
        call = await caller.call(f"sip:ai@127.0.0.1:{port}")
        await call.wait_packet(5.0)
        await asyncio.sleep(seconds)
        times = [packet.arrived_at for packet in call.packets]
        await call.hangup()
    return [max(0.0, (b - a - PACKET) * 1000) for a, b in pairwise(times)]


def flood(port: int, rate: int, until: Callable[[], bool]) -> int:
    """INVITEs from many sources for somebody we do not know; how many were sent."""
    sockets = []
    for number in range(20):
        one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        one.bind((f"127.0.1.{number + 1}", 0))
        sockets.append(one)
    begun, sent = time.monotonic(), 0
    while not until():
        due = int((time.monotonic() - begun) * rate)
        while sent < due:
            sent += 1
            one = sockets[sent % len(sockets)]
            me = "{}:{}".format(*one.getsockname())
            one.sendto(
                f"INVITE sip:{sent}@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP {me};branch=z9hG4bKf{sent};rport\r\n"
                f"Max-Forwards: 70\r\nFrom: <sip:{sent}@{me}>;tag={sent}\r\nTo: <sip:{sent}@127.0.0.1>\r\n"
                f"Call-ID: {sent}@flood\r\nCSeq: 1 INVITE\r\nContact: <sip:x@{me}>\r\n"
                "Content-Length: 0\r\n\r\n".encode(),
                ("127.0.0.1", port),
            )
        time.sleep(0.001)
    for one in sockets:
        one.close()
    return sent


def flooded(phone: Phone, rate: int, seconds: float) -> list[Row]:
    """What a flood adds to the packets of a call."""
    quiet = percentile(asyncio.run(packet_gaps(phone.port, seconds)), 0.99) or 0.0
    # A process of its own: its sending must not hold up the caller's clock.
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.sip", "--flood", str(phone.port), str(rate), str(seconds + 3)]
    )
    time.sleep(0.5)
    first, begun = phone.facts()["cpu"], time.monotonic()
    loud = percentile(asyncio.run(packet_gaps(phone.port, seconds)), 0.99) or 0.0
    cpu = (phone.facts()["cpu"] - first) / (time.monotonic() - begun)
    process.wait(30)
    return [
        Row("packet later than its time, p99, quiet", "ms", quiet),
        Row(f"the same with {rate} INVITE/s of strangers", "ms", loud),
        Row("added by the flood", "ms", max(0.0, loud - quiet), 5),
        Row("CPU meanwhile, of one core", "%", cpu * 100),
    ]


def registration() -> list[Row]:
    """Seconds until all lines are registered, at a server that says 200 to everybody."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 0))
    server.settimeout(0.2)
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            try:
                data, source = server.recvfrom(65_535)
            except TimeoutError:
                continue
            lines = data.decode().split("\r\n")
            keep = [
                ln
                for ln in lines
                if ln.partition(":")[0].lower() in ("via", "from", "to", "call-id", "cseq", "contact")
            ]
            server.sendto("\r\n".join(["SIP/2.0 200 OK", *keep, "Expires: 300", "Content-Length: 0", "", ""]).encode(),
                          source)  # fmt: skip

    thread = threading.Thread(target=serve)
    thread.start()
    with Phone() as phone:
        begun = time.monotonic()
        phone.tell(do="lines", port=server.getsockname()[1], count=LINES)
        while (known := phone.facts()["registered"]) < LINES and time.monotonic() - begun < 30:
            time.sleep(0.02)
        taken = time.monotonic() - begun
    stop.set()
    thread.join()
    server.close()
    return [Row(f"{LINES} lines registered", "s", taken if known == LINES else None, 5)]


def main() -> int:
    """Measure everything; 0 when every target is met."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sip", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="100 calls held instead of 500")
    parser.add_argument("--json", metavar="FILE", help="write the result there too")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--flood", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child()
        return 0
    if args.flood:
        end = time.monotonic() + float(args.flood[2])
        flood(int(args.flood[0]), int(args.flood[1]), lambda: time.monotonic() >= end)
        return 0
    print(machine())
    rows: list[Row] = []
    sipp = shutil.which("sipp")
    with Phone() as phone, tempfile.TemporaryDirectory() as folder:
        rows += flooded(phone, 1000, 2.0 if args.quick else 5.0)
        if sipp is None:
            print("sipp is not installed (sip-tester): calls at a rate are not measured")
        else:
            rows += held_calls(phone, sipp, Path(folder), 50, 100 if args.quick else 500)
    rows += registration()
    print(table(rows))
    if args.json:
        Path(args.json).write_text(as_json(rows, machine=machine(), load=os.getloadavg()[0]), encoding="utf-8")
    return 1 if any(row.short for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
