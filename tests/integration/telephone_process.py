"""What the telephones of the tests that are programs of others have in common: how they end."""

from __future__ import annotations

import subprocess
import threading


def end(process: subprocess.Popen[bytes] | subprocess.Popen[str], reader: threading.Thread) -> None:
    """Wait for a program that was asked to end, by force after 5 s, and for the thread that reads what it says."""
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    reader.join(5)
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
