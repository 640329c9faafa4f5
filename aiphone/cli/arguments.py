"""The command line, made from the table of settings."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from aiphone import __version__
from aiphone.config import GROUPS, Option, options
from aiphone.errors import ConfigError

PROGRAM = "whisper-talk-llama"

_INAPPLICABLE = {
    ("-c", "--capture"): "the capture device: callers are heard through the telephone",
    ("-vms", "--voice-ms"): "the length of a recording: a turn ends when the caller stops (see --patience)",
    ("-fth", "--freq-thold"): "the high-pass filter of the microphone: the voice detector does not need it (see -vth)",
    ("-ps", "--print-special"): "special tokens: they are never part of what was said",
    ("-pe", "--print-energy"): "the microphone's energy: levels are shown for each call on the web page",
    ("-vp", "--verbose-prompt"): "printing the prompt: use --log-level debug",
    ("--min-keep",): "min-keep: llama.cpp's default of 1 is used",
}
"""Flags of whisper.cpp's talk-llama that mean nothing on a telephone, and what to say of them."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, as an exception."""

    def error(self, message: str) -> NoReturn:
        unknown = re.match(r"unrecognized arguments: (\S+)", message)
        if unknown:
            raise ConfigError(
                _unknown(unknown[1], [flag for action in self._actions for flag in action.option_strings])
            )
        raise ConfigError(f"{message}; see {self.prog} -h")


def _unknown(word: str, flags: Sequence[str]) -> str:
    for names, meaning in _INAPPLICABLE.items():
        if word in names:
            return f"{word} does not apply here ({meaning}); leave it out"
    if not word.startswith("-"):
        return f"'{word}' is not a command; see {PROGRAM} -h"
    near = difflib.get_close_matches(word, flags, 1, 0.6)
    return f"there is no flag {word}; " + (f"did you mean {near[0]}?" if near else f"see {PROGRAM} -h")


def build_parser() -> _Parser:
    """The parser of the server's flags. Flags that were not given are absent from the result."""
    parser = _Parser(
        prog=PROGRAM,
        description="An AI that answers the telephone. Without flags: starter models, a SIP number, a web page.",
        epilog="commands: 'models' (list, pull, path, verify), 'sessions' (list, show, forget, export), "
        "'backup', 'passwd', 'call', 'doctor'; "
        f"each has its own help, as in '{PROGRAM} models -h'",
        argument_default=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    parser.add_argument("--config", metavar="FILE", help="TOML file: the same names, and [[lines]] for SIP accounts")
    groups = {name: parser.add_argument_group(title) for name, title in GROUPS.items()}
    for name, default, option in options():
        add_option(groups[option.group], name, default, option)
    return parser


def add_option(group: Any, name: str, default: object, option: Option) -> None:
    """Add one setting to a parser or group."""
    if isinstance(default, bool):
        group.add_argument(*option.flags, dest=name, action="store_true", help=option.help)
        return
    shown = "" if default in ("", None) else f" [{default}]"
    group.add_argument(
        *option.flags,
        dest=name,
        type=type(default),
        metavar=option.metavar,
        help=(option.help + shown).replace("%", "%%"),
    )


def parse(arguments: Sequence[str]) -> dict[str, Any]:
    """The values that were given, by field name of ``Settings``, and ``config`` when given.

    Raises ``ConfigError`` for a flag that does not exist, does not apply, or has a value of another type.
    """
    for word in arguments:
        # Before argparse, which would take -fth for -f with the value "th".
        if any(word in names for names in _INAPPLICABLE):
            raise ConfigError(_unknown(word, ()))
    parser = build_parser()
    known, rest = parser.parse_known_args(list(arguments))
    if rest:
        raise ConfigError(_unknown(rest[0], [flag for action in parser._actions for flag in action.option_strings]))
    return vars(known)
