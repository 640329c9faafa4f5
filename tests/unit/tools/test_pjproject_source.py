"""Finding pjproject's source: apt's files and answers, hashes, and a server that gives other bytes."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import pjproject_source
import pytest
from pjproject_source import Mirror, SourceError

DEB822 = """\
Types: deb
# a comment
URIs: http://mirror.example/debian
Suites: stable stable-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: stable-security
Components: main

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: stable
Components: main

Types: deb
URIs: https://third.example/node
Suites: nodistro
Components: main
"""

URIS = """\
Reading package lists...
'http://m.example/pool/a_22.dsc' a_22.dsc 5389 SHA256:{zero}
'http://m.example/pool/a_22.orig-Xamr.tar.xz' a_22.orig-Xamr.tar.xz 11276 SHA256:{zero}
'http://m.example/pool/a_22%2bd.orig-Xpjproject.tar.xz' a_22+d.orig-Xpjproject.tar.xz 6775552 SHA256:{one}
'http://m.example/pool/a_22.orig.tar.xz' a_22.orig.tar.xz 6218652 SHA256:{zero}
""".format(zero="0" * 64, one="1" * 64)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None: ...


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "release.tar.gz").write_bytes(b"the release")
    http = HTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path / "served")))
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    thread.join()
    http.server_close()


def test_deb822_sources_give_the_debian_archive_only() -> None:
    mirrors = pjproject_source.debian_mirrors([("debian.sources", DEB822)])
    assert mirrors == [Mirror("http://mirror.example/debian", "/usr/share/keyrings/debian-archive-keyring.gpg")]


def test_one_line_sources_with_and_without_options() -> None:
    text = (
        "# deb http://comment.example/debian stable main\n"
        "deb [arch=amd64 signed-by=/k.gpg] http://a.example/debian/ stable main\n"
        "deb http://b.example/debian stable main contrib\n"
        "deb-src http://b.example/debian stable main contrib\n"
        "deb http://security.example/debian-security stable-security main\n"
    )
    mirrors = pjproject_source.debian_mirrors([("sources.list", text)])
    assert mirrors == [Mirror("http://a.example/debian/", "/k.gpg"), Mirror("http://b.example/debian")]
    assert mirrors[0].source_line() == "deb-src [signed-by=/k.gpg] http://a.example/debian/ sid main\n"


def test_an_embedded_key_is_not_taken_for_a_path() -> None:
    stanza = "Types: deb\nURIs: http://m.example/debian\nSuites: stable\nSigned-By:\n -----BEGIN PGP\n .\n abc\n"
    assert pjproject_source.debian_mirrors([("d.sources", stanza)]) == [Mirror("http://m.example/debian", "")]


def test_the_component_is_found_with_its_hash() -> None:
    assert pjproject_source.component_uri(URIS) == (
        "http://m.example/pool/a_22%2bd.orig-Xpjproject.tar.xz",
        "a_22+d.orig-Xpjproject.tar.xz",
        "SHA256:" + "1" * 64,
    )


def test_a_source_package_without_the_component_is_refused() -> None:
    with pytest.raises(SourceError, match="has no component orig-Xpjproject"):
        pjproject_source.component_uri("")


def test_upstream_with_the_right_hash(server: str, tmp_path: Path) -> None:
    digest = hashlib.sha256(b"the release").hexdigest()
    source = pjproject_source.from_upstream(tmp_path, f"{server}/release.tar.gz", digest)
    assert source.path.read_bytes() == b"the release"
    assert source.origin == "upstream"


def test_upstream_with_other_bytes_is_refused(server: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="not the expected"):
        pjproject_source.from_upstream(tmp_path, f"{server}/release.tar.gz", "0" * 64)


def test_upstream_out_of_reach_is_one_sentence(server: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="could not be downloaded"):
        pjproject_source.from_upstream(tmp_path, f"{server}/nothing.tar.gz", "0" * 64)


def test_both_reasons_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(reason: str) -> object:
        def way(into: Path) -> pjproject_source.Source:
            raise SourceError(reason)

        return way

    monkeypatch.setattr(pjproject_source, "from_upstream", fail("no network"))
    monkeypatch.setattr(pjproject_source, "from_debian", fail("no apt"))
    with pytest.raises(SourceError, match="no network; no apt"):
        pjproject_source.find(tmp_path, lambda text: None)


def test_a_directory_must_be_pjproject(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"has no version\.mak"):
        pjproject_source.given(tmp_path)
    (tmp_path / "version.mak").write_text("x", encoding="utf-8")
    before = pjproject_source.given(tmp_path)
    (tmp_path / "more.c").write_text("int x;", encoding="utf-8")
    assert pjproject_source.given(tmp_path).sha256 != before.sha256
