"""The words of a call that is kept, and the index of those that are."""

from __future__ import annotations

from pathlib import Path

import pytest

from aiphone.caller import tone
from benchmarks import turn_listening
from benchmarks.turn_callers import slug
from benchmarks.turn_corpus import Turn

REPORT = {
    "name": "one-0", "error": "", "ended_by": "hangup", "ended_at": 30.0,
    "heard": [(4.5, 6.0)], "faint": [(4.5, 6.0)],
    "steps": [
        {"what": "say", "label": "a", "asked_at": 2.0, "first_voiced": 2.0, "last_voiced": 4.0},
        {"what": "over", "label": "b", "asked_at": 5.0, "first_voiced": 5.5, "last_voiced": 5.8},
    ],
}  # fmt: skip
TURNS = {
    "a": Turn("a", "question", "what is the time?", tone(300, 0.1)),
    "b": Turn("Mm-hm.", "back-channel", "Mm-hm.", tone(300, 0.1)),
}


def test_a_transcript_has_the_words_and_what_became_of_each_turn() -> None:
    words = [
        {"offset": 1.25, "role": "user", "text": "What is the time?", "interrupted": False},
        {"offset": 64.0, "role": "assistant", "text": "It is", "interrupted": True},
    ]
    assert turn_listening.transcript(words, REPORT, TURNS).splitlines() == [
        "0:01.2  caller: What is the time?",
        "1:04.0  assistant: It is  [cut off]",
        "",
        "what the caller did:",
        "  question: 'what is the time?': answered after 0.50 s",
        "  over the answer, back-channel: 'Mm-hm.': silent after 0.50 s",
    ]


def test_the_index_names_what_is_there_and_what_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    kept, folder = tmp_path / "kept", tmp_path / "listening"
    kept.mkdir()
    (kept / "echo -6 dB.txt").write_text("words\n")
    missing = turn_listening.publish(kept, folder)
    assert (folder / "echo-6-db.txt").read_text() == "words\n"
    assert "[echo-6-db.txt](echo-6-db.txt)" in (folder / "README.md").read_text()
    assert missing[0].startswith("opusenc is missing")
    assert len(missing) == len(turn_listening.KEPT)


def test_a_name_becomes_part_of_a_uri() -> None:
    assert slug("Echo -6 dB") == "echo-6-db"
