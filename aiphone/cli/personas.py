"""Personas made from the settings: the default one, and one for each line with a greeting of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from aiphone.actions import check, targets_of
from aiphone.config import Settings
from aiphone.errors import ConfigError
from aiphone.persona import Persona, Sampling


def default_persona(settings: Settings) -> Persona:
    """Who answers. Raises ``ConfigError`` for a prompt file that cannot be read, or actions that make no sense."""
    persona = Persona(
        name=settings.bot_name,
        caller_name=settings.person,
        greeting=settings.greeting,
        language=settings.language,
        sampling=Sampling(
            temperature=settings.temp,
            top_k=settings.top_k,
            top_p=settings.top_p,
            min_p=settings.min_p,
            seed=settings.seed,
            max_tokens=settings.reply_tokens,
        ),
        patience=settings.patience,
        patience_floor=settings.patience_floor,
        patience_ceiling=settings.patience_ceiling,
        filler=settings.filler,
        idle_after=settings.idle_after,
        wake_command=settings.wake_command,
        heard_ok=settings.heard_ok,
        actions=tuple(_listed(settings.actions)),
        transfers=targets_of(_listed(settings.transfers)),
    )
    check(persona.actions, dict(persona.transfers))
    if settings.prompt_file:
        persona = replace(persona, prompt=_read_prompt(Path(settings.prompt_file)))
    return persona


def personas_by_line(settings: Settings, default: Persona) -> dict[str, Persona]:
    """Personas of the lines that have a greeting of their own."""
    return {line.client_id: replace(default, greeting=line.greeting) for line in settings.lines if line.greeting}


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _read_prompt(path: Path) -> str:
    try:
        text = path.read_text("utf-8").strip()
    except FileNotFoundError:
        raise ConfigError(f"there is no prompt file {path}; check --prompt-file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the prompt file {path} cannot be read as UTF-8 text: {error}") from None
    if not text:
        raise ConfigError(f"the prompt file {path} is empty; write the assistant's instructions into it")
    return text
