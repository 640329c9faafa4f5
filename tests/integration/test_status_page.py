"""The status page in a real browser, against a server whose status this file decides."""

from __future__ import annotations

import asyncio
import html
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from subprocess import run
from typing import Any

import pytest
import tornado.httpserver
import tornado.testing
from conftest import Needs

from aiphone.server.assets import web_root
from aiphone.server.http import make_application

pytestmark = pytest.mark.integration

HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=2</script>'

STATUS: dict[str, Any] = {
    "ready": True,
    "version": "0.1.0",
    "uptime": 93784.2,
    "sip_uri": "sip:ai@127.0.0.1:5060",
    "pjsua2": {"version": "2.17", "call_limit": 1024, "note": ""},
    "models": {
        "whisper": {"name": "tiny.en", "threads": 2},
        "llm": {"name": "SmolLM2-135M-Instruct"},
        "voice": {"name": "en_US-joe-medium"},
    },
    "lines": [
        {"line_id": "office", "display_name": "Office", "state": "registered", "reason": ""},
        {"line_id": "home", "display_name": HOSTILE, "state": "failed", "reason": "wrong password"},
    ],
    "calls": [{"call_id": "c1", "line_id": "office", "caller": HOSTILE, "state": "listening", "seconds": 65.9}],
    "active_calls": 1,
    "max_calls": 8,
    "warnings": ["first", "first", HOSTILE],
}


@pytest.fixture
def address() -> Iterator[str]:
    """The real application on a loop of its own; the browser is another process."""
    started = threading.Event()
    state: dict[str, Any] = {}

    async def serve() -> None:
        sockets, port = tornado.testing.bind_unused_port()
        server = tornado.httpserver.HTTPServer(make_application(lambda: STATUS, web_root()))
        server.add_socket(sockets)
        state.update(port=port, stop=asyncio.Event(), loop=asyncio.get_running_loop())
        started.set()
        await state["stop"].wait()
        server.stop()
        await server.close_all_connections()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert started.wait(10)
    yield f"http://127.0.0.1:{state['port']}/"
    state["loop"].call_soon_threadsafe(state["stop"].set)
    thread.join(10)


def rendered(chromium: str, url: str, profile: Path) -> str:
    """The document as it stands after two virtual seconds."""
    flags = [
        "--headless",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        f"--user-data-dir={profile}",
        "--virtual-time-budget=2500",
        "--dump-dom",
    ]
    if os.geteuid() == 0:
        flags.append("--no-sandbox")
    done = run([chromium, *flags, url], capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_page_shows_the_status_and_nothing_a_caller_says_is_markup(
    address: str, needs: Needs, tmp_path: Path
) -> None:
    document = rendered(needs("chromium", "chromium"), address, tmp_path)
    text = html.unescape(re.sub(r"<[^>]*>", " ", document))
    assert "Ready for calls" in text
    assert 'href="sip:ai@127.0.0.1:5060"' in document
    assert "1 of 8" in text
    assert "1:05" in text
    assert "1 d 2 h" in text
    assert "tiny.en (threads 2)" in text
    assert "2.17, at most 1024 calls" in text
    assert re.search(r'<li data-state="good">.{0,99}<span class="name">Office</span>', document)
    assert re.search(r'<li data-state="bad">.{0,999}wrong password', document)
    assert text.count("first") == 1
    # Three hostile strings, each of them text: no element came of them and no script ran.
    assert document.count("&lt;script&gt;") == 3
    assert "<img" not in document
    assert "<title>aiphone</title>" in document
