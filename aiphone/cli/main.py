"""The console command: sub-commands, errors and exit codes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from aiphone.cli.arguments import PROGRAM, parse
from aiphone.config import Settings, default_data_dir, default_models_dir
from aiphone.config_file import make_settings, read_config_file
from aiphone.errors import AiphoneError

_COMMANDS = ("models", "sessions", "doctor", "backup", "passwd", "call")


def main(arguments: Sequence[str]) -> int:
    """Run the command with these arguments and return its exit status.

    An ``AiphoneError`` becomes its one sentence on standard error and its exit code; any other exception is a
    defect and shows its traceback.
    """
    try:
        if arguments and arguments[0] in _COMMANDS:
            return _command(arguments[0], arguments[1:])
        settings = read_settings(arguments)
        from aiphone.cli.serve import serve

        return serve(settings)
    except AiphoneError as error:
        sys.stderr.write(f"{PROGRAM}: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output went away (as with "| head"); nothing is left to say to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


MAY_BE_EMPTY = ("filler", "greeting")
"""Flags whose empty text is an answer: nothing is said."""


def read_settings(arguments: Sequence[str]) -> Settings:
    """Settings from the flags and, below them, the configuration file; directories filled in."""
    given = parse(arguments)
    config = given.pop("config", None)
    layers = [read_config_file(Path(config))] if config is not None else []
    directories = {
        "data_dir": str(default_data_dir(os.environ)),
        "models_dir": str(default_models_dir(os.environ)),
    }
    # The empty text of a script's unset variable is no flag.
    flags = {name: value for name, value in given.items() if value != "" or name in MAY_BE_EMPTY}
    return make_settings(directories, *layers, flags)


def _command(name: str, arguments: Sequence[str]) -> int:
    from aiphone.cli import backup, call, doctor, models, passwd, sessions

    parser = argparse.ArgumentParser(prog=PROGRAM)
    subparsers = parser.add_subparsers(required=True)
    add: dict[str, Callable[..., object]] = {
        "models": models.add_arguments,
        "sessions": sessions.add_arguments,
        "doctor": doctor.add_arguments,
        "backup": backup.add_arguments,
        "passwd": passwd.add_arguments,
        "call": call.add_arguments,
    }
    add[name](subparsers)
    if name == "doctor":
        # The doctor looks at the system that the server's flags describe. Its own are taken out by hand: argparse
        # would read -hp as -h.
        if "-h" in arguments or "--help" in arguments:
            parser.parse_args([name, "-h"])
        flags = [word for word in arguments if word != doctor.NO_CALL]
        return doctor.run(read_settings(flags), call=len(flags) == len(arguments))
    args = parser.parse_args([name, *arguments])
    if getattr(args, "data_dir", None) is None:
        args.data_dir = default_data_dir(os.environ)
    args.models_dir = default_models_dir(os.environ)
    run: dict[str, Callable[[argparse.Namespace], int]] = {
        "models": models.run,
        "sessions": sessions.run,
        "backup": backup.run,
        "passwd": passwd.run,
        "call": call.run,
    }
    return run[name](args)
