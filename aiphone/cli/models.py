"""``whisper-talk-llama models``: list, pull, path, verify.

The main program adds this to its parser with ``add_arguments`` and calls ``run`` with what was parsed; errors leave as
``AiphoneError`` and become the exit code there.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

from aiphone.clock import SystemClock
from aiphone.errors import ConfigError, ModelError
from aiphone.models.catalogue import Catalogue, Model, load_catalogue
from aiphone.models.files import megabytes
from aiphone.models.hub import PUBLIC_HUB, HubFetcher
from aiphone.models.progress import NoProgress, Progress, ProgressBar
from aiphone.models.store import ModelStore
from aiphone.models.wheels import WheelFetcher

_QUIET = "say nothing but errors"


def add_arguments(subparsers: Any) -> argparse.ArgumentParser:
    """Add the sub-command to what ``ArgumentParser.add_subparsers`` returned; its parser.

    The caller puts ``models_dir`` (a ``Path``) into the parsed arguments before ``run``.
    """
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "models",
        help="list, download and check models",
        description="Models by name: Whisper, language models, voices, voice activity.",
    )
    actions = parser.add_subparsers(dest="models_action", metavar="ACTION", required=True)

    listing = actions.add_parser("list", help="show all models that have a name")
    listing.add_argument("--installed", action="store_true", help="only those that are here")

    pull = actions.add_parser("pull", help="download models")
    pull.add_argument("names", nargs="*", metavar="NAME", help="names as `models list` shows them")
    pull.add_argument("--starter", action="store_true", help="the set that is needed for a first call")
    pull.add_argument(
        "--hub", default=PUBLIC_HUB, metavar="URL", help="the model hub or a mirror (default: %(default)s)"
    )
    pull.add_argument("-q", "--quiet", action="store_true", help=_QUIET)

    path = actions.add_parser("path", help="print where a model's file is")
    path.add_argument("name", metavar="NAME")

    verify = actions.add_parser("verify", help="compare models with their hashes")
    verify.add_argument("names", nargs="*", metavar="NAME", help="default: all that are here")
    verify.add_argument("-q", "--quiet", action="store_true", help=_QUIET)
    return parser


def run(args: argparse.Namespace, *, catalogue: Catalogue | None = None, wheels: WheelFetcher | None = None) -> int:
    """Do what was asked in ``args.models_dir``; 0. Raises ``AiphoneError``."""
    directory: Path = args.models_dir
    hub = HubFetcher(args.hub) if args.models_action == "pull" else None
    store = ModelStore(directory, catalogue=catalogue or load_catalogue(), hub=hub, wheels=wheels)
    progress: Progress = NoProgress()
    if not getattr(args, "quiet", False):
        progress = ProgressBar(sys.stderr, SystemClock())
    if args.models_action == "list":
        _list(store, only_installed=args.installed)
    elif args.models_action == "pull":
        _pull(store, args.names, starter=args.starter, progress=progress)
    elif args.models_action == "path":
        print(store.path(args.name))
    else:
        _verify(store, args.names, progress)
    return 0


def pull_starter(store: ModelStore, progress: Progress) -> None:
    """Bring the starter set here, whatever of it is missing. For a first run."""
    for model in store.catalogue.starter:
        if not store.is_installed(model):
            store.pull(model.name, progress)


def _pull(store: ModelStore, names: list[str], *, starter: bool, progress: Progress) -> None:
    wanted = [store.catalogue.get(name) for name in names]  # all names first: a typo in the last costs no download
    if starter:
        wanted += [model for model in store.catalogue.starter if model not in wanted]
    if not wanted:
        raise ConfigError("say which models to pull: `models pull NAME ...`, or `models pull --starter`.")
    for model in wanted:
        store.pull(model.name, progress)


def _list(store: ModelStore, *, only_installed: bool) -> None:
    here = {model.name for model in store.installed()}
    rows = [("NAME", "ROLE", "SIZE", "HERE", "LICENCE", "GOOD FOR")]
    rows += [_row(model, model.name in here) for model in store.catalogue if model.name in here or not only_installed]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    room = shutil.get_terminal_size((160, 24)).columns if sys.stdout.isatty() else 1000
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        cells[2] = row[2].rjust(widths[2])
        print("  ".join([*cells, row[5]])[:room].rstrip())
    print(f"\nModels are in {store.directory}; * belongs to the starter set (`models pull --starter`).")


def _row(model: Model, here: bool) -> tuple[str, str, str, str, str, str]:
    name = f"{model.name} *" if model.starter else model.name
    return name, model.role, megabytes(model.size), "yes" if here else "-", model.licence, model.good_for


def _verify(store: ModelStore, names: list[str], progress: Progress) -> None:
    asked = [store.catalogue.get(name) for name in names] or [
        # Also those of which only a part is here: that is what somebody who types `verify` wants to hear of.
        model
        for model in store.catalogue
        if any((store.directory / file.name).exists() for file in model.files)
    ]
    bad = []
    for model in asked:
        verdict = store.verify(model.name, progress)
        print(f"{model.name}: {verdict.state}" + (f" ({verdict.detail.rstrip('.')})" if verdict.detail else ""))
        if verdict.state in ("missing", "damaged"):
            bad.append(model.name)
    if not asked:
        print(f"no models in {store.directory} yet")
    if bad:
        raise ModelError(f"{len(bad)} of {len(asked)} models failed: {', '.join(bad)}; the lines above say what to do.")
