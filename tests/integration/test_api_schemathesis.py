"""schemathesis over the OpenAPI document: no server errors, nothing refused that the document allows, nothing taken
that it forbids, and every answer as it says."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from api_stand_in import WALL, WEB, FakeControl, live_call, make_api
from hypothesis import HealthCheck, settings
from schemathesis.config import SchemathesisConfig
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port

from aiphone.clock import ManualClock
from aiphone.server.http import make_application
from aiphone.server.openapi import document
from aiphone.store.records import PersonaRecord, SipClient, TurnRow, WordsRow

pytestmark = pytest.mark.integration

EXAMPLES = int(os.environ.get("AIPHONE_TEST_EXAMPLES", "3"))
"""Requests that are made up for each operation, besides those that cover each rule of its schema."""

REFUSED_FOR_A_REASON = ["2xx", "304", "401", "403", "404", "409", "412", "416", "426", "429"]
"""What may be answered to a request that fits: 400, 415 and 422 say that it does not, and 5xx are never right."""

THERE = {"client_id": "there", "persona": "there", "call": "1", "key": "there", "model": "tiny.en", "token_id": "none"}
"""Things that exist, so that not every generated path leads to 404."""

schema = schemathesis.openapi.from_dict(
    document(),
    config=SchemathesisConfig.from_dict(
        {
            "checks": {
                "positive_data_acceptance": {"expected-statuses": REFUSED_FOR_A_REASON},
                "negative_data_rejection": {"expected-statuses": ["4xx"]},
            }
        }
    ),
)


@schema.hook
def map_path_parameters(context: Any, path_parameters: dict[str, Any] | None) -> dict[str, Any] | None:
    """Every second time, name something that is there."""
    if path_parameters and sum(len(str(value)) for value in path_parameters.values()) % 2:
        return {name: THERE.get(name, value) for name, value in path_parameters.items()}
    return path_parameters


@schema.hook
def map_body(context: Any, body: Any) -> Any:
    """The one rule between two fields: who may transfer must know whereto."""
    if isinstance(body, dict) and isinstance(body.get("actions"), list) and "transfer" in body["actions"]:
        return {**body, "transfers": body.get("transfers") or ["sales = sip:sales@example.com"]}
    return body


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API over a real store, on a thread of its own."""
    directory: Path = tmp_path_factory.mktemp("api")
    ready, stop = threading.Event(), asyncio.Event()
    where: list[Any] = []

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        api = make_api(directory, loop, ManualClock())
        fill(api)
        socket, port = bind_unused_port()
        http = HTTPServer(make_application(api.control.status, WEB, api=api))
        http.add_socket(socket)
        where.extend([port, loop])
        ready.set()
        await stop.wait()
        http.stop()
        await http.close_all_connections()
        api.store.close()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), name="api")
    thread.start()
    assert ready.wait(30)
    yield f"http://127.0.0.1:{where[0]}"
    where[1].call_soon_threadsafe(stop.set)
    thread.join(30)


def fill(api: Any) -> None:
    """One of each thing."""
    store, control = api.store, api.control
    assert isinstance(control, FakeControl)
    store.add_sip_client(SipClient("there", "1001", "192.0.2.1"), "secret")
    store.add_persona(PersonaRecord("there"))
    (api.recordings / "one.wav").write_bytes(b"RIFF" + bytes(1000))
    for number in range(3):
        call = store.begin_call(line_id="there", caller="sip:bob@example.org", caller_name="Bob", started=WALL + number)
        store.call_answered(call, WALL + number + 1)
        store.add_words(WordsRow(call, 1, "user", "Hello, is anybody there?", WALL + number + 2))
        store.add_turn(TurnRow(call, 1, WALL - 5, "Hello?", "Hello.", False, {"patience": 0.5}, 0.5))
        store.end_call(call, 200, "bye", {"jitter_ms": 2.0}, "recordings/one.wav", WALL + number + 9)
    control.live = [live_call("c1", 1)]
    control.remembered = {
        "there": {"key": "there", "updated": WALL, "messages": [{"role": "user", "content": "Hi"}], "tokens": 3}
    }


@schema.parametrize()
@settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)
def test_api(case: schemathesis.Case, server: str) -> None:
    case.call_and_validate(base_url=server)
