"""Twinkle as a telephone that speaks from an array and keeps what it hears: no sound card, no display.

Its microphone is a pipe that is filled in real time, which is also its clock; its loudspeaker is a file.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from pathlib import Path

import numpy as np

from aiphone.events import Pcm

RATE = 8000
_FRAME = 160

_SOUND = """\
pcm.mouth {{ type file slave.pcm null file /dev/null format raw infile "{mouth}" }}
pcm.ear {{ type file slave.pcm null file "{ear}" format raw }}
ctl.!default {{ type null }}
"""
_SYSTEM = "dev_ringtone=alsa:null\ndev_speaker=alsa:ear\ndev_mic=alsa:mouth\nsip_port={port}\nrtp_port={rtp}\n"
_PROFILE = """\
user_name=twinkle
user_domain=127.0.0.1
user_display=Twinkle
register_at_startup=no
codecs=g711u,g711a
"""


class Twinkle:
    """The process; ``close`` it."""

    def __init__(self, program: str, folder: Path, *, port: int, rtp_port: int) -> None:
        home = folder / "twinkle"
        (home / ".twinkle").mkdir(parents=True)
        mouth, self._ear = home / "mouth", home / "ear"
        os.mkfifo(mouth)
        # Open for reading too: neither end waits for the other, and there is always one who writes.
        self._mouth = os.open(mouth, os.O_RDWR)
        (home / ".asoundrc").write_text(_SOUND.format(mouth=mouth, ear=self._ear), "utf-8")
        (home / ".twinkle/t.cfg").write_text(_PROFILE, "utf-8")
        (home / ".twinkle/twinkle.sys").write_text(_SYSTEM.format(port=port, rtp=rtp_port), "utf-8")
        self._says: list[bytes] = []
        self._over = threading.Event()
        self.process = subprocess.Popen(
            [program, "t.cfg"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            text=True, env={**os.environ, "HOME": str(home)},
        )  # fmt: skip
        self._thread = threading.Thread(target=self._speak, daemon=True)
        self._thread.start()

    def do(self, command: str) -> None:
        """A line of its console."""
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def say(self, pcm: Pcm) -> None:
        """Speak; int16 at 8 kHz."""
        data = pcm.astype(np.int16).tobytes()
        self._says += [data[at : at + 2 * _FRAME].ljust(2 * _FRAME, b"\0") for at in range(0, len(data), 2 * _FRAME)]

    def heard(self) -> Pcm:
        """What came out of its loudspeaker so far; int16 at 8 kHz."""
        data = self._ear.read_bytes()
        return np.frombuffer(data[: len(data) // 2 * 2], np.int16)

    def listen(self, seconds: float) -> None:
        """Until that much more has come out of its loudspeaker."""
        wanted = self._ear.stat().st_size + int(2 * RATE * seconds)
        deadline = time.monotonic() + seconds + 5
        while self._ear.stat().st_size < wanted:
            assert time.monotonic() < deadline, "twinkle hears nothing"
            time.sleep(0.02)

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(OSError, ValueError):
            self.do("quit")
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self._over.set()
        self._thread.join(5)
        os.close(self._mouth)

    def _speak(self) -> None:
        os.set_blocking(self._mouth, False)
        due = time.monotonic()
        while not self._over.wait(max(0.0, due - time.monotonic())):
            due += _FRAME / RATE
            # What nobody reads, before a call and after it, is not kept.
            with contextlib.suppress(BlockingIOError):
                os.write(self._mouth, self._says.pop(0) if self._says else bytes(2 * _FRAME))
