"""Runs the scenarios of ``tests/sipp`` with sipp against a SIP agent.

A scenario file is short: a head of ``name: value`` lines, an empty line, and the messages in their order. It is
expanded into sipp's own XML, which says the same in five times the lines.

    title: what is shown           rfc: where it is asked for        full: yes (left out of the quick run)
    user: whom sipp calls (ai)     line: a line of that name with this policy, as JSON
    call: yes                      the agent calls sipp, not sipp the agent
    needs: g722                    skipped where the engine was built without it
    when EVENT: command name=value what the agent is told when EVENT comes; more than one may be given

    > INVITE sdp dir=sendonly      send a request; ``sdp`` adds a description (see ``describe``); ``fresh`` when it is
                                   outside the dialog
    > 200 sdp                      send an answer to the request that came last; ``dialog`` when it has our tag
                                   already, ``first`` to the first INVITE instead
    < 180?                         an answer that may come; without ``?`` it must
    < BYE                          a request that must come
      + Header: value              of what is sent
      | a line of the body         of what is sent, instead of ``sdp``
      ~ regex   !~ regex           (POSIX extended) what the message that comes must, must not hold
      = name Header:               keep what a header says, for ``[$name]`` in what is sent
    . 200                          a pause, in milliseconds
    ! EVENT path=value             afterwards: the agent has posted this, in the order of these lines

In what is sent, ``{port}`` is a free RTP port number and ``{us}`` sipp's address.
"""

from __future__ import annotations

import json
import shlex
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from sip_harness import Agent

FOLDER = Path(__file__).resolve().parents[1] / "sipp"
RTP_PORT = 41_000
NAMES = {0: "PCMU/8000", 8: "PCMA/8000", 9: "G722/8000", 13: "CN/8000", 18: "G729/8000", 96: "telephone-event/8000",
         101: "telephone-event/8000"}  # fmt: skip
LOCAL_TAG = "sipp[call_number]"


@dataclass
class Step:
    """One line of a scenario, with those under it."""

    way: str
    what: str
    arguments: list[str] = field(default_factory=list)
    headers: list[str] = field(default_factory=list)
    body: list[str] = field(default_factory=list)
    patterns: list[tuple[bool, str]] = field(default_factory=list)
    captures: list[tuple[str, ...]] = field(default_factory=list)

    @property
    def code(self) -> int:
        return int(self.what.rstrip("?")) if self.what.rstrip("?").isdigit() else 0


@dataclass
class Script:
    """A scenario file."""

    name: str
    head: dict[str, str]
    when: list[tuple[str, str]]
    steps: list[Step]
    expected: list[tuple[str, dict[str, Any]]]

    @property
    def calls_us(self) -> bool:
        """Whether the agent makes the call."""
        return self.head.get("call") == "yes"


def scripts() -> list[Script]:
    """All scenarios, by name."""
    return [read(path) for path in sorted(FOLDER.glob("*.sip"))]


def read(path: Path) -> Script:
    """A scenario from its file."""
    script = Script(path.stem, {}, [], [], [])
    head, _, rest = path.read_text(encoding="utf-8").partition("\n\n")
    for line in head.splitlines():
        key, _, value = line.partition(":")
        if key.startswith("when "):
            script.when.append((key[5:].strip(), value.strip()))
        elif not line.startswith("#"):
            script.head[key.strip()] = value.strip()
    for line in rest.splitlines():
        if line[:2] in ("> ", "< ", ". "):
            words = shlex.split(line[2:])
            script.steps.append(Step(line[0], words[0], words[1:]))
        elif line.startswith("! "):
            words = shlex.split(line[2:])
            script.expected.append((words[0], {k: literal(v) for k, _, v in (w.partition("=") for w in words[1:])}))
        elif line.startswith("  + "):
            script.steps[-1].headers.append(line[4:])
        elif line.startswith("  |"):
            script.steps[-1].body.append(line[4:])
        elif line.startswith("  = "):
            script.steps[-1].captures.append(tuple(line[4:].split()))
        elif line.startswith(("  ~ ", "  !~ ")):
            script.steps[-1].patterns.append((line.startswith("  ~"), line.split("~ ", 1)[1]))
        elif line.strip() and not line.startswith("#"):
            raise ValueError(f"{path.name}: {line!r} means nothing")
    return script


def literal(text: str) -> Any:
    """``true``, ``5``, ``null`` as values; anything else as text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def describe(arguments: list[str], version: int) -> list[str]:
    """``sdp dir=sendonly host=0.0.0.0 codecs=0,101 port=0 proto=RTP/SAVP``: a description with one audio line."""
    given = dict(word.partition("=")[::2] for word in arguments)
    codecs = [int(word) for word in given.get("codecs", "0,8,101").split(",")]
    host = given.get("host", "127.0.0.1")
    family = "IP6" if ":" in host else "IP4"
    lines = ["v=0", f"o=sipp 1 {version} IN {family} {host}", "s=-", f"c=IN {family} {host}", "t=0 0"]
    formats = " ".join(str(codec) for codec in codecs)
    lines.append(f"m=audio {given.get('port', RTP_PORT)} {given.get('proto', 'RTP/AVP')} {formats}")
    lines += [f"a=rtpmap:{codec} {NAMES[codec]}" for codec in codecs if codec in NAMES]
    return [*lines, f"a={given.get('dir', 'sendrecv')}"]


class Expander:
    """Makes sipp's XML of a scenario."""

    def __init__(self, script: Script, user: str) -> None:
        self.script, self.user = script, user
        self.out: list[str] = []
        self.count = 0
        self.cseq = 0
        self.version = 0
        self.invite_at = 0
        self.invite_cseq = 0
        self.last_code = 0
        self.variables: list[str] = []
        self.from_them = False

    def xml(self) -> str:
        for step in self.script.steps:
            if step.way == ".":
                self.add(f'<pause milliseconds="{step.what}"/>')
            elif step.way == "<":
                self.receive(step)
            elif step.code:
                self.add(self.message(self.answer(step)))
            else:
                self.add(self.message(self.request(step)))
        if self.variables:
            self.out.append(f'<Reference variables="{",".join(self.variables)}"/>')
        body = "\n".join(self.out)
        return f'<?xml version="1.0" encoding="UTF-8" ?>\n<scenario name="{self.script.name}">\n{body}\n</scenario>\n'

    def add(self, text: str) -> None:
        self.out.append(text)
        self.count += 1

    def message(self, lines: list[str]) -> str:
        return "<send><![CDATA[\n" + "\n".join(lines) + "\n]]></send>"

    def variable(self, name: str = "") -> str:
        name = name or f"v{len(self.variables)}"
        self.variables.append(name)
        return name

    def receive(self, step: Step) -> None:
        name = step.what.rstrip("?")
        actions = []
        for wanted, pattern in step.patterns:
            check = "check_it" if wanted else "check_it_inverse"
            actions.append(
                f'<ereg regexp={quoteattr(pattern)} search_in="msg" {check}="true" assign_to="{self.variable()}"/>'
            )
        for variable, header in step.captures:
            actions.append(
                f'<ereg regexp="[^\r\n]*" search_in="hdr" header="{header}" assign_to="{self.variable(variable)}"/>'
            )
        if self.script.calls_us and name == "INVITE" and "remote" not in self.variables:
            actions.append(
                f'<ereg regexp="[^\r\n]*" search_in="hdr" header="Via:" assign_to="{self.variable("via")}"/>'
                f'<ereg regexp="[^\r\n]*" search_in="hdr" header="CSeq:" assign_to="{self.variable("cseq")}"/>'
                f'<ereg regexp="[^\r\n]*" search_in="hdr" header="From:" assign_to="{self.variable("remote")}"/>'
                f'<ereg regexp="sip:[^>]*" search_in="hdr" header="Contact:" assign_to="{self.variable("target")}"/>'
            )
        inside = f"<action>{''.join(actions)}</action>" if actions else ""
        kind = f'response="{name}"' if step.code else f'request="{name}"'
        optional = ' optional="true"' if step.what.endswith("?") else ""
        established = 100 < step.code < 300 and not optional and not self.script.calls_us
        routes = ' rrs="true"' if established else ""
        self.add(f"<recv {kind}{optional}{routes}>{inside}</recv>")
        self.last_code = step.code or self.last_code

    def request(self, step: Step) -> list[str]:
        method = step.what
        again = method in ("ACK", "CANCEL")
        first = (self.cseq == 0 or "fresh" in step.arguments) and not self.script.calls_us
        if not again:
            self.cseq += 1
        if method == "INVITE":
            self.invite_at, self.invite_cseq = self.count, self.cseq
        same = method == "CANCEL" or (method == "ACK" and self.last_code >= 300)
        branch = f"[branch-{self.count - self.invite_at}]" if same else "[branch]"
        start = f"sip:{self.user}@[remote_ip]:[remote_port]"
        if self.script.calls_us:
            target, sender, to = "[$target]", "<sip:callee@[local_ip]:[local_port]>", "[$remote]"
        else:
            target = start if first or same else "[next_url]"
            sender = f'"Sipp" <sip:sipp@[local_ip]:[local_port]>;tag={LOCAL_TAG}'
            to = f"<{start}>" + ("" if first or method == "CANCEL" else "[peer_tag_param]")
        if self.script.calls_us:
            sender += f";tag={LOCAL_TAG}"
        headers = dict.fromkeys(header.partition(":")[0].lower() for header in step.headers)
        lines = [
            f"{method} {target} SIP/2.0",
            f"Via: SIP/2.0/[transport] [local_ip]:[local_port];branch={branch};rport",
            "Max-Forwards: 70",
            *([f"From: {sender}"] if "from" not in headers else []),
            *([f"To: {to}"] if "to" not in headers else []),
            "Call-ID: [call_id]",
            f"CSeq: {self.invite_cseq if again else self.cseq} {method}",
        ]
        return [*lines, *self.tail(step, headers)]

    def answer(self, step: Step) -> list[str]:
        tag = "" if step.code == 100 or not self.script.calls_us else f";tag={LOCAL_TAG}"
        phrase = {100: "Trying", 180: "Ringing", 183: "Session Progress", 200: "OK", 202: "Accepted"}
        lines = [
            f"SIP/2.0 {step.code} {phrase.get(step.code, 'No')}",
            *(["Via: [$via]"] if "first" in step.arguments else ["[last_Via:]", "[last_Record-Route:]"]),
            "[last_From:]",
            f"[last_To:]{tag if 'dialog' not in step.arguments else ''}",
            "[last_Call-ID:]",
            "CSeq: [$cseq]" if "first" in step.arguments else "[last_CSeq:]",
        ]
        headers = dict.fromkeys(header.partition(":")[0].lower() for header in step.headers)
        return [*lines, *self.tail(step, headers)]

    def tail(self, step: Step, headers: dict[str, None]) -> list[str]:
        body = step.body
        if "sdp" in step.arguments:
            self.version += 1
            body = describe([word for word in step.arguments if "=" in word], self.version)
        given = [self.fill(header) for header in step.headers]
        if "contact" not in headers:
            given.insert(0, "Contact: <sip:sipp@[local_ip]:[local_port];transport=[transport]>")
        kind = ["Content-Type: application/sdp"] if body and "content-type" not in headers else []
        length = [] if "content-length" in headers else ["Content-Length: [len]"]
        return [*given, *kind, *length, "", *[self.fill(line) for line in body]]

    def fill(self, text: str) -> str:
        return text.replace("{port}", str(RTP_PORT)).replace("{us}", "[local_ip]:[local_port]")


def free_port() -> int:
    """A UDP port that nobody uses now."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def value_at(event: dict[str, Any], path: str) -> Any:
    """``stream.send`` of an event."""
    value: Any = event
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def run(script: Script, agent: Agent, sipp: str, folder: Path, timeout: float = 15.0) -> None:
    """Run a scenario and check what came of it. AssertionError says what was different."""
    user = script.head.get("user", "ai")
    port = free_port()
    if "line" in script.head:
        user = script.name
        policy = json.loads(script.head["line"])
        agent.do(
            "add_line", line_id=script.name, username=user, password="", server_ip="127.0.0.1", server_port=9,
            allowed_networks=["127.0.0.0/8"], policy=policy,
        )  # fmt: skip
    scenario = folder / f"{script.name}.xml"
    scenario.write_text(Expander(script, user).xml(), encoding="utf-8")
    errors = folder / f"{script.name}.err"
    transport = {"tcp": "t1"}.get(script.head.get("transport", ""), "u1")
    command = [
        sipp, f"127.0.0.1:{agent.port}", "-sf", str(scenario), "-i", "127.0.0.1", "-p", str(port), "-m", "1",
        "-t", transport, "-nostdin", "-timeout", f"{timeout:.0f}s", "-timeout_error", "-trace_err", "-error_file",
        str(errors), "-deadcall_wait", "0",
    ]  # fmt: skip
    events: list[dict[str, Any]] = []
    call_id = ""

    def take(wait: float) -> bool:
        nonlocal call_id
        try:
            event = agent.events.get(timeout=wait)
        except Exception:  # noqa: BLE001 - queue.Empty, from whichever module the harness has it
            return False
        events.append(event)
        if event["event"] in ("IncomingCall", "OutgoingCall"):
            call_id = event["call_id"]
        for name, todo in script.when:
            if name == event["event"]:
                words = shlex.split(todo)
                values = {k: literal(v) for k, _, v in (word.partition("=") for word in words[1:])}
                agent.do(words[0], **{"call_id": call_id, **values})
        return True

    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=folder)
    try:
        if script.calls_us:
            wait_for_port(port)
            agent.do("place_call", call_id=f"o-{script.name}", uri=f"sip:callee@127.0.0.1:{port}",
                     line_id=None)  # fmt: skip
        deadline = time.monotonic() + timeout + 2
        while process.poll() is None and time.monotonic() < deadline:
            take(0.02)
    finally:
        if process.poll() is None:
            process.kill()
        _, said = process.communicate()
    while take(0.0):
        pass
    told = errors.read_text(encoding="utf-8", errors="replace")[-3000:] if errors.exists() else ""
    assert process.returncode == 0, f"sipp: {process.returncode} {told or said.decode()[-2000:]} {events}"
    for name, values in script.expected:
        expect(events, take, name, values)
    agent.seen.extend(events)
    if "line" in script.head:
        agent.do("remove_line", line_id=script.name)


def expect(events: list[dict[str, Any]], take: Any, name: str, values: dict[str, Any]) -> None:
    """Take the first event that fits, and all before it, out of what came."""
    deadline = time.monotonic() + 3
    while True:
        for at, event in enumerate(events):
            if event["event"] == name and all(value_at(event, path) == value for path, value in values.items()):
                del events[: at + 1]
                return
        assert time.monotonic() < deadline, f"no {name} {values} in {events}"
        take(0.05)


def wait_for_port(port: int) -> None:
    """Until sipp has its socket."""
    wanted = f":{port:04X} "
    deadline = time.monotonic() + 5
    while not any(wanted in line for line in Path("/proc/net/udp").read_text(encoding="ascii").splitlines()):
        assert time.monotonic() < deadline, "sipp did not open its port"
        time.sleep(0.01)
