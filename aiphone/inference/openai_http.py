"""Just enough HTTP/1.1 to stream the answer of a language model server.

One connection for each request: closing it is how a request is cancelled, and how every server of this kind notices.
No redirects (the key would go with them), no compression, no keep-alive. Sources: RFC 9112 (messages, chunked coding)
and the WHATWG's server-sent events.

Thread rule: the asyncio loop of ``openai_model``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from aiphone.errors import ConfigError, InferenceError

_MAX_LINE = 1 << 20
_MAX_HEADERS = 100
_MAX_ERROR_BODY = 16_384


class EndpointError(InferenceError):
    """The server could not be asked. ``retry``: the same request may well succeed in a moment."""

    def __init__(self, text: str, *, retry: bool, status: int = 0, wait: float = 0.0, detail: str = "") -> None:
        super().__init__(text)
        self.retry = retry
        self.status = status
        self.wait = wait
        """Seconds that the server asks to wait (Retry-After)."""
        self.detail = detail
        """Body of the error answer; for decisions, not for people."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an OpenAI-compatible server listens."""

    host: str
    port: int
    tls: bool
    path: str
    """Path of the API without a slash at its end, e.g. ``/v1``."""

    @classmethod
    def parse(cls, url: str) -> Endpoint:
        """From ``http://host:port/v1``; without a path it is ``/v1``. Raises ``ConfigError``."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise ConfigError(f"--llm-url is '{url}'; it takes an address as in http://127.0.0.1:8080/v1") from None
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ConfigError(f"--llm-url is '{url}'; it takes an address as in http://127.0.0.1:8080/v1")
        if parts.username or parts.password:
            raise ConfigError("--llm-url holds a password; put the key into a file and name it with --llm-key-file")
        tls = parts.scheme == "https"
        return cls(parts.hostname, port or (443 if tls else 80), tls, parts.path.rstrip("/") or "/v1")

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}{self.path}"

    @property
    def loopback(self) -> bool:
        """Whether nobody else can listen in."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")


class Response:
    """An answer whose status and headers have arrived. Close it, or use it as an asynchronous context manager."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.status = 0
        self.headers: dict[str, str] = {}

    async def __aenter__(self) -> Response:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop the connection at once."""
        self._writer.transport.abort()

    async def _head(self) -> None:
        line = (await self._line()).split(" ", 2)
        if len(line) < 2 or not line[0].startswith("HTTP/1.") or not line[1].isdigit():
            raise EndpointError("the language model server does not speak HTTP", retry=False)
        self.status = int(line[1])
        for _ in range(_MAX_HEADERS):
            line_text = await self._line()
            if not line_text:
                return
            name, _, value = line_text.partition(":")
            self.headers[name.strip().lower()] = value.strip()
        raise EndpointError("the language model server sends too many headers", retry=False)

    async def _line(self) -> str:
        line = await self._reader.readuntil(b"\n")
        return line.decode("latin-1").rstrip("\r\n")

    async def body(self) -> AsyncIterator[bytes]:
        """Pieces of the body as they arrive. A body that breaks off raises ``asyncio.IncompleteReadError``."""
        if self.headers.get("transfer-encoding", "").lower().endswith("chunked"):
            while True:
                size_text = (await self._line()).partition(";")[0].strip()
                try:
                    size = int(size_text, 16)
                except ValueError:
                    raise EndpointError("the language model server breaks its own framing", retry=True) from None
                if size == 0:
                    return
                if not 0 < size <= _MAX_LINE:
                    raise EndpointError("the language model server sends too much at once", retry=False)
                yield await self._reader.readexactly(size)
                await self._line()
        length = self.headers.get("content-length", "")
        left = int(length) if length.isdigit() else None
        while left is None or left > 0:
            piece = await self._reader.read(65536 if left is None else min(left, 65536))
            if not piece:
                if left is not None:
                    raise asyncio.IncompleteReadError(b"", left)
                return
            left = left - len(piece) if left is not None else None
            yield piece

    async def text(self, limit: int = _MAX_ERROR_BODY) -> str:
        """The body as text, no more than ``limit`` bytes of it."""
        data = b""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            async for piece in self.body():
                data += piece
                if len(data) >= limit:
                    break
        return data[:limit].decode("utf-8", "replace")

    async def events(self) -> AsyncIterator[str]:
        """The data of each server-sent event."""
        held, data = b"", list[str]()
        async for piece in self.body():
            held += piece
            *lines, held = held.split(b"\n")
            if len(held) > _MAX_LINE:
                raise EndpointError("the language model server sends a line without end", retry=False)
            for raw in lines:
                line = raw.rstrip(b"\r").decode("utf-8", "replace")
                if line.startswith("data:"):
                    data.append(line[5:].removeprefix(" "))
                elif not line and data:
                    yield "\n".join(data)
                    data.clear()
        if held.startswith(b"data:"):  # the last line of a server that saves its line ends
            data.append(held[5:].decode("utf-8", "replace").strip())
        if data:
            yield "\n".join(data)


async def request(
    endpoint: Endpoint, method: str, path: str, *, key: str = "", body: bytes = b"", connect_timeout: float = 5.0
) -> Response:
    """Send a request and read the head of its answer.

    Raises ``EndpointError`` when there is no connection, and ``asyncio.IncompleteReadError`` or ``ConnectionError``
    when the server hangs up first. Waits for the answer without a limit of its own.
    """
    context = ssl.create_default_context() if endpoint.tls else None
    try:
        async with asyncio.timeout(connect_timeout):
            reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port, ssl=context, limit=_MAX_LINE)
    except TimeoutError:
        raise EndpointError(f"the language model server at {endpoint} does not answer", retry=True) from None
    except ssl.SSLError as error:
        reason = getattr(error, "verify_message", "") or error.reason or "TLS"
        raise EndpointError(
            f"no secure connection to the language model server at {endpoint}: {reason}", retry=False
        ) from None
    except OSError as error:
        known = error.errno is not None and error.errno > 0  # a name that cannot be resolved has a number of its own
        reason = os.strerror(error.errno) if known and error.errno else "no such host"
        raise EndpointError(f"no connection to the language model server at {endpoint}: {reason}", retry=True) from None
    response = Response(reader, writer)
    try:
        host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
        head = [
            f"{method} {endpoint.path}{path} HTTP/1.1",
            f"Host: {host}:{endpoint.port}",
            "Accept: text/event-stream, application/json",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            "Connection: close",
        ]
        if key:
            head.append(f"Authorization: Bearer {key}")
        writer.write("\r\n".join([*head, "", ""]).encode("latin-1") + body)
        await writer.drain()
        await response._head()
    except asyncio.LimitOverrunError:
        response.close()
        raise EndpointError("the language model server sends a header without end", retry=False) from None
    except BaseException:
        response.close()
        raise
    return response
