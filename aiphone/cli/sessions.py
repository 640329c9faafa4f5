"""``whisper-talk-llama sessions list | show | forget | export --session FILE``: what the phone remembers of callers."""

from __future__ import annotations

import argparse
import datetime
import json
from pathlib import Path
from typing import Any

from aiphone.errors import StorageError
from aiphone.store.sessions import SessionStore


def add_arguments(subparsers: Any) -> None:
    """Add the ``sessions`` command to an ``argparse`` subparsers object."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "sessions", help="conversations remembered in a session file", description=__doc__
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, text, with_key in (
        ("list", "who is remembered, since when, and how much", False),
        ("show", "a conversation, as it was spoken", True),
        ("forget", "remove a caller for good", True),
        ("export", "a conversation as JSON", True),
    ):
        action = actions.add_parser(name, help=text, description=text)
        if with_key:
            action.add_argument("key", metavar="KEY", help="as 'sessions list' prints it")
        action.add_argument("--session", metavar="FILE", type=Path, required=True, help="the session file")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status. Raises ``StorageError`` for a file that cannot be read."""
    path: Path = args.session
    if not path.exists():  # opening would make one
        raise StorageError(f"The session file {path} does not exist: give the one the server was started with.")
    store = SessionStore(path, tend=False)
    try:
        if args.action == "list":
            return _list(store)
        if args.action == "show":
            return _show(store, args.key)
        if args.action == "export":
            exported = store.export(args.key)
            if exported is None:
                raise _unknown(args.key, path)
            print(json.dumps(exported, ensure_ascii=False, indent=2))
            return 0
        if not store.forget(args.key):
            raise _unknown(args.key, path)
        print(f"Forgotten: {args.key}")
        return 0
    finally:
        store.close()


def _list(store: SessionStore) -> int:
    sessions = store.list()
    if not sessions:
        print("Nobody is remembered.")
        return 0
    width = max(len("KEY"), *(len(session.key) for session in sessions))
    print(f"{'KEY':{width}}  {'LAST CALL':16}  {'MESSAGES':>8}  {'TOKENS':>7}  {'SIZE':>10}")
    for session in sessions:
        size = f"{session.bytes / 1024:,.0f} kB"
        print(
            f"{_printable(session.key):{width}}  {_when(session.updated):16}  "
            f"{session.messages:8}  {session.tokens:7}  {size:>10}"
        )
    return 0


def _show(store: SessionStore, key: str) -> int:
    conversation = store.load(key)
    if conversation is None:
        raise _unknown(key, store.path)
    print(f"{_printable(key)}, last call {_when(conversation.updated)}")
    for message in conversation.messages:
        print(f"{message.role:>9}: {_printable(message.content)}")
    return 0


def _unknown(key: str, path: Path) -> StorageError:
    return StorageError(
        f"{path} remembers no '{key}': 'whisper-talk-llama sessions list --session {path}' shows the keys."
    )


def _when(updated: float) -> str:
    return datetime.datetime.fromtimestamp(updated).astimezone().strftime("%Y-%m-%d %H:%M")


def _printable(text: str) -> str:
    """What a caller said, or calls itself, must not steer the terminal."""
    return "".join(char if char.isprintable() else " " for char in text)
