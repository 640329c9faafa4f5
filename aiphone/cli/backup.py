"""``whisper-talk-llama backup FILE``: a copy of the database, also while the server runs."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from aiphone.config import default_data_dir
from aiphone.store.database import backup_database
from aiphone.store.store import DATABASE, KEY


def add_arguments(subparsers: Any) -> None:
    """Add the ``backup`` command to an ``argparse`` subparsers object."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "backup",
        help="copy the database of calls and settings",
        description=f"{__doc__} To restore it: stop the server, put the copy in the place of {DATABASE} in the data "
        f"directory, and remove {DATABASE}-wal and {DATABASE}-shm beside it.",
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="where to put the copy; must not exist")
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        type=Path,
        default=None,
        help="the server's data directory, if not the usual one",
    )


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status. Raises ``StorageError`` when there is no copy at the end."""
    directory: Path = args.data_dir or default_data_dir(os.environ)
    backup_database(directory / DATABASE, args.file)
    print(f"Copied to {args.file} ({args.file.stat().st_size:,} bytes).")
    key = directory / KEY
    if key.exists():
        print(f"Passwords in it need the key file {key}: keep a copy of that in another place.")
    print("Recordings are not in it.")
    return 0
