from __future__ import annotations

import json
from pathlib import Path

import pytest
from tornado.httpclient import HTTPResponse
from tornado.testing import AsyncHTTPTestCase, bind_unused_port
from tornado.web import Application

from aiphone.errors import NetworkError
from aiphone.server.http import HttpServer, make_application

WEB = Path(__file__).parents[3] / "web"


class TestRoutes(AsyncHTTPTestCase):
    ready = True

    def get_app(self) -> Application:
        return make_application(lambda: {"ready": self.ready, "version": "1"}, WEB)

    def body(self, response: HTTPResponse) -> object:
        return json.loads(response.body)

    def test_status_is_json(self) -> None:
        response = self.fetch("/api/status")
        assert response.headers["Content-Type"].startswith("application/json")
        assert self.body(response) == {"ready": True, "version": "1"}

    def test_readyz_follows_ready_and_healthz_does_not(self) -> None:
        self.ready = False
        assert self.fetch("/readyz").code == 503
        assert self.fetch("/healthz").code == 200

    def test_the_page_is_served_with_a_strict_policy(self) -> None:
        response = self.fetch("/")
        assert response.code == 200
        assert b"<html" in response.body
        assert response.headers["Content-Security-Policy"].startswith("default-src 'self'")

    def test_an_unknown_path_of_the_api_has_the_one_error_format(self) -> None:
        response = self.fetch("/api/nothing")
        assert response.code == 404
        assert self.body(response) == {"error": {"status": 404, "message": "there is nothing at /api/nothing"}}

    def test_no_path_leaves_the_page_directory(self) -> None:
        for path in ("/../setup.py", "/%2e%2e/setup.py", "/..%2fsetup.py"):
            assert self.fetch(path).code in (403, 404)


def test_a_port_in_use_is_named_with_the_cure() -> None:
    taken, port = bind_unused_port()
    try:
        with pytest.raises(NetworkError, match=f"port {port} on 127.0.0.1 is in use by another program; .* -hp"):
            HttpServer(make_application(dict, WEB), "127.0.0.1", port)
    finally:
        taken.close()


def test_an_address_that_is_not_ours_is_named() -> None:
    with pytest.raises(NetworkError, match=r"192\.0\.2\.1:8081 cannot be listened on"):
        HttpServer(make_application(dict, WEB), "192.0.2.1", 8081)
