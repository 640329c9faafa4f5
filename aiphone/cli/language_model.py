"""Which language model answers: the embedded one, or a server that speaks OpenAI's protocol (``--llm-url``)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from aiphone.clock import Clock, SystemClock
from aiphone.config import Settings
from aiphone.cores import Cores
from aiphone.errors import ConfigError, NetworkError
from aiphone.events import Event
from aiphone.inference.llm import LanguageModel
from aiphone.inference.openai_http import Endpoint
from aiphone.inference.openai_model import OpenAiModel
from aiphone.models.resolve import resolve_llm
from aiphone.models.store import ModelStore

KEY_VARIABLE = "AIPHONE_LLM_KEY"


def language_model_name(settings: Settings, store: ModelStore) -> str:
    """What people call it. Raises ``ModelError`` or ``ConfigError`` when there is none."""
    if settings.llm_url:
        endpoint = Endpoint.parse(settings.llm_url)
        return f"{settings.llm_model or 'the model'} at {endpoint}"
    return resolve_llm(settings.model_llama, store).name


def check_language_model(settings: Settings, store: ModelStore) -> str:
    """What the doctor says of it. Raises ``ModelError``, ``ConfigError`` or
    ``NetworkError`` when it cannot be used."""
    if not settings.llm_url:
        path = resolve_llm(settings.model_llama, store)
        return f"{path.name}, {path.stat().st_size / 1e6:.0f} MB"
    model = make_language_model(settings, store, post=lambda _: None, clock=SystemClock())
    model.start()
    status = model.status()
    model.stop()
    if not status["ready"]:
        raise NetworkError(f"{status['last_error']}; start it, or check --llm-url")
    return f"{status['model']} at {status['url']}"


def make_language_model(
    settings: Settings,
    store: ModelStore,
    *,
    post: Callable[[Event], object],
    clock: Clock,
    cores: Cores | None = None,
    environ: Mapping[str, str] = os.environ,
) -> LanguageModel | OpenAiModel:
    """The model that the settings name, not started yet. Raises ``ModelError`` or ``ConfigError``."""
    if settings.llm_url:
        return OpenAiModel(
            Endpoint.parse(settings.llm_url),
            post=post,
            clock=clock,
            model=settings.llm_model,
            key=llm_key(settings, environ),
            n_ctx_per_call=settings.ctx_per_call,
        )
    return LanguageModel(
        resolve_llm(settings.model_llama, store),
        post=post,
        clock=clock,
        threads=settings.threads,
        max_calls=settings.max_calls,
        n_ctx_per_call=settings.ctx_per_call,
        n_gpu_layers=settings.gpu_layers,
        use_gpu=not settings.no_gpu,
        flash_attn=True if settings.flash_attn else False if settings.no_flash_attn else None,
        kv_types=(settings.cache_type_k, settings.cache_type_v),
        cores=cores,
    )


def llm_key(settings: Settings, environ: Mapping[str, str]) -> str:
    """The server's key: the first line of the key file, or the environment's; empty for none.

    Raises ``ConfigError`` for a file that holds no key.
    """
    if not settings.llm_key_file:
        return environ.get(KEY_VARIABLE, "").strip()
    path = Path(settings.llm_key_file)
    try:
        lines = path.read_text("ascii").split()
    except FileNotFoundError:
        raise ConfigError(f"there is no key file {path}; check --llm-key-file") from None
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"the key file {path} cannot be read as a line of text; check --llm-key-file") from None
    if len(lines) != 1:
        raise ConfigError(f"the key file {path} holds {len(lines)} words; write the key alone into it")
    return lines[0]
