"""Lines that register: how long a hundred take, and how soon they are back when their registrar has restarted."""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.kamailio import Kamailio
from benchmarks.report import Row
from benchmarks.sip_phones import Phone

LINES = 100
DOWN = (1.0, 45.0)
"""Seconds that the registrar is away: as it takes to restart, and long enough for REGISTERs to time out (32 s)."""
TARGET = 30.0
LIMIT = 90.0
_USERS = {f"u{number}": f"word-{number}" for number in range(LINES)}


def seconds_until(done: Callable[[], bool], limit: float) -> float | None:
    """Seconds until something is so; None after ``limit``."""
    begun = time.monotonic()
    while not done():
        if time.monotonic() - begun > limit:
            return None
        time.sleep(0.02)
    return time.monotonic() - begun


def says_yes() -> list[Row]:
    """At a server that says 200 to everybody: what we need ourselves."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 0))
    server.settimeout(0.2)
    stop = threading.Event()
    kept = ("via", "from", "to", "call-id", "cseq", "contact")

    def serve() -> None:
        while not stop.is_set():
            try:
                data, source = server.recvfrom(65_535)
            except TimeoutError:
                continue
            keep = [ln for ln in data.decode().split("\r\n") if ln.partition(":")[0].lower() in kept]
            answer = ["SIP/2.0 200 OK", *keep, "Expires: 300", "Content-Length: 0", "", ""]
            server.sendto("\r\n".join(answer).encode(), source)

    thread = threading.Thread(target=serve)
    thread.start()
    with Phone() as phone:
        phone.tell(do="lines", port=server.getsockname()[1], users=_USERS)
        taken = seconds_until(lambda: phone.facts()["registered"] >= LINES, LIMIT)
    stop.set()
    thread.join()
    server.close()
    return [Row(f"{LINES} lines registered, at a server that says yes", "s", taken, 5)]


def restarts(program: str, down: tuple[float, ...]) -> list[Row]:
    """At Kamailio with digest, which is stopped and started again and has forgotten everybody."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, Kamailio(program, _USERS, Path(folder)) as kamailio, Phone() as phone:
        phone.tell(do="lines", port=kamailio.port, users=_USERS)
        taken = seconds_until(lambda: len(kamailio.registered) >= LINES, LIMIT)
        rows.append(Row(f"{LINES} lines registered, at Kamailio with digest", "s", taken, 5))
        for away in down:
            kamailio.stop()
            time.sleep(away)
            kamailio.start()
            taken = seconds_until(lambda: len(kamailio.registered) >= LINES, LIMIT)
            rows.append(Row(f"all back after it was away for {away:g} s", "s", taken, TARGET))
    return rows


def registration(quick: bool) -> list[Row]:
    """All of it."""
    rows = says_yes()
    program = shutil.which("kamailio")
    if program is None:
        print("kamailio is not installed: lines at a registrar that restarts are not measured")
        return rows
    return rows + restarts(program, DOWN[:1] if quick else DOWN)
