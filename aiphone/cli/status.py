"""The body of ``GET /api/status``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from aiphone import __version__
from aiphone.cli.assembly import Phone, lines_of
from aiphone.config import Settings
from aiphone.sip.addresses import host_port


class StatusReport:
    """Describes the running system. Main thread only."""

    def __init__(self, settings: Settings, started: float) -> None:
        self._settings = settings
        self._started = started
        self.phone: Phone | None = None
        """Set once calls are taken."""

    def __call__(self) -> dict[str, Any]:
        """A new snapshot."""
        phone = self.phone
        body: dict[str, Any] = {
            "ready": phone is not None,
            "version": __version__,
            "uptime": 0.0,
            "models": {},
            "lines": [],
            "calls": [],
            "active_calls": 0,
            "max_calls": self._settings.max_calls,
            "warnings": [],
        }
        if phone is None or phone.models is None or phone.engine is None:
            return body
        if phone.sip is None or phone.switchboard is None:
            return body
        now = phone.clock.now()
        sip = phone.sip.status()
        board = phone.switchboard
        names = dict(lines_of(phone.settings))
        body |= {
            "uptime": round(now - self._started, 1),
            "sip_uri": sip_uri(phone),
            "sip_listening": [f"{host}:{sip.port}" for host in sip.listening],
            "pjsua2": {"version": sip.version, "call_limit": sip.call_limit, "note": sip.note},
            "models": {
                "whisper": {"file": phone.models.whisper_path.name, **phone.models.recogniser.status()},
                "llm": {"file": phone.models.llm_name, **phone.models.model.status()},
                "voice": {"name": phone.models.voice_name, **asdict(phone.models.synthesiser.status())},
            },
            "lines": [
                {
                    "line_id": line_id,
                    "display_name": names.get(line_id, line_id),
                    "state": board.lines[line_id].state.value if line_id in board.lines else "stopped",
                    "reason": board.lines[line_id].reason if line_id in board.lines else "",
                }
                for line_id in dict.fromkeys([*names, *board.lines])
            ],
            "calls": [
                {
                    "call_id": record.call_id,
                    "line_id": record.line_id,
                    "caller": record.caller,
                    "state": board.state_of(record.call_id),
                    "seconds": round(now - record.started, 1),
                }
                for record in board.active
            ],
            "active_calls": len(board.active),
            "total_calls": board.total,
            "recent_calls": [
                {
                    "call_id": record.call_id,
                    "sip_call_id": record.sip_call_id,
                    "line_id": record.line_id,
                    "caller": record.caller,
                    "end_reason": record.end_reason,
                    "seconds": round((record.ended or now) - record.started, 1),
                    "turns": [{"total": turn.total, **turn.parts()} for turn in record.turns],
                    # Of the same turns: what each stage took itself, and one after the other.
                    "work": [{"floor": turn.own.floor, **asdict(turn.own)} for turn in record.turns],
                }
                for record in board.recent
            ],
            "media": asdict(phone.engine.stats()),
            "max_calls": sip.max_calls,
            "warnings": [text for text in (sip.note, sip.failure) if text],
        }
        return body


def sip_uri(phone: Phone) -> str:
    """What to dial for the direct line; empty when there is none."""
    if phone.sip is None or phone.settings.direct_from == "none":
        return ""
    sip = phone.sip.status()
    host = phone.settings.public_address or {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(sip.host, sip.host)
    return f"sip:ai@{host_port(host, sip.port)}"
