"""The table of routes, and the OpenAPI document made from it.

The table is the one place that says which paths exist, who may use them, what they take and what they answer. The
application makes its handlers from it (``routes.py``), requests are checked by its schemas, and ``document`` writes it
down for others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from aiphone import __version__
from aiphone.server import shapes as s
from aiphone.server.schema import Field, Schema

Role = Literal["", "read", "operate", "admin"]

EVENTS = """\
A WebSocket. Each text message is one JSON object with `id` (rises; not always by one) and `type`:

| type | members |
|---|---|
| `hello` | `last`: id of the newest event. The first message of a connection without `after` |
| `reset` | `last`. Events were missed that are not kept any more: read the state anew |
| `registration` | `client_id`, `state`, `reason`, `since` |
| `clients` | SIP clients were added, changed or removed: read them anew |
| `ringing`, `answered` | `call_id`, `call`, `line_id`, `caller`, `caller_name`, `called`, `direction`, `at` |
| `moved` | the same: the call was transferred, and goes on with another `caller` |
| `state` | `call_id`, `call`, `state` |
| `hearing` | `call_id`, `call`, `text`: what the caller seems to say, may still change |
| `speaking` | `call_id`, `call`, `text`: words that are being spoken |
| `words` | `call_id`, `call`, `role`, `text`, `at`, `interrupted`: a line is final |
| `turn` | `call_id`, `call`, `total`, `parts`: seconds |
| `levels` | `calls`: list of `{call_id, in, out}` in dBFS, for all live calls at once; at most 5/s, not kept |
| `ended` | `call_id`, `call`, `code`, `reason`, `at` |
| `model` | `name`, `state` (pulling, done, failed), `done`, `total`, `error` |
| `settings`, `personas` | they were changed: read them anew |

`call` is the call's number in the store, null while it has none. Times are Unix seconds. To resume, connect with
`?after=` and the last id seen. A reader that is too slow is closed with code 4008 and may resume; 4001: sign in again.
"""

ANSWERS = {
    200: "Done.",
    201: "Made.",
    202: "Begun.",
    204: "Done; nothing to say.",
    206: "A part of it.",
    304: "Not changed since.",
    400: "The request cannot be read.",
    401: "Sign in first.",
    403: "Not allowed.",
    404: "It does not exist.",
    409: "It does not fit the present state.",
    412: "Somebody else changed it: read it again.",
    415: "The body is not JSON.",
    416: "There is no such part.",
    422: "A field is wrong; the answer names it, what is wrong and what would be right.",
    426: "Only for WebSockets.",
    429: "Too many attempts: wait.",
}
"""What each status means."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path."""

    method: Literal["get", "post", "put", "patch", "delete"]
    path: str
    name: str
    """``operationId``, and the name of the handler's function."""
    summary: str
    role: Role
    """What one must be allowed; empty: anybody may."""
    answer: Schema | None = None
    status: int = 200
    body: Schema | None = None
    partial: bool = False
    """Of the body only what is to change."""
    query: tuple[Field, ...] = ()
    errors: tuple[int, ...] = ()
    etag: bool = False
    """Answers carry an ETag; ``If-Match`` is heeded by what changes."""
    media: tuple[str, ...] = ("application/json",)
    extra: dict[int, str] = field(default_factory=dict)
    """Further good statuses."""


_NAMED = Field("client_id", "string", "The SIP client.", high=64, pattern=s.NAME)
_CALL = Field(
    "call",
    "string",
    "The call's number in the store, or its call_id while it lives.",
    high=32,
    pattern=r"[1-9][0-9]{0,15}|[a-z][a-z0-9\-]*",
)
PATH_FIELDS = {
    "client_id": _NAMED,
    "persona": Field("persona", "string", "The persona's name.", high=64, pattern=s.NAME),
    "call": _CALL,
    "key": Field("key", "string", "The session's key.", low=1, high=512),
    "model": Field("model", "string", "The model's name.", high=128, pattern=s.NAME),
    "token_id": Field("token_id", "string", "The token's id.", high=32, pattern=r"[A-Za-z0-9_\-]+"),
}
"""What stands in braces in a path."""

_FROM_TO = (
    Field("from", "number", "Not before this Unix time.", None, low=0, high=1e11),
    Field("to", "number", "Before this Unix time.", None, low=0, high=1e11),
)
_CALLS_QUERY = (
    Field("caller", "string", "Part of the caller's URI or name.", "", high=200),
    Field("line", "string", "The SIP client, exactly.", "", high=64),
    Field(
        "text",
        "string",
        "Words said in the call or in the caller's name, or a part of the caller's number.",
        "",
        high=200,
    ),
    *_FROM_TO,
    Field("limit", "integer", "Most calls in the answer.", 50, low=1, high=200),
    Field("before", "integer", "next of the page before.", None, low=1, high=2**53),
)
_AUDIT_QUERY = (
    Field("limit", "integer", "Most entries in the answer.", 50, low=1, high=200),
    Field("before", "integer", "next of the page before.", None, low=1, high=2**53),
)
_FORMAT = (Field("format", "string", "How it is written.", "json", choices=("json", "text", "vtt")),)
_SINCE = (Field("hours", "integer", "How far back.", 24, low=1, high=24 * 31),)
_AFTER = (Field("after", "integer", "Id of the last event seen.", None, low=0, high=2**53),)

O = Operation  # noqa: E741 - the table below is read, not calculated with
OPERATIONS: tuple[Operation, ...] = (
    # SIP clients
    O("get", "/api/sip-clients", "list_sip_clients", "All SIP clients.", "read", s.SIP_CLIENTS),
    O(
        "post",
        "/api/sip-clients",
        "add_sip_client",
        "Add a SIP client. Sent again unchanged it answers 200 with what is there.",
        "admin",
        s.SIP_CLIENT,
        201,
        s.SIP_CLIENT,
        errors=(409,),
        etag=True,
        extra={200: "It was there already, the same."},
    ),
    O("get", "/api/sip-clients/{client_id}", "get_sip_client", "One SIP client.", "read", s.SIP_CLIENT, etag=True),
    O(
        "put",
        "/api/sip-clients/{client_id}",
        "change_sip_client",
        "Replace all of it but the password, which stays when it is left out. A started client is started anew.",
        "admin",
        s.SIP_CLIENT,
        body=s.SIP_CLIENT_CHANGE,
        errors=(409, 412),
        etag=True,
    ),
    O(
        "delete",
        "/api/sip-clients/{client_id}",
        "delete_sip_client",
        "Stop and remove it.",
        "admin",
        status=204,
        errors=(412,),
        etag=True,
    ),
    O(
        "post",
        "/api/sip-clients/{client_id}/start",
        "start_sip_client",
        "Register, and do so again with the server. Nothing happens when it is started.",
        "operate",
        s.SIP_CLIENT,
        errors=(409,),
    ),
    O(
        "post",
        "/api/sip-clients/{client_id}/stop",
        "stop_sip_client",
        "Unregister. Nothing happens when it is stopped.",
        "operate",
        s.SIP_CLIENT,
    ),
    # calls
    O("get", "/api/live", "list_live_calls", "The calls going on.", "read", s.LIVE_CALLS),
    O("get", "/api/calls", "list_calls", "Calls, the latest first.", "read", s.CALLS, query=_CALLS_QUERY),
    O("post", "/api/calls", "place_call", "Call somebody.", "operate", s.PLACED, 202, s.PLACE_CALL, errors=(409,)),
    O("get", "/api/calls/{call}", "get_call", "A call: words, turns, latency, media.", "read", s.CALL_DETAIL),
    O(
        "post",
        "/api/calls/{call}/hangup",
        "hang_up_call",
        "End it. Nothing happens when it is over.",
        "operate",
        s.HUNG_UP,
    ),
    O(
        "get",
        "/api/calls/{call}/transcript",
        "get_transcript",
        "What was said.",
        "read",
        s.TRANSCRIPT,
        query=_FORMAT,
        media=("application/json", "text/plain", "text/vtt"),
    ),
    O(
        "get",
        "/api/calls/{call}/recording",
        "get_recording",
        "The audio (WAV); Range is heeded.",
        "read",
        errors=(416,),
        media=("audio/wav",),
        extra={206: ANSWERS[206], 304: ANSWERS[304]},
    ),
    O(
        "post",
        "/api/callers/forget",
        "forget_caller",
        "Remove all calls, words, recordings and memory of a caller.",
        "admin",
        s.FORGOTTEN,
        body=s.FORGET,
    ),
    # personas
    O("get", "/api/personas", "list_personas", "All personas.", "read", s.PERSONAS),
    O(
        "post",
        "/api/personas",
        "add_persona",
        "Add a persona. Sent again unchanged it answers 200.",
        "admin",
        s.PERSONA,
        201,
        s.PERSONA,
        errors=(409,),
        etag=True,
        extra={200: "It was there already, the same."},
    ),
    O("get", "/api/personas/{persona}", "get_persona", "One persona.", "read", s.PERSONA, etag=True),
    O(
        "put",
        "/api/personas/{persona}",
        "change_persona",
        "Replace it; takes effect with the next call.",
        "admin",
        s.PERSONA,
        body=s.PERSONA_CHANGE,
        errors=(409, 412),
        etag=True,
    ),
    O(
        "delete",
        "/api/personas/{persona}",
        "delete_persona",
        "Remove it (not the default one). SIP clients that used it get the default one.",
        "admin",
        status=204,
        errors=(409, 412),
        etag=True,
    ),
    # sessions
    O("get", "/api/sessions", "list_sessions", "Who is remembered.", "read", s.SESSIONS),
    O("get", "/api/sessions/{key}", "get_session", "What is remembered of a caller.", "read", s.SESSION_DETAIL),
    O("delete", "/api/sessions/{key}", "forget_session", "Forget it for good.", "admin", status=204),
    # models
    O("get", "/api/models", "list_models", "The catalogue, and what is here.", "read", s.MODELS),
    O(
        "post",
        "/api/models/{model}/pull",
        "pull_model",
        "Download it. Progress comes as `model` events. Nothing happens when it is under way.",
        "admin",
        s.PULL,
        202,
        errors=(409,),
    ),
    O(
        "post",
        "/api/models/{model}/choose",
        "choose_model",
        "Use it after the next start.",
        "admin",
        s.CHOSEN,
        errors=(409,),
    ),
    # settings, status
    O("get", "/api/settings", "get_settings", "All settings.", "read", s.SETTINGS, etag=True),
    O(
        "patch",
        "/api/settings",
        "change_settings",
        "Change those that are sent.",
        "admin",
        s.SETTINGS,
        body=s.SETTINGS,
        partial=True,
        errors=(412,),
        etag=True,
    ),
    O("get", "/api/status", "get_status", "The running system.", "read", s.STATUS),
    O("get", "/api/dashboard", "get_dashboard", "The first page's figures.", "read", s.DASHBOARD, query=_SINCE),
    O("get", "/metrics", "get_metrics", "Figures for Prometheus.", "read", media=("text/plain",)),
    O("get", "/api/events", "watch_events", EVENTS, "read", status=101, query=_AFTER, errors=(426,)),
    # who may enter
    O("get", "/api/session", "get_me", "Whether a password is required, who asks, and the CSRF token.", "", s.ME),
    O("post", "/api/session", "sign_in", "Sign in; sets a cookie.", "", s.ME, body=s.SIGN_IN, errors=(401, 429)),
    O("delete", "/api/session", "sign_out", "Sign out.", "", status=204),
    O("get", "/api/tokens", "list_tokens", "Tokens for programs.", "admin", s.TOKENS),
    O(
        "post",
        "/api/tokens",
        "add_token",
        "Make a token; its secret is shown this once.",
        "admin",
        s.TOKEN_SECRET,
        201,
        s.NEW_TOKEN,
    ),
    O("delete", "/api/tokens/{token_id}", "delete_token", "The token is valid no more.", "admin", status=204),
    O("get", "/api/audit", "list_audit", "What was done, and by whom.", "admin", s.AUDIT, query=_AUDIT_QUERY),
    O("get", "/api/openapi.json", "get_openapi", "This document.", "", None),
)
"""Every operation of the API."""


def document() -> dict[str, Any]:
    """The OpenAPI 3.1 document. Any thread."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "aiphone", "version": __version__, "description": "An AI that answers the telephone."},
        "paths": paths,
        "components": {
            "schemas": _components(),
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "cookie": {"type": "apiKey", "in": "cookie", "name": "aiphone_session"},
            },
        },
    }


def path_names(path: str) -> list[str]:
    """Names of what stands in braces."""
    return [part[1:-1] for part in path.split("/") if part.startswith("{")]


def _operation(operation: Operation) -> dict[str, Any]:
    names = path_names(operation.path)
    entry: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary.split("\n", 1)[0],
        "parameters": [_parameter(PATH_FIELDS[name], "path") for name in names]
        + [_parameter(item, "query") for item in operation.query],
        "responses": _responses(operation, bool(names)),
    }
    if "\n" in operation.summary:
        entry["description"] = operation.summary
    if operation.etag and operation.method in ("put", "patch", "delete"):
        version = {"type": "string", "pattern": '^(?:"[0-9]{1,15}"|\\*)$'}
        entry["parameters"].append(
            {
                "name": "If-Match",
                "in": "header",
                "required": False,
                "schema": version,
                "description": "The ETag that was read.",
            }
        )
    if operation.body is not None:
        name = _body_name(operation)
        entry["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}},
        }
    if operation.role:
        entry["x-role"] = operation.role
        entry["security"] = [{"token": []}, {"cookie": []}, {}]
    return entry


def _parameter(item: Field, where: str) -> dict[str, Any]:
    schema = item.document(answer=False)
    text = schema.pop("description")
    return {"name": item.name, "in": where, "required": where == "path", "description": text, "schema": schema}


def _responses(operation: Operation, named: bool) -> dict[str, Any]:
    good: dict[str, Any] = {"description": ANSWERS.get(operation.status, "The connection becomes a WebSocket.")}
    if operation.status not in (101, 204):
        ref: dict[str, Any] = {}
        if operation.answer is not None:
            ref = {"schema": {"$ref": f"#/components/schemas/{operation.answer.name}"}}
        good["content"] = {media: ref if media == "application/json" else {} for media in operation.media}
    if operation.etag and operation.method != "delete":
        good["headers"] = {"ETag": {"schema": {"type": "string"}, "description": "Its version."}}
    responses = {str(operation.status): good}
    for status, text in operation.extra.items():
        responses[str(status)] = good | {"description": text} if status != 304 else {"description": text}
    errors = {400, 403, *operation.errors}
    if operation.role:
        errors.add(401)
    if named:
        errors.add(404)
    if operation.method != "get":
        errors.add(415)
    if operation.body is not None or operation.query or named or operation.etag:
        errors.add(422)
    for status in sorted(errors):
        schema = {"$ref": f"#/components/schemas/{s.ERROR.name}"}
        responses[str(status)] = {"description": ANSWERS[status], "content": {"application/json": {"schema": schema}}}
    return responses


def _body_name(operation: Operation) -> str:
    assert operation.body is not None
    return f"{operation.body.name}{'Change' if operation.partial else 'Input'}"


def _components() -> dict[str, Any]:
    found: dict[str, Any] = {}

    def add(schema: Schema) -> None:
        if schema.name not in found:
            found[schema.name] = schema.document(answer=True)
            for item in schema.fields:
                if item.of is not None:
                    add(item.of)

    add(s.ERROR)
    for operation in OPERATIONS:
        if operation.answer is not None:
            add(operation.answer)
        if operation.body is not None:
            body = operation.body.document(answer=False)
            if operation.partial:
                body.pop("required", None)
                for member in body["properties"].values():
                    member.pop("default", None)
            found[_body_name(operation)] = body
    return found
