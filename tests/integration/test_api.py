"""The API with a long history: the right answers, without holding up the loop that all calls depend on.

How quick they are is what ``python -m benchmarks.store`` shows, with a hundred thousand calls.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from api_stand_in import WALL, ApiCase

from aiphone.store.records import TurnRow, WordsRow

pytestmark = pytest.mark.integration

CALLS = int(os.environ.get("AIPHONE_TEST_CALLS", "4000"))
LINES = ("reception", "sales", "direct")
WORDS = ("I would like to book a table", "what are your opening hours", "my invoice is wrong", "thank you, goodbye")
PARTS = {
    "patience": 0.5,
    "transcript": 0.05,
    "first_token": 0.1,
    "first_phrase": 0.1,
    "first_audio": 0.1,
    "playout": 0.02,
}


class TestLongHistory(ApiCase):
    """One store for all tests of the class: filling it takes the most time."""

    filled: Path | None = None

    @classmethod
    def tearDownClass(cls) -> None:
        if cls.filled is not None:
            shutil.rmtree(cls.filled)

    def get_app(self) -> Any:
        app = super().get_app()
        if TestLongHistory.filled is None:
            TestLongHistory.filled = Path(tempfile.mkdtemp())
            self.fill()
            self.api.store.backup(TestLongHistory.filled / "long.db")
        else:
            self.api.store.close()
            shutil.copy(TestLongHistory.filled / "long.db", self.directory / "aiphone.db")
            from aiphone.store.store import Store

            self.api.store = Store(self.directory / "aiphone.db", self.directory / "aiphone.key", lambda: WALL)
            self.addCleanup(self.api.store.close)
        return app

    def fill(self) -> None:
        store = self.api.store
        for block in range(0, CALLS, 1000):
            with store.batch():
                for number in range(block, block + 1000):
                    started = WALL - (CALLS - number) * 60.0
                    call = store.begin_call(
                        line_id=LINES[number % 3],
                        caller=f"sip:{number % 997}@pbx.example.org",
                        caller_name=f"Caller {number}",
                        started=started,
                    )
                    store.call_answered(call, started + 1)
                    said = f"{WORDS[number % 4]} number {number}"
                    store.add_words(WordsRow(call, 1, "user", said, started + 3))
                    store.add_turn(TurnRow(call, 1, started + 4, said, "Of course.", False, PARTS, 0.87))
                    store.end_call(call, 200, "bye", {"jitter_ms": 2.0}, "", started + 40)

    def test_history_search_and_dashboard(self) -> None:
        paths = {
            "/api/calls": 50,
            "/api/calls?text=invoice": 50,
            "/api/calls?text=number%202345": 1,
            "/api/calls?caller=sip:17@": len(range(17, CALLS, 997)),
            "/api/calls?caller=sip:17@&text=invoice": len([n for n in range(17, CALLS, 997) if n % 4 == 2]),
            "/api/calls?line=sales&limit=200": 200,
            f"/api/calls?from={WALL - 90_000}&to={WALL - 80_000}": 50,
            "/api/calls?before=500": 50,
        }
        for path, count in paths.items():
            assert len(self.json("GET", path)["calls"]) == count, path
        assert self.json("GET", "/api/dashboard?hours=24")["turns"] == 1440

    def test_the_loop_goes_on_while_the_store_is_searched(self) -> None:
        async def measure() -> tuple[float, int]:
            from tornado.httpclient import AsyncHTTPClient

            ticks, done = 0, False

            async def tick() -> None:
                nonlocal ticks
                while not done:
                    await asyncio.sleep(0.005)
                    ticks += 1

            ticking = asyncio.create_task(tick())
            begin = time.perf_counter()
            # Every turn of a month: far more than the page asks for.
            await AsyncHTTPClient().fetch(self.get_url("/api/dashboard?hours=744"))
            took = time.perf_counter() - begin
            done = True
            await ticking
            return took, ticks

        took, ticks = self.io_loop.run_sync(measure)
        # The search holds the interpreter for moments, never for its whole length: then there would be a tick or two.
        assert ticks >= max(3.0, took / 0.005 / 20), (took, ticks)
