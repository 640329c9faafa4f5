"""baresip as a telephone for tests: a configuration of its own in a folder, a tone as its microphone, no devices."""

from __future__ import annotations

import queue
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
from telephone_process import end

from aiphone.caller import tone, write_wav
from aiphone.events import Pcm
from aiphone.native.resample import StreamResampler

CONFIG = """\
sip_listen {host}:0
{tls}
audio_player aufile,{folder}/heard.wav
audio_source aufile,{folder}/says.wav
audio_alert aufile,/dev/null
ausrc_srate {rate}
auplay_srate {rate}
ausrc_channels 1
auplay_channels 1
rtp_timeout 60
module_path {modules}
module stdio.so
module {codec}.so
module aufile.so
module srtp.so
{recorder}
module_app account.so
module_app menu.so
"""
RECORDER = "module sndfile.so\nsnd_path {folder}"
ACCOUNT = "<sip:{user}@{server}{transport}>;regint=0{encryption};answermode=auto{rest}\n"


def modules() -> str:
    """Where Debian or Homebrew keeps baresip's modules."""
    places = ("/usr/lib/baresip/modules", "/usr/local/lib/baresip/modules", "/opt/homebrew/lib/baresip/modules")
    return next((place for place in places if Path(place).is_dir()), places[0])


class Baresip:
    """A running baresip. ``dial`` calls at its start; without, it waits for calls."""

    def __init__(
        self, program: str, folder: Path, *, encryption: str = "srtp", dial: str = "", seconds: int = 20,
        transport: str = "", tls: str = "", user: str = "baresip", server: str = "127.0.0.1", rest: str = "",
        says: Pcm | None = None, codec: str = "g711",
    ) -> None:  # fmt: skip
        """``user`` and ``server`` are its address; ``rest`` goes to the account as it is; ``codec`` is a module's name.

        ``says`` is what its microphone hears (int16 at 8 kHz), else a tone; then what it hears is in ``heard``.
        """
        folder.mkdir(exist_ok=True)
        self._folder = folder
        says_pcm = tone(440.0, float(seconds)) if says is None else says
        rate = 16_000 if codec == "g722" else 8000
        if rate != 8000:
            up = StreamResampler(8000, rate)
            says_pcm = np.concatenate([up.process(says_pcm), up.flush()])
        write_wav(folder / "says.wav", says_pcm, rate)
        config = CONFIG.format(
            folder=folder,
            modules=modules(),
            host="127.0.0.1",
            tls=tls,
            codec=codec,
            rate=rate,
            recorder=RECORDER.format(folder=folder) if says is not None else "",
        )
        (folder / "config").write_text(config, encoding="utf-8")
        encryption = f";mediaenc={encryption}" if encryption else ""
        account = ACCOUNT.format(user=user, server=server, encryption=encryption, transport=transport, rest=rest)
        (folder / "accounts").write_text(account, encoding="utf-8")
        command = [program, "-f", str(folder), "-t", str(seconds), "-v"]
        if dial:
            command += ["-e", f"/dial {dial}"]
        self.said: list[str] = []
        self._lines: queue.Queue[str] = queue.Queue()
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder,
            errors="replace",
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)

    @property
    def heard(self) -> Path:
        """What came to it, as it decoded it; a WAV file, complete when the call is over."""
        (path,) = self._folder.glob("dump-*dec.wav")
        return path

    def wait(self, text: str, timeout: float = 10.0) -> str:
        """The first line from now on that holds ``text``."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                line = self._lines.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"baresip never said {text!r}: {''.join(self.said[-40:])}") from None
            self.said.append(line)
            if text in line:
                return line

    def close(self) -> None:
        """End it; a call that goes on is hung up."""
        if self.process.poll() is None:
            self.process.terminate()
        end(self.process, self._reader)
