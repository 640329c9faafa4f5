"""The guides of docs/guides say what the program takes: fragments, command lines, flags, fields and links."""

from __future__ import annotations

import argparse
import configparser
import re
import shlex
import shutil
import subprocess
import xml.etree.ElementTree
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from aiphone.cli import backup, call, models, passwd, sessions
from aiphone.cli.arguments import PROGRAM, build_parser, parse
from aiphone.cli.doctor import NO_CALL
from aiphone.config import LineSettings, options
from aiphone.config_file import make_settings, read_config_file
from aiphone.media.types import MediaStats
from aiphone.sip.settings import CallPolicy, LineConfig

ROOT = Path(__file__).parents[2]
GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))
COMMANDS = {"models": models, "sessions": sessions, "backup": backup, "passwd": passwd, "call": call}

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def blocks(language: str) -> Iterator[tuple[str, str]]:
    for guide in GUIDES:
        for found, text in _BLOCK.findall(guide.read_text(encoding="utf-8")):
            if found == language:
                yield guide.name, text


def spans(guide: Path) -> list[str]:
    """Code within sentences."""
    return _CODE.findall(_BLOCK.sub("", guide.read_text(encoding="utf-8")))


def command_lines() -> Iterator[tuple[str, str]]:
    for name, text in blocks("sh"):
        yield from ((name, line) for line in text.splitlines() if line.startswith(PROGRAM))
    for guide in GUIDES:
        yield from ((guide.name, code) for code in spans(guide) if code.startswith(PROGRAM))


def check_command(line: str) -> None:
    """Raises ``ConfigError`` or exits, as the program would."""
    words = shlex.split(line)[1:]
    if words[:1] == ["doctor"]:
        parse([word for word in words[1:] if word != NO_CALL])
    elif words and words[0] in COMMANDS:
        parser = argparse.ArgumentParser(prog=PROGRAM)
        COMMANDS[words[0]].add_arguments(parser.add_subparsers(required=True))
        parser.parse_args(words)
    else:
        parse(words)


def test_every_guide_of_the_list_is_there() -> None:
    listed = set(_LINK.findall((ROOT / "docs/guides/README.md").read_text(encoding="utf-8")))
    assert listed == {guide.name for guide in GUIDES} - {"README.md"}
    assert len(listed) >= 11


@pytest.mark.parametrize(("name", "text"), list(blocks("toml")))
def test_a_toml_fragment_is_a_configuration_file(name: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "phone.toml"
    path.write_text(text, encoding="utf-8")
    settings = make_settings(read_config_file(path))
    lines = [line for line in text.splitlines() if line.startswith("[[lines]]")]
    assert len(settings.lines) == len(lines)
    taken = {item.name for item in fields(LineConfig)} - {"greeting", "token"}
    policy = {item.name for item in fields(CallPolicy)} - {"personas"}
    for line in settings.lines:  # what the SIP side would say of it
        LineConfig(
            line.client_id,
            policy=CallPolicy(**{key: getattr(line, key) for key in policy}),
            **{
                item.name: getattr(line, item.name)
                for item in fields(LineSettings)
                if item.name in taken and item.name not in policy
            },
        )
        assert all("=" in entry for entry in line.personas)


@pytest.mark.parametrize(("name", "line"), list(command_lines()))
def test_a_command_line_is_taken(name: str, line: str) -> None:
    check_command(line)


def test_a_flag_that_does_not_exist_would_be_found() -> None:
    with pytest.raises(Exception, match="--sip-hots"):
        check_command(f"{PROGRAM} --sip-hots 0.0.0.0")
    with pytest.raises(SystemExit):
        check_command(f"{PROGRAM} sessions list --sesion callers.db")


FOREIGN_FLAGS = {"--parallel"}
"""Of llama-server."""


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.name)
def test_flags_in_sentences_exist(guide: Path) -> None:
    known = {flag for action in build_parser()._actions for flag in action.option_strings}
    named = {code.split()[0] for code in spans(guide) if re.match(r"--?[a-z]", code)}
    assert named <= known | FOREIGN_FLAGS


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.name)
def test_settings_in_sentences_exist(guide: Path) -> None:
    known = {option.flags[-1].lstrip("-") for _, _, option in options()} | {item.name for item in fields(LineSettings)}
    named = {code.partition(" = ")[0] for code in spans(guide) if " = " in code}
    assert named <= known


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.name)
def test_the_pages_fields_have_these_names(guide: Path) -> None:
    labels = set(re.findall(r'field\(\{ label: "([^"]+)"', (ROOT / "web/js/clients.js").read_text(encoding="utf-8")))
    text = _BLOCK.sub("", guide.read_text(encoding="utf-8"))
    ours = text.partition("## Our side")[2].partition("\n## ")[0]
    named = set(re.findall(r"\*\*([^*]+)\*\*", ours)) - {"A trunk by address, without registration"}
    assert named <= labels


def test_the_statistics_are_those_of_a_call() -> None:
    known = {item.name for item in fields(MediaStats)}
    text = (ROOT / "docs/guides/no-audio.md").read_text(encoding="utf-8")
    table = text.partition("| figures in `media` |")[2].partition("\n\n")[0]
    named = [code for row in table.splitlines()[2:] for code in _CODE.findall(row.split("|")[1])]
    assert len(named) > 15
    assert {code for code in named if not code.startswith("no RTP")} <= known


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.name)
def test_links_lead_somewhere(guide: Path) -> None:
    links = [link for link in _LINK.findall(guide.read_text(encoding="utf-8")) if "://" not in link]
    assert [link for link in links if not (guide.parent / link.partition("#")[0]).is_file()] == []


def test_freeswitchs_fragments_are_xml() -> None:
    found = list(blocks("xml"))
    assert len(found) == 2
    for _, text in found:
        assert xml.etree.ElementTree.fromstring(text).tag == "include"


def test_asterisks_endpoint_names_its_parts() -> None:
    ((_, text), *_) = [block for block in blocks("ini") if "type=endpoint" in block[1]]
    sections = {}
    for part in re.split(r"^(?=\[)", text, flags=re.MULTILINE)[1:]:
        reader = configparser.ConfigParser()
        reader.read_string(part)
        (name,) = reader.sections()
        sections[name, reader[name]["type"]] = reader[name]
    ((user, _),) = [key for key in sections if key[1] == "endpoint"]
    endpoint = sections[user, "endpoint"]
    assert (endpoint["auth"], "auth") in sections
    assert (endpoint["aors"], "aor") in sections
    assert sections[endpoint["auth"], "auth"]["username"] == user


def test_kamailio_takes_its_configuration(tmp_path: Path) -> None:
    program = shutil.which("kamailio") or shutil.which("kamailio", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip("kamailio is not installed")
    ((_, text),) = blocks("kamailio")
    path = tmp_path / "kamailio.cfg"
    path.write_text(text, encoding="utf-8")
    checked = subprocess.run([program, "-c", "-f", path], capture_output=True, text=True, timeout=20, check=False)
    assert checked.returncode == 0, checked.stderr
