"""Where the source of pjproject comes from, and how each way of getting it is checked.

Three ways, tried in this order:

1. a tarball or directory that the caller names;
2. the upstream release, by its address, checked against the SHA-256 below;
3. Debian's own copy: the component ``orig-Xpjproject`` of the source package ``asterisk`` in sid. apt verifies
   the archive's signature and states the component's hash; the machine's own mirror is used, by a source list
   that exists only for the length of this run.

Standard library only: this runs before anything is installed.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

UPSTREAM_VERSION = "2.17"
UPSTREAM_URL = f"https://github.com/pjsip/pjproject/archive/refs/tags/{UPSTREAM_VERSION}.tar.gz"
UPSTREAM_SHA256 = "065fe06c06788d97c35f563796d59f00ce52fe9558a52d7b490a042a966facce"
UPSTREAM_TIMEOUT = 8.0
"""Seconds without an answer after which upstream counts as out of reach."""

APT_SOURCES = Path("/etc/apt")
APT_HELPER = Path("/usr/lib/apt/apt-helper")
DEBIAN_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
COMPONENT = "orig-Xpjproject"


class SourceError(Exception):
    """One way of getting the source did not work; the text says why in one sentence."""


@dataclass(frozen=True, slots=True)
class Source:
    """A pjproject source that is on disk: a tarball or a directory."""

    path: Path
    sha256: str
    origin: str
    """``given``, ``upstream`` or ``debian``."""


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, or of every regular file in a directory with its name, in a fixed order."""
    digest = hashlib.sha256()
    if path.is_file():
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()
    for member in sorted(p for p in path.rglob("*") if p.is_file() and ".git" not in p.parts):
        digest.update(str(member.relative_to(path)).encode() + b"\0")
        digest.update(member.read_bytes())
    return digest.hexdigest()


def given(path: Path) -> Source:
    """The source that the caller named.

    Raises:
        SourceError: there is nothing at ``path``, or it is not pjproject.
    """
    if path.is_dir():
        if not (path / "version.mak").is_file():
            raise SourceError(f"{path} is not a pjproject source directory: it has no version.mak")
    elif not path.is_file():
        raise SourceError(f"{path} does not exist")
    return Source(path, sha256_of(path), "given")


def find(into: Path, log: Callable[[str], None]) -> Source:
    """Get the source by upstream's address, else from Debian, into the directory ``into``.

    Raises:
        SourceError: neither worked; the text has both reasons.
    """
    reasons = []
    for way in (from_upstream, from_debian):
        try:
            return way(into)
        except SourceError as error:
            log(f"{way.__name__}: {error}")
            reasons.append(str(error))
    raise SourceError("; ".join(reasons))


# ----------------------------------------------------------------------------------------------- upstream


def from_upstream(into: Path, url: str = UPSTREAM_URL, sha256: str = UPSTREAM_SHA256) -> Source:
    """Download the upstream release and check its hash.

    Raises:
        SourceError: no answer in time, or other bytes than expected.
    """
    target = into / f"pjproject-{UPSTREAM_VERSION}.tar.gz"
    try:
        with urllib.request.urlopen(url, timeout=UPSTREAM_TIMEOUT) as response, target.open("wb") as out:
            shutil.copyfileobj(response, out)
    except (urllib.error.URLError, OSError) as error:
        raise SourceError(f"the upstream release could not be downloaded ({error})") from error
    found = sha256_of(target)
    if found != sha256:
        raise SourceError(f"the upstream release has the hash {found}, not the expected {sha256}")
    return Source(target, found, "upstream")


# ----------------------------------------------------------------------------------------------- Debian


@dataclass(frozen=True, slots=True)
class Mirror:
    """One Debian archive that this machine already uses."""

    uri: str
    signed_by: str = ""

    def source_line(self, suite: str = "sid") -> str:
        """The ``deb-src`` line for ``suite`` on this mirror (sources.list(5))."""
        option = f"[signed-by={self.signed_by}] " if self.signed_by else ""
        return f"deb-src {option}{self.uri} {suite} main\n"


def debian_mirrors(texts: Iterable[tuple[str, str]]) -> list[Mirror]:
    """Debian archives named in the machine's apt sources, without duplicates.

    Args:
        texts: (file name, content) pairs, one-line style for ``*.list``, deb822 style for ``*.sources``.
    """
    found: list[Mirror] = []
    for name, text in texts:
        pairs = _deb822(text) if name.endswith(".sources") else _one_line(text)
        for uri, signed_by in pairs:
            last = uri.rstrip("/").rsplit("/", 1)[-1]
            # A mirror of Debian proper is called .../debian everywhere; security and third parties are not.
            if not last.startswith("debian") or "security" in last:
                continue
            mirror = Mirror(uri, signed_by)
            if mirror not in found:
                found.append(mirror)
    return found


def _one_line(text: str) -> Iterable[tuple[str, str]]:
    for line in text.splitlines():
        match = re.match(r"\s*deb(?:-src)?\s+(?:\[(?P<options>[^]]*)\]\s+)?(?P<uri>\S+)\s+\S+", line)
        if match:
            signed = re.search(r"signed-by=(\S+)", match["options"] or "")
            yield match["uri"], signed[1] if signed else ""


def _deb822(text: str) -> Iterable[tuple[str, str]]:
    for stanza in re.split(r"\n\s*\n", text):
        lines = [line for line in stanza.splitlines() if not line.startswith("#")]
        fields: dict[str, str] = {}
        for line in lines:
            if line[:1] not in {" ", "\t"} and ":" in line:
                key, value = line.split(":", 1)
                fields[key.strip().lower()] = value.strip()
        if fields.get("enabled", "yes").lower() == "no":
            continue
        signed = fields.get("signed-by", "")
        for uri in fields.get("uris", "").split():
            # A key embedded in the stanza is not a path; apt's own keyring has Debian's.
            yield uri, signed if signed.startswith("/") else ""


def _apt_texts(root: Path = APT_SOURCES) -> list[tuple[str, str]]:
    parts = sorted((root / "sources.list.d").glob("*"))
    files = [root / "sources.list", *(p for p in parts if p.suffix in {".list", ".sources"})]
    return [(file.name, file.read_text(encoding="utf-8", errors="replace")) for file in files if file.is_file()]


def component_uri(print_uris: str) -> tuple[str, str, str]:
    """(address, file name, hash as ``SHA256:...``) of the component in ``apt-get source --print-uris`` output.

    Raises:
        SourceError: the source package has no such component.
    """
    for line in print_uris.splitlines():
        match = re.match(r"'(?P<uri>[^']+)' (?P<name>\S+) \d+ (?P<hash>SHA256:[0-9a-f]{64})$", line.strip())
        if match and f".{COMPONENT}." in match["name"]:
            return match["uri"], match["name"], match["hash"]
    raise SourceError(f"Debian's source package asterisk has no component {COMPONENT}")


def from_debian(into: Path) -> Source:
    """Fetch the component tarball with apt, from the mirror this machine already uses.

    Raises:
        SourceError: not a Debian machine, or apt could not.
    """
    if shutil.which("apt-get") is None or not APT_HELPER.is_file():
        raise SourceError("this machine has no apt to get Debian's copy with")
    mirrors = debian_mirrors(_apt_texts())
    if not mirrors:
        raise SourceError("this machine's apt sources name no Debian archive to get Debian's copy from")
    reason = ""
    for mirror in mirrors:
        try:
            return _fetch_component(mirror, into)
        except SourceError as error:
            reason = str(error)
    raise SourceError(reason)


def _fetch_component(mirror: Mirror, into: Path) -> Source:
    if not mirror.signed_by and DEBIAN_KEYRING.is_file():
        mirror = Mirror(mirror.uri, str(DEBIAN_KEYRING))
    with tempfile.TemporaryDirectory(prefix="aiphone-apt-") as name:
        state = Path(name)
        state.chmod(0o755)  # apt reads and writes here as its own user
        for folder in ("lists/partial", "cache/archives/partial"):
            (state / folder).mkdir(parents=True)
        (state / "sid.list").write_text(mirror.source_line(), encoding="utf-8")
        options = [
            f"Dir::Etc::sourcelist={state}/sid.list",
            "Dir::Etc::sourceparts=-",
            f"Dir::State::lists={state}/lists",
            f"Dir::Cache={state}/cache",
            "Acquire::Languages=none",
            "Acquire::Retries=1",
            "Acquire::http::Timeout=20",
            "Acquire::https::Timeout=20",
        ]
        flags = [part for option in options for part in ("-o", option)]
        _apt("apt-get", *flags, "update", "--error-on=any")
        uri, file_name, expected = component_uri(_apt("apt-get", *flags, "source", "--print-uris", "asterisk"))
        target = into / re.sub(r"[^A-Za-z0-9.+~_-]", "_", file_name)
        _apt(str(APT_HELPER), *flags, "download-file", uri, str(target), expected)
    found = sha256_of(target)
    if f"SHA256:{found}" != expected:
        raise SourceError(f"Debian's copy has the hash {found}, but apt announced {expected}")
    return Source(target, found, "debian")


def _apt(*command: str) -> str:
    environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise SourceError(f"apt gave no answer within {error.timeout:.0f} s") from error
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise SourceError(f"apt could not get Debian's copy ({' '.join(last) or done.returncode})")
    return done.stdout
