"""Calls at a rate and held, lines that register, and a flood of strangers beside calls in progress.

    python -m benchmarks.sip [--quick] [--json FILE]

The SIP agent and the media engine run in a process of their own, with canned audio instead of models; so does their
peer, pjsua2 with its own media (see ``sip_phones``). sipp (Debian: sip-tester) makes the calls and sends back every
packet it gets, so that RTP flows both ways; what a packet went through is measured in one more call, by the package's
own caller. Post-dial delay is from INVITE to 180, answering from INVITE to 200, both as sipp saw them.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from benchmarks.report import Row, as_json, machine, percentile, table
from benchmarks.sip_phones import Phone
from benchmarks.sip_registration import registration

PACKET = 0.020

SCENARIO = """<?xml version="1.0" encoding="UTF-8" ?>
<scenario name="held call">
<send retrans="500" start_rtd="pdd" start_rtd2="answer"><![CDATA[
INVITE sip:ai@[remote_ip]:[remote_port] SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
Max-Forwards: 70
From: <sip:sipp@[local_ip]:[local_port]>;tag=[pid]b[call_number]
To: <sip:ai@[remote_ip]:[remote_port]>
Call-ID: [call_id]
CSeq: 1 INVITE
Contact: <sip:sipp@[local_ip]:[local_port];transport=[transport]>
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
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
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
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
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


@dataclass(slots=True)
class Held:
    """What became of calls that came at a rate and were held."""

    calls: int
    """Held at once, as the system under test counts them."""
    delays: list[float]
    """From INVITE to 180, ms."""
    answers: list[float]
    """From INVITE to 200, ms."""
    cpu: float
    """Seconds of a core for each second, while all were held."""
    gaps: list[float]
    """See ``packet_gaps``."""
    rss: float


def held_calls(phone: Phone, sipp: str, rate: int, held: int, transport: str = "u1") -> Held:
    """``rate`` new calls a second up to ``held``, all of them with RTP both ways. ``transport`` is sipp's ``-t``."""
    ramp = held / rate
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scenario = folder / "held.xml"
        scenario.write_text(SCENARIO.replace("{hold}", str(round((ramp + 5) * 1000))), encoding="utf-8")
        process = subprocess.Popen(
            [
                sipp, f"127.0.0.1:{phone.port}", "-sf", str(scenario), "-i", "127.0.0.1", "-m", str(held),
                "-r", str(rate), "-l", str(held), "-t", transport, "-max_socket", "2000", "-rtp_echo",
                "-mi", "127.0.0.1", "-mp", "31000", "-nostdin", "-trace_rtt", "-rtt_freq", "1",
                "-timeout", f"{ramp * 2 + 40:.0f}s",
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
    delays, answers = times.get("pdd", times.get("1", [])), times.get("answer", times.get("2", []))
    return Held(last["calls"], delays, answers, cpu, gaps, last["rss"])


def calls_at_a_rate(phone: Phone, sipp: str, rate: int, held: int) -> list[Row]:
    """Calls over UDP; then fewer over TCP, a connection for each; then those of UDP at the peer."""
    udp = held_calls(phone, sipp, rate, held)
    few = min(held, 100)
    tcp = held_calls(phone, sipp, rate, few, "tn")
    rows = [
        Row(f"calls held, of {held}", "calls", float(udp.calls), held, at_least=True),
        Row("calls lost", "calls", float(held - len(udp.answers)), 0),
        Row("post-dial delay p50", "ms", percentile(udp.delays, 0.50)),
        Row(f"post-dial delay p99 at {rate} calls/s", "ms", percentile(udp.delays, 0.99), 50),
        Row("  over TCP, a connection for each call", "ms", percentile(tcp.delays, 0.99), 50),
        Row("calls lost over TCP", "calls", float(few - len(tcp.answers)), 0),
        Row("answered (200) p99", "ms", percentile(udp.answers, 0.99)),
        Row(f"CPU with {held} held, of one core", "%", udp.cpu * 100),
        Row("CPU for each call", "%", udp.cpu * 100 / held),
        Row("packet later than its time, p99", "ms", percentile(udp.gaps, 0.99)),
        Row("memory", "MB", udp.rss),
    ]
    return rows + beside(udp, sipp, rate, held)


def beside(ours: Held, sipp: str, rate: int, held: int) -> list[Row]:
    """The same calls at pjsua2 with its own media."""
    try:
        with Phone("pjsua2") as peer:
            theirs = held_calls(peer, sipp, rate, held)
    except EOFError as error:
        print(f"pjsua2 with its own media is not measured: {error}")
        return []
    late, their_late = percentile(ours.gaps, 0.99), percentile(theirs.gaps, 0.99)
    return [
        Row("pjsua2's own media: calls held", "calls", float(theirs.calls)),
        Row("pjsua2's own media: CPU for each call", "%", theirs.cpu * 100 / max(1, theirs.calls)),
        Row("CPU for each call, pjsua2's to ours", "x", theirs.cpu / max(1, theirs.calls) * held / ours.cpu),
        Row("pjsua2's own media: packet later than its time, p99", "ms", their_late),
        Row("  the same, pjsua2's to ours", "x", their_late / late if late and their_late else None),
        Row("pjsua2's own media: answered (200) p99", "ms", percentile(theirs.answers, 0.99)),
        Row("pjsua2's own media: memory", "MB", theirs.rss),
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


def main() -> int:
    """Measure everything; 0 when every target is met."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sip", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer calls, and one restart of the registrar")
    parser.add_argument("--only", choices=["calls", "registration"], help="a part of it")
    parser.add_argument("--json", metavar="FILE", help="write the result there too")
    parser.add_argument("--flood", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.flood:
        end = time.monotonic() + float(args.flood[2])
        flood(int(args.flood[0]), int(args.flood[1]), lambda: time.monotonic() >= end)
        return 0
    print(machine())
    rows: list[Row] = []
    sipp = shutil.which("sipp")
    if args.only != "registration":
        with Phone() as phone:
            rows += flooded(phone, 1000, 2.0 if args.quick else 5.0)
            if sipp is None:
                print("sipp is not installed (sip-tester): calls at a rate are not measured")
            else:
                rows += calls_at_a_rate(phone, sipp, 50, 100 if args.quick else 500)
    if args.only != "calls":
        rows += registration(args.quick)
    print(table(rows))
    if args.json:
        Path(args.json).write_text(as_json(rows, machine=machine(), load=os.getloadavg()[0]), encoding="utf-8")
    return 1 if any(row.short for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
