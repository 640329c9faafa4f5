"""Which language model answers, and where its key comes from."""

import dataclasses

import pytest

from aiphone.cli.language_model import check_language_model, language_model_name, llm_key, make_language_model
from aiphone.clock import ManualClock
from aiphone.config import Settings
from aiphone.errors import ConfigError, ModelError, NetworkError
from aiphone.inference.openai_model import OpenAiModel
from aiphone.models.store import ModelStore

SETTINGS = Settings(llm_url="http://127.0.0.1:9/v1", llm_model="big")


def test_an_address_takes_the_place_of_the_embedded_model(tmp_path):
    store = ModelStore(tmp_path)
    model = make_language_model(SETTINGS, store, post=print, clock=ManualClock(), environ={})
    assert isinstance(model, OpenAiModel)
    assert model.status()["url"] == "http://127.0.0.1:9/v1"
    model.stop()
    assert language_model_name(SETTINGS, store) == "big at http://127.0.0.1:9/v1"
    with pytest.raises(ModelError):
        make_language_model(Settings(model_llama="/no/such.gguf"), store, post=print, clock=ManualClock(), environ={})


def test_the_doctor_is_told_when_the_server_is_out_of_reach(tmp_path):
    with pytest.raises(NetworkError, match="Connection refused"):
        check_language_model(dataclasses.replace(SETTINGS, llm_url="http://127.0.0.1:1"), ModelStore(tmp_path))


def test_the_key_comes_from_the_environment_or_a_file(tmp_path):
    assert llm_key(SETTINGS, {}) == ""
    assert llm_key(SETTINGS, {"AIPHONE_LLM_KEY": " word "}) == "word"
    file = tmp_path / "key"
    file.write_text("sk-1234\n")
    assert llm_key(dataclasses.replace(SETTINGS, llm_key_file=str(file)), {"AIPHONE_LLM_KEY": "other"}) == "sk-1234"


@pytest.mark.parametrize("content", [None, "", "two words", "schlüssel"])
def test_a_file_without_a_key_is_said_without_its_content(tmp_path, content):
    file = tmp_path / "key"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match="key file") as caught:
        llm_key(dataclasses.replace(SETTINGS, llm_key_file=str(file)), {})
    assert not content or content not in str(caught.value)


def test_the_key_is_no_setting():
    assert not any(
        field.name.endswith("_key") and field.name.startswith("llm") for field in dataclasses.fields(Settings)
    )


def test_an_unknown_cache_type_is_said():
    for wrong in (Settings(cache_type_k="q1"), Settings(cache_type_v="q1")):
        with pytest.raises(ConfigError, match="q8_0"):
            wrong.check()


@pytest.mark.parametrize(
    ("settings", "flash"),
    [(Settings(), None), (Settings(flash_attn=True), True), (Settings(no_flash_attn=True), False)],
)
def test_flash_attention_is_llama_cpp_s_choice_unless_told(settings, flash, monkeypatch):
    given = {}
    monkeypatch.setattr("aiphone.cli.language_model.LanguageModel", lambda *_, **options: given.update(options))
    monkeypatch.setattr("aiphone.cli.language_model.resolve_llm", lambda *_: None)
    make_language_model(settings, None, post=lambda _: None, clock=ManualClock())
    assert given["flash_attn"] is flash


def test_flash_attention_that_is_needed_cannot_be_turned_off():
    with pytest.raises(ConfigError, match="leave one of them out"):
        Settings(flash_attn=True, no_flash_attn=True).check()
    with pytest.raises(ConfigError, match="--no-flash-attn"):
        Settings(cache_type_v="q8_0", no_flash_attn=True).check()
