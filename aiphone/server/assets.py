"""Where the files of the web page are."""

from __future__ import annotations

from pathlib import Path

from aiphone.errors import StorageError

_PACKAGE = Path(__file__).resolve().parent.parent


def web_root() -> Path:
    """The directory with ``index.html``: ``aiphone/web`` in an installed package, ``web/`` in a checkout. Any thread.

    Raises:
        StorageError: the installation has no page.
    """
    for candidate in (_PACKAGE / "web", _PACKAGE.parent / "web"):
        if (candidate / "index.html").is_file():
            return candidate
    raise StorageError(f"the web page is missing from {_PACKAGE / 'web'}: install the package again")
