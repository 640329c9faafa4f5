"""Personas: who answers."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from aiphone.actions import check
from aiphone.errors import ConfigError
from aiphone.server.api import Answer, Api, ApiError, Request, etag
from aiphone.server.schema import Invalid, Problem
from aiphone.store.records import DEFAULT_PERSONA, DuplicateError, PersonaRecord


async def list_personas(api: Api, request: Request) -> Answer:  # noqa: ARG001 - all operations look alike
    """``GET /api/personas``."""
    return Answer({"personas": [_as_json(record) for record in await api.run(api.store.personas)]})


async def add_persona(api: Api, request: Request) -> Answer:
    """``POST /api/personas``."""
    record = _checked(PersonaRecord(**request.body))
    try:
        made = await api.run(api.store.add_persona, record)
    except DuplicateError:
        there = await api.run(api.store.persona, record.name)
        if asdict(there) | {"version": 0} != asdict(record) | {"version": 0}:
            raise
        return _answer(there)
    await api.audit(request, "add", f"persona {made.name}")
    _changed(api)
    return _answer(made, 201, {"Location": f"/api/personas/{made.name}"})


async def get_persona(api: Api, request: Request) -> Answer:
    """``GET /api/personas/{persona}``."""
    return _answer(await api.run(api.store.persona, request.path["persona"]))


async def change_persona(api: Api, request: Request) -> Answer:
    """``PUT /api/personas/{persona}``."""
    record = _checked(PersonaRecord(name=request.path["persona"], **request.body))
    stored = await api.run(api.store.update_persona, record, request.if_match)
    await api.audit(request, "change", f"persona {stored.name}")
    _changed(api)
    return _answer(stored)


async def delete_persona(api: Api, request: Request) -> Answer:
    """``DELETE /api/personas/{persona}``."""
    name = request.path["persona"]
    if name == DEFAULT_PERSONA:
        raise ApiError(
            409, f"the persona '{name}' answers where no other does and cannot be removed: change it instead"
        )
    await api.run(api.store.delete_persona, name, request.if_match)
    await api.audit(request, "delete", f"persona {name}")
    _changed(api)
    return Answer(status=204)


def _checked(record: PersonaRecord) -> PersonaRecord:
    """What no field alone says: the actions must make sense together. Raises ``Invalid``."""
    try:
        persona = record.persona()
        check(persona.actions, dict(persona.transfers))
    except ConfigError as error:
        raise Invalid([Problem("transfers", str(error), "lines like sales = sip:sales@example.com")]) from None
    return record


def _changed(api: Api) -> None:
    api.control.personas_changed()
    api.hub.publish("personas")


def _answer(record: PersonaRecord, status: int = 200, headers: dict[str, str] | None = None) -> Answer:
    return Answer(_as_json(record), status, etag(record.version) | (headers or {}))


def _as_json(record: PersonaRecord) -> dict[str, Any]:
    return asdict(record) | {"is_default": record.name == DEFAULT_PERSONA}
