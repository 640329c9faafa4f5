"""The store: everything this phone system remembers, in one SQLite database in the data directory.

Each of the classes that ``Store`` is made of adds one subject to the one below it:

    Database        the file: opening, transactions, check, backup
    SettingTables   settings, audit log
    ClientTables    SIP clients and their passwords, personas
    CallTables      calls, words, turns; history search
    Dashboard       latency percentiles, calls by the hour
    Forgetting      retention, forgetting a caller

Conversations that the language model goes on from in the next call are kept elsewhere, see ``sessions``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from aiphone.store.forgetting import Forgetting

DATABASE = "aiphone.db"
"""Name of the database in the data directory."""
KEY = "aiphone.key"
"""Name of the key file in the data directory."""


class Store(Forgetting):
    """The store of a server. Any thread.

    A write that returned is on the disk; it takes milliseconds, and longer when others write, so the main thread
    leaves it to another one. Reads of single records take well under a millisecond.

    ``path`` is the database, made when there is none, and brought up to date when it is older; ``key_path`` is the
    key file for passwords, made with the first of them; ``wall`` is the wall clock (seconds since 1970), since what
    is stored outlives the process; ``exclusive`` False is for a command that works beside a running server. Raises
    ``StorageError`` when the database is damaged, newer, in use by another server, or cannot be written, and says
    what to do.
    """

    def __init__(
        self, path: Path, key_path: Path, wall: Callable[[], float] = time.time, *, exclusive: bool = True
    ) -> None:
        super().__init__(path, key_path, wall, exclusive=exclusive)
