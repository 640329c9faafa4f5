"""The server: everything started, the address printed, and taken down at a signal."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

from aiphone.cli.assembly import Phone, check_sip_port
from aiphone.cli.office import Office, open_store, with_chosen_models
from aiphone.cli.status import StatusReport, sip_uri
from aiphone.clock import SystemClock
from aiphone.config import Settings
from aiphone.errors import StorageError
from aiphone.inference.allocator import share_one_heap

log = logging.getLogger(__name__)


def serve(settings: Settings) -> int:
    """Run until SIGINT or SIGTERM; 0 after an orderly end. Raises ``AiphoneError`` when it cannot start."""
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    make_directory(Path(settings.data_dir))
    share_one_heap()
    return asyncio.run(_serve(settings))


def make_directory(path: Path) -> None:
    """Create a directory only we can read, or see that the one there can be written. Raises ``StorageError``."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"the data directory {path} cannot be made: {error.strerror}; check --data-dir") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise StorageError(f"the data directory {path} cannot be written by this user; check --data-dir")


async def _serve(settings: Settings) -> int:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    _handle_signals(loop, stopping)
    clock = SystemClock()
    started = clock.now()
    check_sip_port(settings)
    store = open_store(settings)
    settings = with_chosen_models(settings, store)
    phone = Phone(settings, loop, clock)
    report = StatusReport(settings, started)
    office = Office(settings, phone, store, report)
    office.start()
    try:
        await loop.run_in_executor(None, phone.load, _tell)
        phone.start()
        report.phone = phone
        office.calls_are_taken()
        _tell(f"ready after {clock.now() - started:.1f} s")
        _banner(phone, office)
        await stopping.wait()
        _tell("saying goodbye")
    finally:
        report.phone = None
        await phone.stop()
        await office.stop()
    return 0


def _handle_signals(loop: asyncio.AbstractEventLoop, stopping: asyncio.Event) -> None:
    def stop(number: int) -> None:
        if stopping.is_set():
            os._exit(128 + number)
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)


def _tell(text: str) -> None:
    sys.stderr.write(f"  {text}\n")
    sys.stderr.flush()


def _banner(phone: Phone, office: Office) -> None:
    assert phone.sip is not None
    host = "localhost" if phone.settings.host in ("127.0.0.1", "0.0.0.0") else phone.settings.host
    print(f"Web page:  {'https' if office.secure else 'http'}://{host}:{office.http.port}/")
    uri = sip_uri(phone)
    if uri:
        print(f"Call:      {uri}")
    for line in phone.settings.lines:
        print(f"Line:      {line.client_id} ({line.username}@{line.server_ip})")
    note = phone.sip.status().note
    if note:
        print(f"Note:      {note}")
    sys.stdout.flush()
