"""The configuration file: TOML with the names of the long flags, and ``[[lines]]`` for SIP accounts.

greeting = "Good day, this is {name}."
max-calls = 20

[[lines]]
client_id = "reception"
username = "1001"
password = "..."
server_ip = "192.168.1.10"
"""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from aiphone.config import LineSettings, Settings, check_range, options
from aiphone.errors import ConfigError

_KINDS = {str: "a text in quotes", int: "a whole number", float: "a number", bool: "true or false"}


def read_config_file(path: Path) -> dict[str, Any]:
    """Values for ``Settings``, by field name.

    Raises ``ConfigError`` for a file that cannot be read or is not TOML, a key that does not exist (naming the
    nearest one that does), a value of another type or out of range.
    """
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise ConfigError(f"there is no configuration file {path}; check the path given with --config") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the configuration file {path} cannot be read: {error}") from None
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"the configuration file {path} is not valid TOML: {error}") from None

    known = {option.flags[-1].lstrip("-"): (name, default, option) for name, default, option in options()}
    values: dict[str, Any] = {}
    for key, value in document.items():
        if key == "lines":
            values["lines"] = _lines(path, value)
            continue
        spelled = key.replace("_", "-")
        if spelled not in known:
            raise ConfigError(_unknown(path, key, [*known, "lines"]))
        name, default, option = known[spelled]
        values[name] = _typed(path, key, value, type(default))
        check_range(f"{key} in {path}", values[name], option)
    return values


def _lines(path: Path, tables: object) -> tuple[LineSettings, ...]:
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ConfigError(f"lines in {path} takes tables; write each SIP account under a [[lines]] heading")
    lines = []
    known = {item.name: item for item in fields(LineSettings)}
    for table in tables:
        for key, value in table.items():
            if key not in known:
                raise ConfigError(_unknown(path, key, list(known), "[[lines]] "))
            where = f"{key} of [[lines]]"
            if str(known[key].type).startswith("tuple"):
                if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
                    raise ConfigError(f'{where} in {path} takes texts in brackets, as in {key} = ["one", "two"]')
                table[key] = tuple(value)
            else:
                kind = {"int": int, "bool": bool, "float": float}.get(str(known[key].type), str)
                table[key] = _typed(path, where, value, kind)
        for name, item in known.items():
            if item.default is MISSING and not table.get(name):
                raise ConfigError(f'a [[lines]] table in {path} has no {name}; add {name} = "..."')
        line = LineSettings(**table)
        if line.transport not in ("udp", "tcp", "tls"):
            raise ConfigError(f"transport of [[lines]] in {path} is '{line.transport}'; it takes udp, tcp or tls")
        if not 1 <= line.server_port <= 65_535:
            raise ConfigError(f"server_port of [[lines]] in {path} is {line.server_port}; it takes 1 to 65535")
        lines.append(line)
    names = [line.client_id for line in lines]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two [[lines]] tables in {path} have the client_id '{name}'; give each its own")
    return tuple(lines)


def _typed(path: Path, key: str, value: object, kind: type) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        shown = "of another type" if "password" in key else _shown(value)
        raise ConfigError(f"{key} in {path} is {shown}; it takes {_KINDS[kind]}")
    return value


def _shown(value: object) -> str:
    return f"the text '{value}'" if isinstance(value, str) else str(value).lower()


def _unknown(path: Path, key: str, known: list[str], where: str = "") -> str:
    near = difflib.get_close_matches(key.replace("_", "-"), known, 1, 0.5) or difflib.get_close_matches(
        key, known, 1, 0.5
    )
    cure = f"did you mean '{near[0]}'?" if near else f"the keys are {', '.join(sorted(known))}"
    return f"{path} has an unknown {where}key '{key}'; {cure}"


def make_settings(*layers: dict[str, Any]) -> Settings:
    """Settings from layers of values, the later ones winning, checked."""
    merged: dict[str, Any] = {}
    for layer in layers:
        merged.update(layer)
    return Settings(**merged).check()
