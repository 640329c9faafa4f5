"""A server with the API's shapes and canned data, for developing the web page and testing it by itself.

``python tests/integration/page_stand_in.py --port 8090`` serves the page; ``--live 50`` has fifty calls going on.
What the page sends is checked by the real schemas, so a page that the real API would refuse is refused here.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import math
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tornado.httpserver
import tornado.testing
import tornado.web
import tornado.websocket

from aiphone.persona import Persona
from aiphone.server import shapes
from aiphone.server.assets import web_root
from aiphone.server.schema import Invalid, Problem, Schema
from aiphone.store.records import PersonaRecord

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""Stricter than the server's: what works here works there."""

HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=2</script>'

Body = dict[str, Any]

DIALOGUE = (
    ("assistant", "Hello, this is Ada at Lindgren Dental. How can I help you?"),
    ("user", "Hi, I would like to move my appointment to next week."),
    ("assistant", "Of course. Which day suits you best?"),
    ("user", "Thursday, in the afternoon if you can."),
    ("assistant", "Thursday at half past two is free. Shall I book it for you?"),
    ("user", "Yes please, that is perfect. Thank you."),
    ("assistant", "It is booked. You will get a message to confirm it. Goodbye."),
)
CALLERS = (
    ("Maria Svensson", "sip:+46701234567@pbx.example.org"),
    ("", "sip:1042@192.168.1.10"),
    ("Tom Becker", "sip:tom@example.net"),
    ("Front door", "sip:door@192.168.1.10"),
)


def parts_of(seed: int) -> dict[str, float]:
    """A turn's parts in seconds, plausible and always the same for a seed."""
    rng = random.Random(seed)
    quick = rng.random() < 0.7
    return {
        "patience": rng.uniform(0.3, 0.7),
        "transcript": 0.0 if quick else rng.uniform(0.02, 0.2),
        "first_token": 0.0 if quick else rng.uniform(0.03, 0.1),
        "first_phrase": rng.uniform(0.0, 0.12),
        "first_audio": rng.uniform(0.02, 0.15),
        "playout": rng.uniform(0.005, 0.02),
    }


def wav(seconds: float, rate: int = 8000) -> bytes:
    """A recording: a quiet tone."""
    pcm = (3000 * np.sin(2 * math.pi * 220 * np.arange(int(seconds * rate)) / rate)).astype("<i2").tobytes()
    head = b"RIFF" + (36 + len(pcm)).to_bytes(4, "little") + b"WAVEfmt " + (16).to_bytes(4, "little")
    head += (1).to_bytes(2, "little") * 2 + rate.to_bytes(4, "little") + (2 * rate).to_bytes(4, "little")
    return (
        head + (2).to_bytes(2, "little") + (16).to_bytes(2, "little") + b"data" + len(pcm).to_bytes(4, "little") + pcm
    )


def client(client_id: str, name: str, state: str = "stopped", reason: str = "", **more: Any) -> Body:
    """A SIP client as the API answers it."""
    given: Body = {
        "client_id": client_id,
        "username": "1001",
        "server_ip": "192.168.1.10",
        "display_name": name,
    } | more
    body = {f.name: given.get(f.name, f.default) for f in shapes.SIP_CLIENT.fields if not (f.read_only or f.write_only)}
    kept = {
        "started": state != "stopped",
        "state": state,
        "reason": reason,
        "since": time.time(),
        "has_password": True,
    }
    return body | kept | {"version": 1}


@dataclass
class World:
    """What the stand-in knows; tests change and read it (``on_loop`` for what tells the page)."""

    clients: list[Body] = field(default_factory=list)
    calls: list[Body] = field(default_factory=list)
    live: list[Body] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    settings: Body = field(default_factory=dict)
    password: str = ""
    signed_in: bool = False
    heard: bytearray = field(default_factory=bytearray)
    """What the page's microphone sent."""
    placed: list[Body] = field(default_factory=list)
    """Calls that the page asked for."""
    browsers: list[str] = field(default_factory=list)
    """Which browsers talked."""
    watchers: set[EventsHandler] = field(default_factory=set)
    requests: list[tuple[str, str]] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def tell(self, kind: str, **members: Any) -> None:
        """An event for every watcher."""
        text = json.dumps({"id": next(self.numbers), "type": kind, **members})
        for watcher in list(self.watchers):
            watcher.write_message(text)

    def registration(self, client_id: str, state: str, reason: str = "") -> None:
        """A line changes its state."""
        for one in self.clients:
            if one["client_id"] == client_id:
                one |= {"state": state, "reason": reason, "since": time.time()}
        self.tell("registration", client_id=client_id, state=state, reason=reason, since=time.time())


def filled(live: int = 3, calls: int = 40) -> World:
    """A world with something on every page."""
    now = time.time()
    world = World(settings={f.name: f.default for f in shapes.SETTINGS.fields} | {"guide_done": True})
    world.clients = [
        client("reception", "Reception", "registered", username="1001"),
        client("sales", "Sales line", "failed", "wrong password: the server refused it with 403", username="1002"),
        client("night", "Night desk", "stopped", username="1003"),
    ]
    world.warnings = ["The patience of persona 'default' is 0.9 s: every answer waits that long."]
    for number in range(calls, 0, -1):
        world.calls.append(call(number, now - (calls - number) * 2900 - 300))
    for number in range(live):
        name, uri = CALLERS[number % len(CALLERS)]
        world.live.append(
            {"call_id": f"c{number}", "id": None, "line_id": "reception", "caller": uri, "caller_name": name}
            | {
                "called": "sip:1001@192.168.1.10",
                "direction": "in",
                "state": "listening",
                "started": now - 47 * number,
            }
            | {
                "answered": now - 47 * number,
                "seconds": 47.0 * number + 12,
                "level_in": -40.0,
                "level_out": -100.0,
            }
            | {"last_turn": 0.62 + 0.1 * number}
        )
    return world


def call(number: int, started: float) -> Body:
    """A call of the history, with everything."""
    name, uri = CALLERS[number % len(CALLERS)]
    words, turns = [], []
    for index, (role, text) in enumerate(DIALOGUE):
        offset = 0.4 + 4.1 * index
        words.append(
            {
                "number": index + 1,
                "role": role,
                "text": text,
                "at": started + 2 + offset,
                "offset": offset,
                "interrupted": index == 4,
                "words": [],
            }
        )
        if role == "assistant" and index:
            parts = parts_of(10 * number + index)
            total = sum(parts.values())
            turns.append(
                {
                    "number": len(turns) + 1,
                    "at": started + 2 + offset - total,
                    "caller_text": DIALOGUE[index - 1][1],
                }
                | {"assistant_text": text, "interrupted": index == 4, "total": total, "parts": parts}
            )
    media = {
        "codec": "PCMU",
        "packets_received": 1490,
        "packets_sent": 1502,
        "lost": 3,
        "jitter_ms": 2.41,
        "rtt_ms": 18.2,
    }
    return {
        "id": number,
        "line_id": "reception",
        "caller": uri,
        "caller_name": name,
        "called": "sip:1001@192.168.1.10",
        "direction": "in",
        "started": started,
        "answered": started + 2,
        "ended": started + 32,
        "seconds": 30.0,
        "end_code": 200,
        "end_reason": "the caller hung up",
        "has_recording": True,
        "call_id": None,
        "turns": turns,
        "words": words,
        "media": media | {"comfort_noise": 0, "late": 1, "duplicates": 0},
    }


def dashboard(world: World, hours: int) -> Body:
    """Figures that look like a day."""
    now = time.time()
    begin = math.floor(now / 3600) * 3600 - (hours - 1) * 3600
    rng = random.Random(4)
    counted, points = [], []
    for step in range(hours):
        at = begin + 3600 * step
        wave = max(0.0, math.sin((time.localtime(at).tm_hour - 6) / 24 * 2 * math.pi))
        calls = int(14 * wave + rng.random() * 3)
        if calls:
            counted.append({"at": at, "calls": calls, "answered": calls, "seconds": 64.0 * calls})
            p50 = 0.62 + 0.1 * wave + 0.05 * rng.random()
            p95 = p50 + 0.25 + 0.2 * rng.random()
            points.append({"at": at, "turns": 5 * calls, "p50": p50, "p95": p95, "p99": p95 + 0.3 * rng.random()})
    parts = {name: {"p50": v, "p95": 1.6 * v + 0.02, "p99": 2 * v + 0.05} for name, v in parts_of(7).items()}
    return {
        "active_calls": len(world.live),
        "max_calls": 8,
        "since": begin,
        "hours": counted,
        "turns": 731,
        "interrupted": 44,
        "latency": {"p50": 0.66, "p95": 0.98, "p99": 1.31},
        "parts": parts,
        "points": points,
        "load": [0.8, 0.7, 0.6],
        "cores": 2,
        "lines": world.clients,
        "warnings": world.warnings,
        "pjsua2": {"version": "2.17", "call_limit": 1024, "note": ""},
        "models": {
            "whisper": {"name": "tiny.en", "threads": 2},
            "llm": {"name": "SmolLM2-135M-Instruct"},
            "voice": {"name": "en_US-joe-medium"},
        },
    }


def personas() -> list[Body]:
    """Two of them."""
    found = []
    for name, persona in (
        ("default", Persona()),
        ("night", Persona(name="Noa", greeting="You have reached the night desk.")),
    ):
        record = PersonaRecord.of(name, persona)
        found.append({f.name: getattr(record, f.name, name == "default") for f in shapes.PERSONA.fields})
    return found


def models() -> list[Body]:
    """A short catalogue."""
    rows = (
        ("tiny.en", "whisper", 77_700_000, True, True, "English, quick"),
        ("base", "whisper", 147_900_000, False, False, "99 languages"),
        ("SmolLM2-135M-Instruct", "llm", 98_000_000, True, True, "a first call"),
        ("en_US-joe-medium", "voice", 63_000_000, True, True, "American English"),
    )
    return [
        {"name": name, "role": role, "size": size, "installed": here, "chosen": chosen, "starter": here}
        | {"in_use": chosen}
        | {"licence": "MIT", "good_for": good, "pull": None}
        for name, role, size, here, chosen, good in rows
    ]


class Handler(tornado.web.RequestHandler):
    """All of the API but its WebSockets, in one table of small methods."""

    def initialize(self, world: World) -> None:
        self.world = world

    def set_default_headers(self) -> None:
        self.set_header("Content-Security-Policy", POLICY)
        self.set_header("Cache-Control", "no-store")

    def refuse(self, status: int, message: str, problems: tuple[Problem, ...] = ()) -> None:
        self.set_status(status)
        error: Body = {"status": status, "message": message}
        if problems:
            error["fields"] = [problem.as_json() for problem in problems]
        self.finish({"error": error})

    def answer(self, body: Body, status: int = 200) -> None:
        self.set_status(status)
        self.finish(body)

    def handle(self, path: str) -> None:
        world, method = self.world, self.request.method or ""
        world.requests.append((method, path))
        if path == "session":
            self.session()
            return
        if world.password and not world.signed_in:
            self.refuse(401, "sign in first")
            return
        if method not in ("GET", "HEAD") and world.password and self.request.headers.get("X-CSRF-Token") != "t0ken":
            self.refuse(403, "the CSRF token is missing")
            return
        name, *rest = path.split("/")
        handler = getattr(self, "on_" + name.replace("-", "_"), None)
        if handler is None:
            self.refuse(404, f"there is nothing at {path}")
            return
        try:
            handler(method, rest)
        except Invalid as error:
            self.refuse(422, "some fields are wrong", error.problems)

    get = post = put = patch = delete = handle

    def finish_range(self, data: bytes) -> None:
        """A file, or the part of it that was asked for: a browser seeks by asking."""
        first, _, last = self.request.headers.get("Range", "").removeprefix("bytes=").partition("-")
        begin, end = int(first or 0), min(int(last or len(data) - 1), len(data) - 1)
        self.set_header("Accept-Ranges", "bytes")
        if first:
            self.set_status(206)
            self.set_header("Content-Range", f"bytes {begin}-{end}/{len(data)}")
        self.finish(data[begin : end + 1])

    def body(self, schema: Schema, *, partial: bool = False) -> Body:
        return schema.check(json.loads(self.request.body), partial=partial)

    def session(self) -> None:
        world = self.world
        if self.request.method == "POST":
            if json.loads(self.request.body)["password"] != world.password:
                self.refuse(401, "the password is wrong")
                return
            world.signed_in = True
        elif self.request.method == "DELETE":
            world.signed_in = False
        inside = world.signed_in or not world.password
        self.answer(
            {
                "password_required": bool(world.password),
                "signed_in": inside,
                "role": "admin" if inside else None,
            }
            | {"csrf_token": "t0ken" if inside and world.password else ""}
        )

    def on_sip_clients(self, method: str, rest: list[str]) -> None:
        world = self.world
        known = {one["client_id"]: one for one in world.clients}
        if not rest and method == "POST":
            body = self.body(shapes.SIP_CLIENT)
            if body["client_id"] in known:
                self.refuse(409, f"there is a SIP client '{body['client_id']}' already; choose another Client ID")
                return
            body.pop("password")
            world.clients.append(client(body.pop("client_id"), body.pop("display_name"), **body))
            self.answer(world.clients[-1], 201)
        elif not rest:
            self.answer({"sip_clients": world.clients})
        elif rest[0] not in known:
            self.refuse(404, f"there is no SIP client '{rest[0]}'")
        elif rest[1:] == ["start"]:
            world.registration(rest[0], "registering")
            asyncio.get_running_loop().call_later(0.3, world.registration, rest[0], "registered")
            self.answer(known[rest[0]])
        elif rest[1:] == ["stop"]:
            world.registration(rest[0], "stopped")
            self.answer(known[rest[0]])
        elif method == "DELETE":
            world.clients.remove(known[rest[0]])
            self.set_status(204)
            self.finish()
        else:
            if method == "PUT":
                known[rest[0]].update(
                    {key: value for key, value in self.body(shapes.SIP_CLIENT).items() if key != "password"}
                )
            self.set_header("ETag", f'"{known[rest[0]]["version"]}"')
            self.answer(known[rest[0]])

    def on_calls(self, method: str, rest: list[str]) -> None:
        world = self.world
        if not rest and method == "POST":
            self.world.placed.append(self.body(shapes.PLACE_CALL))
            self.answer({"call_id": "o1"}, 202)
        elif not rest:
            wanted = self.get_query_argument("text", "").lower()
            limit, before = (
                int(self.get_query_argument("limit", "50")),
                int(self.get_query_argument("before", "999999")),
            )
            hidden = {"turns", "words", "media"}
            found = [
                {key: value for key, value in one.items() if key not in hidden}
                for one in world.calls
                if wanted in json.dumps(one).lower() and one["id"] < before
            ]
            self.answer({"calls": found[:limit], "next": found[limit - 1]["id"] if len(found) > limit else None})
        elif rest[1:] == ["hangup"]:
            world.live = [one for one in world.live if one["call_id"] != rest[0]]
            world.tell("ended", call_id=rest[0], call=None, code=200, reason="hung up here", at=time.time())
            self.answer({"ended": True})
        elif rest[1:] == ["recording"]:
            self.set_header("Content-Type", "audio/wav")
            self.finish_range(wav(30.0))
        else:
            found = [one for one in world.calls if str(one["id"]) == rest[0]]
            if found:
                self.answer(found[0])
            else:
                self.refuse(404, f"there is no call {rest[0]}")

    def on_callers(self, method: str, rest: list[str]) -> None:
        body = self.body(shapes.FORGET)
        gone = [one for one in self.world.calls if one["caller"] == body["caller"]]
        self.world.calls = [one for one in self.world.calls if one not in gone]
        self.answer({"calls": len(gone), "sessions": 1})

    def on_live(self, method: str, rest: list[str]) -> None:
        self.answer({"calls": self.world.live})

    def on_personas(self, method: str, rest: list[str]) -> None:
        if method in ("PUT", "POST"):
            self.answer(self.body(shapes.PERSONA))
            return
        found = personas()
        if rest:
            self.set_header("ETag", '"1"')
        self.answer(next((one for one in found if one["name"] == rest[0]), found[0]) if rest else {"personas": found})

    def on_models(self, method: str, rest: list[str]) -> None:
        if rest:
            self.answer({"state": "pulling", "done": 0, "total": 100, "error": ""}, 202)
        else:
            self.answer({"models": models()})

    def on_sessions(self, method: str, rest: list[str]) -> None:
        entry: Body = {"key": "reception sip:1042@192.168.1.10", "updated": time.time() - 4000, "tokens": 310}
        if rest:
            self.answer(entry | {"messages": [{"role": "user", "content": HOSTILE}]})
        else:
            self.answer({"sessions": [entry | {"messages": 12, "bytes": 220_000}]})

    def on_settings(self, method: str, rest: list[str]) -> None:
        if method == "PATCH":
            self.world.settings |= self.body(shapes.SETTINGS, partial=True)
        self.set_header("ETag", '"1"')
        self.answer(self.world.settings)

    def on_status(self, method: str, rest: list[str]) -> None:
        self.answer(
            {"ready": True, "version": "0.1.0", "uptime": 93784.2, "warnings": self.world.warnings}
            | {"sip_uri": "sip:ai@127.0.0.1:5060", "active_calls": len(self.world.live), "max_calls": 8}
        )

    def on_dashboard(self, method: str, rest: list[str]) -> None:
        self.answer(dashboard(self.world, int(self.get_query_argument("hours", "24"))))

    def on_audit(self, method: str, rest: list[str]) -> None:
        entry = {"at": time.time() - 60, "actor": "owner", "action": "add", "target": "sip-client reception"}
        detail = HOSTILE if self.world.warnings and HOSTILE in self.world.warnings else ""
        self.answer({"entries": [{"id": 1, **entry, "detail": detail}], "next": None})

    def on_tokens(self, method: str, rest: list[str]) -> None:
        self.answer({"tokens": []})


class EventsHandler(tornado.websocket.WebSocketHandler):
    """``/api/events``."""

    def initialize(self, world: World) -> None:
        self.world = world

    def open(self, *_: str) -> None:
        if self.world.password and not self.world.signed_in:
            self.close(4001)
            return
        self.write_message({"type": "hello", "id": 0, "last": 0})
        self.world.watchers.add(self)

    def on_message(self, message: str | bytes) -> None:
        """The page says nothing here."""

    def on_close(self) -> None:
        self.world.watchers.discard(self)


class TalkHandler(tornado.websocket.WebSocketHandler):
    """``/api/talk``: keeps what it hears; after a second of it "answers" with a tone and tells a turn."""

    def initialize(self, world: World) -> None:
        self.world = world
        self.frames = 0

    def open(self, *_: str) -> None:
        self.set_nodelay(True)
        self.world.browsers.append(self.get_query_argument("browser"))
        self.write_message({"type": "started", "call_id": "w1"})
        self.world.tell("state", call_id="w1", call=None, state="listening")

    async def on_message(self, message: str | bytes) -> None:
        assert isinstance(message, bytes)
        self.world.heard += message
        self.frames += 1
        if self.frames == 60:
            await self.reply()

    async def reply(self) -> None:
        tell, parts = self.world.tell, parts_of(3)
        tell(
            "words",
            call_id="w1",
            call=None,
            role="user",
            text="What is the capital of France?",
            at=time.time(),
            interrupted=False,
        )
        tell("state", call_id="w1", call=None, state="speaking")
        tell("turn", call_id="w1", call=None, total=sum(parts.values()), parts=parts)
        tell("speaking", call_id="w1", call=None, text="The capital of France is Paris.")
        tone = (9000 * np.sin(2 * math.pi * 330 * np.arange(16000) / 16000)).astype("<i2").tobytes()
        for at in range(0, len(tone), 640):
            self.write_message(tone[at : at + 640], binary=True)
            await asyncio.sleep(0.019)
        tell(
            "words",
            call_id="w1",
            call=None,
            role="assistant",
            text="The capital of France is Paris.",
            at=time.time(),
            interrupted=False,
        )
        tell("state", call_id="w1", call=None, state="listening")


class PageHandler(tornado.web.StaticFileHandler):
    """The page."""

    def set_extra_headers(self, path: str) -> None:
        self.set_header("Content-Security-Policy", POLICY)
        self.set_header("Cache-Control", "no-cache")


def application(world: World, files: Path) -> tornado.web.Application:
    """The routes."""
    given = {"world": world}
    return tornado.web.Application(
        [
            (r"/api/events", EventsHandler, given),
            (r"/api/talk", TalkHandler, given),
            (r"/api/(.*)", Handler, given),
            (r"/(.*)", PageHandler, {"path": str(files), "default_filename": "index.html"}),
        ],
        log_function=lambda handler: None,
    )


async def animate(world: World, period: float = 0.2) -> None:
    """Levels and words of the calls that go on, as the real feed sends them."""
    rng = random.Random(1)
    for step in itertools.count():
        await asyncio.sleep(period)
        levels = [
            {"call_id": one["call_id"], "in": rng.uniform(-60, -10), "out": rng.uniform(-60, -10)} for one in world.live
        ]
        world.tell("levels", calls=levels)
        if step % 5 == 0 and world.live:
            one = rng.choice(world.live)
            role, text = DIALOGUE[(step // 5) % len(DIALOGUE)]
            one["state"] = "speaking" if role == "assistant" else "hearing"
            world.tell("state", call_id=one["call_id"], call=None, state=one["state"])
            world.tell(
                "words",
                call_id=one["call_id"],
                call=None,
                role=role,
                text=text,
                at=time.time(),
                interrupted=False,
            )


class StandIn:
    """The stand-in while it runs."""

    def __init__(self, world: World, port: int, loop: asyncio.AbstractEventLoop) -> None:
        self.world = world
        self.url = f"http://127.0.0.1:{port}/"
        self._loop = loop

    def tell(self, kind: str, **members: Any) -> None:
        """An event, from any thread."""
        self._loop.call_soon_threadsafe(lambda: self.world.tell(kind, **members))

    def registration(self, *arguments: str) -> None:
        """A line's state, from any thread."""
        self._loop.call_soon_threadsafe(self.world.registration, *arguments)


@contextmanager
def running(world: World, *, animated: bool = False) -> Iterator[StandIn]:
    """The stand-in on a thread and a loop of its own."""
    started = threading.Event()
    made: Body = {}

    async def serve() -> None:
        sockets, port = tornado.testing.bind_unused_port()
        server = tornado.httpserver.HTTPServer(application(world, web_root()))
        server.add_socket(sockets)
        stop = asyncio.Event()
        made.update(
            stop=stop,
            stand_in=StandIn(world, port, asyncio.get_running_loop()),
            loop=asyncio.get_running_loop(),
        )
        feed = asyncio.create_task(animate(world)) if animated else None
        started.set()
        await stop.wait()
        if feed:
            feed.cancel()
        server.stop()
        await server.close_all_connections()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), name="stand-in")
    thread.start()
    if not started.wait(10):
        raise TimeoutError("the stand-in did not start")
    try:
        yield made["stand_in"]
    finally:
        made["loop"].call_soon_threadsafe(made["stop"].set)
        thread.join(10)


async def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8090)
    parser.add_argument("--live", type=int, default=3)
    parser.add_argument("--password", default="")
    options = parser.parse_args()
    world = filled(options.live)
    world.password = options.password
    application(world, web_root()).listen(options.port, "127.0.0.1")
    print(f"http://127.0.0.1:{options.port}/", flush=True)
    await animate(world)


if __name__ == "__main__":
    asyncio.run(main())
