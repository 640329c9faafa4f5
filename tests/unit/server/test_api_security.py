"""Each test here fails when the protection that it names is taken out."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import ssl
import subprocess
from pathlib import Path
from typing import Any

import argon2
import pytest
from api_stand_in import WEB, ApiCase
from tornado.httpclient import HTTPResponse
from tornado.testing import AsyncHTTPTestCase, gen_test
from tornado.websocket import WebSocketClosedError, WebSocketHandler, websocket_connect

from aiphone.cli import passwd
from aiphone.clock import ManualClock
from aiphone.errors import ConfigError
from aiphone.server.auth import PASSWORD_KEY, Auth, LoginLimit, has_password, set_password
from aiphone.server.guard import Guard, is_loopback, require_password
from aiphone.server.http import MOST_BODY, MOST_MESSAGE, HttpServer, make_application, tls_context
from aiphone.store.store import Store

PASSWORD = "correct horse"
UPGRADE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}
CLIENT = {"client_id": "a", "username": "1", "server_ip": "192.0.2.1"}


class Echo(WebSocketHandler):
    """A socket of another module, as the browser's calls have."""

    def on_message(self, message: str | bytes) -> None:
        self.write_message(message)


class TestHost(ApiCase):
    def test_another_name_is_refused_everywhere(self) -> None:
        for path in ("/", "/api/status", "/healthz", "/api/openapi.json", "/metrics", "/api/nothing"):
            self.error(self.call("GET", path, headers={"Host": f"evil.example:{self.get_http_port()}"}), 403)
            assert self.call("GET", path, headers={"Host": f"localhost:{self.get_http_port()}"}).code != 403

    def test_a_name_from_the_settings_is_let_in(self) -> None:
        host = {"Host": "Phone.example.org:8081"}
        self.error(self.call("GET", "/api/status", headers=host), 403)
        self.json("PATCH", "/api/settings", {"allowed_hosts": ["phone.example.org"]})
        assert self.call("GET", "/api/status", headers=host).code == 200


@pytest.mark.parametrize(
    ("listen", "header", "good"),
    [
        ("127.0.0.1", "localhost:8081", True),
        ("127.0.0.1", "LOCALHOST.", True),
        ("127.0.0.1", "[::1]:8081", True),
        ("127.0.0.1", "192.168.1.5:8081", False),
        ("192.168.1.5", "192.168.1.5:8081", True),
        ("0.0.0.0", "192.168.1.5:8081", True),
        ("0.0.0.0", "evil.example", False),
        ("::", "[fd00::1]:8081", True),
        ("127.0.0.1", "", False),
        ("127.0.0.1", "localhost@evil.example", False),
        ("127.0.0.1", "[", False),
        ("127.0.0.1", "127.0.0.1.evil.example", False),
    ],
)
def test_host_rule(listen: str, header: str, good: bool) -> None:
    assert Guard(listen).host_ok(header) is good


@pytest.mark.parametrize(
    ("origin", "host", "good"),
    [
        ("http://localhost:8081", "localhost:8081", True),
        ("https://phone.example.org", "phone.example.org", True),
        ("https://phone.example.org", "phone.example.org:443", True),
        ("http://localhost:8082", "localhost:8081", False),
        ("http://evil.example", "localhost:8081", False),
        ("null", "localhost:8081", False),
        ("http://localhost:99999999", "localhost:8081", False),
    ],
)
def test_origin_rule(origin: str, host: str, good: bool) -> None:
    assert Guard("127.0.0.1").origin_ok("POST", host, origin, None) is good


class TestForgery(ApiCase):
    def test_what_another_sites_page_sends_is_refused(self) -> None:
        for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
            self.error(self.call("POST", "/api/sip-clients", CLIENT, headers), 403)
        assert self.api.store.sip_clients() == []

    def test_what_our_own_page_sends_is_taken(self) -> None:
        headers = {"Origin": f"http://127.0.0.1:{self.get_http_port()}", "Sec-Fetch-Site": "same-origin"}
        assert self.call("POST", "/api/sip-clients", CLIENT, headers).code == 201

    def test_a_form_of_another_site_cannot_be_a_body(self) -> None:
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
            response = self.fetch(
                "/api/sip-clients", method="POST", body=json.dumps(CLIENT), headers={"Content-Type": kind}
            )
            assert response.code in (400, 415), kind
        assert self.api.store.sip_clients() == []


class TestPassword(ApiCase):
    def get_app(self) -> Any:
        app = super().get_app()
        self.keep(PASSWORD)
        self.api.auth = Auth(self.api.store, self.clock)
        return app

    def keep(self, password: str) -> None:
        """As ``set_password`` does, with a hash that costs no time."""
        self.api.store.set_setting(PASSWORD_KEY, argon2.PasswordHasher(1, 8, 1).hash(password))

    def extra(self) -> list[Any]:
        return [("/api/talk", Echo, {}, "operate")]

    def sign_in(self, password: str = PASSWORD) -> HTTPResponse:
        return self.call("POST", "/api/session", {"password": password})

    def signed_in(self) -> tuple[dict[str, str], str]:
        response = self.sign_in()
        assert response.code == 200, response.body
        cookie = response.headers["Set-Cookie"].partition(";")[0]
        return {"Cookie": cookie}, json.loads(response.body)["csrf_token"]

    def test_nothing_is_shown_without_it(self) -> None:
        for path in ("/api/status", "/api/calls", "/api/sip-clients", "/metrics", "/api/events", "/api/live"):
            self.error(self.call("GET", path), 401)
        assert self.json("GET", "/api/session")["signed_in"] is False
        assert self.call("GET", "/").code == 200
        assert self.call("GET", "/healthz").code == 200

    def test_a_wrong_one_opens_nothing(self) -> None:
        response = self.sign_in("wrong horse")
        self.error(response, 401)
        assert "Set-Cookie" not in response.headers

    def test_it_is_never_logged_nor_answered(self) -> None:
        with self.assertLogs(level=logging.DEBUG) as logs:
            logging.getLogger("test").debug("assertLogs wants a line")
            answers = [self.sign_in("wrong horse"), self.sign_in(), self.call("GET", "/api/session")]
        said = [answer.body.decode() for answer in answers] + logs.output
        assert [text for text in said if "horse" in text] == []

    def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(self) -> None:
        cookie = self.sign_in().headers["Set-Cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert "path=/" in cookie
        assert "secure" not in cookie  # it would not come back over plain HTTP

    def test_a_session_changes_things_only_with_its_token(self) -> None:
        headers, csrf = self.signed_in()
        assert self.call("GET", "/api/status", headers=headers).code == 200
        self.error(self.call("POST", "/api/sip-clients", CLIENT, headers), 403)
        self.error(self.call("POST", "/api/sip-clients", CLIENT, headers | {"X-CSRF-Token": csrf[::-1]}), 403)
        assert self.call("POST", "/api/sip-clients", CLIENT, headers | {"X-CSRF-Token": csrf}).code == 201

    def test_signing_out_ends_the_session(self) -> None:
        headers, csrf = self.signed_in()
        assert self.call("DELETE", "/api/session", headers=headers | {"X-CSRF-Token": csrf}).code == 204
        self.error(self.call("GET", "/api/status", headers=headers), 401)

    def test_a_session_ends_by_itself(self) -> None:
        headers, _ = self.signed_in()
        self.clock.advance(12 * 3600 + 1)
        self.error(self.call("GET", "/api/status", headers=headers), 401)

    def test_a_new_password_from_the_terminal_signs_everybody_out(self) -> None:
        headers, _ = self.signed_in()
        self.keep("another horse")
        self.clock.advance(6)
        self.error(self.call("GET", "/api/status", headers=headers), 401)
        self.error(self.sign_in(), 401)
        assert self.sign_in("another horse").code == 200

    def test_it_cannot_be_tried_without_end(self) -> None:
        for _ in range(5):
            self.error(self.sign_in("wrong horse"), 401)
        response = self.sign_in()
        assert "try again in" in self.error(response, 429)["message"]
        assert int(response.headers["Retry-After"]) <= 60
        self.clock.advance(61)
        assert self.sign_in().code == 200

    @gen_test
    async def test_attempts_at_the_same_moment_count_each(self) -> None:
        """Judging a password takes a while; whoever asks in it is counted as well."""
        client = self.get_http_client()
        body = json.dumps({"password": "wrong horse"})
        url, headers = self.get_url("/api/session"), {"Content-Type": "application/json"}
        answers = await asyncio.gather(
            *(client.fetch(url, method="POST", body=body, headers=headers, raise_error=False) for _ in range(10))
        )
        assert sorted(answer.code for answer in answers) == [401] * 5 + [429] * 5

    def test_a_token_may_do_what_its_role_says_and_no_more(self) -> None:
        headers, csrf = self.signed_in()
        made = {
            role: self.json(
                "POST", "/api/tokens", {"name": "x", "role": role}, headers=headers | {"X-CSRF-Token": csrf}
            )
            for role in ("read", "operate", "admin")
        }
        allowed = {
            ("GET", "/api/calls"): ("read", "operate", "admin"),
            ("POST", "/api/calls/c1/hangup"): ("operate", "admin"),
            ("DELETE", "/api/personas/none"): ("admin",),
            ("GET", "/api/tokens"): ("admin",),
        }
        for (method, path), roles in allowed.items():
            for role, token in made.items():
                response = self.call(method, path, headers={"Authorization": f"Bearer {token['token']}"})
                assert (response.code != 403) is (role in roles), (method, path, role)
        assert (
            self.call("DELETE", f"/api/tokens/{made['read']['id']}", headers=headers | {"X-CSRF-Token": csrf}).code
            == 204
        )
        gone = {"Authorization": f"Bearer {made['read']['token']}"}
        self.error(self.call("GET", "/api/calls", headers=gone), 401)
        self.error(self.call("GET", "/api/calls", headers=gone | headers), 401)

    def test_secrets_are_hashed_at_rest(self) -> None:
        headers, csrf = self.signed_in()
        token = self.json(
            "POST", "/api/tokens", {"name": "x", "role": "read"}, headers=headers | {"X-CSRF-Token": csrf}
        )
        listed = self.call("GET", "/api/tokens", headers=headers).body.decode()
        assert token["id"] in listed
        assert token["token"] not in listed
        assert "digest" not in listed
        self.api.store.close()
        stored = b"".join(path.read_bytes() for path in self.directory.glob("aiphone.db*"))
        assert b"argon2id" in stored
        assert PASSWORD.encode() not in stored
        assert token["token"].encode() not in stored

    async def opened(self, path: str, **headers: str) -> str:
        """Status of a handshake that was refused; else what came first, or the close code when nothing did."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.get_http_port())
        try:
            given = {"Host": f"127.0.0.1:{self.get_http_port()}", **UPGRADE, **headers}
            lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
            writer.write(f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode())
            status = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
            if status != "101":
                return status
            if path == "/api/talk":
                writer.write(b"\x81\x81\0\0\0\0x")
            opcode, size = await reader.readexactly(2)
            payload = await reader.readexactly(size)
            return str(int.from_bytes(payload[:2])) if opcode == 0x88 else payload.decode()
        finally:
            writer.close()

    @gen_test
    async def test_websockets_need_the_session_and_our_own_page(self) -> None:
        cookie, _ = self.api.auth.open_session()
        session = {"Cookie": f"aiphone_session={cookie}"}
        own = {"Origin": f"http://127.0.0.1:{self.get_http_port()}"}
        assert await self.opened("/api/events") == "4001"
        assert await self.opened("/api/talk") == "401"
        for path in ("/api/events", "/api/talk"):
            assert await self.opened(path, **session, Origin="http://evil.example") == "403"
            assert await self.opened(path, **session, **own, Host="evil.example") == "403"
        assert "hello" in await self.opened("/api/events", **session, **own)
        assert await self.opened("/api/talk", **session, **own) == "x"

    @gen_test
    async def test_a_stream_of_events_ends_with_the_session(self) -> None:
        from tornado.httpclient import HTTPRequest

        from aiphone.server import event_socket

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(event_socket, "STILL_ALLOWED_SECONDS", 0.02)
            cookie, _ = self.api.auth.open_session()
            url = f"ws://127.0.0.1:{self.get_http_port()}/api/events"
            socket = await websocket_connect(HTTPRequest(url, headers={"Cookie": f"aiphone_session={cookie}"}))
            assert "hello" in str(await socket.read_message())
            self.api.auth.close_session(cookie)
            assert await socket.read_message() is None
            assert socket.close_code == 4001
            socket.close()


class TestLimits(ApiCase):
    @gen_test
    async def test_a_large_body_is_refused(self) -> None:
        server = HttpServer(self._app, "127.0.0.1", 0)
        server.start()
        try:
            for size, status in ((100_000, b"422"), (1_000_000, b"400")):
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
                head = f"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {size}"
                writer.write(f"POST /api/sip-clients HTTP/1.1\r\n{head}\r\n\r\n".encode())
                if size < MOST_BODY:
                    writer.write(b"[" + b" " * (size - 2) + b"]")
                answer = await asyncio.wait_for(reader.read(100), 5)
                assert answer.split()[1] == status
                writer.close()
        finally:
            await server.stop()

    @gen_test
    async def test_a_request_that_is_too_long_or_never_ends_is_dropped(self) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("aiphone.server.http.BODY_SECONDS", 0.1)
            server = HttpServer(self._app, "127.0.0.1", 0)
        server.start()
        try:
            long = f"X-Long: {'x' * (20 << 10)}\r\n\r\n"
            unfinished = 'Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"client_id": '
            with self.assertLogs("tornado.general", "INFO"):
                for rest in (long, unfinished):
                    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
                    writer.write(f"POST /api/sip-clients HTTP/1.1\r\nHost: localhost\r\n{rest}".encode())
                    assert await asyncio.wait_for(reader.read(), 5) in (b"", b"HTTP/1.1 400 Bad Request\r\n\r\n")
                    writer.close()
        finally:
            await server.stop()

    @gen_test
    async def test_a_large_message_ends_the_connection(self) -> None:
        socket = await websocket_connect(f"ws://127.0.0.1:{self.get_http_port()}/api/events")
        try:
            assert "hello" in str(await socket.read_message())
            await socket.write_message("x" * MOST_MESSAGE)
            self.api.hub.publish("clients")
            assert "clients" in str(await socket.read_message())
            with contextlib.suppress(WebSocketClosedError):
                await socket.write_message("x" * (MOST_MESSAGE + 1))
            assert await socket.read_message() is None
        finally:
            socket.close()

    def test_control_characters_are_refused_in_every_text(self) -> None:
        """In texts of several lines too: they would steer the terminal that shows them."""
        for text in ("\x1b[2J", "\0", "\x7f"):
            error = self.error(self.call("POST", "/api/personas", {"name": "a", "prompt": f"Be kind.\n{text}"}), 422)
            assert error["fields"][0] | {"expected": ""} == {
                "field": "prompt", "problem": "has a control character in it", "expected": "",
            }  # fmt: skip

    def test_json_that_is_none_is_refused(self) -> None:
        for body in ("", "{", "[" * 100_000, '{"a": NaN}', "\xff"):
            response = self.fetch(
                "/api/sip-clients", method="POST", body=body, headers={"Content-Type": "application/json"}
            )
            self.error(response, 400)
        self.error(self.call("POST", "/api/sip-clients", ["list"]), 422)

    def test_half_a_character_is_refused(self) -> None:
        body = b'{"client_id": "a", "username": "1", "server_ip": "192.0.2.1", "display_name": "\\ud800"}'
        response = self.fetch(
            "/api/sip-clients", method="POST", body=body, headers={"Content-Type": "application/json"}
        )
        self.error(response, 422)

    def test_every_answer_has_the_strict_policy(self) -> None:
        for path in ("/", "/api/status", "/api/nothing", "/healthz", "/metrics", "/app.js"):
            headers = self.call("GET", path).headers
            assert set(headers["Content-Security-Policy"].split("; ")) == {
                "default-src 'self'", "object-src 'none'", "base-uri 'none'", "form-action 'self'",
                "frame-ancestors 'none'",
            }  # fmt: skip
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Referrer-Policy"] == "no-referrer"
            assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
            assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
            assert headers["Cache-Control"] == ("no-cache" if path == "/" else "no-store"), path

    def test_another_method_is_told_which_there_are(self) -> None:
        for method, path in (("PATCH", "/api/sip-clients"), ("DELETE", "/api/calls"), ("POST", "/api/events")):
            response = self.call(method, path)
            self.error(response, 405)
            assert "GET" in response.headers["Allow"]

    def test_an_error_nobody_foresaw_says_nothing_of_the_inside(self) -> None:
        self.control.status = lambda: {}["secret"]  # type: ignore[method-assign, assignment]
        with self.assertLogs("tornado.application", "ERROR"):
            response = self.call("GET", "/api/status")
        self.error(response, 500)
        assert b"secret" not in response.body


class TestTls(AsyncHTTPTestCase):
    """A session's cookie goes over TLS only."""

    def get_app(self) -> Any:
        import tempfile

        from api_stand_in import make_api

        self.files = tempfile.TemporaryDirectory()
        self.addCleanup(self.files.cleanup)
        directory = Path(self.files.name)
        self.api = make_api(directory, self.io_loop.asyncio_loop, ManualClock())
        self.addCleanup(self.api.store.close)
        set_password(self.api.store, PASSWORD)
        self.api.auth = Auth(self.api.store, ManualClock())
        return make_application(self.api.control.status, WEB, api=self.api)

    def get_protocol(self) -> str:
        return "https"

    def get_http_server(self) -> Any:
        from tornado.httpserver import HTTPServer

        certificate, key = make_certificate(Path(self.files.name))
        return HTTPServer(self._app, ssl_options=tls_context(certificate, key))

    def test_secure(self) -> None:
        response = self.fetch(
            "/api/session", method="POST", body=json.dumps({"password": PASSWORD}),
            headers={"Content-Type": "application/json"}, validate_cert=False,
        )  # fmt: skip
        assert response.code == 200
        assert "secure" in response.headers["Set-Cookie"].lower()


def make_certificate(directory: Path) -> tuple[Path, Path]:
    certificate, key = directory / "cert.pem", directory / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


def test_tls_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    assert tls_context(certificate, key).minimum_version >= ssl.TLSVersion.TLSv1_2
    with pytest.raises(ConfigError, match=r"--tls-cert .* not a certificate and its key"):
        tls_context(key, certificate)
    with pytest.raises(ConfigError, match=r"cannot be read: No such file"):
        tls_context(tmp_path / "none.pem", key)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "phone.example.org"])
def test_no_start_where_others_come_in_without_a_password(host: str) -> None:
    with pytest.raises(ConfigError, match=r"set one with: whisper-talk-llama passwd"):
        require_password(host, has_password=False)
    require_password(host, has_password=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.2"])
def test_loopback_needs_none(host: str) -> None:
    assert is_loopback(host)
    require_password(host, has_password=False)


def test_many_addresses_together_are_limited_too() -> None:
    clock = ManualClock()
    limit = LoginLimit(clock, per_address=5, in_all=10)
    for number in range(10):
        assert limit.wait(f"192.0.2.{number}") == 0
        limit.try_now(f"192.0.2.{number}")
    assert limit.wait("192.0.2.99") == 60
    clock.advance(61)
    assert limit.wait("192.0.2.99") == 0


class TestPasswd:
    def run(self, directory: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> int:
        import argparse

        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        return passwd.run(argparse.Namespace(data_dir=directory))

    def test_it_is_set_beside_a_running_server(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        store = Store(tmp_path / "aiphone.db", tmp_path / "aiphone.key")
        try:
            assert not has_password(store)
            assert self.run(tmp_path, f"{PASSWORD}\n", monkeypatch) == 0
            assert has_password(store)
            assert Auth(store, ManualClock()).matches(PASSWORD)
            assert store.setting(PASSWORD_KEY).startswith("$argon2id$")
            assert PASSWORD not in capsys.readouterr().out
        finally:
            store.close()

    def test_a_short_one_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(ConfigError, match=r"has 5 characters; choose one of at least 8"):
            self.run(tmp_path, "short\n", monkeypatch)
