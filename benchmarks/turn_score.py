"""What became of each turn, from nothing but the times of packets: pure functions, no audio.

``heard`` are stretches of audible packets of the answer side (first and last arrival), as the callers report them. A
turn is what a caller said from ``first_voiced`` to ``last_voiced``, labelled by construction: it was not over before.

cut short       an answer began while the caller was still in the turn
lost            none began within 8 s of its end
latency         of the others: last voiced packet sent, to first audible packet received
phantom         something was said that answered nothing: with no turn before it, or a second time after one
stop            an interruption's first voiced packet sent, to the last audible packet of the answer it stopped
false stop      an answer fell silent behind a sound that was no interruption
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.report import percentile

Interval = tuple[float, float]
ANSWER_WITHIN = 8.0
TAIL = 0.3
"""Seconds into a turn in which the last packets of the answer before may still arrive."""
PAUSE = 1.0
"""Seconds of silence inside an answer: between its sentences, or while the next one is being made."""
WATCHED = 3.0
"""Seconds after a back-channel's end within which the answer must be heard."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of a turn that wanted an answer."""

    label: str
    kind: str
    latency: float | None
    """Seconds; None when it was cut short or lost."""
    cut_short: bool
    lost: bool
    phantoms: int
    """Answers behind the answer."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """Of something said over an answer."""

    label: str
    kind: str
    stop: float | None
    """Seconds until the answer was silent; None when it went on."""
    valid: bool = True
    """False when there was no answer to talk over at that moment."""


@dataclass(slots=True)
class Tally:
    """What happened in many calls."""

    turns: list[Outcome] = field(default_factory=list)
    overlaps: list[Overlap] = field(default_factory=list)
    phantoms: int = 0
    """In calls where nobody spoke."""
    haunted: list[str] = field(default_factory=list)
    """Which calls those were, once for each phantom."""
    quiet_seconds: float = 0.0
    failed: list[str] = field(default_factory=list)
    """Calls that were not answered or ended early, and why."""

    def latencies(self) -> list[float]:
        """In ms, in the order of the turns."""
        return [1000 * turn.latency for turn in self.turns if turn.latency is not None]

    def at(self, share: float) -> float | None:
        """A percentile of the latencies, ms."""
        return percentile(self.latencies(), share)

    def share(self, what: str, kinds: Sequence[str] = ()) -> float | None:
        """Percentage of turns (of these kinds, or all) that were ``"cut_short"`` or ``"lost"``; None of none."""
        chosen = [turn for turn in self.turns if not kinds or turn.kind in kinds]
        return 100 * sum(getattr(turn, what) for turn in chosen) / len(chosen) if chosen else None

    def stops(self) -> list[float]:
        """Milliseconds until silence, of the real interruptions that stopped the answer."""
        return [1000 * o.stop for o in self.overlaps if o.valid and o.kind == "over" and o.stop is not None]

    def unstopped(self) -> list[Overlap]:
        """Real interruptions that the answer went on through."""
        return [o for o in self.overlaps if o.valid and o.kind == "over" and o.stop is None]

    def false_stops(self) -> tuple[list[Overlap], int]:
        """Sounds that stopped an answer without being meant to, and how many sounds there were."""
        back = [o for o in self.overlaps if o.valid and o.kind != "over"]
        return [o for o in back if o.stop is not None], len(back)

    def extend(self, other: Tally) -> None:
        """Take another's in."""
        self.turns += other.turns
        self.overlaps += other.overlaps
        self.phantoms += other.phantoms
        self.haunted += other.haunted
        self.quiet_seconds += other.quiet_seconds
        self.failed += other.failed


def segments(heard: Iterable[Interval], pause: float = PAUSE) -> list[Interval]:
    """Stretches that belong together: no silence of more than ``pause`` seconds inside."""
    found: list[Interval] = []
    for begin, end in heard:
        if found and begin - found[-1][1] <= pause:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((begin, end))
    return found


def judge_turn(label: str, kind: str, first: float, last: float, until: float, heard: Sequence[Interval]) -> Outcome:
    """A turn said from ``first`` to ``last``; ``until`` is when the caller did something else, or hung up."""
    # The caller may have stopped waiting (until) well before 8 s only if there was an answer.
    cut = any(first + TAIL < begin <= last for begin, _ in heard)
    answers = [(begin, end) for begin, end in heard if last < begin < until]
    prompt = bool(answers) and answers[0][0] - last <= ANSWER_WITHIN
    extra = max(0, len(segments(answers)) - 1)
    latency = answers[0][0] - last if prompt and not cut else None
    return Outcome(label, kind, latency, cut, not cut and not prompt, extra)


def judge_overlap(
    label: str, kind: str, first: float, last: float, heard: Sequence[Interval], *, pause: float = PAUSE
) -> Overlap:
    """Something said over an answer from ``first`` to ``last``."""
    now = [(begin, end) for begin, end in heard if begin <= first and end > first - pause]
    if not now:
        return Overlap(label, kind, None, valid=False)
    end = now[-1][1]
    # A real interruption is long enough for a pause between two sentences to pass: behind it only the new answer comes.
    for begin, later in heard:
        if begin > first and begin - end <= pause and (kind != "over" or begin < last):
            end = max(end, later)
    if kind != "over" and end < first:
        return Overlap(label, kind, None, valid=False)  # the answer was over before: nothing was talked over
    if kind == "over":
        return Overlap(label, kind, max(0.0, end - first) if end <= last else None)
    return Overlap(label, kind, max(0.0, end - first) if end < last + WATCHED - pause else None)


def judge_call(call: Mapping[str, Any], kinds: Mapping[str, str]) -> Tally:
    """One call's report (see ``turn_callers``); ``kinds`` has the kind of each label."""
    tally = Tally()
    if call["error"]:
        tally.failed.append(f"{call['name']}: {call['error']}")
        return tally
    if call.get("ended_by") != "hangup":
        tally.failed.append(f"{call['name']}: the other side hung up")
    heard = [(begin, end) for begin, end in call["heard"]]
    steps = call["steps"]
    for number, step in enumerate(steps):
        later = [s["first_voiced"] for s in steps[number + 1 :] if s.get("first_voiced") is not None]
        until = later[0] if later else call["ended_at"]
        kind = kinds.get(step["label"], step["what"])
        if step["what"] == "stay":
            begin = step["asked_at"]
            tally.quiet_seconds += call["ended_at"] - begin
            found = segments([part for part in heard if part[0] > begin])
            tally.phantoms += len(found)
            tally.haunted += [call["name"]] * len(found)
        elif "missed" in step:
            tally.overlaps.append(Overlap(step["label"], kind, None, valid=False))
        elif step.get("first_voiced") is None:
            tally.failed.append(f"{call['name']}: {step['label']} was not said to its end")
        elif step["what"] == "over":
            faint = [(begin, end) for begin, end in call["faint"]] if kind != "over" else heard
            tally.overlaps.append(judge_overlap(step["label"], kind, step["first_voiced"], step["last_voiced"], faint))
        else:
            over_next = number + 1 < len(steps) and steps[number + 1]["what"] == "over"
            outcome = judge_turn(step["label"], kind, step["first_voiced"], step["last_voiced"], until, heard)
            tally.turns.append(
                Outcome(outcome.label, kind, outcome.latency, outcome.cut_short, outcome.lost,
                        0 if over_next else outcome.phantoms)
            )  # fmt: skip
    return tally
