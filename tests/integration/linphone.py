"""Linphone's console telephone (Debian: linphone-cli) for tests: sounds from files, commands by its input."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path

from telephone_process import end

_CONFIG = """\
[sip]
sip_port={port}
sip_tcp_port=0
sip_tls_port=0
guess_hostname=0
use_ipv6=0
ipv6_migration_done=1
contact="caller" <sip:{user}@127.0.0.1>
media_encryption={encryption}
[net]
mtu=1300
[sound]
echocancellation=0
"""
_KNOWN = """\
[auth_info_0]
username={user}
passwd={password}
realm={realm}
"""
_REGISTERED = """\
[proxy_0]
reg_proxy=<sip:{registrar}>
reg_identity=<sip:{user}@{registrar}>
reg_expires=300
reg_sendregister=1
"""


class Linphone:
    """A running linphonec, with a home of its own in ``folder``."""

    def __init__(
        self, program: str, folder: Path, *, port: int, user: str = "caller", encryption: str = "none",
        realm: str = "", password: str = "", registrar: str = "",
    ) -> None:  # fmt: skip
        """``encryption`` is ``none`` or ``srtp``; ``registrar`` is ``host:port`` of where it registers."""
        # Without the folder of its database it opens no port either.
        (folder / ".local/share/linphone").mkdir(parents=True)
        known = _KNOWN.format(user=user, realm=realm, password=password) if password else ""
        known += _REGISTERED.format(user=user, registrar=registrar) if registrar else ""
        self._changed = threading.Condition()
        self.said = ""
        (folder / "linphonerc").write_text(_CONFIG.format(port=port, user=user, encryption=encryption) + known, "utf-8")
        self.process = subprocess.Popen(
            [program, "-c", str(folder / "linphonerc")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=folder,
            env={**os.environ, "HOME": str(folder)},
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.wait("linphonec>")
        self.do("soundcard use files")

    def _read(self) -> None:
        assert self.process.stdout is not None
        while data := os.read(self.process.stdout.fileno(), 65536):
            with self._changed:
                self.said += data.decode("utf-8", "replace")
                self._changed.notify_all()

    def do(self, command: str) -> None:
        """Type a command."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n".encode())
        self.process.stdin.flush()

    def wait(self, *texts: str, timeout: float = 15.0, since: int = 0) -> None:
        """Until it has said one of ``texts``, at any time or behind that many characters."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while not any(text in self.said[since:] for text in texts):
                left = deadline - time.monotonic()
                assert left > 0, f"linphone never said {texts}: {self.said[-2000:]}"
                self._changed.wait(left)

    def close(self) -> None:
        """End it; a call that goes on is hung up."""
        if self.process.poll() is None:
            said = len(self.said)
            self.do("terminate all")
            # It writes its file when the call is over, and forgets it when it quits before.
            self.wait(" ended (", "No active calls", since=said)
            self.do("quit")
        end(self.process, self._reader)
