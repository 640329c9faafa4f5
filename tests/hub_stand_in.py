"""A model hub on 127.0.0.1 that misbehaves on command.

It answers as the public hub does: ``/REPO/resolve/REVISION/FILE`` is a redirect that states the sha256 of a big file,
or, for a small one, the file itself under the hash of its git blob. Range and If-Range are honoured. ``faults`` is
consumed one by one by the requests for bytes; when it is empty all goes well.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SMALL = 2048
"""Files up to this size come at once, longer ones by way of a redirect."""


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request for bytes.

    ``after``: that many bytes come, then the connection is closed (``reset``: torn down; ``stall``: nothing more
    comes until the client gives up). ``status``: an error instead of the file. ``flip``: a wrong byte in the body.
    ``extra``: bytes more than the file has, without a Content-Length. ``html``: a web page with status 200.
    ``whole``: Range is ignored. ``wrong_start``: a part that begins elsewhere than asked.
    """

    after: int | None = None
    reset: bool = False
    stall: bool = False
    status: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    flip: bool = False
    extra: int = 0
    html: bool = False
    whole: bool = False
    wrong_start: bool = False


@dataclass
class HubStandIn:
    """The stand-in: files by "REPO/REVISION/FILE", and what was asked of it."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    state_hash: bool = True
    etag_salt: str = ""
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)

    def add(self, repo: str, revision: str, name: str, content: bytes) -> None:
        self.files[f"{repo}/{revision}/{name}"] = content

    def etag(self, content: bytes) -> str:
        """The content network's own validator: of no meaning to anybody but itself."""
        return '"' + hashlib.md5(self.etag_salt.encode() + content).hexdigest() + '"'

    @property
    def ranges(self) -> list[str]:
        """The Range header of each request for bytes, "" where there was none."""
        return [headers.get("range", "") for path, headers in self.requests if path.startswith("/cdn/")]


@contextlib.contextmanager
def running_hub() -> Iterator[HubStandIn]:
    """A stand-in that serves until the block ends."""
    hub = HubStandIn()

    class Handler(_Handler):
        stand_in = hub

    server = _Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        hub.release.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is none of our business."""


class _Handler(BaseHTTPRequestHandler):
    stand_in: HubStandIn
    protocol_version = "HTTP/1.0"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        hub = self.stand_in
        hub.requests.append((self.path, {key.lower(): value for key, value in self.headers.items()}))
        if self.path.startswith("/cdn/"):
            self._bytes(hub.files[self.path.removeprefix("/cdn/")])
            return
        match = re.fullmatch(r"/(.+?)/resolve/([^/]+)/(.+)", self.path)
        content = hub.files.get("/".join(match.groups())) if match else None
        if content is None or match is None:
            self._empty(404)
        elif len(content) <= SMALL:
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            self._bytes(content, f'"{blob}"' if hub.state_hash else "")
        else:
            linked = [("X-Linked-Etag", f'"{hashlib.sha256(content).hexdigest()}"')] if hub.state_hash else []
            self._empty(302, [("Location", "/cdn/" + "/".join(match.groups())), *linked])

    def _empty(self, status: int, headers: Any = ()) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _bytes(self, content: bytes, etag: str | None = None) -> None:
        hub = self.stand_in
        fault = hub.faults.pop(0) if hub.faults else Fault()
        etag = hub.etag(content) if etag is None else etag
        if fault.status:
            self._empty(fault.status, fault.headers)
            return
        start = 0
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted and not fault.whole and self.headers.get("If-Range") == etag:
            start = int(wanted[1])
            if start >= len(content):
                self._empty(416, [("Content-Range", f"bytes */{len(content)}")])
                return
        start = start // 2 if fault.wrong_start else start
        body = content[start:]
        if fault.html:
            body = b"<html>please log in</html>"
        self.send_response(206 if start or fault.wrong_start else 200)
        self.send_header("Content-Type", "text/html" if fault.html else "application/octet-stream")
        if etag:
            self.send_header("ETag", etag)
        if start or fault.wrong_start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if not fault.extra:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if fault.flip:
            body = bytes([body[0] ^ 1]) + body[1:]
        self._send(body + bytes(fault.extra), fault)

    def _send(self, body: bytes, fault: Fault) -> None:
        self.wfile.write(body if fault.after is None else body[: fault.after])
        self.wfile.flush()
        if fault.stall:
            self.stand_in.release.wait(10)
        if fault.reset:
            # Linger of zero: the connection ends with a reset instead of an orderly end.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
