"""``whisper-talk-llama passwd``: the password of the web page.

Asks for it twice on a terminal; otherwise it is the first line of standard input. A server that is running takes it
within seconds, and signs everybody out.
"""

from __future__ import annotations

import argparse
import getpass
import sys
from pathlib import Path
from typing import Any

from aiphone.errors import ConfigError
from aiphone.server.auth import set_password
from aiphone.store.store import DATABASE, KEY, Store


def add_arguments(subparsers: Any) -> None:
    """Add the ``passwd`` command to an ``argparse`` subparsers object."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "passwd", help="set the password of the web page", description=__doc__
    )
    parser.add_argument("--data-dir", metavar="DIR", type=Path, help="where the server keeps its files")


def run(args: argparse.Namespace) -> int:
    """Set the password in ``args.data_dir``; 0. Raises ``ConfigError`` or ``StorageError``."""
    directory: Path = args.data_dir
    password = _ask() if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    store = Store(directory / DATABASE, directory / KEY, exclusive=False)
    try:
        set_password(store, password)
        store.audit("terminal", "change", "password")
    finally:
        store.close()
    print("The password is set.")
    return 0


def _ask() -> str:
    password = getpass.getpass("New password of the web page: ")
    if getpass.getpass("Once more: ") != password:
        raise ConfigError("the two passwords differ; nothing was changed, start again")
    return password
