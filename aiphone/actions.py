"""What an assistant may do besides talking, and how it says so: hang up, transfer, press keys, hold.

An answer may end with one *action* in square brackets, ``I will connect you. [transfer sales]``. A grammar (GBNF,
llama.cpp ``grammars/README.md``) lets the model write nothing else between brackets, so whatever stands there can be
carried out; what stands before it is the confirmation that the caller hears first. A turn that needs no action costs
no extra decision and no extra token.

Everything here is data and pure functions, for any thread; ``ActionFilter`` belongs to one answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aiphone.errors import ConfigError

HANG_UP, TRANSFER, PRESS, HOLD = KINDS = ("hang up", "transfer", "press", "hold")
"""What a persona may allow."""

_NAME = re.compile(r"[a-z][a-z0-9 ]{0,30}")
_ACTION = re.compile(r"\[(hang up|hold|transfer ([a-z0-9 ]+)|press ([0-9*#]{1,16}))\]")
_BEGUN = re.compile(
    r"\[(?:"
    + "|".join(f"{kind[:length]}" for kind in KINDS for length in range(len(kind) + 1))
    + r"|transfer [a-z0-9 ]*|press [0-9*#]*)"
)
"""The beginning of an action."""
_LONGEST = 64
"""Characters from ``[`` within which ``]`` must come; what is longer is text."""

_EXPLAINED = {
    HANG_UP: "[hang up] when the caller says goodbye",
    PRESS: "[press 12#] with keys to press them on the telephone",
    HOLD: "[hold] to put the caller on hold",
}


@dataclass(frozen=True, slots=True)
class Action:
    """One thing to do when the words before it have been heard."""

    kind: str
    """One of ``KINDS``."""
    argument: str = ""
    """The name of a transfer's target, or the keys to press."""

    def __str__(self) -> str:
        """As the model writes it."""
        return f"[{self.kind} {self.argument}]" if self.argument else f"[{self.kind}]"


def check(allowed: Sequence[str], targets: Mapping[str, str]) -> None:
    """Make sure that a persona's actions make sense. ``targets`` are names and SIP URIs.

    Raises ``ConfigError`` with one sentence.
    """
    for kind in allowed:
        if kind not in KINDS:
            raise ConfigError(f"there is no action '{kind}' for a persona; choose from {', '.join(KINDS)}")
    if TRANSFER in allowed and not targets:
        raise ConfigError("the action 'transfer' needs at least one target, such as sales = sip:sales@example.com")
    for name, uri in targets.items():
        if not _NAME.fullmatch(name):
            raise ConfigError(f"the transfer target '{name}' needs a name of small letters, digits and spaces")
        if not re.fullmatch(r"sip:[!-~]{1,250}", uri):
            raise ConfigError(f"the transfer target '{name}' needs a URI such as sip:{name}@example.com, not '{uri}'")


def targets_of(lines: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Names and URIs from lines such as ``sales = sip:sales@example.com``.

    Raises ``ConfigError`` for a line that is none.
    """
    pairs = []
    for line in lines:
        name, equals, uri = (part.strip() for part in line.partition("="))
        if not (name and equals and uri):
            raise ConfigError(f"the transfer target '{line.strip()}' is no line such as sales = sip:sales@example.com")
        pairs.append((name, uri))
    return tuple(pairs)


def explained(allowed: Sequence[str], targets: Mapping[str, str]) -> str:
    """The sentence for the system prompt that tells the model what it may do; empty when that is nothing."""
    ways = [_EXPLAINED[kind] for kind in KINDS if kind in allowed and kind in _EXPLAINED]
    if TRANSFER in allowed and targets:
        ways.append(" or ".join(f"[transfer {name}]" for name in targets) + " to connect the caller")
    return f"After your words you may end an answer with {'; '.join(ways)}." if ways else ""


def grammar(allowed: Sequence[str], targets: Mapping[str, str]) -> str:
    """GBNF of an answer: words, then at most one allowed action. Empty when nothing is allowed."""
    ways = []
    if HANG_UP in allowed:
        ways.append('"hang up"')
    if HOLD in allowed:
        ways.append('"hold"')
    if TRANSFER in allowed and targets:
        names = " | ".join(f'"{name}"' for name in targets)
        ways.append(f'"transfer " ({names})')
    if PRESS in allowed:
        ways.append('"press " [0-9*#]{1,16}')
    if not ways:
        return ""
    return f'root ::= words ("[" action "]")?\nwords ::= [^\\[\\]]+\naction ::= {" | ".join(ways)}\n'


class ActionFilter:
    """Parts the pieces of an answer into what is spoken and the action at its end."""

    def __init__(self) -> None:
        self.action: Action | None = None
        self._held = ""

    def feed(self, piece: str) -> str:
        """The next piece of the answer; returns what of it may be spoken now. Nothing after an action is."""
        if self.action is not None:
            return ""
        text = self._held + piece
        spoken = ""
        while True:
            before, bracket, rest = text.partition("[")
            spoken += before
            if not bracket:
                self._held = ""
                return spoken
            text = bracket + rest
            end = text.find("]")
            if end < 0 and len(text) <= _LONGEST:
                self._held = text
                return spoken
            match = _ACTION.fullmatch(text[: end + 1]) if end >= 0 else None
            if match is not None:
                kind = match[1].partition(" ")[0] if match[2] or match[3] else match[1]
                self.action = Action(kind, match[2] or match[3] or "")
                self._held = ""
                return spoken
            # A bracket that is no action: its words are words.
            spoken, text = spoken + text[0], text[1:]

    def finish(self) -> str:
        """The answer is over; returns what was held back and turned out to be words.

        An action that was cut off (the answer had reached its longest) is neither spoken nor done.
        """
        rest, self._held = self._held, ""
        return "" if rest and _BEGUN.fullmatch(rest) else rest
