"""In the steady state the media thread allocates nothing: counted in a process of its own, around malloc itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[2]

PROGRAM = """
import ctypes, socket, sys
import numpy as np
from aiphone.events import RtpStream
from aiphone.media.engine import MediaEngine
from aiphone.media.ports import RtpPortPool
from aiphone.native import rtp

shim = ctypes.CDLL(None)
armed, counted = ctypes.c_int.in_dll(shim, "armed"), ctypes.c_long.in_dll(shim, "counted")
engine = MediaEngine(2)
engine.start()
peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
peer.bind(("127.0.0.1", 0))
peer.settimeout(5)
pair = RtpPortPool("127.0.0.1", 45000, 45999).open()
name = peer.getsockname()
call = engine.add("c1", pair, RtpStream("127.0.0.1", name[1], 0, "PCMU", 101, 20, send=True, receive=True))
noise = np.random.default_rng(1).integers(0, 255, 160, np.uint8).tobytes()
for i in range(75):
    peer.recv(2048)  # the engine's packets are the clock
    if i == 5:
        call.send_digits("1")
    if i % 10 == 0:
        call.write(np.full(1600, 3000, np.int16))
    if i % 13:  # some are lost
        peer.sendto(rtp.build(8 if 30 < i < 40 else 0, False, i, 160 * i, 7, noise), ("127.0.0.1", pair.port))
    if i == 55:
        peer.sendto(b"rubbish", ("127.0.0.1", pair.port))
    call.read(100)
    armed.value = i >= 2
armed.value = 0
print("counted", counted.value, call.stats().packets_received)
engine.stop()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="preloading is done the Linux way")
def test_the_media_thread_allocates_nothing(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler; install one (Debian: build-essential)")
    shim = tmp_path / "allocations.so"
    subprocess.run([compiler, "-O1", "-fPIC", "-shared", HERE / "allocations.c", "-o", shim], check=True, timeout=60)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "LD_PRELOAD": str(shim), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    word, counted, received = done.stdout.split()
    assert word == "counted"
    assert int(received) > 40
    assert int(counted) == 0
