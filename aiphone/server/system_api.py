"""What is not a call or a SIP client: sessions, models, settings, status, figures."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from dataclasses import asdict
from typing import Any

from aiphone.errors import AiphoneError
from aiphone.server import metrics
from aiphone.server.api import Answer, Api, ApiError, Pull, Request, etag
from aiphone.server.clients_api import all_clients
from aiphone.server.control import ModelInfo
from aiphone.server.openapi import document
from aiphone.server.shapes import PARTS
from aiphone.store.records import LatencySummary, Retention, VersionError

log = logging.getLogger(__name__)

_KEPT = {"record_calls": False, "allowed_hosts": [], "guide_done": False}
"""Settings that are in the store under their own names, with what they are at first."""
_VERSION = "_settings_version"
"""Setting that counts the changes of the others."""
_DAYS = {"keep_calls_days": "calls", "keep_transcripts_days": "transcripts", "keep_recordings_days": "recordings"}
_PROGRESS_SECONDS = 0.5

# ------------------------------------------------------------------------------------------- sessions


async def list_sessions(api: Api, request: Request) -> Answer:  # noqa: ARG001 - all operations look alike
    """``GET /api/sessions``."""
    return Answer({"sessions": [asdict(entry) for entry in await api.run(api.control.sessions)]})


async def get_session(api: Api, request: Request) -> Answer:
    """``GET /api/sessions/{key}``."""
    found = await api.run(api.control.session, request.path["key"])
    if found is None:
        raise _no_session(request.path["key"])
    messages = [{"role": message["role"], "content": message["content"]} for message in found["messages"]]
    return Answer({"key": found["key"], "updated": found["updated"], "messages": messages, "tokens": found["tokens"]})


async def forget_session(api: Api, request: Request) -> Answer:
    """``DELETE /api/sessions/{key}``."""
    if not await api.run(api.control.forget_session, request.path["key"]):
        raise _no_session(request.path["key"])
    await api.audit(request, "forget", "session")
    return Answer(status=204)


def _no_session(key: str) -> ApiError:
    return ApiError(404, f"nothing is remembered under '{key[:100]}'; GET /api/sessions lists what is")


# --------------------------------------------------------------------------------------------- models


async def list_models(api: Api, request: Request) -> Answer:  # noqa: ARG001 - all operations look alike
    """``GET /api/models``."""
    models = await api.run(api.control.models)
    pulls = {name: pull.as_json() for name, pull in api.pulls.items()}
    return Answer({"models": [asdict(model) | {"pull": pulls.get(model.name)} for model in models]})


async def pull_model(api: Api, request: Request) -> Answer:
    """``POST /api/models/{model}/pull``."""
    model = await _model(api, request.path["model"])
    pull = api.pulls.get(model.name)
    if pull is None or pull.state != "pulling":
        if model.installed:
            return Answer(Pull("done", model.size, model.size).as_json(), 202)
        pull = api.pulls[model.name] = Pull(total=model.size)
        pull.task = asyncio.create_task(_pull(api, model.name, pull))
        await api.audit(request, "pull", f"model {model.name}")
    return Answer(pull.as_json(), 202)


async def choose_model(api: Api, request: Request) -> Answer:
    """``POST /api/models/{model}/choose``."""
    model = await _model(api, request.path["model"])
    if not model.installed:
        raise ApiError(409, f"the model '{model.name}' is not here yet: pull it first")
    restart = await api.run(api.control.choose_model, model.name)
    await api.audit(request, "choose", f"model {model.name}")
    return Answer({"name": model.name, "restart_needed": restart})


async def _model(api: Api, name: str) -> ModelInfo:
    for model in await api.run(api.control.models):
        if model.name == name:
            return model
    raise ApiError(404, f"there is no model '{name}'; GET /api/models lists those that there are")


async def _pull(api: Api, name: str, pull: Pull) -> None:
    loop = asyncio.get_running_loop()
    told = 0.0

    def tell() -> None:
        api.hub.publish("model", name=name, **pull.as_json())

    def progress(done: int, total: int) -> None:
        nonlocal told
        pull.done, pull.total = done, total
        if time.monotonic() - told >= _PROGRESS_SECONDS:
            told = time.monotonic()
            loop.call_soon_threadsafe(tell)

    async with api.pulling:
        try:
            await api.run(api.control.pull_model, name, progress)
        except AiphoneError as error:
            pull.state, pull.error = "failed", str(error)
        except Exception:  # the top of a task: nobody else would hear of it
            log.exception("the download of %s failed", name)
            pull.state, pull.error = "failed", "something unexpected went wrong; the log says what"
        else:
            pull.state, pull.done = "done", pull.total
    tell()


# ------------------------------------------------------------------------------------- settings, status


async def get_settings(api: Api, request: Request) -> Answer:  # noqa: ARG001 - all operations look alike
    """``GET /api/settings``."""
    settings, version = await api.run(_settings, api)
    return Answer(settings, headers=etag(version))


async def change_settings(api: Api, request: Request) -> Answer:
    """``PATCH /api/settings``."""
    await api.run(_change_settings, api, request.body, request.if_match)
    settings, version = await api.run(_settings, api)
    api.guard.allow(settings["allowed_hosts"])
    api.control.settings_changed()
    if request.body:
        await api.audit(request, "change", "settings", ", ".join(sorted(request.body)))
        api.hub.publish("settings")
    return Answer(settings, headers=etag(version))


def _settings(api: Api) -> tuple[dict[str, Any], int]:
    """All settings, and their version."""
    days = api.store.retention()
    kept = {name: api.store.setting(name, default) for name, default in _KEPT.items()}
    version = int(api.store.setting(_VERSION, 1))
    return {name: int(getattr(days, part)) for name, part in _DAYS.items()} | kept, version


def _change_settings(api: Api, changes: dict[str, Any], if_version: int | None) -> None:
    with api.store.batch():
        version = int(api.store.setting(_VERSION, 1))
        if if_version not in (None, version):
            raise VersionError("The settings were changed by someone else meanwhile: look at them, then change yours.")
        if changes:
            api.store.set_setting(_VERSION, version + 1)
        for name in _KEPT.keys() & changes.keys():
            api.store.set_setting(name, changes[name])
        if _DAYS.keys() & changes.keys():
            days = asdict(api.store.retention())
            api.store.set_retention(
                Retention(**days | {part: changes[name] for name, part in _DAYS.items() if name in changes})
            )


async def get_status(api: Api, request: Request) -> Answer:  # noqa: ARG001 - all operations look alike
    """``GET /api/status``."""
    return Answer(api.control.status())


async def get_dashboard(api: Api, request: Request) -> Answer:
    """``GET /api/dashboard``."""
    since = api.wall() - request.query["hours"] * 3600
    latency, hours = await api.run(lambda: (api.store.latency_summary(since), api.store.calls_by_hour(since)))
    status = api.control.status()
    return Answer(
        {
            "active_calls": len(api.control.active_calls()),
            "max_calls": status.get("max_calls", 0),
            "since": since,
            "hours": [asdict(hour) for hour in hours],
            **_latency(latency),
            "load": [round(value, 2) for value in os.getloadavg()],
            "cores": os.cpu_count() or 1,
            "lines": await all_clients(api),
            "pjsua2": status.get("pjsua2"),
            "models": status.get("models", {}),
            "warnings": status.get("warnings", []),
        }
    )


def _latency(summary: LatencySummary) -> dict[str, Any]:
    return {
        "turns": summary.turns,
        "interrupted": summary.interrupted,
        "latency": asdict(summary.total) if summary.total else None,
        "parts": {name: asdict(part) for name, part in summary.parts.items() if name in PARTS},
        "points": [asdict(point) for point in summary.points],
    }


async def get_metrics(api: Api, request: Request) -> Answer:  # noqa: ARG001 - all operations look alike
    """``GET /metrics``."""
    return Answer(api.metrics.text(), content_type=metrics.CONTENT_TYPE)


async def list_audit(api: Api, request: Request) -> Answer:
    """``GET /api/audit``."""
    limit = request.query["limit"]
    found = await api.run(api.store.audit_log, limit + 1, request.query["before"])
    more = found[limit - 1].id if len(found) > limit else None
    return Answer({"entries": [asdict(entry) for entry in found[:limit]], "next": more})


async def get_openapi(api: Api, request: Request) -> Answer:  # noqa: ARG001 - all operations look alike
    """``GET /api/openapi.json``."""
    return Answer(document())
