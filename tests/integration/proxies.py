"""What large installations put in front of a telephone system: a dispatcher (Kamailio), a relay of media (rtpengine).

with Kamailio(program, {}, folder, template=dispatcher([5060, 5062], folder)) as proxy: ...
with RtpEngine(program) as relay, Kamailio(program, {}, folder, template=relaying(relay, "127.0.0.1:5060")): ...
"""

from __future__ import annotations

import re
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import pytest

from benchmarks.kamailio import BASE, ROUTE, free_port

_START = 10.0

_REST = """\
    if (has_totag()) {
        if (loose_route()) {
            %(within)s
            t_relay();
        } else if (is_method("ACK") && t_check_trans()) {
            t_relay();
        }
        exit;
    }
    if (is_method("OPTIONS")) {
        sl_send_reply("200", "OK");
        exit;
    }
    record_route();
    %(first)s
    t_relay();
}

%(routes)s
"""


def _template(modules: str, first: str, routes: str, within: str = "") -> str:
    def literal(text: str) -> str:
        return text.replace("{", "{{").replace("}", "}}")

    rest = _REST % {"within": within, "first": first, "routes": routes}
    return BASE + literal(modules) + "\n" + ROUTE + literal(rest)


def dispatcher(ports: Sequence[int], folder: Path) -> str:
    """Calls go in turn to those servers of ours that answer its OPTIONS; to the next when one does not answer."""
    places = folder / "dispatcher.list"
    places.write_text("".join(f"1 sip:127.0.0.1:{port}\n" for port in ports), encoding="utf-8")
    modules = f"""\
loadmodule "dispatcher.so"
modparam("dispatcher", "list_file", "{places}")
modparam("dispatcher", "flags", 2)
modparam("dispatcher", "xavp_dst", "_dsdst_")
modparam("dispatcher", "ds_ping_interval", 1)
modparam("dispatcher", "ds_ping_method", "OPTIONS")
modparam("dispatcher", "ds_probing_mode", 1)
modparam("dispatcher", "ds_probing_threshold", 1)
modparam("dispatcher", "ds_inactive_threshold", 1)
modparam("tm", "fr_timer", 1500)
event_route[dispatcher:dst-down] {{ xlog("L_NOTICE", "$ru is down\\n"); }}
event_route[dispatcher:dst-up] {{ xlog("L_NOTICE", "$ru is up\\n"); }}
"""
    first = """\
if (!ds_select_dst("1", "4")) { sl_send_reply("503", "Nobody There"); exit; }
    xlog("L_NOTICE", "$ci goes to $du\\n");
    t_on_failure("NEXT");"""
    routes = """\
failure_route[NEXT] {
    if (t_is_canceled()) exit;
    if (t_branch_timeout() || t_check_status("503")) {
        if (ds_next_dst()) {
            xlog("L_NOTICE", "$ci goes on to $du\\n");
            t_on_failure("NEXT");
            t_relay();
        }
    }
}"""
    return _template(modules, first, routes)


class RtpEngine:
    """The relay, in user space. Use it in a ``with`` block."""

    def __init__(self, program: str) -> None:
        self._program = program
        self.control = free_port()
        self.ports = range(23_000, 23_100)
        """Where it relays."""

    def __enter__(self) -> RtpEngine:
        self._process = subprocess.Popen(
            [self._program, "--table=-1", "--interface=127.0.0.1", f"--listen-ng=127.0.0.1:{self.control}",
             "--foreground", "--log-stderr", "--log-level=4", f"--port-min={self.ports.start}",
             f"--port-max={self.ports.stop - 1}", "--num-threads=1", "--config-file=none"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + _START
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.settimeout(0.1)
            probe.connect(("127.0.0.1", self.control))
            while True:
                try:
                    probe.send(b"1 d7:command4:pinge")
                    probe.recv(4096)
                except (TimeoutError, ConnectionRefusedError):
                    if self._process.poll() is not None or time.monotonic() > deadline:
                        self.__exit__(None, None, None)
                        pytest.fail("rtpengine does not start")
                else:
                    return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()


def relaying(relay: RtpEngine, server: str, *, encrypted_for: str) -> str:
    """Calls go to ``server`` (``host:port``), and their media through the relay both ways.

    Towards the user ``encrypted_for`` with SRTP, to the caller without.
    """
    modules = f"""\
loadmodule "rtpengine.so"
modparam("rtpengine", "rtpengine_sock", "udp:127.0.0.1:{relay.control}")
"""
    flags = "trust-address replace-origin replace-session-connection ICE=remove"
    first = f"""\
if ($rU == "{encrypted_for}") {{
        rtpengine_offer("{flags} RTP/SAVP SDES-only-AES_CM_128_HMAC_SHA1_80 DTLS=off");
    }} else {{
        rtpengine_offer("{flags} RTP/AVP");
    }}
    t_on_reply("ANSWER");
    $du = "sip:{server}";"""
    routes = f"""\
onreply_route[ANSWER] {{
    if (has_body("application/sdp")) rtpengine_answer("{flags} RTP/AVP");
}}"""
    return _template(modules, first, routes, within='if (is_method("BYE")) rtpengine_delete();')


def destinations(log: str) -> list[int]:
    """The ports that the dispatcher's calls went to in the end, by its log."""
    return list(map(int, dict(re.findall(r"(\S+) goes (?:on )?to sip:127\.0\.0\.1:(\d+)", log)).values()))
