"""A SIP agent in a process of its own, and a peer that speaks raw SIP to it.

pjsua2 is a process-wide thing, so each agent under test gets a process: events come out of it as JSON lines,
commands go in as JSON lines. The peer is text over UDP and nothing more: it can say what no proper user agent says.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import logging
import os
import queue
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from random import Random

from aiphone.caller.sdp import audio
from aiphone.sip.addresses import host_port

ROOT = Path(__file__).resolve().parents[2]


# --------------------------------------------------------------------------- the process with the agent


class Ports:
    """RTP sockets, on loopback where nothing else is said; counted."""

    def __init__(self, limit, host, stun=""):
        from aiphone.clock import SystemClock
        from aiphone.media.stun import StunClient

        self.stun = StunClient(stun, SystemClock()) if stun else None
        self.open_now = 0
        self.host = host
        self.limit = limit
        self.lock = threading.Lock()

    def open(self, host=""):
        from aiphone.errors import NetworkError
        from aiphone.events import RtpSockets

        with self.lock:
            if self.open_now >= self.limit:
                raise NetworkError("no RTP port left; widen --rtp-ports")
            self.open_now += 1
        host = host or self.host
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        rtp = socket.socket(family, socket.SOCK_DGRAM)
        rtcp = socket.socket(family, socket.SOCK_DGRAM)
        rtp.bind((host, 0))
        rtcp.bind((host, 0))
        port = rtp.getsockname()[1]
        return RtpSockets(rtp.detach(), rtcp.detach(), port)

    def public_ports(self, sockets):
        found = self.stun.public_ports(sockets.rtp_fd, sockets.rtcp_fd) if self.stun else None
        return found or (sockets.port, sockets.port + 1)

    def close(self, sockets):
        with self.lock:
            self.open_now -= 1
        os.close(sockets.rtp_fd)
        os.close(sockets.rtcp_fd)


def facts(ports):
    status = Path("/proc/self/status").read_text()
    return {
        "fds": len(os.listdir("/proc/self/fd")),  # noqa: PTH208
        "threads": len(os.listdir("/proc/self/task")),  # noqa: PTH208
        "rss_kb": int(re.search(r"VmRSS:\s+(\d+)", status).group(1)),
        "sockets": ports.open_now,
    }


def plain(event):
    fields = dataclasses.asdict(event)
    for name, value in fields.items():
        if hasattr(value, "value"):
            fields[name] = value.value
    for name in ("srtp_send", "srtp_receive"):
        if name in fields.get("stream", {}):
            key = fields["stream"][name]
            fields["stream"][name] = key.hex() if key else None
    return {"event": type(event).__name__, **fields}


def policy(values):
    from aiphone.sip.settings import CallPolicy

    lists = {name: tuple(values[name]) for name in ("allow", "deny") if name in values}
    pairs = {"personas": tuple(tuple(pair) for pair in values["personas"])} if "personas" in values else {}
    return CallPolicy(**{**values, **lists, **pairs})


def child():
    """Run the agent as the first argument (JSON) says, until stdin closes."""
    from aiphone.clock import SystemClock
    from aiphone.errors import AiphoneError
    from aiphone.events import CallEnded, IncomingCall, MediaNegotiated
    from aiphone.sip.agent import SipAgent
    from aiphone.sip.settings import LineConfig, SipSettings

    options = json.loads(sys.argv[1])
    logging.basicConfig(level=options.get("log", "WARNING"), stream=sys.stderr, format="%(name)s %(message)s")
    answers = options.get("answer", True)
    own = options.get("settings", {}).get("host", "127.0.0.1")
    stun = options.get("stun", "")
    ports = Ports(options.get("ports", 10_000), own if ":" in own or stun else "127.0.0.1", stun)
    held, lock, out = {}, threading.Lock(), sys.stdout

    def say(value):
        with lock:
            print(json.dumps(value), file=out, flush=True)

    def post(event):
        if isinstance(event, MediaNegotiated) and event.sockets is not None:
            held[event.call_id] = event.sockets
        if isinstance(event, CallEnded) and event.call_id in held:
            ports.close(held.pop(event.call_id))
        say(plain(event))
        if isinstance(event, IncomingCall) and answers:
            agent.answer(event.call_id)

    settings = {"host": "127.0.0.1", "port": 0, **options.get("settings", {})}
    for name in ("direct_networks",):
        if name in settings:
            settings[name] = tuple(settings[name])
    if "tls" in settings:
        from aiphone.sip.settings import TlsSettings

        settings["tls"] = TlsSettings(**settings["tls"])
    if "direct_policy" in settings:
        settings["direct_policy"] = policy(settings["direct_policy"])
    agent = SipAgent(SipSettings(**settings), ports, post, SystemClock(), Random(1))
    try:
        agent.start()
    except AiphoneError as error:
        say({"event": "failed", "kind": type(error).__name__, "text": str(error)})
        return
    say({"event": "started", **dataclasses.asdict(agent.status())})
    for line in sys.stdin:
        command = json.loads(line)
        name = command.pop("do")
        if name == "facts":
            say({"event": "facts", **facts(ports)})
        elif name == "status":
            status = dataclasses.asdict(agent.status())
            status["lines"] = [{**one, "state": one["state"].value} for one in status["lines"]]
            say({"event": "status", **status})
        elif name == "packet":
            with socket.socket(fileno=os.dup(held[command["call_id"]].rtp_fd)) as rtp:
                rtp.settimeout(5)
                say({"event": "packet", "data": rtp.recv(2048).hex()})
        elif name == "add_line":
            if "policy" in command:
                command["policy"] = policy(command["policy"])
            agent.add_line(LineConfig(**command))
        else:
            getattr(agent, name)(**command)
    begun = time.monotonic()
    agent.stop()
    say({"event": "stopped", "seconds": time.monotonic() - begun, **facts(ports)})


class Agent:
    """The process, from the test's side."""

    def __init__(self, **options):
        path = os.pathsep.join(part for part in (os.environ.get("PYTHONPATH", ""), str(ROOT)) if part)
        self.process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        self.events = queue.Queue()
        self.seen = []
        self.stray = []
        self.errors = []
        self._readers = [
            threading.Thread(target=self._read, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for reader in self._readers:
            reader.start()
        self.started = self.wait("started", "failed", timeout=30)
        self.port = self.started.get("port", 0)

    def _read(self):
        for line in self.process.stdout:
            try:
                self.events.put(json.loads(line))
            except ValueError:
                self.stray.append(line)
        self.events.put({"event": "eof"})

    def _read_errors(self):
        for line in self.process.stderr:
            self.errors.append(line)

    def wait(self, *names, timeout=10, **where):
        """The next event of that name, in what was seen and not taken yet; others are kept."""
        deadline = time.monotonic() + timeout

        def wanted(event):
            return event["event"] in names and all(event.get(k) == v for k, v in where.items())

        for event in self.seen:
            if wanted(event):
                self.seen.remove(event)
                return event
        while True:
            try:
                event = self.events.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no {names} {where}; saw {self.seen}; stderr {self.errors[-20:]}") from None
            if wanted(event):
                return event
            if event["event"] == "eof":
                raise AssertionError(f"the agent died: {self.errors[-30:]} {self.seen}")
            self.seen.append(event)

    def count(self, name):
        """How many events of that name are there, seen or waiting."""
        while not self.events.empty():
            self.seen.append(self.events.get())
        return sum(1 for event in self.seen if event["event"] == name)

    def do(self, name, **arguments):
        self.process.stdin.write(json.dumps({"do": name, **arguments}) + "\n")
        self.process.stdin.flush()

    def ask(self, name, timeout=10):
        self.do(name)
        return self.wait(name, timeout=timeout)

    def stop(self, timeout=20):
        """End it the proper way; its last words."""
        if self.process.stdin.closed:
            return None
        self.process.stdin.close()
        stopped = None
        try:
            if self.started["event"] == "started":
                stopped = self.wait("stopped", timeout=timeout)
            code = self.process.wait(timeout)
        finally:
            self.process.kill()
            self.process.wait()
            for reader in self._readers:
                reader.join(5)
            self.process.stdout.close()
            self.process.stderr.close()
        assert code == 0, self.errors[-30:]
        return stopped


# --------------------------------------------------------------------------- raw SIP


async def answered(agent, caller, call_id):
    """Have the agent call this caller, who answers. Returns the caller's call and the address that was offered."""
    agent.do("place_call", call_id=call_id, uri=caller.uri, line_id=None)
    call = await caller.incoming()
    call.answer()
    await asyncio.to_thread(agent.wait, "CallConfirmed")
    offer = audio(call.remote_sdp)
    assert offer is not None
    return call, offer.host


class Message:
    """A SIP message in parts; tolerant, for tests."""

    def __init__(self, text, source=None):
        self.text, self.source = text, source
        head, _, self.body = text.partition("\r\n\r\n")
        self.first, *lines = head.split("\r\n")
        self.headers = [(k.strip().lower(), v.strip()) for k, _, v in (line.partition(":") for line in lines)]

    def __getitem__(self, name):
        return next((v for k, v in self.headers if k == name.lower()), "")

    @property
    def code(self):
        return int(self.first.split()[1]) if self.first.startswith("SIP/2.0") else 0

    @property
    def method(self):
        return "" if self.code else self.first.split()[0]


def sdp(port, codecs=(0, 8, 101), direction="sendrecv", host="127.0.0.1", media="audio", version=1):
    names = {0: "PCMU/8000", 8: "PCMA/8000", 101: "telephone-event/8000", 96: "telephone-event/8000",
             9: "G722/8000", 18: "G729/8000"}  # fmt: skip
    lines = ["v=0", f"o=- 1 {version} IN IP4 127.0.0.1", "s=-", f"c=IN IP{6 if ':' in host else 4} {host}", "t=0 0"]
    if media:
        lines.append(f"m={media} {port} RTP/AVP " + " ".join(str(c) for c in codecs))
        lines += [f"a=rtpmap:{c} {names[c]}" for c in codecs if c in names]
        lines += [f"a={direction}"]
    return "\r\n".join(lines) + "\r\n"


OPENED = []
"""Peers and registrars of the test that runs; closed after it."""


def close_all():
    while OPENED:
        OPENED.pop().close()


class Peer:
    """A UDP socket and the state of one dialog at a time."""

    def __init__(self, port, host="127.0.0.1", user="ai", local=""):
        local = local or ("::1" if ":" in host else "127.0.0.1")
        self.socket = socket.socket(socket.AF_INET6 if ":" in local else socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((local, 0))
        self.local = host_port(local, self.socket.getsockname()[1])
        self.remote = (host, port)
        self.target = f"sip:{user}@{host_port(host, port)}"
        OPENED.append(self)
        self.begin()

    def begin(self):
        tag = os.urandom(5).hex()
        self.call_id = f"{tag}@test"
        self.from_ = f'"Test Caller" <sip:tester@{self.local}>;tag={tag}'
        self.to = f"<{self.target}>"
        self.contact = self.target
        self.cseq = 0

    def close(self):
        self.socket.close()

    def send(self, text):
        self.socket.sendto(text.encode() if isinstance(text, str) else text, self.remote)

    def request(self, method, body="", *, uri=None, branch=None, cseq=None, extra=(), kind="application/sdp"):
        if cseq is None:
            self.cseq += 1
            cseq = self.cseq
        self.branch = branch or "z9hG4bK" + os.urandom(6).hex()
        lines = [
            f"{method} {uri or self.contact} SIP/2.0",
            f"Via: SIP/2.0/UDP {self.local};branch={self.branch};rport",
            "Max-Forwards: 70",
            f"From: {self.from_}",
            f"To: {self.to}",
            f"Call-ID: {self.call_id}",
            f"CSeq: {cseq} {method}",
            f"Contact: <sip:tester@{self.local}>",
            *extra,
            *([f"Content-Type: {kind}"] if body else []),
            f"Content-Length: {len(body.encode())}",
        ]
        self.send("\r\n".join(lines) + "\r\n\r\n" + body)
        return self.branch

    def receive(self, timeout=5.0):
        self.socket.settimeout(timeout)
        data, source = self.socket.recvfrom(65535)
        return Message(data.decode("utf-8", "replace"), source)

    def expect(self, *wanted, timeout=5.0):
        """The next message whose code or method is wanted; provisional and repeated ones are skipped."""
        deadline = time.monotonic() + timeout
        seen = []
        while True:
            left = deadline - time.monotonic()
            try:
                message = self.receive(max(0.01, left))
            except TimeoutError:
                raise AssertionError(f"no {wanted}; got {seen}") from None
            if (message.code or message.method) in wanted:
                return message
            seen.append(message.first)
            assert left > 0, f"no {wanted}; got {seen}"

    def reply(self, message, code, phrase="OK", body="", extra=()):
        lines = [f"SIP/2.0 {code} {phrase}"]
        lines += [f"{k}: {v}" for k, v in message.headers if k in ("via", "from", "to", "call-id", "cseq")]
        lines += [f"Contact: <sip:tester@{self.local}>", *extra]
        lines += ["Content-Type: application/sdp"] if body else []
        self.socket.sendto(("\r\n".join([*lines, f"Content-Length: {len(body)}"]) + "\r\n\r\n" + body).encode(),
                           message.source)  # fmt: skip

    def ack(self, final, body=""):
        cseq = int(final["cseq"].split()[0])
        self.to = final["to"]
        if final.code >= 300:
            branch = re.search(r"branch=([^;\s]+)", final["via"]).group(1)
            self.request("ACK", uri=self.contact, branch=branch, cseq=cseq)
            return
        found = re.search(r"<([^>]+)>", final["contact"])
        self.contact = found.group(1) if found else self.contact
        self.request("ACK", body, cseq=cseq)

    def call(self, body=None, *, extra=(), timeout=5.0):
        """INVITE to 200 and ACK; the 200."""
        self.request("INVITE", sdp(40_000) if body is None else body, extra=extra)
        final = self.expect(200, 400, 403, 404, 415, 480, 486, 488, 500, 503, timeout=timeout)
        self.ack(final)
        return final

    def bye(self, extra=()):
        self.request("BYE", extra=extra)
        return self.expect(200)


class Registrar:
    """A registrar with digest authentication (RFC 3261 section 22, RFC 8760, without qop), on UDP."""

    def __init__(self, user="1000", password="secret", port=0, algorithm="MD5"):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", port))
        self.algorithm = algorithm
        self.quiet = queue.Queue()
        self.port = self.socket.getsockname()[1]
        self.user, self.password = user, password
        self.contacts = queue.Queue()
        self.requests = []
        self.expires = 300
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        OPENED.append(self)

    def close(self):
        if self.thread.is_alive():
            self.socket.sendto(b"stop", ("127.0.0.1", self.port))
            self.thread.join(5)
        self.socket.close()

    def _run(self):
        while True:
            data, source = self.socket.recvfrom(65535)
            if data == b"stop":
                return
            if not data.strip():
                self.quiet.put(source)
                continue
            message = Message(data.decode(), source)
            if message.method != "REGISTER":
                continue
            self.requests.append(message)
            extra = []
            if not message["authorization"]:
                code, phrase = 401, "Unauthorized"
                extra = [f'WWW-Authenticate: Digest realm="test", nonce="abc", algorithm={self.algorithm}']
            elif not self._right(message["authorization"]):
                code, phrase = 403, "Forbidden"
            else:
                code, phrase = 200, "OK"
                expires = re.search(r"expires=(\d+)", message["contact"]) or re.search(r"(\d+)", message["expires"])
                seconds = min(int(expires.group(1)), self.expires) if expires else 0
                if seconds:
                    extra = [f"Contact: {message['contact'].partition(';expires')[0]};expires={seconds}"]
                self.contacts.put((message["contact"], seconds))
            lines = [f"SIP/2.0 {code} {phrase}"]
            lines += [f"{k}: {v}" for k, v in message.headers if k in ("via", "from", "to", "call-id", "cseq")]
            text = "\r\n".join([*lines, *extra, "Content-Length: 0"]) + "\r\n\r\n"
            self.socket.sendto(text.encode(), source)

    def _right(self, header):
        given = dict(re.findall(r'(\w+)="?([^",]*)"?', header))
        digest = lambda text: hashlib.new(self.algorithm.replace("-", ""), text.encode()).hexdigest()  # noqa: E731
        ha1 = digest(f"{self.user}:test:{self.password}")
        ha2 = digest(f"REGISTER:{given.get('uri')}")
        return given.get("username") == self.user and given.get("response") == digest(f"{ha1}:abc:{ha2}")


if __name__ == "__main__":
    child()
