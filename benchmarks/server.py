"""The real server in a process of its own, for whoever calls it: benchmarks and integration tests.

    with Server("--rtp-timeout", "2") as server:
        print(server.sip_uri, server.status()["active_calls"])

It takes free ports, a temporary data directory and the starter models of this user, and decodes greedily.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[1]
READY_TIMEOUT = 90.0
"""Seconds; ten times what a busy machine needs."""
POLL = 0.03
"""Seconds between two looks at the status."""


class ServerError(Exception):
    """The server did not do what was waited for; the text ends with its log."""


@dataclass(frozen=True, slots=True)
class Holdings:
    """What the process holds, from /proc (Linux)."""

    descriptors: int
    threads: int
    rss: float
    """Resident memory in MB (10**6 bytes)."""


def command(*flags: str) -> list[str]:
    """The command line of the server, in this Python."""
    return [sys.executable, "-m", "aiphone", *flags]


def environment() -> dict[str, str]:
    """The environment of a child that must find this checkout."""
    path = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH", "")) if part)
    return {**os.environ, "PYTHONPATH": path}


class Server:
    """The process. Use it in a ``with`` block; any one thread."""

    def __init__(
        self, *flags: str, http_port: int = 0, sip_port: int = 0, ready_timeout: float = READY_TIMEOUT
    ) -> None:
        self.out: list[str] = []
        """Lines of standard output so far."""
        self.err: list[str] = []
        """Lines of standard error so far: the log."""
        self.ready_seconds = 0.0
        """From the start of the process until it took calls."""
        self.http_port = http_port
        self.sip_uri = ""
        self._folder = tempfile.TemporaryDirectory(prefix="aiphone-server-")
        self._changed = threading.Condition()
        self._flags = ("-hp", str(http_port), "--sip-port", str(sip_port), "--temp", "0",
                       "--data-dir", self._folder.name, *flags)  # fmt: skip
        self._ready_timeout = ready_timeout
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Server:
        began = time.monotonic()
        self.process = subprocess.Popen(
            command(*self._flags),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=environment(),
        )
        for stream, lines in ((self.process.stdout, self.out), (self.process.stderr, self.err)):
            assert stream is not None
            thread = threading.Thread(target=self._read, args=(stream, lines))
            thread.start()
            self._threads.append(thread)
        try:
            page = self.wait_output(r"Web page: +http://\S+:(\d+)/", self._ready_timeout)
            # The line for a call comes right behind, in the same write.
            call = self.wait_output(r"Call: +(sip:\S+)", self._ready_timeout)
        except BaseException:
            self.kill()
            raise
        self.ready_seconds = time.monotonic() - began
        self.http_port = int(page[1])
        self.sip_uri = call[1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.process.poll() is None:
                self.stop()
        finally:
            self.kill()

    def _read(self, stream: IO[str], lines: list[str]) -> None:
        for line in stream:
            with self._changed:
                lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    # ------------------------------------------------------------------ what it says

    @property
    def log(self) -> str:
        """Standard error so far."""
        with self._changed:
            return "\n".join(self.err)

    def wait_output(self, pattern: str, timeout: float = 20.0) -> re.Match[str]:
        """The first match in standard output, waited for."""
        return self._wait(self.out, pattern, timeout)

    def wait_log(self, pattern: str, timeout: float = 20.0) -> re.Match[str]:
        """The first match in the log, waited for."""
        return self._wait(self.err, pattern, timeout)

    def _wait(self, lines: list[str], pattern: str, timeout: float) -> re.Match[str]:
        expression = re.compile(pattern)
        end = time.monotonic() + timeout
        seen = 0
        with self._changed:
            while True:
                for line in lines[seen:]:
                    if found := expression.search(line):
                        return found
                seen = len(lines)
                left = end - time.monotonic()
                gone = self.process.poll() is not None and not any(thread.is_alive() for thread in self._threads)
                if left <= 0 or gone:
                    raise self._error(f"no {pattern!r}")
                self._changed.wait(min(left, 0.5))

    def _error(self, what: str) -> ServerError:
        code = self.process.poll()
        state = "still runs" if code is None else f"ended with {code}"
        return ServerError(f"{what}; the server {state} and said:\n" + "\n".join([*self.out, *self.err[-40:]]))

    # ------------------------------------------------------------------ what it tells

    def get(self, path: str) -> tuple[int, dict[str, Any]]:
        """Status and JSON body of a GET."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=20)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def post(self, path: str, **body: Any) -> Any:
        """The JSON body of a POST that is taken; raises ``ServerError`` for one that is not."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=20)
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        if response.status >= 300:
            raise ServerError(f"POST {path}: {response.status} {text}")
        return json.loads(text)

    def status(self) -> dict[str, Any]:
        """``GET /api/status``."""
        return self.get("/api/status")[1]

    def wait_status(self, wanted: Callable[[dict[str, Any]], bool], timeout: float = 20.0) -> dict[str, Any]:
        """The first status that is as wanted."""
        end = time.monotonic() + timeout
        while not wanted(status := self.status()):
            if time.monotonic() > end:
                raise self._error(f"the status stayed {json.dumps(status)}")
            time.sleep(POLL)
        return status

    def wait_idle(self, timeout: float = 20.0) -> dict[str, Any]:
        """The first status without a call, and with everything of the last one given back."""
        return self.wait_status(
            lambda status: status["active_calls"] == 0 and not any(leftovers(status).values()), timeout
        )

    def holdings(self) -> Holdings:
        """What the process holds now. Linux only."""
        proc = Path(f"/proc/{self.process.pid}")
        pages = int((proc / "statm").read_text().split()[1])
        return Holdings(
            descriptors=len(list((proc / "fd").iterdir())),
            threads=len(list((proc / "task").iterdir())),
            rss=pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
        )

    # ------------------------------------------------------------------ the end

    def signal(self, number: int) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def wait_exit(self, timeout: float = 20.0) -> int:
        """The exit code, once it has ended and all it said is read."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise self._error(f"it did not end within {timeout:g} s") from None
        for thread in self._threads:
            thread.join(5)
        return code

    def stop(self, timeout: float = 20.0) -> int:
        """SIGTERM, and the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait_exit(timeout)

    def kill(self) -> None:
        """End it whatever it does, and leave nothing behind."""
        self.process.kill()
        self.process.wait()
        for thread in self._threads:
            thread.join(5)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        self._folder.cleanup()


def leftovers(status: dict[str, Any]) -> dict[str, int]:
    """What belongs to calls in the status of a server: all of it is 0 when there are none."""
    whisper, llm, media = status["models"]["whisper"], status["models"]["llm"], status["media"]
    return {
        "media calls": media["calls"] + media["leaving"],
        "whisper states": whisper["states"] - whisper["states_free"],
        "transcripts waiting": whisper["waiting"],
        "llama calls": llm["calls"],
        "phrases waiting": status["models"]["voice"]["waiting"],
    }
