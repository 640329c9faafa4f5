"""What goes over the wire to a server with OpenAI's chat API, and what its answers mean. Pure functions.

Source: OpenAI's "Create chat completion", as llama-server, vLLM, Ollama and llama-cpp-python implement it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiphone.inference.openai_http import EndpointError
from aiphone.persona import Message, Sampling

EXTRAS = ("top_k", "min_p", "grammar")
"""Settings that OpenAI's own API does not know."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One event of a stream, or a whole answer."""

    text: str
    reason: str
    """Why the reply ended, as ``ReplyEnded`` has it; empty while it goes on."""
    prompt_tokens: int = 0
    cached_tokens: int = 0


def chat_request(
    model: str, messages: Sequence[Message], sampling: Sampling, grammar: str | None, refused: Collection[str]
) -> bytes:
    """Body of a request; without the fields in ``refused``, which the server is known not to take."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": message.role, "content": message.content} for message in messages],
        "stream": True,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed,
        "max_tokens": sampling.max_tokens,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
    }
    if "max_tokens" in refused:
        body["max_completion_tokens"] = body["max_tokens"]
    if grammar is not None:
        body["grammar"] = grammar
    return json.dumps({name: value for name, value in body.items() if name not in refused}).encode()


def read_piece(data: str) -> Piece:
    """The JSON of one event. Raises ``EndpointError`` when it reports a failure or is something else."""
    try:
        event = json.loads(data)
        failed = bool(event.get("error"))
        usage = event.get("usage") or {}
        details = usage.get("prompt_tokens_details") or {}
        choice = (event.get("choices") or [{}])[0]
        content = (choice.get("delta") or choice.get("message") or {}).get("content") or ""
        finish = choice.get("finish_reason") or ""
        piece = Piece(
            text=content + "",
            reason="length" if finish == "length" else "stop" if finish else "",
            prompt_tokens=int(usage.get("prompt_tokens") or 0),
            cached_tokens=int(details.get("cached_tokens") or 0),
        )
    except (ValueError, TypeError, AttributeError, KeyError, IndexError, RecursionError):
        reason = "the language model server sends something else than chat completions"
        raise EndpointError(reason, retry=True) from None
    if failed:
        raise EndpointError(f"the language model server fails{said(data)}", retry=True)
    return piece


def model_names(body: str) -> list[str]:
    """The models that ``/models`` lists. Raises ``EndpointError`` when it lists something else."""
    try:
        return [str(entry["id"]) for entry in json.loads(body)["data"]]
    except (ValueError, TypeError, KeyError):
        raise EndpointError("this is no OpenAI-compatible server: check --llm-url", retry=False) from None


def refusal(status: int, headers: Mapping[str, str], detail: str, model: str) -> EndpointError:
    """The error that an answer with this ``status`` is."""
    if status in (401, 403):
        reason = "the language model server refuses the key: check --llm-key-file or AIPHONE_LLM_KEY"
        return EndpointError(reason, retry=False, status=status)
    if status == 404:
        reason = f"the language model server knows no model '{model}', or nothing at this address: check --llm-model"
        return EndpointError(f"{reason} and --llm-url", retry=False, status=status)
    wait = headers.get("retry-after", "")
    return EndpointError(
        f"the language model server answers {status}{said(detail)}",
        retry=status in (408, 409, 425, 429) or status >= 500,
        status=status,
        wait=float(wait) if wait.isascii() and wait.isdigit() else 0.0,
        detail=detail,
    )


def said(detail: str) -> str:
    """What a server says of its failure, in brackets; empty when that is nothing for people."""
    try:
        error = json.loads(detail)["error"]
        message = error["message"] if isinstance(error, dict) else error
    except (ValueError, TypeError, KeyError, RecursionError):
        return ""
    text = "".join(char if char.isprintable() else " " for char in str(message))[:160]
    return f" ({text})" if text else ""
