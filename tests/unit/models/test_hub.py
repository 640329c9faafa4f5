from __future__ import annotations

import errno
import hashlib
import json
from pathlib import Path

import pytest
from hub_stand_in import Fault, HubStandIn
from tiny_models import RecordedProgress, content_of, hub_file

from aiphone.errors import ModelError, NetworkError, StorageError
from aiphone.models import hub as hub_module
from aiphone.models.hub import HubFetcher, Stated

CONTENT = content_of(300_000)


class Sleeps(list[float]):
    """Stands for time.sleep and keeps what was slept."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


@pytest.fixture
def sleeps() -> Sleeps:
    return Sleeps()


@pytest.fixture
def fetcher(hub: HubStandIn, sleeps: Sleeps) -> HubFetcher:
    hub.add("acme/models", "v1", "big.bin", CONTENT)
    return HubFetcher(hub.url + "/", timeout_s=5.0, tries=3, sleep=sleeps)


def test_brings_the_file_and_the_hash_that_the_redirect_states(
    fetcher: HubFetcher, tmp_path: Path, progress: RecordedProgress
) -> None:
    part = tmp_path / "big.bin.part"
    stated = fetcher.fetch(hub_file("big.bin", CONTENT), part, progress)
    assert part.read_bytes() == CONTENT
    assert stated == Stated("sha256", hashlib.sha256(CONTENT).hexdigest())
    assert progress.started == [("big.bin", len(CONTENT), 0)]
    assert progress.updates[-1] == len(CONTENT)
    assert progress.notes == [""]


def test_a_small_file_states_its_git_blob(
    hub: HubStandIn, fetcher: HubFetcher, tmp_path: Path, progress: RecordedProgress
) -> None:
    hub.add("acme/models", "v1", "small.json", b"{}")
    stated = fetcher.fetch(hub_file("small.json", b"{}"), tmp_path / "part", progress)
    assert stated == Stated("git", hashlib.sha1(b"blob 2\0{}").hexdigest())


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_goes_on_where_the_connection_dropped(
    hub: HubStandIn, fetcher: HubFetcher, tmp_path: Path, progress: RecordedProgress, sleeps: Sleeps, reset: bool
) -> None:
    hub.faults += [Fault(after=100_000), Fault(after=50_000), Fault(after=1)]
    part = tmp_path / "big.bin.part"
    fetcher.fetch(hub_file("big.bin", CONTENT), part, progress)
    assert part.read_bytes() == CONTENT
    assert hub.ranges == ["", "bytes=100000-", "bytes=150000-", "bytes=150001-"]
    assert sleeps == [0.5, 0.5, 0.5], "a try that brought bytes starts the back-off anew"


def test_a_stalled_connection_is_given_up_and_taken_up_again(
    hub: HubStandIn, tmp_path: Path, progress: RecordedProgress, sleeps: Sleeps
) -> None:
    hub.add("acme/models", "v1", "big.bin", CONTENT)
    hub.faults.append(Fault(after=70_000, stall=True))
    part = tmp_path / "big.bin.part"
    HubFetcher(hub.url, timeout_s=0.2, sleep=sleeps).fetch(hub_file("big.bin", CONTENT), part, progress)
    assert part.read_bytes() == CONTENT
    assert hub.ranges == ["", "bytes=70000-"]


def test_gives_up_after_so_many_tries_without_a_byte_and_keeps_what_it_has(
    hub: HubStandIn, fetcher: HubFetcher, tmp_path: Path, progress: RecordedProgress, sleeps: Sleeps
) -> None:
    part = tmp_path / "big.bin.part"
    hub.faults += [Fault(after=100_000)] + [Fault(after=0)] * 3
    with pytest.raises(NetworkError, match=r"100\.0 KB of it are kept.*run the same command again"):
        fetcher.fetch(hub_file("big.bin", CONTENT), part, progress)
    assert sleeps == [0.5, 1.0, 2.0]
    assert progress.notes == ["failed"]
    assert part.stat().st_size == 100_000
    fetcher.fetch(hub_file("big.bin", CONTENT), part, progress)
    assert part.read_bytes() == CONTENT
    assert hub.ranges[-1] == "bytes=100000-"
    assert progress.started[-1] == ("big.bin", len(CONTENT), 100_000)


def test_a_complete_part_needs_no_network(
    hub: HubStandIn, fetcher: HubFetcher, tmp_path: Path, progress: RecordedProgress
) -> None:
    file, part = hub_file("big.bin", CONTENT), tmp_path / "big.bin.part"
    first = fetcher.fetch(file, part, progress)
    asked = len(hub.requests)
    assert fetcher.fetch(file, part, progress) == first
    assert len(hub.requests) == asked


def test_starts_over_when_the_file_changed_meanwhile(
    hub: HubStandIn, fetcher: HubFetcher, tmp_path: Path, progress: RecordedProgress
) -> None:
    hub.faults.append(Fault(after=100_000))
    other = content_of(len(CONTENT), seed=2)

    def change(_: float) -> None:
        hub.add("acme/models", "v1", "big.bin", other)

    part = tmp_path / "big.bin.part"
    stated = HubFetcher(hub.url, sleep=change).fetch(hub_file("big.bin", CONTENT, sha256=""), part, progress)
    assert part.read_bytes() == other
    assert stated == Stated("sha256", hashlib.sha256(other).hexdigest())


@pytest.mark.parametrize("fault", [Fault(whole=True), Fault(wrong_start=True)], ids=["whole", "another part"])
def test_a_server_without_proper_ranges(
    hub: HubStandIn, fetcher: HubFetcher, tmp_path: Path, progress: RecordedProgress, fault: Fault
) -> None:
    hub.faults += [Fault(after=100_000), fault]
    part = tmp_path / "big.bin.part"
    fetcher.fetch(hub_file("big.bin", CONTENT), part, progress)
    assert part.read_bytes() == CONTENT


@pytest.mark.parametrize("notes", [None, "", "{}", '{"etag": "W/\\"weak\\"", "stated": null}', "[1]"])
def test_a_part_of_unknown_origin_is_not_continued(
    hub: HubStandIn, fetcher: HubFetcher, tmp_path: Path, progress: RecordedProgress, notes: str | None
) -> None:
    part = tmp_path / "big.bin.part"
    part.write_bytes(b"something else")
    if notes is not None:
        (tmp_path / "big.bin.part.json").write_text(notes)
    fetcher.fetch(hub_file("big.bin", CONTENT), part, progress)
    assert part.read_bytes() == CONTENT
    assert hub.ranges == [""]


def test_a_range_that_does_not_fit_starts_over(
    hub: HubStandIn, fetcher: HubFetcher, tmp_path: Path, progress: RecordedProgress
) -> None:
    hub.faults += [Fault(after=100_000), Fault(status=416)]
    part = tmp_path / "big.bin.part"
    fetcher.fetch(hub_file("big.bin", CONTENT), part, progress)
    assert part.read_bytes() == CONTENT
    assert hub.ranges == ["", "bytes=100000-", ""]


def test_waits_as_long_as_the_server_asks(
    hub: HubStandIn, fetcher: HubFetcher, tmp_path: Path, progress: RecordedProgress, sleeps: Sleeps
) -> None:
    hub.faults += [
        Fault(status=429, headers=(("Retry-After", "7"),)),
        Fault(status=503, headers=(("Retry-After", "86400"),)),
    ]
    fetcher.fetch(hub_file("big.bin", CONTENT), tmp_path / "part", progress)
    assert sleeps == [7.0, 60.0]


@pytest.mark.parametrize(
    ("status", "error", "says"),
    [
        (401, ModelError, "gated or private; accept its licence"),
        (403, ModelError, "gated or private"),
        (404, ModelError, "the hub has no big.bin in acme/models at v1"),
        (410, ModelError, "the hub has no big.bin"),
        (418, NetworkError, "answered 418"),
    ],
)
def test_a_refusal_is_final_and_says_why(
    hub: HubStandIn,
    fetcher: HubFetcher,
    tmp_path: Path,
    progress: RecordedProgress,
    sleeps: Sleeps,
    status: int,
    error: type[Exception],
    says: str,
) -> None:
    hub.faults.append(Fault(status=status))
    with pytest.raises(error, match=says):
        fetcher.fetch(hub_file("big.bin", CONTENT), tmp_path / "part", progress)
    assert sleeps == []


def test_a_file_of_another_length_is_another_file(
    hub: HubStandIn, fetcher: HubFetcher, tmp_path: Path, progress: RecordedProgress
) -> None:
    with pytest.raises(ModelError, match=r"has 300000 bytes on the hub where the catalogue says 299999"):
        fetcher.fetch(hub_file("big.bin", CONTENT[:-1]), tmp_path / "part", progress)
    assert list(tmp_path.iterdir()) == []


def test_more_bytes_than_the_file_has(
    hub: HubStandIn, fetcher: HubFetcher, tmp_path: Path, progress: RecordedProgress
) -> None:
    hub.faults.append(Fault(extra=5))
    with pytest.raises(ModelError, match="more than the 300000 bytes"):
        fetcher.fetch(hub_file("big.bin", CONTENT), tmp_path / "part", progress)


def test_a_log_in_page_instead_of_the_file(
    hub: HubStandIn, fetcher: HubFetcher, tmp_path: Path, progress: RecordedProgress
) -> None:
    hub.faults.append(Fault(html=True))
    with pytest.raises(ModelError, match=r"a web page instead of big\.bin"):
        fetcher.fetch(hub_file("big.bin", CONTENT), tmp_path / "part", progress)


def test_a_hub_out_of_reach(tmp_path: Path, progress: RecordedProgress, sleeps: Sleeps, hub: HubStandIn) -> None:
    # Port 1 of the loopback: nobody listens there.
    fetcher = HubFetcher("http://127.0.0.1:1", tries=2, sleep=sleeps)
    with pytest.raises(NetworkError, match=r"could not be downloaded from http://127\.0\.0\.1:1 .*refused"):
        fetcher.fetch(hub_file("big.bin", CONTENT), tmp_path / "part", progress)
    assert len(sleeps) == 1


def test_a_disk_that_fills_up(
    fetcher: HubFetcher, tmp_path: Path, progress: RecordedProgress, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hub_module, "sync", full)
    with pytest.raises(StorageError, match=f"the disk is full: {tmp_path} has .* free"):
        fetcher.fetch(hub_file("big.bin", CONTENT), tmp_path / "part", progress)


def test_an_interrupted_download_says_so_and_can_go_on(
    hub: HubStandIn, fetcher: HubFetcher, tmp_path: Path, progress: RecordedProgress
) -> None:
    def interrupt(done: int) -> None:
        raise KeyboardInterrupt

    part = tmp_path / "part"
    progress.update = interrupt  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        fetcher.fetch(hub_file("big.bin", CONTENT), part, progress)
    assert progress.notes == ["stopped"]
    assert json.loads((tmp_path / "part.json").read_text())["etag"] == hub.etag(CONTENT)
    assert 0 < part.stat().st_size < len(CONTENT)


def test_names_are_quoted_in_addresses() -> None:
    file = hub_file("tugão medium.onnx", b"x")
    assert file.hub is not None
    assert HubFetcher("https://hub.example/").url(file.hub).endswith("/resolve/v1/tug%C3%A3o%20medium.onnx")
