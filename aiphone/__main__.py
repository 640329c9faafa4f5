"""Entry point of ``python -m aiphone`` and of the console command."""

from __future__ import annotations

import sys

from aiphone.cores import wait_gently


def main() -> int:
    """Run the console command; the exit status is the error tree's."""
    wait_gently()
    from aiphone.cli.main import main as run

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
