from __future__ import annotations

import pytest

from aiphone.cli.arguments import build_parser, parse
from aiphone.cli.main import main, read_settings
from aiphone.config import GROUPS, Settings
from aiphone.errors import ConfigError


def test_short_and_long_flags_are_the_same() -> None:
    assert parse(["-hp", "9000", "-bn", "Ann", "-ng"]) == parse(
        ["--http-port", "9000", "--bot-name", "Ann", "--no-gpu"]
    )


def test_flags_not_given_are_absent_so_that_the_file_can_speak() -> None:
    assert parse([]) == {}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-c", "0"], "-c does not apply here (the capture device"),
        (["-fth", "3"], "-fth does not apply here"),
        (["-pe"], "-pe does not apply here"),
        (["--htp-port", "1"], "did you mean --http-port?"),
        (["-t", "many"], "invalid int value: 'many'"),
        (["-t", "0"], "--threads is 0; it takes a value from 1 to 256"),
        (["--temp", "-1"], "--temp is -1"),
        (["frobnicate"], "'frobnicate' is not a command"),
    ],
)
def test_a_wrong_flag_gets_one_sentence_and_exit_code_2(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert sentence in err
    assert err.count("\n") == 1


def test_help_shows_every_group_and_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        parse(["-h"])
    assert done.value.code == 0
    out = capsys.readouterr().out
    assert all(title in out for title in GROUPS.values())
    assert "[8081]" in out
    assert "[5060]" in out


def test_no_help_text_has_a_format_error() -> None:
    assert "usage" in build_parser().format_help()


def test_the_config_file_is_below_the_flags(tmp_path: object) -> None:
    path = tmp_path / "a.toml"  # type: ignore[operator]
    path.write_text("http-port = 9001\nbot-name = 'Ann'\n")
    settings = read_settings(["--config", str(path), "-hp", "9002"])
    assert (settings.http_port, settings.bot_name) == (9002, "Ann")


def test_a_missing_config_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no configuration file nowhere\.toml"):
        read_settings(["--config", "nowhere.toml"])


def test_an_empty_flag_is_none_but_where_it_means_silence() -> None:
    settings = read_settings(["--filler", "", "--greeting", "", "--voice", ""])
    assert (settings.filler, settings.greeting) == ("", "")
    assert settings.voice == Settings().voice
