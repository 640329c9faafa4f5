from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from aiphone.config import LineSettings, Settings, default_data_dir, default_models_dir, options
from aiphone.config_file import make_settings, read_config_file
from aiphone.errors import ConfigError
from aiphone.server.guard import is_loopback


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "aiphone.toml"
    path.write_text(text)
    return path


def test_defaults_are_within_their_own_ranges() -> None:
    assert Settings().check().http_port == 8081


def test_nobody_else_gets_in_unless_told_otherwise() -> None:
    assert is_loopback(Settings().host)


def test_flags_are_unique_and_long_flags_match_the_names() -> None:
    flags = [flag for _, _, option in options() for flag in option.flags]
    assert len(flags) == len(set(flags))
    assert all(option.flags[-1].startswith("--") for _, _, option in options())


PROMISED = """
-t -mt -ac -ngl --seed --top-k --top-p --min-p --temp -vth -tr -ng -fa -p -bn --session -w -ho -l -mw -ml -s
--prompt-file -f -hp --host --sip-host --sip-port --rtp-ports --public-address --data-dir --max-calls --greeting
"""


@pytest.mark.parametrize("flag", PROMISED.split())
def test_the_promised_flags_exist(flag: str) -> None:
    assert flag in [flag for _, _, option in options() for flag in option.flags]


def test_a_file_gives_values_and_lines(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        greeting = "Good day."
        max-calls = 20
        rtp_timeout = 10
        [[lines]]
        client_id = "front"
        username = "1001"
        password = "s3cret"
        server_ip = "127.0.0.1"
        """,
    )
    settings = make_settings(read_config_file(path), {"max_calls": 3})
    assert settings.greeting == "Good day."
    assert settings.max_calls == 3
    assert settings.rtp_timeout == 10.0
    assert settings.lines == (LineSettings("front", "1001", "127.0.0.1", "s3cret"),)
    assert "s3cret" not in repr(settings)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("greetin = 'x'", "did you mean 'greeting'?"),
        ("max_call = 3", "did you mean 'max-calls'?"),
        ("max-calls = 'three'", "max-calls in {path} is the text 'three'; it takes a whole number"),
        ("max-calls = true", "it takes a whole number"),
        ("no-gpu = 1", "it takes true or false"),
        ("max-calls = 0", "it takes a value from 1 to 1000"),
        ("temp = 9.5", "it takes a value from 0 to 5"),
        ("max-calls =", "is not valid TOML"),
        ("lines = 3", "write each SIP account under a [[lines]] heading"),
        ("[[lines]]\nclient_id = 'a'\nusername = 'b'", "has no server_ip"),
        ("[[lines]]\nclient_id = 'a'\nusername = 'b'\nserver = 'c'", "did you mean 'server-ip'?"),
        ("[[lines]]\nclient_id = 'a'\nusername = 'b'\nserver_ip = 'c'\ntransport = 'sctp'", "udp, tcp or tls"),
        ("[[lines]]\nclient_id = 'a'\nusername = 'b'\nserver_ip = 'c'\nserver_port = 0", "1 to 65535"),
        ("[[lines]]\nclient_id = 'a'\nusername = 'b'\nserver_ip = 'c'\n" * 2, "give each its own"),
        ("[[lines]]\nclient_id = 'a'\nusername = 'b'\nserver_ip = 'c'\nallow = '+49*'", "takes texts in brackets"),
        ("[[lines]]\nclient_id = 'a'\nusername = 'b'\nserver_ip = 'c'\nanswer_after = 'x'", "takes a number"),
    ],
)
def test_a_wrong_file_gets_one_sentence_that_names_it(tmp_path: Path, text: str, sentence: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        make_settings(read_config_file(path))
    message = str(caught.value).replace("server_ip", "server-ip") if "server-ip" in sentence else str(caught.value)
    assert sentence.replace("{path}", str(path)) in message
    assert "\n" not in message.rstrip()


def test_a_password_of_the_wrong_type_is_not_shown(tmp_path: Path) -> None:
    path = write(tmp_path, "[[lines]]\nclient_id='a'\nusername='b'\nserver_ip='c'\npassword = 98765\n")
    with pytest.raises(ConfigError) as caught:
        read_config_file(path)
    assert "98765" not in str(caught.value)


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no configuration file"):
        read_config_file(tmp_path / "none.toml")


@pytest.mark.parametrize("ports", ["10000", "a-b", "20000-10000", "80-90", "60000-70000"])
def test_rtp_ports_are_checked(ports: str) -> None:
    with pytest.raises(ConfigError, match="--rtp-ports"):
        make_settings({"rtp_ports": ports})


def test_every_line_field_is_typed_for_the_file() -> None:
    assert {item.type for item in fields(LineSettings)} >= {"str", "int", "bool"}


def test_directories_follow_the_platform() -> None:
    environ = {"HOME": "/h", "XDG_DATA_HOME": "/x", "XDG_CACHE_HOME": "/c"}
    assert default_data_dir(environ).name == "aiphone"
    assert default_models_dir(environ) == Path("/c/aiphone/models")
