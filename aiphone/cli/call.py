"""``whisper-talk-llama call URI``: have the running server call somebody, and watch until the call is over.

The server does it: this is a client of its HTTP API. Ctrl-C hangs up. The exit status is 0 when the call was answered,
6 when it was not.
"""

from __future__ import annotations

import argparse
import json
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote

from aiphone.errors import ConfigError, NetworkError, SipError

DEFAULT_URL = "http://127.0.0.1:8081"
POLL_SECONDS = 0.5
UNSEEN_POLLS = 3
_TIMEOUT = 10.0


def add_arguments(subparsers: Any) -> None:
    """Add the ``call`` command to an ``argparse`` subparsers object."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "call", help="have the running server call somebody", description=__doc__
    )
    parser.add_argument("uri", help="whom to call: sip:1002@192.168.1.10, or a number on a line")
    parser.add_argument("--line", default="direct", metavar="ID", help="the SIP client to call from [direct]")
    parser.add_argument("--url", default=DEFAULT_URL, help=f"where the server's page is [{DEFAULT_URL}]")
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help="file with an API token, when a password is set"
    )
    parser.add_argument(
        "--message",
        default="",
        metavar="TEXT",
        help="what an answering machine gets after its beep; a person gets the conversation, once they have spoken",
    )
    parser.add_argument("--no-wait", action="store_true", help="return as soon as the call is on its way")


class Api:
    """The running server's HTTP API. Blocks; no thread of the server is here."""

    def __init__(self, url: str, token: str = "") -> None:
        self._url = url.rstrip("/")
        self._token = token

    def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The answer's JSON. Raises ``NetworkError`` without a server there, ``SipError`` with what it said."""
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise SipError(_said(error)) from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise NetworkError(f"no server answers at {self._url} ({reason}); start it, or give --url") from None


def _said(error: urllib.error.HTTPError) -> str:
    if error.code == 401:
        return "the server asks for a sign-in; give --token-file with an API token"
    try:
        body = json.load(error)
        return str(body["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return str(error)


def run(args: argparse.Namespace) -> int:
    """Place the call and watch it. Raises ``ConfigError``, ``NetworkError`` or ``SipError``."""
    if not args.url.startswith(("http://", "https://")):
        raise ConfigError(f"--url is '{args.url}'; it takes an address such as {DEFAULT_URL}")
    try:
        token = args.token_file.read_text(encoding="utf-8").strip() if args.token_file else ""
    except OSError as error:
        raise ConfigError(f"the token file {args.token_file} cannot be read ({error.strerror})") from None
    api = Api(args.url, token)
    wanted = {"uri": args.uri, "line_id": args.line}
    if args.message:
        wanted["message"] = args.message
    call_id = api.request("POST", "/api/calls", wanted)["call_id"]
    print(f"{call_id}: calling {args.uri}", flush=True)
    if args.no_wait:
        return 0
    try:
        return watch(api, call_id)
    except KeyboardInterrupt:
        api.request("POST", f"/api/calls/{quote(call_id)}/hangup")
        print("hung up")
        return 0


def watch(api: Api, call_id: str) -> int:
    """Say what becomes of a call until it is over; the exit status."""
    number: int | None = None
    shown = ""
    # The call is accepted before it is there: it comes by way of the SIP thread.
    unseen = UNSEEN_POLLS
    while True:
        calls = [call for call in api.request("GET", "/api/live")["calls"] if call["call_id"] == call_id]
        if not calls and number is None and unseen:
            unseen -= 1
            time.sleep(POLL_SECONDS)
            continue
        if not calls:
            break
        number = calls[0]["id"] or number
        state = "answered" if calls[0]["answered"] else "ringing"
        if state != shown:
            shown = state
            print(f"{call_id}: {state}", flush=True)
        time.sleep(POLL_SECONDS)
    if number is None:
        listed = api.request("GET", "/api/calls?limit=1")["calls"]
        number = listed[0]["id"] if listed else None
    if number is None:
        raise SipError("the call was over before it could be seen; the server's history has it")
    call = api.request("GET", f"/api/calls/{number}")
    seconds = call["seconds"]
    print(f"{call_id}: {call['end_reason']}" + (f", after {seconds:.0f} s" if seconds is not None else ""))
    return 0 if call["answered"] is not None else SipError.exit_code
