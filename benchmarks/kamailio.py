"""Kamailio as the PBX of tests and benchmarks: a registrar with digest, and a proxy for calls between its users.

    with Kamailio(program, {"1001": "secret"}, folder) as pbx:
        caller.call(pbx.uri("1001"))

It listens on one free port of 127.0.0.1 (or of ``host``), UDP and TCP, and keeps users and locations in memory.
"""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO

REALM = "pbx.example.org"
READY_TIMEOUT = 20.0
STOP_TIMEOUT = 20.0

BASE = """\
#!KAMAILIO
debug=2
log_stderror=yes
fork=yes
children=2
tcp_children=1
auto_aliases=no
dns=no
rev_dns=no
listen=udp:{host}:{port}
listen=tcp:{host}:{port}
{tls}

loadmodule "tm.so"
loadmodule "sl.so"
loadmodule "rr.so"
loadmodule "pv.so"
loadmodule "maxfwd.so"
loadmodule "textops.so"
loadmodule "siputils.so"
loadmodule "xlog.so"
"""
"""What every configuration begins with; ``{host}``, ``{port}`` and ``{tls}`` are filled in."""

ROUTE = """\
request_route {{
    if (!mf_process_maxfwd_header("10")) {{
        sl_send_reply("483", "Too Many Hops");
        exit;
    }}
    if (is_method("CANCEL")) {{
        if (t_check_trans()) t_relay();
        exit;
    }}
"""
"""How every request is dealt with first; the rest of ``request_route`` follows."""

_CONFIG = (
    BASE
    + """\
loadmodule "htable.so"
loadmodule "usrloc.so"
loadmodule "registrar.so"
loadmodule "auth.so"

modparam("usrloc", "db_mode", 0)
modparam("registrar", "min_expires", 10)
modparam("registrar", "max_contacts", 1)
modparam("htable", "htable", "passwords=>size=4;")
modparam("rr", "enable_double_rr", 1)

event_route[htable:mod-init] {{
{passwords}
}}

"""
    + ROUTE
    + """\
    if (has_totag()) {{
        if (loose_route()) {{
            t_relay();
        }} else if (!is_method("ACK")) {{
            sl_send_reply("404", "Not Here");
        }} else if (t_check_trans()) {{
            t_relay();
        }}
        exit;
    }}
    t_check_trans();
    if (is_method("REGISTER")) {{
        if ($sht(passwords=>$au) == $null
                || !pv_www_authenticate("{realm}", "$sht(passwords=>$au)", "0") || $au != $tU) {{
            www_challenge("{realm}", "1");
            exit;
        }}
        if (!save("location")) sl_reply_error();
        if (registered("location", "$tu", 2)) {{
            xlog("L_NOTICE", "$tU is now there\\n");
        }} else {{
            xlog("L_NOTICE", "$tU is now away\\n");
        }}
        exit;
    }}
    if (is_method("OPTIONS") && $rU == $null) {{
        sl_send_reply("200", "OK");
        exit;
    }}
    if (is_method("INVITE")) {{
        if ($sht(passwords=>$au) == $null
                || !pv_proxy_authenticate("{realm}", "$sht(passwords=>$au)", "0")) {{
            proxy_challenge("{realm}", "1");
            exit;
        }}
        consume_credentials();
        record_route();
    }}
    if (!lookup("location")) {{
        sl_send_reply("404", "Not Found");
        exit;
    }}
    xlog("L_NOTICE", "$rm for $tU goes to $ru\\n");
    t_relay();
}}
"""
)


_TLS = """\
listen=tls:{host}:{port}
enable_tls=yes
loadmodule "tls.so"
modparam("tls", "private_key", "{certificate}")
modparam("tls", "certificate", "{certificate}")
modparam("tls", "tls_method", "{method}")
{ciphers}
"""
_READABLE = ("TLSv1.2", 'modparam("tls", "cipher_list", "AES128-GCM-SHA256")')
"""Keys exchanged under the server's own RSA key: who has it can read what was captured."""


class KamailioError(Exception):
    """Kamailio did not start; the text ends with its log."""


def free_port(host: str = "127.0.0.1") -> int:
    """A port of an address of ours that is free for UDP and for TCP."""
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
            udp.bind((host, 0))
            port = int(udp.getsockname()[1])
            try:
                tcp.bind((host, port))
            except OSError:
                continue
            return port


class Kamailio:
    """The process. Use it in a ``with`` block; any one thread."""

    def __init__(
        self, program: str, passwords: Mapping[str, str], folder: Path, host: str = "127.0.0.1",
        certificate: str = "", *, readable: bool = False, template: str = _CONFIG,
    ) -> None:  # fmt: skip
        """``program`` is the path of kamailio, ``passwords`` are by user name, ``folder`` is for its files.

        With a ``certificate`` (PEM, its key in the same file) it listens for TLS too, at ``tls_port``,
        and with ``readable`` in a way that a capture can be read with that key (then it must be RSA). Another
        ``template`` than the registrar's is a configuration with ``{host}`` and ``{port}`` in it.
        """
        self.tls_port = free_port(host) if certificate else 0
        method, ciphers = _READABLE if readable else ("TLSv1.2+", "")
        tls = _TLS.format(host=host, port=self.tls_port, certificate=certificate, method=method, ciphers=ciphers)
        tls = tls if certificate else ""
        self.host = host
        self.port = free_port(host)
        self._log_path = folder / "kamailio.log"
        self._log: IO[bytes] | None = None
        self._config = folder / "kamailio.cfg"
        self._folder = folder
        lines = "\n".join(f'    $sht(passwords=>{user}) = "{word}";' for user, word in passwords.items())
        self._config.write_text(
            template.format(host=host, port=self.port, passwords=lines, realm=REALM, tls=tls), encoding="utf-8"
        )
        self._program = program

    def __enter__(self) -> Kamailio:
        self.start()
        return self

    def start(self) -> None:
        """Start it, again after ``stop``: then it has forgotten who was there, and its log begins anew."""
        self._log = self._log_path.open("wb")
        # -DD: in the foreground, with its workers; -m and -M: memory in MB, far less than its default.
        self._process = subprocess.Popen(
            [
                self._program,
                *("-DD", "-E", "-m", "32", "-M", "8"),
                "-f",
                self._config,
                "-w",
                self._folder,
                "-Y",
                self._folder,
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        try:
            self._wait_ready()
        except BaseException:
            self.stop()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def log(self) -> str:
        """What it said so far."""
        return self._log_path.read_text(encoding="utf-8", errors="replace")

    @property
    def routed(self) -> list[str]:
        """``"INVITE for 1001"`` and the like, for each request that it passed on to a user."""
        return re.findall(r"([A-Z]+ for \S+) goes to", self.log)

    @property
    def registered(self) -> set[str]:
        """The users who have registered, and not taken it back."""
        last = dict(re.findall(r"(\S+) is now (there|away)", self.log))
        return {user for user, state in last.items() if state == "there"}

    def wait_registered(self, user: str) -> None:
        """Until a user has registered. Raises ``KamailioError``."""
        self._wait(lambda: user in self.registered, f"{user} did not register")

    def wait_log(self, text: str) -> None:
        """Until it has said this. Raises ``KamailioError``."""
        self._wait(lambda: text in self.log, f"no {text!r}")

    def _wait(self, seen: Callable[[], bool], otherwise: str) -> None:
        end = time.monotonic() + READY_TIMEOUT
        while not seen():
            if time.monotonic() > end:
                raise KamailioError(f"{otherwise}:\n{self.log}")
            time.sleep(0.02)

    def uri(self, user: str) -> str:
        """The address of a user."""
        return f"sip:{user}@{self.host}:{self.port}"

    def stop(self) -> None:
        """End it with its workers."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._log is not None:
            self._log.close()

    def _wait_ready(self) -> None:
        ping = (
            f"OPTIONS sip:{self.host}:{self.port} SIP/2.0\r\nVia: SIP/2.0/UDP {self.host}:{{}};branch=z9hG4bKping\r\n"
            "From: <sip:test@127.0.0.1>;tag=1\r\nTo: <sip:127.0.0.1>\r\nCall-ID: ping\r\nCSeq: 1 OPTIONS\r\n"
            "Max-Forwards: 5\r\nContent-Length: 0\r\n\r\n"
        )
        end = time.monotonic() + READY_TIMEOUT
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((self.host, 0))
            probe.settimeout(0.1)
            while time.monotonic() < end and self._process.poll() is None:
                try:
                    probe.sendto(ping.format(probe.getsockname()[1]).encode(), (self.host, self.port))
                    if probe.recv(4096).startswith(b"SIP/2.0 200"):
                        return
                except TimeoutError:
                    continue
        raise KamailioError(f"kamailio did not answer:\n{self.log}")
