from __future__ import annotations

import errno
import hashlib
import threading
from collections import namedtuple
from pathlib import Path

import pytest

from aiphone.errors import StorageError
from aiphone.models.files import SPARE_BYTES, digests, exclusive, make_directory, megabytes, publish, require_free
from aiphone.models.files import write_error as error_of

Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 KB"), (63_201_294, "63.2 MB"), (2_497_280_256, "2.50 GB")],
)
def test_megabytes(count: int, text: str) -> None:
    assert megabytes(count) == text


def test_room_enough(tmp_path: Path) -> None:
    require_free(tmp_path / "new" / "models", 1000, lambda _: Usage(0, 0, 1000 + SPARE_BYTES))
    assert (tmp_path / "new" / "models").is_dir()


def test_too_little_room_names_the_place_and_both_numbers(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=rf"{tmp_path} has 90\.0 MB free but this needs 167\.1 MB"):
        require_free(tmp_path, 100_000_000, lambda _: Usage(0, 0, 90_000_000))


def test_a_full_disk(tmp_path: Path) -> None:
    error = OSError(errno.ENOSPC, "No space left on device")
    text = str(error_of(error, tmp_path / "x.part", 5_000_000, lambda _: Usage(0, 0, 4096)))
    assert text.startswith(f"the disk is full: {tmp_path} has 4.1 KB free, and 5.0 MB more are needed; ")


def test_a_disk_that_may_not_be_written(tmp_path: Path) -> None:
    text = str(error_of(OSError(errno.EROFS, "Read-only file system"), tmp_path / "x"))
    assert text == f"{tmp_path}/x cannot be written (read-only file system); check the directory and its permissions."


def test_a_file_where_the_directory_should_be(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        make_directory(tmp_path / "models" / "below")


def test_digests(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"hello" * 1000)
    seen: list[int] = []
    found = digests(path, ["sha256", "md5", "git"], seen.append)
    assert found == {
        "sha256": hashlib.sha256(b"hello" * 1000).hexdigest(),
        "md5": hashlib.md5(b"hello" * 1000).hexdigest(),
        "git": hashlib.sha1(b"blob 5000\0" + b"hello" * 1000).hexdigest(),
    }
    assert seen == [5000]


def test_publish_replaces_what_was_there(tmp_path: Path) -> None:
    part, target = tmp_path / "x.part", tmp_path / "x"
    part.write_text("new")
    target.write_text("old")
    publish(part, target)
    assert target.read_text() == "new"
    assert not part.exists()


def test_the_lock_lets_one_in_at_a_time(tmp_path: Path) -> None:
    order: list[str] = []
    inside, waiting = threading.Event(), threading.Event()

    def first() -> None:
        with exclusive(tmp_path):
            inside.set()
            assert waiting.wait(5)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    assert inside.wait(5)

    def on_wait(pid: str) -> None:
        assert pid.isdigit()
        waiting.set()

    with exclusive(tmp_path, on_wait):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]


def test_the_lock_is_free_again_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="x"), exclusive(tmp_path):
        raise ValueError("x")
    with exclusive(tmp_path, lambda pid: pytest.fail(f"had to wait for {pid}")):
        pass
