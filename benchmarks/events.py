"""The event stream with many calls and many watchers: what it costs the server.

    python -m benchmarks.events [--calls 50] [--watchers 20] [--seconds 10] [--json FILE]

The server's own handlers, hub and feed of levels. The watchers are another process, so that only the server's time on
the processor counts; each call has five events a second (words as they come, both ways) and its levels.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from aiphone.clock import SystemClock
from aiphone.server.api import Api
from aiphone.server.assets import web_root
from aiphone.server.auth import Auth
from aiphone.server.control import Control
from aiphone.server.event_hub import EventHub
from aiphone.server.guard import Guard
from aiphone.server.http import HttpServer, make_application
from aiphone.server.metrics import Metrics
from aiphone.store.store import Store
from benchmarks.report import Row, as_json, machine, table

LIMIT = 0.10
"""Of a core: what the product promises for 50 calls and 20 watchers."""
EVENTS_A_SECOND = 5
"""For each call."""

WATCHERS = """
import asyncio, sys
async def watch(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
    writer.write(b"GET /api/events HTTP/1.1\\r\\nHost: localhost\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n"
                 b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\\r\\nSec-WebSocket-Version: 13\\r\\n\\r\\n")
    await reader.readuntil(b"\\r\\n\\r\\n")
    print("watching", flush=True)
    size = 0
    while data := await reader.read(1 << 20):
        size += len(data)
    print("read", size, flush=True)
async def main():
    await asyncio.gather(*(watch(int(sys.argv[1])) for _ in range(int(sys.argv[2]))))
asyncio.run(main())
"""


async def measure(directory: Path, calls: int, watchers: int, seconds: float) -> dict[str, float]:
    """Share of a core, and what went over the wire."""
    status: dict[str, Any] = {"ready": True}
    store = Store(directory / "events.db", directory / "events.key")
    levels = [(f"c{number}", -30.0, -40.0) for number in range(calls)]
    hub = EventHub(asyncio.get_running_loop(), first_id=1, levels=lambda: levels)
    api = Api(
        store=store,
        control=cast(Control, SimpleNamespace(status=lambda: status, active_calls=list)),
        hub=hub,
        auth=Auth(store, SystemClock()),
        guard=Guard("127.0.0.1"),
        metrics=Metrics(lambda: status),
        recordings=directory,
        wall=time.time,
    )
    server = HttpServer(make_application(lambda: status, web_root(), api=api), "127.0.0.1", 0)
    server.start()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WATCHERS, str(server.port), str(watchers), stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        for _ in range(watchers):
            assert await process.stdout.readline() == b"watching\n"
        pause = 1 / (EVENTS_A_SECOND * calls)
        began, cpu, sent = time.monotonic(), time.process_time(), 0
        while (passed := time.monotonic() - began) < seconds:
            while sent * pause <= passed:
                call = sent % calls
                hub.publish("hearing", call_id=f"c{call}", call=call, text="what was said so far " * 3)
                sent += 1
            await asyncio.sleep(0.004)  # events come one by one, not in one burst a second
        share = (time.process_time() - cpu) / (time.monotonic() - began)
    finally:
        await server.stop()
        out, _ = await process.communicate()
        store.close()
    read = [int(line.split()[1]) for line in out.decode().splitlines()]
    return {"share": share, "sent": sent, "dropped": hub.dropped, "kilobytes_s": min(read) / 1000 / seconds}


def main(arguments: Sequence[str]) -> int:
    """0 when the promise is kept."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.events", description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=50)
    parser.add_argument("--watchers", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as directory:
        found = asyncio.run(measure(Path(directory), options.calls, options.watchers, options.seconds))
    rows = [
        Row(f"{options.calls} calls, {options.watchers} watchers", "of a core", found["share"], LIMIT),
        Row("watchers that were dropped", "", found["dropped"], 0),
        Row("events sent", "/s", found["sent"] / options.seconds),
        Row("to each watcher", "kB/s", found["kilobytes_s"]),
    ]
    print(machine())
    print(table(rows))
    if options.json:
        options.json.write_text(as_json(rows, machine=machine()), encoding="utf-8")
    return int(any(row.short for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
