"""Files from a model hub over HTTP: resumed where they stopped, retried when the line drops.

The hub answers ``BASE/REPO/resolve/REVISION/FILE``. For a big file that is a redirect to a content network, and the
redirect itself states the file's sha256 (``X-Linked-Etag``); a small file comes at once, with the hash of its git blob
as its ``ETag``. What was stated is kept with the download, to be checked when it is whole.

A download grows in ``NAME.part``; ``NAME.part.json`` beside it holds the ``ETag`` it belongs to. It goes on by
``Range`` with ``If-Range`` (RFC 9110, sections 13.1.5 and 14.2): when the file has changed meanwhile the server sends
the whole of it, and we start over. Proxies come from the usual places, by urllib.
"""

from __future__ import annotations

import http.client
import json
import logging
import re
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO, Any

from aiphone.errors import AiphoneError, ModelError, NetworkError
from aiphone.models.catalogue import HubFile, ModelFile
from aiphone.models.files import DiskUsageOf, megabytes, sync, write_error
from aiphone.models.progress import Progress

log = logging.getLogger(__name__)

PUBLIC_HUB = "https://huggingface.co"

_BLOCK = 1 << 17
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_LONGEST_WAIT_S = 60.0
_HEX = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Stated:
    """The hash a hub gives for a file: ``sha256`` of its bytes, or ``git`` (the SHA-1 of its git blob); in hex."""

    algorithm: str
    value: str


class _DroppedError(Exception):
    """The transfer stopped for a reason that may pass. ``wait_s``: how long the server asked us to wait."""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class HubFetcher:
    """Downloads from one hub. Any thread, one download at a time for each part file.

    ``base_url`` is the hub; ``timeout_s`` is how long a connection may be silent; ``tries`` is how often in a row it
    may fail without a single new byte; ``sleep`` waits between tries.
    """

    def __init__(
        self,
        base_url: str = PUBLIC_HUB,
        *,
        timeout_s: float = 30.0,
        tries: int = 6,
        sleep: Callable[[float], None] = time.sleep,
        disk_usage: DiskUsageOf = shutil.disk_usage,
    ) -> None:
        self._base = base_url.rstrip("/")
        self._timeout_s = timeout_s
        self._tries = tries
        self._sleep = sleep
        self._disk_usage = disk_usage

    def url(self, source: HubFile) -> str:
        """Where ``source`` is on this hub."""
        return "/".join(
            [
                self._base,
                *(urllib.parse.quote(text) for text in (source.repo, "resolve", source.revision, source.file)),
            ]
        )

    def fetch(self, file: ModelFile, part: Path, progress: Progress) -> Stated | None:
        """Bring ``part`` to the whole of ``file``, which must have a ``hub`` source, from wherever it stopped.

        Returns the hash the hub stated, or None when it stated none; ``part`` is not checked against it yet.
        Raises ``NetworkError`` when the hub cannot be reached or keeps dropping the line (``part`` stays, a later
        call goes on), ``ModelError`` when it does not have the file, does not give it to us or has it in another
        length, ``StorageError`` when the disk is full or may not be written.
        """
        assert file.hub is not None
        transfer = _Transfer(self.url(file.hub), file, part, self._timeout_s, progress, self._disk_usage)
        failures = 0
        note = "failed"
        progress.start(file.name, file.size, transfer.offset)
        try:
            while not transfer.complete:
                before = transfer.offset
                try:
                    transfer.run()
                except _DroppedError as drop:
                    failures = 0 if transfer.offset > before else failures + 1
                    if failures >= self._tries:
                        raise NetworkError(
                            f"{file.name} could not be downloaded from {self._base} ({drop}); "
                            f"{megabytes(transfer.offset)} of it are kept: check the connection (and the proxy) and "
                            "run the same command again."
                        ) from drop
                    wait_s = drop.wait_s or min(30.0, 0.5 * 2**failures)
                    log.info("%s: %s; trying again in %.1f s", file.name, drop, wait_s)
                    self._sleep(wait_s)
            note = ""
        except KeyboardInterrupt:
            note = "stopped"
            raise
        finally:
            progress.finish(note)
        return transfer.stated


class _Transfer:
    """One file on its way: what is there, what the server said about it."""

    def __init__(
        self,
        url: str,
        file: ModelFile,
        part: Path,
        timeout_s: float,
        progress: Progress,
        disk_usage: DiskUsageOf,
    ) -> None:
        self._url = url
        self._file = file
        self._part = part
        self._notes = part.with_name(part.name + ".json")
        self._timeout_s = timeout_s
        self._progress = progress
        self._disk_usage = disk_usage
        self._etag = ""
        self.stated: Stated | None = None
        self.offset = 0
        self._read_notes()

    @property
    def complete(self) -> bool:
        return self.offset == self._file.size

    def run(self) -> None:
        """One connection: until the file is whole, or ``_DroppedError``, or an error that will not pass."""
        try:
            links = _LinkHeaders()
            with urllib.request.build_opener(links).open(self._request(), timeout=self._timeout_s) as response:
                self._begin(response, links)
                self._receive(response)
        except AiphoneError:
            raise
        except urllib.error.HTTPError as error:
            with error:
                raise self._refusal(error) from error
        except (OSError, http.client.HTTPException) as error:  # URLError and TimeoutError are OSErrors
            reason = getattr(error, "reason", None) or error
            raise _DroppedError(str(reason) or type(error).__name__) from error
        if not self.complete:
            raise _DroppedError("the connection was closed early")

    def _request(self) -> urllib.request.Request:
        headers = {"User-Agent": "aiphone"}
        if self.offset:
            headers["Range"] = f"bytes={self.offset}-"
            headers["If-Range"] = self._etag
        return urllib.request.Request(self._url, headers=headers)

    def _begin(self, response: Any, links: _LinkHeaders) -> None:
        """Look at the answer's head: go on, or start over; and is it the file we mean?"""
        headers: Message = response.headers
        total, start = _length(response)
        if response.status == 200 and headers.get_content_type() == "text/html":
            raise ModelError(
                f"{self._url} answered with a web page instead of {self._file.name}; a proxy or a log-in page may be "
                "in between: open that address in a browser and look."
            )
        if total is not None and total != self._file.size:
            self._discard()
            raise ModelError(
                f"{self._file.name} has {total} bytes on the hub where the catalogue says {self._file.size}: it is "
                "another file by now; download it by hand and give its path, or update this program."
            )
        stated = _stated(links.etag or headers.get("ETag", ""))
        if start != self.offset or (self.offset and stated != self.stated):
            self._discard()
            if start != 0:
                raise _DroppedError("the server sent another part than the one asked for")
        self.stated = stated
        self._etag = headers.get("ETag", "")
        self._write_notes()

    def _receive(self, response: Any) -> None:
        try:
            out = self._part.open("ab")
        except OSError as error:
            raise write_error(error, self._part, self._missing, self._disk_usage) from error
        with out:
            try:
                while block := response.read1(_BLOCK):
                    self._append(out, block)
            finally:
                self._flush(out)

    def _append(self, out: IO[bytes], block: bytes) -> None:
        if self.offset + len(block) > self._file.size:
            self._discard()
            raise ModelError(
                f"the hub sent more than the {self._file.size} bytes that {self._file.name} has; download it by hand "
                "and give its path, or update this program."
            )
        try:
            out.write(block)
        except OSError as error:
            raise write_error(error, self._part, self._missing, self._disk_usage) from error
        self.offset += len(block)
        self._progress.update(self.offset)

    def _flush(self, out: IO[bytes]) -> None:
        try:
            sync(out)
        except OSError as error:
            raise write_error(error, self._part, self._missing, self._disk_usage) from error

    @property
    def _missing(self) -> int:
        return self._file.size - self.offset

    def _refusal(self, error: urllib.error.HTTPError) -> Exception:
        name, hub = self._file.name, self._file.hub
        assert hub is not None
        if error.code in (401, 403):
            return ModelError(
                f"the hub does not give {name} to everybody ({error.code}): {hub.repo} is gated or private; accept its "
                "licence there with an account of yours, download the file in a browser and give its path."
            )
        if error.code in (404, 410):
            return ModelError(
                f"the hub has no {hub.file} in {hub.repo} at {hub.revision} ({error.code}); it may have moved: look "
                "for it there, download it by hand and give its path, or update this program."
            )
        if error.code == 416:
            self._discard()
            return _DroppedError("what was there does not fit the file any more")
        if error.code in _PASSING:
            return _DroppedError(f"the hub answered {error.code} {error.reason}", _retry_after(error.headers))
        return NetworkError(f"the hub answered {error.code} {error.reason} for {self._url}; try again later.")

    # ------------------------------------------------------------------ the part file and its notes

    def _discard(self) -> None:
        self._part.unlink(missing_ok=True)
        self._notes.unlink(missing_ok=True)
        self.offset = 0
        self._etag = ""
        self.stated = None

    def _read_notes(self) -> None:
        """Take up an earlier try. Without a validator of it there is no telling what the bytes belong to."""
        try:
            notes = json.loads(self._notes.read_text(encoding="utf-8"))
            self._etag = str(notes["etag"])
            self.stated = Stated(**notes["stated"]) if notes["stated"] else None
            self.offset = self._part.stat().st_size
        except (OSError, ValueError, KeyError, TypeError):
            self._discard()
            return
        if self.offset > self._file.size or (not self.complete and not _is_strong(self._etag)):
            self._discard()

    def _write_notes(self) -> None:
        stated = {"algorithm": self.stated.algorithm, "value": self.stated.value} if self.stated else None
        try:
            self._notes.write_text(json.dumps({"etag": self._etag, "stated": stated}), encoding="utf-8")
        except OSError as error:
            raise write_error(error, self._notes, self._missing, self._disk_usage) from error


class _LinkHeaders(urllib.request.HTTPRedirectHandler):
    """Follows redirects and keeps the hash that the hub's own answer states on the way."""

    def __init__(self) -> None:
        self.etag = ""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        self.etag = self.etag or headers.get("X-Linked-Etag", "")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _stated(etag: str) -> Stated | None:
    value = etag.removeprefix("W/").strip('"').lower()
    if not _HEX.fullmatch(value):
        return None
    return Stated("sha256" if len(value) == 64 else "git", value)


def _is_strong(etag: str) -> bool:
    """If-Range takes strong validators only (RFC 9110, section 13.1.5)."""
    return etag.startswith('"')


def _length(response: Any) -> tuple[int | None, int]:
    """The whole file's length as the answer gives it (None: not given), and where its body starts."""
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if match is None:
            raise _DroppedError("the server sent a part without saying which")
        return (None if match[2] == "*" else int(match[2])), int(match[1])
    length = response.headers.get("Content-Length")
    return (int(length) if length and length.isdigit() else None), 0


def _retry_after(headers: Message) -> float:
    """Seconds the server asks us to wait, as far as that is reasonable; dates are not worth parsing."""
    text = headers.get("Retry-After", "")
    return min(float(text), _LONGEST_WAIT_S) if text.isdigit() else 0.0
