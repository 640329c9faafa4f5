"""The programs that the media benchmarks put to the same test, each in a process of its own.

    python -c "from benchmarks.media_peers import main; main()" NAME SECONDS [--hog] < PAIRS

PAIRS are lines "LOCAL REMOTE": the port a call receives on and the port of its telephone (``media_load``). A peer
prints ``ready`` (and the ports it chose itself, where it does) and runs for so many seconds.

``ours``      the media engine, fed and read by Python as the server does
``aiortp``    RTPSession of aiortp: its playout buffer and concealment, and a paced loop that encodes and sends
``asyncio``   a bare asyncio sender: a task for each call that sleeps until its next packet
``pjsua2``    calls of pjsua2 whose sound comes from an AudioMediaPort in Python

With ``--hog`` the process also does what a busy phone system does: BLAS on every core at the priority of inference
threads, and a Python thread that holds the interpreter for tens of milliseconds, lets go, and takes it again.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import re
import socket
import sys
import threading
import time
from typing import Any

import numpy as np

from aiphone.events import RtpSockets, RtpStream
from aiphone.native import g711

NICENESS = 5
"""As the inference threads of the server."""

Pairs = list[tuple[int, int]]


def tone(rate: int, seconds: float) -> np.ndarray[Any, np.dtype[np.int16]]:
    """Something to say."""
    return np.round(8000 * np.sin(2 * math.pi * 440 * np.arange(int(rate * seconds)) / rate)).astype(np.int16)


def hog() -> None:
    """Keep every core and the interpreter busy until the process ends."""

    def lower() -> None:
        with contextlib.suppress(AttributeError, OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)

    def multiply() -> None:
        lower()
        a = np.random.default_rng(1).random((384, 384), np.float32)
        while True:
            a = a @ a
            a /= np.abs(a).max()

    def hold() -> None:
        lower()
        while True:
            sum(range(1_500_000))  # one call in C, which lets nobody else in
            time.sleep(0.02)

    for body in [multiply] * (os.cpu_count() or 1) + [hold]:
        threading.Thread(target=body, daemon=True).start()


def ready(**facts: object) -> None:
    """Tell the benchmark that packets may come."""
    print(json.dumps({"ready": True, **facts}), flush=True)


def ours(pairs: Pairs, seconds: float, busy: bool) -> None:
    """The media engine."""
    from aiphone.media.engine import MediaEngine

    def bound(port: int) -> int:
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 18)
        s.bind(("127.0.0.1", port))
        return s.detach()

    engine = MediaEngine(len(pairs))
    engine.start()
    calls = []
    for number, (local, remote) in enumerate(pairs):
        stream = RtpStream("127.0.0.1", remote, 0, "PCMU", 101, 20, send=True, receive=True)
        sockets = RtpSockets(bound(local), bound(local + 1), local)
        calls.append(engine.add(f"c{number}", sockets, stream))
    speech = tone(16000, 2.0)
    for call in calls:
        call.write(speech)
    ready()
    if busy:
        hog()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.25)
        engine.events()
        for call in calls:
            if call.space > len(speech):
                call.write(speech)
            call.read(50)
    stats = [call.stats() for call in calls]
    facts = {name: sum(getattr(s, name) for s in stats) for name in ("lost", "late", "concealed", "frames_lost")}
    facts |= {"packets_received": sum(s.packets_received for s in stats), "skipped": engine.stats().skipped}
    print(
        json.dumps({**facts, "call_bytes": engine.stats().call_bytes, "priority": engine.stats().priority}), flush=True
    )
    engine.stop()


async def _aiortp(pairs: Pairs, seconds: float, busy: bool) -> None:
    from aiortp import RTPSession

    sessions: list[Any] = []
    heard = 0

    def on_audio(pcm: bytes, _timestamp: int) -> None:
        nonlocal heard
        heard += len(pcm)

    for local, remote in pairs:
        session = await RTPSession.create(("127.0.0.1", local), ("127.0.0.1", remote), payload_type=0, playout=True)
        session.on_audio = on_audio
        sessions.append(session)
    frame = tone(8000, 0.02).tobytes()
    ready()
    if busy:
        hog()
    loop = asyncio.get_running_loop()
    due = begin = loop.time()
    while due < begin + seconds:
        for number, session in enumerate(sessions):
            session.send_audio_pcm_auto(frame)
            if number % 8 == 7:
                await asyncio.sleep(0)
        due += 0.02
        await asyncio.sleep(max(0.0, due - loop.time()))
    print(json.dumps({"heard_seconds": heard / 16000}), flush=True)
    os._exit(0)


async def _asyncio(pairs: Pairs, seconds: float, busy: bool) -> None:
    loop = asyncio.get_running_loop()
    frame = g711.encode_ulaw(tone(8000, 0.02))

    async def call(number: int, local: int, remote: int) -> None:
        transport, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, ("127.0.0.1", local), ("127.0.0.1", remote)
        )
        due = loop.time() + 0.02 * number / len(pairs)
        for seq in range(int(seconds / 0.02)):
            due += 0.02
            await asyncio.sleep(max(0.0, due - loop.time()))
            head = bytes((0x80, 0)) + (seq & 0xFFFF).to_bytes(2, "big") + (160 * seq).to_bytes(4, "big") + bytes(4)
            transport.sendto(head + frame)

    ready()
    if busy:
        hog()
    await asyncio.gather(*[call(number, *pair) for number, pair in enumerate(pairs)])


def pjsua2(pairs: Pairs, seconds: float, busy: bool) -> None:
    """Calls from pjsua2 to a peer that says yes and names the telephone's port."""
    import pjsua2 as pj

    answering = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    answering.bind(("127.0.0.1", 0))
    told: list[int] = []
    threading.Thread(target=answer, args=(answering, [local for _, local in pairs], told), daemon=True).start()
    frame = pj.ByteVector(list(tone(8000, 0.02).tobytes()))

    class Port(pj.AudioMediaPort):  # type: ignore[misc]
        def onFrameRequested(self, out: Any) -> None:  # noqa: N802 - pjsua2's name
            out.type = pj.PJMEDIA_FRAME_TYPE_AUDIO
            out.buf = frame

        def onFrameReceived(self, heard: Any) -> None:  # noqa: N802
            pass

    class Call(pj.Call):  # type: ignore[misc]
        def onCallMediaState(self, _prm: Any) -> None:  # noqa: N802
            with contextlib.suppress(pj.Error):
                media = self.getAudioMedia(-1)
                ports[self.getId()].startTransmit(media)
                media.startTransmit(ports[self.getId()])

    config = pj.EpConfig()
    config.logConfig.level = config.logConfig.consoleLevel = 0
    config.uaConfig.maxCalls = max(4, len(pairs))
    config.medConfig.clockRate = config.medConfig.sndClockRate = 8000
    config.medConfig.noVad = True
    endpoint = pj.Endpoint()
    endpoint.libCreate()
    endpoint.libInit(config)
    transport = pj.TransportConfig()
    transport.boundAddress = "127.0.0.1"
    endpoint.transportCreate(pj.PJSIP_TRANSPORT_UDP, transport)
    endpoint.libStart()
    endpoint.audDevManager().setNullDev()
    account_config = pj.AccountConfig()
    account_config.idUri = "sip:bench@127.0.0.1"
    account_config.mediaConfig.transportConfig.boundAddress = "127.0.0.1"
    account = pj.Account()
    account.create(account_config)
    form = pj.MediaFormatAudio()
    form.init(pj.PJMEDIA_FORMAT_PCM, 8000, 1, 20000, 16)
    ports: dict[int, Any] = {}
    calls = []
    for number in range(len(pairs)):
        port = Port()
        port.createPort(f"p{number}", form)
        ports[number] = port
        call = Call(account)
        call.makeCall(f"sip:x@127.0.0.1:{answering.getsockname()[1]}", pj.CallOpParam(True))
        calls.append(call)
    deadline = time.monotonic() + 10
    while len(told) < len(pairs) and time.monotonic() < deadline:
        time.sleep(0.05)
    ready(ports=told)
    if busy:
        hog()
    time.sleep(seconds)
    os._exit(0)


def answer(sock: socket.socket, ports: list[int], told: list[int]) -> None:
    """Say 200 to every INVITE, with the next telephone's port, and note the port that was offered."""
    known: dict[str, int] = {}
    while True:
        data, sender = sock.recvfrom(65536)
        text = data.decode(errors="replace")
        method = text.partition(" ")[0]
        if method == "ACK" or method.startswith("SIP/"):
            continue
        head, _, body = text.partition("\r\n\r\n")
        keep = [h for h in head.split("\r\n")[1:] if re.match(r"(Via|From|Call-ID|CSeq|Record-Route):", h, re.I)]
        to = next((h for h in head.split("\r\n") if h.lower().startswith("to:")), "To: <sip:x@127.0.0.1>")
        sdp = ""
        if method == "INVITE":
            call_id = next(h for h in keep if h.lower().startswith("call-id"))
            if call_id not in known:
                known[call_id] = ports[len(known)]
                found = re.search(r"m=audio (\d+)", body)
                told.append(int(found[1]) if found else 0)
            sdp = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
            sdp += f"m=audio {known[call_id]} RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n"
        lines = ["SIP/2.0 200 OK", *keep, to if "tag=" in to else f"{to};tag=b{len(known)}"]
        lines += [f"Contact: <sip:x@127.0.0.1:{sock.getsockname()[1]}>", "Content-Type: application/sdp"]
        lines += [f"Content-Length: {len(sdp)}", "", sdp]
        sock.sendto("\r\n".join(lines).encode(), sender)


def main() -> None:
    """Run one peer."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=["ours", "aiortp", "asyncio", "pjsua2"])
    parser.add_argument("seconds", type=float)
    parser.add_argument("--hog", action="store_true")
    arguments = parser.parse_args()
    pairs = []
    for line in sys.stdin:
        local, remote = line.split()
        pairs.append((int(local), int(remote)))
    if arguments.name == "ours":
        ours(pairs, arguments.seconds, arguments.hog)
    elif arguments.name == "pjsua2":
        pjsua2(pairs, arguments.seconds, arguments.hog)
    else:
        way = _aiortp if arguments.name == "aiortp" else _asyncio
        asyncio.run(way(pairs, arguments.seconds, arguments.hog))
