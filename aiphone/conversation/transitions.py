"""The states of a conversation and its transition table, as data.

``python -m aiphone.conversation.transitions`` prints the table as a picture: the Mermaid
diagram in ARCHITECTURE.md.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from aiphone import events as ev


class State(enum.Enum):
    """Who has the floor."""

    WAITING = "waiting"
    """Answered; the other side has not confirmed yet, or it is not known yet whether it is a machine."""
    LISTENING = "listening"
    """Nobody speaks."""
    HEARING = "hearing"
    """The caller speaks."""
    PAUSING = "pausing"
    """The caller made a pause; the answer is prepared in case the turn is over."""
    THINKING = "thinking"
    """The assistant has the floor, and nothing of its answer is audible yet."""
    SPEAKING = "speaking"
    """The assistant's audio is going out."""
    INTERRUPTING = "interrupting"
    """Both speak; the assistant is turned down until it is clear who goes on."""
    TRANSFERRING = "transferring"
    """The caller was sent on to somebody else, who has not answered yet."""
    HOLDING = "holding"
    """The caller is on hold, and not heard."""
    CLOSING = "closing"
    """The assistant says goodbye; the call ends when it is out."""
    ENDED = "ended"
    """Nothing more happens."""


S = State


@dataclass(frozen=True, slots=True)
class Transition:
    """In ``state``, ``event`` runs ``action`` (a method of ``Conversation``) and leads to one of ``targets``."""

    state: State
    event: type
    action: str
    targets: tuple[State, ...]


def _rows() -> Iterator[Transition]:
    t = Transition
    # Where an answer leads that was heard to its end: what it announced is done then.
    done = (S.LISTENING, S.TRANSFERRING, S.HOLDING, S.ENDED)
    yield t(S.WAITING, ev.CallConfirmed, "greet", (S.THINKING, S.LISTENING))
    yield t(S.WAITING, ev.MachineAnswered, "leave_message", (S.CLOSING,))

    yield t(S.LISTENING, ev.VoiceStarted, "hear", (S.HEARING,))
    yield t(S.HEARING, ev.VoiceContinues, "transcribe_so_far", (S.HEARING,))
    yield t(S.HEARING, ev.PartialTranscript, "so_far", (S.HEARING,))
    yield t(S.HEARING, ev.VoiceFaded, "foresee", (S.HEARING,))
    yield t(S.HEARING, ev.Transcribed, "keep", (S.HEARING,))
    yield t(S.HEARING, ev.WorkFailed, "keep", (S.HEARING,))
    yield t(S.HEARING, ev.VoiceStopped, "pause", (S.PAUSING,))
    yield t(S.PAUSING, ev.VoiceStarted, "resume_hearing", (S.HEARING,))
    yield t(S.THINKING, ev.VoiceStarted, "resume_hearing", (S.HEARING,))

    yield t(S.SPEAKING, ev.VoiceStarted, "duck", (S.INTERRUPTING, S.HEARING))
    yield t(S.INTERRUPTING, ev.VoiceContinues, "transcribe_so_far", (S.INTERRUPTING,))
    yield t(S.INTERRUPTING, ev.PartialTranscript, "overhear", (S.INTERRUPTING, S.HEARING))
    yield t(S.INTERRUPTING, ev.VoiceFaded, "may_end", (S.INTERRUPTING,))
    yield t(S.INTERRUPTING, ev.VoiceStopped, "fall_silent", (S.INTERRUPTING, S.SPEAKING, *done))
    yield t(S.INTERRUPTING, ev.VoiceStarted, "speak_again", (S.INTERRUPTING,))
    yield t(S.INTERRUPTING, ev.Transcribed, "judge", (S.INTERRUPTING, S.SPEAKING, S.PAUSING, S.HEARING, *done))

    for state in (S.LISTENING, S.PAUSING, S.THINKING, S.SPEAKING, S.INTERRUPTING):
        yield t(state, ev.DigitReceived, "press", (S.PAUSING,))
    yield t(S.HEARING, ev.DigitReceived, "press", (S.HEARING,))

    yield t(S.PAUSING, ev.Transcribed, "prepare", (S.PAUSING,))
    yield t(S.PAUSING, ev.TurnEndEstimated, "weigh", (S.PAUSING,))
    yield t(S.PAUSING, ev.TurnEndByWords, "weigh_words", (S.PAUSING,))
    yield t(S.THINKING, ev.Transcribed, "answer", (S.THINKING, S.LISTENING, S.PAUSING))

    # Where an answer leads when it is over: what the last text, sound or failure of it may do.
    over = {
        S.PAUSING: (),
        S.THINKING: (S.LISTENING,),
        S.SPEAKING: done,
        S.INTERRUPTING: (S.HEARING,),
        S.CLOSING: (S.ENDED,),
    }
    for state, ends in over.items():
        yield t(state, ev.ReplyText, "add_text", (state,))
        yield t(state, ev.ReplyEnded, "end_text", (state, *ends))
        sounds = (S.SPEAKING,) if state is S.THINKING else ()
        yield t(state, ev.SpeechChunk, "add_audio", (state, *ends, *sounds))
    yield t(S.PAUSING, ev.WorkFailed, "remember_failure", (S.PAUSING,))
    yield t(S.THINKING, ev.WorkFailed, "fail", (S.THINKING, S.LISTENING))
    yield t(S.SPEAKING, ev.WorkFailed, "fail", (S.SPEAKING, *done))
    yield t(S.INTERRUPTING, ev.WorkFailed, "fail", (S.INTERRUPTING, S.HEARING, S.SPEAKING, *done))
    yield t(S.CLOSING, ev.WorkFailed, "fail", (S.CLOSING, S.ENDED))

    for state in (S.THINKING, S.SPEAKING, S.INTERRUPTING, S.CLOSING):
        yield t(state, ev.PlayoutStarted, "measure", (state,))
    yield t(S.THINKING, ev.PlayoutDrained, "drained", (S.THINKING,))
    yield t(S.SPEAKING, ev.PlayoutDrained, "drained", (S.SPEAKING, *done))
    yield t(S.INTERRUPTING, ev.PlayoutDrained, "drained", (S.INTERRUPTING, S.HEARING))
    yield t(S.CLOSING, ev.PlayoutDrained, "drained", (S.CLOSING, S.ENDED))

    yield t(S.PAUSING, ev.TimerFired, "timer", (S.THINKING, S.SPEAKING, S.LISTENING))
    yield t(S.INTERRUPTING, ev.TimerFired, "timer", (S.INTERRUPTING, S.HEARING, S.SPEAKING, *done))
    yield t(S.LISTENING, ev.TimerFired, "timer", (S.THINKING, S.CLOSING))
    yield t(S.THINKING, ev.TimerFired, "timer", (S.THINKING, S.LISTENING))
    yield t(S.CLOSING, ev.TimerFired, "timer", (S.ENDED,))

    yield t(S.TRANSFERRING, ev.TransferProgress, "transferred", (S.TRANSFERRING, S.THINKING, S.LISTENING, S.ENDED))
    yield t(S.TRANSFERRING, ev.TimerFired, "timer", (S.THINKING, S.LISTENING))
    yield t(S.HOLDING, ev.TimerFired, "timer", (S.THINKING, S.LISTENING))

    for state in State:
        if state not in (S.WAITING, S.CLOSING, S.ENDED):
            yield t(state, ev.TimeUp, "take_leave", (S.CLOSING,))
        if state is not S.ENDED:
            yield t(state, ev.MediaTimedOut, "hang_up", (S.ENDED,))
            yield t(state, ev.CallEnded, "end", (S.ENDED,))


TABLE: dict[tuple[State, type], Transition] = {(row.state, row.event): row for row in _rows()}
"""Every legal pair of state and event."""


def mermaid(rows: Iterable[Transition]) -> str:
    """The table as a Mermaid state diagram: one arrow for each pair of different states, labelled by its events."""
    labels: dict[tuple[State, State], list[str]] = {}
    for row in rows:
        if row.event in (ev.CallEnded, ev.MediaTimedOut, ev.TimeUp):
            continue
        for target in row.targets:
            if target is not row.state:
                names = labels.setdefault((row.state, target), [])
                if row.event.__name__ not in names:
                    names.append(row.event.__name__)
    lines = ["stateDiagram-v2", "    [*] --> waiting"]
    lines += [f"    {a.value} --> {b.value}: {', '.join(names)}" for (a, b), names in labels.items()]
    lines.append("    ended --> [*]")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(mermaid(TABLE.values()) + "\n")
