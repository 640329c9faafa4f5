"""SIP clients: add, change, start, stop."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from aiphone.errors import AiphoneError, StorageError
from aiphone.server.api import Answer, Api, ApiError, Request, etag
from aiphone.server.schema import Problem
from aiphone.store.records import DuplicateError, NotFoundError, SipClient

RESERVED = ("direct", "web")
"""Line ids that the phone uses itself."""


async def list_sip_clients(api: Api, request: Request) -> Answer:  # noqa: ARG001 - all operations look alike
    """``GET /api/sip-clients``."""
    return Answer({"sip_clients": await all_clients(api)})


async def all_clients(api: Api) -> list[dict[str, Any]]:
    """All SIP clients as the API shows them."""
    clients = await api.run(
        lambda: [(client, _has_password(api, client.client_id)) for client in api.store.sip_clients()]
    )
    return [_as_json(api, client, has_password) for client, has_password in clients]


async def add_sip_client(api: Api, request: Request) -> Answer:
    """``POST /api/sip-clients``."""
    body = dict(request.body)
    password = body.pop("password")
    client = SipClient(**body)
    if client.client_id in RESERVED:
        raise ApiError(
            422,
            f"the client_id '{client.client_id}' is used by the phone itself; choose another",
            fields=[Problem("client_id", f"is '{client.client_id}'", "a name that is not direct or web")],
        )
    await _need_persona(api, client.persona)
    try:
        made = await api.run(api.store.add_sip_client, client, password)
    except DuplicateError:
        there = await api.run(api.store.sip_client, client.client_id)
        same = _edited(there) == _edited(client) and await api.run(api.store.sip_password, there.client_id) == password
        if not same:
            raise
        return await _answer(api, there)
    await api.audit(request, "add", f"sip-client {made.client_id}")
    api.hub.publish("clients")
    return await _answer(api, made, 201, {"Location": f"/api/sip-clients/{made.client_id}"})


async def get_sip_client(api: Api, request: Request) -> Answer:
    """``GET /api/sip-clients/{client_id}``."""
    return await _answer(api, await api.run(api.store.sip_client, request.path["client_id"]))


async def change_sip_client(api: Api, request: Request) -> Answer:
    """``PUT /api/sip-clients/{client_id}``."""
    body = dict(request.body)
    password = body.pop("password") or None
    async with api.changing:
        client = await api.run(api.store.sip_client, request.path["client_id"])
        await _need_persona(api, body["persona"])
        changed = SipClient(client_id=client.client_id, **body)
        stored = await api.run(api.store.update_sip_client, changed, password, request.if_match)
        await api.audit(request, "change", f"sip-client {stored.client_id}")
        api.control.personas_changed()
        if stored.started:
            api.control.stop_line(stored.client_id)
            if stored.enabled:
                await _start(api, stored)
            else:
                await api.run(api.store.set_started, stored.client_id, False)
    api.hub.publish("clients")
    return await _answer(api, await api.run(api.store.sip_client, stored.client_id))


async def delete_sip_client(api: Api, request: Request) -> Answer:
    """``DELETE /api/sip-clients/{client_id}``."""
    client_id = request.path["client_id"]
    async with api.changing:
        await api.run(api.store.delete_sip_client, client_id, request.if_match)
        api.control.stop_line(client_id)
        api.metrics.forget_line(client_id)
    await api.audit(request, "delete", f"sip-client {client_id}")
    api.hub.publish("clients")
    return Answer(status=204)


async def start_sip_client(api: Api, request: Request) -> Answer:
    """``POST /api/sip-clients/{client_id}/start``."""
    async with api.changing:
        client = await api.run(api.store.sip_client, request.path["client_id"])
        if not client.enabled:
            raise ApiError(409, f"the SIP client '{client.client_id}' is not enabled: enable it, then start it")
        await _start(api, client)
        if not client.started:
            await api.run(api.store.set_started, client.client_id, True)
            await api.audit(request, "start", f"sip-client {client.client_id}")
    return await _answer(api, await api.run(api.store.sip_client, client.client_id))


async def stop_sip_client(api: Api, request: Request) -> Answer:
    """``POST /api/sip-clients/{client_id}/stop``."""
    async with api.changing:
        client = await api.run(api.store.sip_client, request.path["client_id"])
        api.control.stop_line(client.client_id)
        if client.started:
            await api.run(api.store.set_started, client.client_id, False)
            await api.audit(request, "stop", f"sip-client {client.client_id}")
    return await _answer(api, await api.run(api.store.sip_client, client.client_id))


async def _start(api: Api, client: SipClient) -> None:
    password = await api.run(api.store.sip_password, client.client_id)
    try:
        api.control.start_line(client, password)
    except AiphoneError as error:
        raise ApiError(409, str(error)) from None


async def _need_persona(api: Api, name: str) -> None:
    try:
        await api.run(api.store.persona, name)
    except NotFoundError as error:
        problem = Problem("persona", f"is '{name}', which there is not", "the name of a persona, or nothing")
        raise ApiError(409, str(error), fields=[problem]) from None


async def _answer(api: Api, client: SipClient, status: int = 200, headers: dict[str, str] | None = None) -> Answer:
    has_password = await api.run(_has_password, api, client.client_id)
    return Answer(_as_json(api, client, has_password), status, etag(client.version) | (headers or {}))


def _has_password(api: Api, client_id: str) -> bool:
    try:
        return bool(api.store.sip_password(client_id))
    except StorageError:
        return False  # removed meanwhile, or the key file is another one: it has to be typed in again


def _edited(client: SipClient) -> dict[str, Any]:
    return {name: value for name, value in asdict(client).items() if name not in ("started", "version")}


def _as_json(api: Api, client: SipClient, has_password: bool) -> dict[str, Any]:
    status = api.control.line_state(client.client_id)
    return asdict(client) | {
        "has_password": has_password,
        "state": status.state,
        "reason": status.reason,
        "since": status.since,
    }
