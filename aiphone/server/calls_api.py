"""Calls: going on, past, and to be made."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from aiphone.server.api import Answer, Api, ApiError, Request
from aiphone.server.control import LiveCall
from aiphone.server.schema import Problem
from aiphone.server.transcript import as_text, as_vtt
from aiphone.store.records import CallFilter, CallRow, NotFoundError, WordsRow


async def list_live_calls(api: Api, request: Request) -> Answer:  # noqa: ARG001 - all operations look alike
    """``GET /api/live``."""
    return Answer({"calls": [asdict(call) for call in api.control.active_calls()]})


async def list_calls(api: Api, request: Request) -> Answer:
    """``GET /api/calls``."""
    query = request.query
    where = CallFilter(query["caller"], query["line"], query["text"], query["from"], query["to"])
    page = await api.run(api.store.calls, where, query["limit"], query["before"])
    live = _live_by_number(api)
    return Answer(
        {"calls": [call_json(row, live.get(row.id), api.wall()) for row in page.calls], "next": page.next_before}
    )


async def get_call(api: Api, request: Request) -> Answer:
    """``GET /api/calls/{call}``."""
    number = find_call(api, request.path["call"])
    row, turns, words = await api.run(
        lambda: (api.store.call(number), api.store.turns(number), api.store.words(number))
    )
    body = call_json(row, _live_by_number(api).get(number), api.wall())
    body["turns"] = [{name: value for name, value in asdict(turn).items() if name != "call_id"} for turn in turns]
    body["words"] = [_words_json(row, line) for line in words]
    body["media"] = row.media or None
    return Answer(body)


async def hang_up_call(api: Api, request: Request) -> Answer:
    """``POST /api/calls/{call}/hangup``."""
    name = request.path["call"]
    if name.isdigit():
        live = _live_by_number(api).get(int(name))
        if live is None:
            await api.run(api.store.call, int(name))
            return Answer({"ended": False})
        name = live.call_id
    ended = api.control.hang_up(name)
    if ended:
        await api.audit(request, "hang up", f"call {name}")
    return Answer({"ended": ended})


async def place_call(api: Api, request: Request) -> Answer:
    """``POST /api/calls``."""
    line_id = request.body["line_id"]
    try:
        # The direct line and those of the configuration file are not in the store.
        if line_id != "direct" and api.control.line_state(line_id).state == "stopped":
            await api.run(api.store.sip_client, line_id)
    except NotFoundError as error:
        problem = Problem("line_id", f"is '{line_id}', which there is not", "the client_id of a SIP client")
        raise ApiError(409, str(error), fields=[problem]) from None
    call_id = api.control.place_call(request.body["uri"], line_id, request.body["message"])
    await api.audit(request, "place", f"call {call_id}", request.body["uri"])
    return Answer({"call_id": call_id}, 202)


async def get_transcript(api: Api, request: Request) -> Answer:
    """``GET /api/calls/{call}/transcript``."""
    number = find_call(api, request.path["call"])
    row, words = await api.run(lambda: (api.store.call(number), api.store.words(number)))
    begin = row.answered or row.started
    match request.query["format"]:
        case "text":
            return _file(as_text(words, begin), "text/plain; charset=utf-8", f"call-{number}.txt")
        case "vtt":
            return _file(as_vtt(words, begin), "text/vtt; charset=utf-8", f"call-{number}.vtt")
        case _:
            return Answer({"id": number, "words": [_words_json(row, line) for line in words]})


async def forget_caller(api: Api, request: Request) -> Answer:
    """``POST /api/callers/forget``."""
    caller = request.body["caller"].strip()
    if not caller:
        problem = Problem("caller", "is empty", "the URI of a caller, as in a call")
        raise ApiError(422, "the caller is missing", fields=[problem])
    removed = await api.run(api.store.forget_caller, caller)
    sessions = await api.run(api.control.forget_caller, caller)
    # Not whom: a note of it would be the very thing that was to go.
    await api.audit(request, "forget", "caller")
    return Answer({"calls": removed.calls, "sessions": sessions})


def find_call(api: Api, name: str) -> int:
    """The number in the store of a call named by it or, while it lives, by its call_id. Raises ``ApiError``."""
    if name.isdigit():
        return int(name)
    for call in api.control.active_calls():
        if call.call_id == name and call.id is not None:
            return call.id
    raise ApiError(404, f"no call '{name[:40]}' is going on; GET /api/calls lists those that were")


def call_json(row: CallRow, live: LiveCall | None, now: float) -> dict[str, Any]:
    """A call as lists show it."""
    end = row.ended if row.ended is not None else now
    return {
        "id": row.id,
        "line_id": row.line_id,
        "caller": row.caller,
        "caller_name": row.caller_name,
        "called": row.called,
        "direction": row.direction,
        "started": row.started,
        "answered": row.answered,
        "ended": row.ended,
        "seconds": None if row.answered is None else round(max(0.0, end - row.answered), 3),
        "end_code": row.end_code,
        "end_reason": row.end_reason,
        "has_recording": bool(row.recording),
        "call_id": live.call_id if live else None,
    }


def _words_json(row: CallRow, line: WordsRow) -> dict[str, Any]:
    offset = line.at - (row.answered or row.started)
    return {
        "number": line.number,
        "role": line.role,
        "text": line.text,
        "at": line.at,
        "offset": round(offset, 3),
        "interrupted": line.interrupted,
        "words": [
            {
                "text": word.text,
                "start": round(offset + word.start, 2),
                "end": round(offset + word.end, 2),
                "probability": word.probability,
            }
            for word in line.spoken
        ],
    }


def _live_by_number(api: Api) -> dict[int, LiveCall]:
    return {call.id: call for call in api.control.active_calls() if call.id is not None}


def _file(text: str, content_type: str, name: str) -> Answer:
    headers = {"Content-Disposition": f'inline; filename="{name}"'}
    return Answer(text.encode("utf-8", "replace"), headers=headers, content_type=content_type)
