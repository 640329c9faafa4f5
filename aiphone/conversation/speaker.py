"""The assistant's side of a conversation: what it says, how that gets out, and what was heard of it.

Answers and canned words become phrases, phrases audio, audio a queue; the record and the model's history get what was
heard. Who has the floor, and what the caller's side means for it, is ``machine``'s.
"""

from __future__ import annotations

from collections.abc import Sequence

from aiphone import events as ev
from aiphone.actions import Action
from aiphone.conversation import commands as cmd
from aiphone.conversation.latency import Stopwatch
from aiphone.conversation.overlap import Overlap
from aiphone.conversation.prompting import spoken_words
from aiphone.conversation.reply import Reply, without_lead
from aiphone.conversation.transitions import State
from aiphone.conversation.turn import Turn
from aiphone.persona import Message, Persona

FILLER = -1
"""Number of the filler among the phrases of its generation."""


class Speaker:
    """State and mechanics that the assistant speaks with. Main thread only; see ``machine.Conversation``."""

    def __init__(self, call_id: str, persona: Persona, history: Sequence[Message]) -> None:
        self.call_id = call_id
        self.persona = persona
        self.state = State.WAITING
        self.history: list[Message] = list(history)
        self.generation = 0
        # The step that is being taken.
        self._out: list[cmd.Command] = []
        self._now = 0.0
        self._played = 0
        # Timers: name and the serial number that is awaited.
        self._timers: dict[str, int] = {}
        self._serial = 0
        # The caller's turn, and the answer to it.
        self._turn = Turn()
        self._watch: Stopwatch | None = None
        """Of the present attempt; None when there is no voice to measure from."""
        self._committed_text = ""
        self._unheard: list[cmd.Said] = []
        """The caller's turn, and a filler, until something of the answer is heard: the turn may still go on."""
        self._reply: Reply | None = None
        self._asked: list[int] = []
        """Phrases of this generation that are being synthesised, in order."""
        self._overlap: Overlap | None = None
        # What is on its way out.
        self._queue_end = 0
        self._last_words = ""
        """The end of what we said last, and when it was out: what an echo may bring back."""
        self._silent_since = -1.0e9

    # --------------------------------------------------------------------------------------------- words

    def _say(self, text: str, state: State = State.THINKING, *, remembered: bool = False) -> None:
        """Speak words that no model wrote; ``remembered`` are those that it should know of all the same."""
        self._new_generation()
        self._watch = None
        reply = self._reply = Reply(self.generation, held=False, canned=not remembered)
        reply.add_text(text)
        reply.finish_text()
        self._go(state)
        self._set_timer("stuck", self._now + self.persona.think_limit)
        self._synthesise(reply)

    def _synthesise(self, reply: Reply) -> None:
        for number, text in reply.to_synthesise():
            if self._watch is not None:
                self._watch.first_phrase(self._now)
            self._asked.append(number)
            self._out.append(cmd.Speak(reply.generation, number, text))

    # --------------------------------------------------------------------------------------------- audio

    def _queue(self, pcm: ev.Pcm, text: str) -> int:
        """Queue audio behind what is there; the position of its first sample."""
        start = max(self._queue_end, self._played)
        self._queue_end = start + pcm.size
        self._out.append(cmd.Play(pcm, text))
        return start

    def _play(self, reply: Reply, phrase: int, pcm: ev.Pcm) -> None:
        first = not reply.audible
        if first:
            pcm = without_lead(pcm)
        if not pcm.size:
            return
        text = reply.phrases[phrase].text if reply.phrases[phrase].samples == 0 else ""
        if self._overlap is not None and self._overlap.held:
            reply.queued(phrase, self._played if first else reply.end, pcm)
            return
        start = self._queue(pcm, text)
        reply.queued(phrase, start, pcm)
        if first and start > self._played:
            # It follows the filler without a gap, so that the engine will not tell when it begins.
            self._measured(self._now + (start - self._played) / ev.INTERNAL_RATE)
        if self.state is State.THINKING:
            self._go(State.SPEAKING)

    def _play_filler(self, event: ev.SpeechChunk) -> None:
        """Only while nothing of the answer is there; the record has it, the model's history does not."""
        if self.state is not State.THINKING or (self._reply is not None and self._reply.audible) or not event.pcm.size:
            return
        text = self.persona.fill(self.persona.filler)
        first = self._queue_end <= self._played
        self._queue(event.pcm, text if first else "")
        if first:
            said = cmd.Said("assistant", text, self._now)
            (self._unheard if self._unheard else self._out).append(said)
            self._last_words = text

    # -------------------------------------------------------------------------------- what became of it

    def _measure(self, event: ev.PlayoutStarted) -> None:
        if self._reply is not None and self._reply.audible:
            self._measured(event.at)

    def _record(self) -> None:
        """The caller's turn is final: it was answered, or nobody can go on with it."""
        self._out += self._unheard
        self._unheard = []

    def _measured(self, sent: float) -> None:
        self._record()
        # A turn with keys has no last voice to measure from.
        measured = self._watch is not None and self._committed_text and not self._turn.keys
        times = self._watch.times(sent) if self._watch is not None and measured else None
        if times is not None:
            self._watch = None
            self._out.append(cmd.TurnMeasured(times))

    def _remember(self, reply: Reply, text: str, *, interrupted: bool, action: Action | None = None) -> None:
        """What was heard of a reply enters the record, and what the model wrote of it the history.

        An ``action`` that is done is part of what it wrote: the model is to know of it later.
        """
        self._record()
        self._reply = None
        answered, self._committed_text = bool(self._committed_text), ""
        if text:
            self._last_words = spoken_words(text)
            if not reply.canned:
                self.history.append(Message("assistant", f"{text} {action}" if action else text))
            self._out.append(cmd.Said("assistant", text, self._now, interrupted))
        if answered:
            self._out.append(cmd.InteractionDone(tuple(self.history)))

    # ------------------------------------------------------------------------------------------- mechanics

    def _go(self, state: State) -> None:
        """Change state; timers belong to states and end with them."""
        if state is self.state:
            return
        for name in list(self._timers):
            self._stop_timer(name)
        self.state = state
        if state is State.THINKING:
            self._set_timer("stuck", self._now + self.persona.think_limit)

    def _new_generation(self) -> None:
        if self.generation:
            self._out.append(cmd.CancelWork(self.generation))
        self.generation += 1
        self._reply = None
        self._asked = []

    def _set_timer(self, name: str, at: float) -> None:
        self._serial += 1
        self._timers[name] = self._serial
        self._out.append(cmd.SetTimer(name, self._serial, at))

    def _stop_timer(self, name: str) -> None:
        if self._timers.pop(name, None) is not None:
            self._out.append(cmd.CancelTimer(name))

    def _current(self) -> Reply:
        assert self._reply is not None, f"no reply while {self.state}"
        return self._reply
