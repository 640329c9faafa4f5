"""Ten calls of the bench of the turns, kept to be listened to: sound, words, and what the bench thought of them.

The sound is Opus in Ogg, about 3 kB a second (left the caller with the line's noise, right the assistant), made by
``opusenc`` of Debian's opus-tools; without it there are the words only. The words are the server's own record.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.server import Server
from benchmarks.turn_callers import slug
from benchmarks.turn_corpus import Turn
from benchmarks.turn_score import judge_call

KEPT = {
    "one-0": "questions, every second with a pause inside; a clean line",
    "one-1": "the same with noise 20 dB under the speech",
    "one-3": "the same with 3 % of the packets lost",
    "special-0": "a number read out in groups, a name spelled",
    "special-2": "another number, then keys pressed on the telephone (RFC 4733)",
    "over-0": "the caller talks over the answer, twice, on purpose",
    "over-1": "the same with noise on the line",
    "back-0": "somebody who listens: back-channels, coughs, breath",
    "line-4": "the assistant's own voice comes back at -12 dB",
    "echo -6 dB": "the same at -6 dB, and then nobody says anything",
}
"""Which calls, and what happens in them."""
LARGEST = 200_000
"""Bytes of a recording."""


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds // 60)}:{seconds % 60:04.1f}"


def words(server: Server, name: str) -> list[dict[str, Any]]:
    """The server's record of the last call of this name: role, text, offset, interrupted."""
    _, body = server.get("/api/calls?limit=100")
    numbers = [call["id"] for call in body["calls"] if call["caller"].startswith(f"sip:{slug(name)}@")]
    if not numbers:
        return []
    found: list[dict[str, Any]] = server.get(f"/api/calls/{max(numbers)}")[1]["words"]
    return found


def transcript(said: Sequence[Mapping[str, Any]], report: Mapping[str, Any], turns: Mapping[str, Turn]) -> str:
    """The words of a call and, behind them, what was said on purpose and what became of it."""
    lines = [
        f"{clock(line['offset'])}  {'caller' if line['role'] == 'user' else 'assistant'}: {line['text']}"
        + ("  [cut off]" if line["interrupted"] else "")
        for line in said
    ]
    tally = judge_call(report, {label: turn.kind for label, turn in turns.items()})
    lines += ["", "what the caller did:"]
    for turn in tally.turns:
        fate = "lost" if turn.lost else "cut short" if turn.latency is None else f"answered after {turn.latency:.2f} s"
        lines.append(f"  {turn.kind}: {turns[turn.label].text!r}: {fate}")
    for sound in tally.overlaps:
        fate = "the answer went on" if sound.stop is None else f"silent after {sound.stop:.2f} s"
        lines.append(
            f"  over the answer, {sound.kind}: {turns[sound.label].name!r}: {fate if sound.valid else 'too late'}"
        )
    return "\n".join(lines) + "\n"


def keep(server: Server, reports: Sequence[Mapping[str, Any]], turns: Mapping[str, Turn], folder: Path) -> None:
    """Write the transcripts of the calls that are kept beside their recordings."""
    for report in reports:
        if report["name"] in KEPT and not report["error"]:
            text = transcript(words(server, report["name"]), report, turns)
            (folder / f"{report['name']}.txt").write_text(text, encoding="utf-8")


def publish(recordings: Path, folder: Path) -> list[str]:
    """Encode what was kept into ``folder``, with an index; returns what is missing and why."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [] if shutil.which("opusenc") else ["opusenc is missing: install opus-tools for the sound"]
    lines = [
        "# Ten calls of the bench of the turns",
        "",
        "Left the caller with the noise of its line, right the assistant, as both were on the wire. Made by",
        "`python -m benchmarks.turns --listen docs/listening`; the callers' speech is Debian's",
        "asterisk-core-sounds-en-wav and Piper.",
        "",
        "| call | sound | words |",
        "|---|---|---|",
    ]
    for name, what in KEPT.items():
        text, sound = recordings / f"{name}.txt", recordings / f"{name}.wav"
        if not text.is_file():
            missing.append(f"there was no call {name!r} to keep")
            continue
        shutil.copyfile(text, folder / f"{slug(name)}.txt")
        heard = ""
        if shutil.which("opusenc") and sound.is_file():
            target = folder / f"{slug(name)}.opus"
            subprocess.run(["opusenc", "--quiet", "--bitrate", "22", str(sound), str(target)], check=True)
            if target.stat().st_size > LARGEST:
                target.unlink()
                missing.append(f"the recording of {name!r} was larger than {LARGEST} bytes")
            else:
                heard = f"[{target.name}]({target.name})"
        lines.append(f"| {what} | {heard} | [{slug(name)}.txt]({slug(name)}.txt) |")
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return missing
