"""The conversation: a state machine without I/O. Events and the time go in, commands come out.

Theory of operation
-------------------
A caller's *turn* is one or more stretches of voice with pauses between them. At each pause an *attempt* at an
answer begins, numbered by a *generation*: transcript, text, first phrase. Nothing of it is heard until the pause
has lasted for the persona's patience; then the turn is *committed*: its text enters the history and the audio
goes out. If the caller goes on first, the generation is raised, and whatever belongs to an older one is dropped by
comparison when it turns up.

The caller who speaks over the assistant turns it down at once (*ducking*) and stops it after
``interrupt_after`` of voice. What the history keeps of an interrupted answer is what had been heard, to the word.

Rules
-----
- ``handle`` is the only way in. A pair of state and event that the table does not have changes nothing.
- History changes only in ``_commit`` (the caller's words) and ``_remember`` (the model's). Words that no model wrote
  (the greeting, "are you still there?") are not in it: many chat templates refuse an assistant who speaks first, and
  small models repeat them.
- At most one reply exists; its audio is the only audio that is queued.
- Not thread-safe: one owner (the main thread). No clock: ``now`` and the playout position are arguments.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

import numpy as np

from aiphone import events as ev
from aiphone.conversation import commands as cmd
from aiphone.conversation.latency import TurnTimes
from aiphone.conversation.reply import Reply
from aiphone.conversation.transitions import TABLE, State
from aiphone.persona import Message, Persona

log = logging.getLogger(__name__)

DUCK_DB = -12.0
"""Level of the assistant while it is unclear whether the caller interrupts."""

_GAP = np.zeros(ev.INTERNAL_RATE // 5, np.int16)
"""Silence put between the stretches of one turn for the recogniser: long enough to part words."""

_AUDIBLE = 328
"""Samples above this (-40 dBFS) are sound, for cutting the silence before an answer."""

_WORKER_EVENTS = (ev.Transcribed, ev.ReplyText, ev.ReplyEnded, ev.SpeechChunk, ev.WorkFailed)


class Conversation:
    """One call's conversation. See the module's text for the rules."""

    def __init__(self, call_id: str, persona: Persona, history: Sequence[Message] = ()) -> None:
        """``history`` is what an earlier call left (without the system message)."""
        self.call_id = call_id
        self.persona = persona
        self.state = State.WAITING
        self.history: list[Message] = list(history)
        self.generation = 0
        self.ignored = 0
        """Events that came in a state that has no use for them."""
        self._out: list[cmd.Command] = []
        self._now = 0.0
        self._played = 0
        self._queue_end = 0
        self._timers: dict[str, int] = {}
        self._serial = 0
        self._idle_prompts = 0
        self._leaving = ""
        self._reply: Reply | None = None
        self._user_text = ""
        self._committed_text = ""
        self._stretches: list[ev.Pcm] = []
        self._failed = False
        self._marks: dict[str, float] = {}

    # ------------------------------------------------------------------------------------------ entrance

    def handle(self, event: object, now: float, played: int) -> list[cmd.Command]:
        """Take one event.

        ``now`` is the time in seconds; ``played`` the playout position: how many queued samples (16 kHz) have left
        the socket since the call began. Returns the commands to carry out, in order.
        """
        if isinstance(event, _WORKER_EVENTS) and event.generation != self.generation:
            return []
        if isinstance(event, ev.TimerFired) and self._timers.get(event.name) != event.serial:
            return []
        row = TABLE.get((self.state, type(event)))
        if row is None:
            self.ignored += 1
            log.debug("%s: %s has no meaning while %s", self.call_id, type(event).__name__, self.state.value)
            return []
        self._now, self._played, self._out = now, played, []
        getattr(self, "_" + row.action)(event)
        assert self.state in row.targets, f"{row} led to {self.state}"
        return self._out

    # ------------------------------------------------------------------------------- the assistant starts

    def _greet(self, _: ev.CallConfirmed) -> None:
        text = self.persona.fill(self.persona.greeting)
        if text.strip():
            self._say(text)
        else:
            self._listen()

    def _say(self, text: str, state: State = State.THINKING) -> None:
        """Speak words that no model wrote."""
        self._new_generation()
        reply = self._reply = Reply(self.generation, held=False, canned=True)
        reply.add_text(text)
        reply.finish_text()
        self._go(state)
        self._set_timer("stuck", self._now + self.persona.think_limit)
        self._synthesise(reply)

    # ----------------------------------------------------------------------------------- the caller speaks

    def _hear(self, _: ev.VoiceStarted) -> None:
        self._idle_prompts = 0
        self._go(State.HEARING)

    def _pause(self, event: ev.VoiceStopped) -> None:
        self._new_generation()
        self._user_text, self._failed = "", False
        self._marks = {"voice_ended": event.at}
        self._stretches.append(event.pcm)
        self._go(State.PAUSING)
        pcm = [part for stretch in self._stretches for part in (stretch, _GAP)][:-1]
        self._out.append(cmd.Transcribe(self.generation, np.concatenate(pcm)))
        self._set_timer("patience", event.at + self.persona.patience)

    def _resume_hearing(self, _: ev.VoiceStarted) -> None:
        """The caller goes on: the turn was not over, whatever we thought."""
        if self._committed_text:
            self._uncommit()
        self._new_generation()
        self._go(State.HEARING)

    def _prepare(self, event: ev.Transcribed) -> None:
        """Text of a turn that may not be over: begin the answer, unheard."""
        self._transcribed(event)
        if self._user_text and self._addressed():
            self._generate(speculative=True)

    def _remember_failure(self, event: ev.WorkFailed) -> None:
        log.warning("%s: %s failed: %s", self.call_id, event.stage.value, event.reason)
        self._failed = True

    # --------------------------------------------------------------------------------------- turn is over

    def _timer(self, event: ev.TimerFired) -> None:
        del self._timers[event.name]
        match (self.state, event.name):
            case (State.PAUSING, "patience"):
                self._turn_over()
            case (State.INTERRUPTING, "interrupt"):
                self._interrupt()
            case (State.LISTENING, "idle"):
                self._idle()
            case (State.THINKING, "stuck"):
                log.warning("%s: no answer within %.0f s", self.call_id, self.persona.think_limit)
                self._apologise()
            case (State.CLOSING, "stuck"):
                self._out.append(cmd.HangUp(self._leaving))
                self._go(State.ENDED)

    def _turn_over(self) -> None:
        self._marks["committed"] = self._now
        if self._failed:
            self._apologise()
        elif "transcribed" not in self._marks:
            self._go(State.THINKING)
        else:
            self._decide()

    def _answer(self, event: ev.Transcribed) -> None:
        self._transcribed(event)
        self._decide()

    def _transcribed(self, event: ev.Transcribed) -> None:
        self._marks["transcribed"] = self._now
        self._user_text = event.text.strip()

    def _decide(self) -> None:
        """The turn is over and its text known: answer it, or go back to listening."""
        if not self._user_text or not self._addressed():
            self._stretches.clear()
            self._out.append(cmd.CancelWork(self.generation))
            self._listen()
        elif self._only_wake_command():
            self._stretches.clear()
            self._say(self.persona.fill(self.persona.heard_ok))
        else:
            self._go(State.THINKING)
            reply = self._reply
            if reply is None:
                self._generate(speculative=False)
                self._commit()
                return
            self._commit()
            self._out.append(cmd.Promote(self.generation))
            reply.held = False
            self._synthesise(reply)
            waiting, reply.waiting = reply.waiting, []
            for phrase, pcm in waiting:
                self._play(reply, phrase, pcm)
            self._after_audio(reply)

    def _generate(self, *, speculative: bool) -> None:
        self._reply = Reply(self.generation, held=speculative)
        messages = (
            self.persona.system_message(),
            *_for_model([*self.history, Message("user", self._user_text)]),
        )
        self._out.append(cmd.Generate(self.generation, messages, speculative))

    def _commit(self) -> None:
        self._committed_text = self._user_text
        self.history.append(Message("user", self._user_text))
        self._out.append(cmd.Said("user", self._user_text, self._marks["voice_ended"]))

    def _uncommit(self) -> None:
        """The turn goes on after it was committed, before any of the answer was heard."""
        self.history.pop()
        self._committed_text = ""

    # ------------------------------------------------------------------------------------------ the answer

    def _add_text(self, event: ev.ReplyText) -> None:
        reply = self._current()
        self._marks.setdefault("first_token", self._now)
        reply.add_text(event.text)
        self._synthesise(reply)

    def _end_text(self, _: ev.ReplyEnded) -> None:
        reply = self._current()
        self._marks.setdefault("first_token", self._now)
        reply.finish_text()
        self._synthesise(reply)
        if not reply.phrases and not reply.held:
            self._apologise()
        else:
            self._after_audio(reply)

    def _add_audio(self, event: ev.SpeechChunk) -> None:
        reply = self._current()
        self._marks.setdefault("first_audio", self._now)
        if event.last:
            reply.phrases[event.phrase].complete = True
        if reply.held:
            reply.waiting.append((event.phrase, event.pcm))
            return
        self._play(reply, event.phrase, event.pcm)
        self._after_audio(reply)

    def _synthesise(self, reply: Reply) -> None:
        for number, text in reply.to_synthesise():
            self._marks.setdefault("first_phrase", self._now)
            self._out.append(cmd.Speak(reply.generation, number, text))

    def _play(self, reply: Reply, phrase: int, pcm: ev.Pcm) -> None:
        if not reply.audible:
            pcm = _without_lead(pcm)
        if not pcm.size:
            return
        start = max(self._queue_end, self._played)
        begins = reply.phrases[phrase].samples == 0
        reply.queued(phrase, start, pcm.size)
        self._queue_end = start + pcm.size
        self._out.append(cmd.Play(pcm, reply.phrases[phrase].text if begins else ""))
        if self.state is State.THINKING:
            self._stretches.clear()
            self._go(State.SPEAKING)

    def _after_audio(self, reply: Reply) -> None:
        """Whether the answer is over, now that more of it is known."""
        if not reply.exhausted or self._played < self._queue_end:
            return
        if not reply.audible and self.state is State.THINKING:
            self._apologise()
        elif self.state is not State.PAUSING:
            self._finished(reply)

    def _drained(self, _: ev.PlayoutDrained) -> None:
        self._after_audio(self._current())

    def _measure(self, event: ev.PlayoutStarted) -> None:
        marks = self._marks
        if "committed" not in marks or "first_audio" not in marks or not self._committed_text:
            return
        times = TurnTimes(sent=event.at, **marks)
        self._marks = {}
        self._out.append(cmd.TurnMeasured(times))

    def _finished(self, reply: Reply) -> None:
        self._remember(reply, reply.text(), interrupted=False)
        match self.state:
            case State.INTERRUPTING:
                self._out.append(cmd.SetGain(0.0))
                self._idle_prompts = 0
                self._go(State.HEARING)
            case State.CLOSING:
                self._out.append(cmd.HangUp(self._leaving))
                self._go(State.ENDED)
            case _:
                self._listen()

    def _remember(self, reply: Reply, text: str, *, interrupted: bool) -> None:
        """What was heard of a reply enters the record, and what the model wrote of it the history."""
        self._reply = None
        answered, self._committed_text = bool(self._committed_text), ""
        if text:
            if not reply.canned:
                self.history.append(Message("assistant", text))
            self._out.append(cmd.Said("assistant", text, self._now, interrupted))
        if answered:
            self._out.append(cmd.InteractionDone(tuple(self.history)))

    # --------------------------------------------------------------------------------------- interruption

    def _duck(self, event: ev.VoiceStarted) -> None:
        self._out.append(cmd.SetGain(DUCK_DB))
        self._go(State.INTERRUPTING)
        self._set_timer("interrupt", event.at + self.persona.interrupt_after)

    def _unduck(self, _: ev.VoiceStopped) -> None:
        self._out.append(cmd.SetGain(0.0))
        self._go(State.SPEAKING)

    def _interrupt(self) -> None:
        reply = self._current()
        self._out += [cmd.StopPlayout(), cmd.SetGain(0.0)]
        self._queue_end = 0
        self._remember(reply, reply.heard(self._played), interrupted=True)
        self._new_generation()
        self._idle_prompts = 0
        self._go(State.HEARING)

    # ---------------------------------------------------------------------------------- silence and faults

    def _idle(self) -> None:
        self._idle_prompts += 1
        if self._idle_prompts > self.persona.idle_limit:
            self._leaving = "the caller was silent"
            self._say(self.persona.fill(self.persona.goodbye), State.CLOSING)
        else:
            self._say(self.persona.fill(self.persona.idle_prompt))

    def _take_leave(self, _: ev.TimeUp) -> None:
        """The time allowed is over: whoever speaks, the goodbye is said and the call ends."""
        self._leaving = "the call reached the time allowed"
        if self._reply is not None and self._reply.audible:
            self._interrupt()
        self._say(self.persona.fill(self.persona.goodbye), State.CLOSING)

    def _fail(self, event: ev.WorkFailed) -> None:
        log.warning("%s: %s failed: %s", self.call_id, event.stage.value, event.reason)
        reply = self._reply
        if reply is None:
            self._apologise()
        elif event.stage is ev.Stage.SPEAK:
            # A phrase that cannot be spoken is left out; the rest of the answer goes on.
            for phrase in reply.phrases:
                if phrase.asked and not phrase.complete:
                    phrase.complete = True
                    break
            self._after_audio(reply)
        elif reply.audible or reply.phrases:
            reply.finish_text()
            self._synthesise(reply)
            self._after_audio(reply)
        else:
            self._apologise()

    def _apologise(self) -> None:
        """Something went wrong before a word of the answer was heard."""
        self._stretches.clear()
        apology = self.persona.fill(self.persona.apology)
        if self._reply is not None and self._reply.text() == apology:
            # The apology itself could not be spoken: silence is all that is left.
            self._remember(self._reply, "", interrupted=False)
            self._listen()
        else:
            self._say(apology)

    def _hang_up(self, event: ev.MediaTimedOut) -> None:
        self._out.append(cmd.HangUp(f"no RTP for {event.silent_for:.0f} s"))
        self._end(event)

    def _end(self, _: object) -> None:
        reply = self._reply
        if reply is not None and reply.audible:
            self._remember(reply, reply.heard(self._played), interrupted=True)
        self._out.append(cmd.CancelWork(self.generation))
        self._go(State.ENDED)

    # ------------------------------------------------------------------------------------------- mechanics

    def _go(self, state: State) -> None:
        """Change state; timers belong to states and end with them."""
        if state is self.state:
            return
        for name in list(self._timers):
            del self._timers[name]
            self._out.append(cmd.CancelTimer(name))
        self.state = state
        if state is State.THINKING:
            self._set_timer("stuck", self._now + self.persona.think_limit)

    def _listen(self) -> None:
        self._reply = None
        self._stretches.clear()
        self._go(State.LISTENING)
        if self.persona.idle_after > 0:
            self._set_timer("idle", self._now + self.persona.idle_after)

    def _new_generation(self) -> None:
        if self.generation:
            self._out.append(cmd.CancelWork(self.generation))
        self.generation += 1
        self._reply = None
        self._marks = {}

    def _set_timer(self, name: str, at: float) -> None:
        self._serial += 1
        self._timers[name] = self._serial
        self._out.append(cmd.SetTimer(name, self._serial, at))

    def _current(self) -> Reply:
        assert self._reply is not None, f"no reply while {self.state}"
        return self._reply

    def _addressed(self) -> bool:
        """True when the turn is for the assistant: always, unless a wake command is set."""
        wake = _words(self.persona.wake_command)
        return _words(self._user_text)[: len(wake)] == wake

    def _only_wake_command(self) -> bool:
        wake = _words(self.persona.wake_command)
        return bool(wake) and bool(self.persona.heard_ok) and _words(self._user_text) == wake


def _without_lead(pcm: ev.Pcm) -> ev.Pcm:
    """Without the silence that a voice begins with: the caller would wait for it.

    A frame of 20 ms before the first sound stays, so that its onset is whole.
    """
    loud = np.flatnonzero(np.abs(pcm.astype(np.int32)) > _AUDIBLE)
    return pcm[max(0, int(loud[0]) - ev.FRAME_SAMPLES) :] if loud.size else pcm[:0]


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.casefold())


def _for_model(history: list[Message]) -> list[Message]:
    """The history in the form that chat templates accept: beginning with the user, roles alternating.

    Neighbouring messages of one role become one (an answer of which nothing was heard leaves two of the caller's).
    """
    merged: list[Message] = []
    for message in history:
        if not merged and message.role != "user":
            continue
        if merged and merged[-1].role == message.role:
            merged[-1] = Message(message.role, f"{merged[-1].content} {message.content}")
        else:
            merged.append(message)
    return merged
