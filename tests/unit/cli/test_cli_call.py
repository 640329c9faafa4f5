"""The ``call`` command against a stand-in for the running server's API."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from aiphone.cli import call
from aiphone.cli.main import main


class Server(ThreadingHTTPServer):
    """Says what it is told to, call by call."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.live: list[dict[str, object] | None] = []
        self.asked: list[tuple[str, str, object]] = []
        self.refusal: tuple[int, dict[str, object]] | None = None
        self.answered: float | None = 1.0


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.respond(None)

    def do_POST(self) -> None:
        self.respond(json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)) or b"null"))

    def respond(self, body: object) -> None:
        server = self.server
        server.asked.append((self.command, self.path, body))
        code, answer = 200, {}
        if server.refusal is not None:
            code, answer = server.refusal
        elif self.path == "/api/calls":
            answer = {"call_id": "o1"}
        elif self.path == "/api/live":
            now = server.live.pop(0)
            answer = {"calls": [] if now is None else [{"call_id": "o1", "id": 7, **now}]}
        elif self.path == "/api/calls/7":
            answer = {"end_reason": "busy" if server.answered is None else "the call ended normally",
                      "seconds": None if server.answered is None else 12.0, "answered": server.answered}  # fmt: skip
        data = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(call, "POLL_SECONDS", 0.0)
    stand_in = Server()
    thread = threading.Thread(target=stand_in.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield stand_in
    stand_in.shutdown()
    stand_in.server_close()
    thread.join()


def run(server: Server, *words: str) -> int:
    return main(["call", "sip:1002@192.0.2.1", "--url", f"http://127.0.0.1:{server.server_port}", *words])


def test_a_call_is_watched_to_its_end(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.live = [{"answered": None}, {"answered": None}, {"answered": 1.0}, None]
    assert run(server, "--line", "desk") == 0
    assert server.asked[0] == ("POST", "/api/calls", {"uri": "sip:1002@192.0.2.1", "line_id": "desk"})
    assert capsys.readouterr().out.splitlines() == [
        "o1: calling sip:1002@192.0.2.1", "o1: ringing", "o1: answered", "o1: the call ended normally, after 12 s",
    ]  # fmt: skip


def test_the_call_may_take_a_moment_to_appear(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.live = [None, {"answered": 1.0}, None]
    assert run(server, "--message", "Call back.") == 0
    assert server.asked[0][2] == {"uri": "sip:1002@192.0.2.1", "line_id": "direct", "message": "Call back."}
    assert capsys.readouterr().out.splitlines()[1:] == ["o1: answered", "o1: the call ended normally, after 12 s"]


def test_a_call_that_is_not_answered(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.live, server.answered = [{"answered": None}, None], None
    assert run(server) == 6
    assert capsys.readouterr().out.splitlines()[-1] == "o1: busy"


def test_no_waiting(server: Server) -> None:
    assert run(server, "--no-wait") == 0
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        (
            (409, {"error": {"status": 409, "message": "the line 'desk' is not registered"}}),
            "the line 'desk' is not registered",
        ),
        ((401, {}), "--token-file"),
    ],
)
def test_the_server_refuses(server: Server, capsys: pytest.CaptureFixture[str], refusal, words) -> None:
    server.refusal = refusal
    assert run(server) == 6
    assert words in capsys.readouterr().err


def test_no_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["call", "sip:a@b", "--url", "http://127.0.0.1:9"]) != 0
    assert "no server answers" in capsys.readouterr().err
    assert main(["call", "sip:a@b", "--url", "file:///etc/passwd"]) == 2


def test_the_token_is_sent(server: Server, tmp_path) -> None:
    file = tmp_path / "token"
    file.write_text("secret\n")
    assert run(server, "--no-wait", "--token-file", str(file)) == 0
    assert main(["call", "sip:a@b", "--token-file", str(tmp_path / "none")]) == 2
