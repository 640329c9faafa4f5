"""The parsers and the engine's command queue, fuzzed for a few seconds under sanitizers.

The long run is ``python -m tests.fuzz --seconds 600``.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(sys.platform != "linux" or shutil.which("gcc") is None, reason="sanitizers need gcc on Linux"),
]

ROOT = Path(__file__).parent.parent.parent
LIMIT = 540.0
"""The first run compiles the extensions again, with sanitizers."""


def fuzz(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.fuzz", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT, check=False)


def test_a_planted_read_behind_the_packet_is_found() -> None:
    done = fuzz("planted", "--seconds", "30")
    assert done.returncode == 99
    assert "heap-buffer-overflow" in done.stderr
    assert "fuzz_planted" in done.stderr
    found = re.search(r"its input is (.+)", done.stderr)
    assert found is not None
    data = Path(found[1]).read_bytes()
    assert data[:3] == b"\x80\xc9\x7f"
    Path(found[1]).unlink()


def test_nothing_is_found_in_the_parsers_and_the_engine() -> None:
    done = fuzz("--seconds", "5")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    runs = dict(re.findall(r"(\w+): (\d+) runs", done.stdout))
    assert set(runs) == {"rtp", "rtcp", "telephone_event", "jitter", "engine"}
    assert all(int(count) >= 20 for count in runs.values()), runs
