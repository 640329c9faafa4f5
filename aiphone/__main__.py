"""Entry point of ``python -m aiphone`` and of the console command."""

from __future__ import annotations

import os
import sys


def main() -> int:
    """Run the console command; the exit status is the error tree's."""
    # Before anything loads OpenMP: waiting threads of one model must not burn the cores that another needs. But the
    # threads of a small model meet hundreds of times for a token, some microseconds apart, and to be put to sleep and
    # woken each time takes as long as the work: so they look for some 20 us first.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    from aiphone.cli.main import main as run

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
