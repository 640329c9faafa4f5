"""Signing in and out, and tokens for programs."""

from __future__ import annotations

import math
from typing import Any

from aiphone.server.api import Answer, Api, ApiError, Request
from aiphone.server.auth import NOBODY, Actor


async def get_me(api: Api, request: Request) -> Answer:
    """``GET /api/session``."""
    return Answer(_me(api, request.actor))


async def sign_in(api: Api, request: Request) -> Answer:
    """``POST /api/session``."""
    if not api.auth.password_required:
        return Answer(_me(api, request.actor))
    wait = api.auth.limit.wait(request.address)
    if wait > 0:
        seconds = math.ceil(wait)
        raise ApiError(429, f"too many attempts: try again in {seconds} s", headers={"Retry-After": str(seconds)})
    api.auth.limit.try_now(request.address)
    async with api.hashing:
        right = await api.run(api.auth.matches, request.body["password"])
    if not right:
        raise ApiError(401, "the password is wrong; it was set with: whisper-talk-llama passwd")
    api.auth.limit.succeeded(request.address)
    if request.cookie:
        api.auth.close_session(request.cookie)
    cookie, actor = api.auth.open_session()
    await api.audit(Request(actor, {}, {}, {}), "sign in", request.address)
    return Answer(_me(api, actor), cookie=cookie)


async def sign_out(api: Api, request: Request) -> Answer:
    """``DELETE /api/session``."""
    if request.cookie:
        api.auth.close_session(request.cookie)
    return Answer(status=204, cookie="")


async def list_tokens(api: Api, request: Request) -> Answer:  # noqa: ARG001 - all operations look alike
    """``GET /api/tokens``."""
    return Answer({"tokens": api.auth.tokens()})


async def add_token(api: Api, request: Request) -> Answer:
    """``POST /api/tokens``."""
    made, keep = api.auth.new_token(request.body["name"], request.body["role"], api.wall())
    await api.run(keep)
    await api.audit(request, "add", f"token {made['name']}", made["role"])
    return Answer(made, 201)


async def delete_token(api: Api, request: Request) -> Answer:
    """``DELETE /api/tokens/{token_id}``."""
    keep = api.auth.delete_token(request.path["token_id"])
    if keep is None:
        raise ApiError(404, "there is no such token; GET /api/tokens lists those that there are")
    await api.run(keep)
    await api.audit(request, "delete", f"token {request.path['token_id']}")
    return Answer(status=204)


def _me(api: Api, actor: Actor) -> dict[str, Any]:
    return {
        "password_required": api.auth.password_required,
        "signed_in": actor is not NOBODY,
        "role": actor.role or None,
        "csrf_token": actor.csrf,
    }
