"""A conversation as text and as WebVTT."""

from __future__ import annotations

from collections.abc import Sequence

from aiphone.store.records import WordsRow

_WHO = {"user": "Caller", "assistant": "Assistant"}
_SECONDS_PER_CHARACTER = 0.065
"""About how long a character takes to say: of the assistant's lines only the beginning is known."""


def as_text(words: Sequence[WordsRow], begin: float) -> str:
    """Lines like ``[0:07] Caller: Hello.``; ``begin`` is the Unix time that counts as 0:00."""
    return "".join(f"[{_clock(line.at - begin)}] {_who(line)}: {' '.join(line.text.split())}\n" for line in words)


def as_vtt(words: Sequence[WordsRow], begin: float) -> str:
    """WebVTT (W3C): a cue for each line, with the speaker as voice. What was said cannot become markup.

    A caller's cue lasts from the first word to the last, where the times of the words are known.
    """
    parts = ["WEBVTT\n"]
    starts = [max(0.0, line.at + (line.spoken[0].start if line.spoken else 0.0) - begin) for line in words]
    for index, line in enumerate(words):
        start = starts[index]
        if line.spoken:
            end = line.at + line.spoken[-1].end - begin
        else:
            end = start + max(1.0, len(line.text) * _SECONDS_PER_CHARACTER)
            if index + 1 < len(words):
                end = min(end, starts[index + 1])
        end = max(start + 0.001, end)
        text = " ".join(line.text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        parts.append(f"\n{line.number}\n{_stamp(start)} --> {_stamp(end)}\n<v {_who(line)}>{text}\n")
    return "".join(parts)


def _who(line: WordsRow) -> str:
    return _WHO.get(line.role, "System")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _stamp(seconds: float) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}.{rest % 1000:03}"
