from __future__ import annotations

import json
import threading
from collections.abc import Callable
from urllib.parse import quote

from api_stand_in import WALL, ApiCase
from tornado.testing import gen_test

from aiphone.errors import ModelError
from aiphone.server.openapi import OPERATIONS
from aiphone.server.routes import handlers, rules
from aiphone.store.records import TurnRow

KEY = "direct/sip:bob@example.org"


class TestSessions(ApiCase):
    def test_list_show_forget(self) -> None:
        messages = [{"role": "user", "content": "Hello."}]
        self.control.remembered = {KEY: {"key": KEY, "updated": WALL, "messages": messages, "tokens": 5}}
        assert self.json("GET", "/api/sessions")["sessions"][0]["key"] == KEY
        path = "/api/sessions/" + quote(KEY, safe="")
        assert self.json("GET", path)["messages"] == messages
        assert self.call("DELETE", path).code == 204
        self.error(self.call("GET", path), 404)
        self.error(self.call("DELETE", path), 404)


class TestModels(ApiCase):
    @gen_test
    async def test_a_download_tells_how_far_it_is_and_is_not_begun_twice(self) -> None:
        go = threading.Event()

        def pull(on_progress: Callable[[int, int], None]) -> None:
            on_progress(50, 200)
            assert go.wait(10)

        self.control.pull = pull
        url = f"http://127.0.0.1:{self.get_http_port()}/api/models"
        for _ in range(2):
            response = await self.http_client.fetch(f"{url}/base/pull", method="POST", body=b"")
            assert response.code == 202
        tasks = [pull.task for pull in self.api.pulls.values()]
        go.set()
        for task in tasks:
            assert task is not None
            await task
        listed = json.loads((await self.http_client.fetch(url)).body)["models"]
        assert listed[1]["pull"] == {"state": "done", "done": 200, "total": 200, "error": ""}
        assert len(tasks) == 1

    @gen_test
    async def test_a_download_that_fails_says_why(self) -> None:
        def pull(on_progress: Callable[[int, int], None]) -> None:
            raise ModelError("the disk is full: free 200 MB")

        self.control.pull = pull
        url = f"http://127.0.0.1:{self.get_http_port()}/api/models/base/pull"
        await self.http_client.fetch(url, method="POST", body=b"")
        task = self.api.pulls["base"].task
        assert task is not None
        await task
        assert self.api.pulls["base"].as_json()["error"] == "the disk is full: free 200 MB"

    def test_what_is_here_is_chosen_and_not_pulled(self) -> None:
        assert self.json("POST", "/api/models/tiny.en/pull")["state"] == "done"
        assert self.json("POST", "/api/models/tiny.en/choose") == {"name": "tiny.en", "restart_needed": True}
        assert "pull it first" in self.error(self.call("POST", "/api/models/base/choose"), 409)["message"]
        self.error(self.call("POST", "/api/models/none/choose"), 404)


class TestSettings(ApiCase):
    def test_only_what_is_sent_changes(self) -> None:
        before = self.json("GET", "/api/settings")
        after = self.json("PATCH", "/api/settings", {"keep_calls_days": 90, "guide_done": True})
        assert after == before | {"keep_calls_days": 90, "guide_done": True}
        assert self.api.store.retention().calls == 90
        assert self.control.changes == ["settings"]
        error = self.error(self.call("PATCH", "/api/settings", {"keep_calls_days": -1, "allowed_hosts": ["a b"]}), 422)
        assert [problem["field"] for problem in error["fields"]] == ["keep_calls_days", "allowed_hosts"]

    def test_the_second_of_two_who_edit_is_told(self) -> None:
        tag = self.call("GET", "/api/settings").headers["ETag"]
        first = self.call("PATCH", "/api/settings", {"keep_calls_days": 9}, headers={"If-Match": tag})
        assert first.code == 200
        assert first.headers["ETag"] != tag
        second = self.call("PATCH", "/api/settings", {"keep_calls_days": 8}, headers={"If-Match": tag})
        assert "someone else" in self.error(second, 412)["message"]
        assert self.json("GET", "/api/settings")["keep_calls_days"] == 9

    def test_secrets_are_no_settings(self) -> None:
        self.api.store.set_setting("auth.password", "hash")
        assert "hash" not in str(self.json("GET", "/api/settings"))


class TestFigures(ApiCase):
    def test_status_and_metrics(self) -> None:
        assert self.json("GET", "/api/status")["ready"] is True
        response = self.call("GET", "/metrics")
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert b"aiphone_media_calls 0.0" in response.body

    def test_what_was_done_is_read_page_by_page(self) -> None:
        assert self.json("GET", "/api/audit") == {"entries": [], "next": None}
        for number in range(5):
            self.api.store.audit("owner", "add", f"sip-client {number}")
        first = self.json("GET", "/api/audit?limit=3")
        second = self.json("GET", f"/api/audit?limit=3&before={first['next']}")
        assert [entry["target"][-1] for entry in first["entries"] + second["entries"]] == list("43210")
        assert second["next"] is None

    def test_the_dashboard(self) -> None:
        store = self.api.store
        number = store.begin_call(line_id="direct", caller="sip:bob@example.org", started=WALL - 60)
        store.add_turn(TurnRow(number, 1, WALL - 50, "a", "b", True, {"patience": 0.5, "stt": 0.3}, 0.8))
        body = self.json("GET", "/api/dashboard?hours=2")
        assert (body["turns"], body["interrupted"]) == (1, 1)
        assert body["latency"] == {"p50": 0.8, "p95": 0.8, "p99": 0.8}
        assert body["parts"]["patience"]["p95"] == 0.5
        assert body["hours"][0]["calls"] == 1
        assert body["max_calls"] == 8
        (point,) = self.json("GET", "/api/dashboard?hours=2")["points"]
        assert {name: point[name] for name in ("turns", "p50", "p95", "p99")} == {"turns": 1} | body["latency"]


class TestDocument(ApiCase):
    def test_every_operation_is_in_it_and_every_reference_leads_somewhere(self) -> None:
        document = self.json("GET", "/api/openapi.json")
        assert {(path, method) for path, entry in document["paths"].items() for method in entry} == {
            (operation.path, operation.method) for operation in OPERATIONS
        }
        text = json.dumps(document)
        for part in text.split('"$ref": "#/components/schemas/')[1:]:
            assert part.partition('"')[0] in document["components"]["schemas"]

    def test_nobody_changes_anything_without_a_role_that_may(self) -> None:
        entrance = {"get_me", "sign_in", "sign_out", "get_openapi"}
        for operation in OPERATIONS:
            if operation.name in entrance:
                continue
            looking = operation.method == "get" and operation.name not in ("list_tokens", "list_audit")
            assert operation.role in (("read",) if looking else ("operate", "admin")), operation.name
        admin = {"add_token", "delete_token", "list_tokens", "forget_caller", "change_settings", "forget_session"}
        admin |= {"add_sip_client", "change_sip_client", "delete_sip_client", "change_persona", "delete_persona"}
        assert admin <= {operation.name for operation in OPERATIONS if operation.role == "admin"}

    def test_every_operation_has_a_handler(self) -> None:
        assert len(rules()) == len({operation.path for operation in OPERATIONS})
        assert len(handlers()) == len(OPERATIONS) - 2
