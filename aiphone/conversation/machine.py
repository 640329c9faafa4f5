"""The conversation: a state machine without I/O. Events and the time go in, commands come out.

Theory of operation
-------------------
A caller's *turn* is one or more stretches of voice (or keys) with pauses between them. At each pause an *attempt* at
an answer begins, numbered by a *generation*: transcript, text, first phrase. Nothing of it is heard until the pause
has lasted as long as voice and words ask for (``speech.patience``); then the turn is *committed*: its text enters the
history and the audio goes out. If the caller goes on before any of it is heard, the generation is raised, the text
leaves the history again, and whatever belongs to an older one is dropped by comparison when it turns up. The record
gets the text with the first sound of the answer, so that it never has half a turn and then the whole.

A caller who speaks over the assistant turns it down at once (*ducking*), holds it after ``interrupt_after`` of voice,
and stops it when it is sure that the caller wants to speak (``overlap``); otherwise the answer goes on where it was.
What the history keeps of an interrupted answer is what had been heard, to the word.

Rules
-----
- ``handle`` is the only way in. A pair of state and event that the table does not have changes nothing.
- History changes only in ``_commit`` (the caller's words) and ``_remember`` (the model's). Words that no model wrote
  (the greeting, "are you still there?", "one moment") are not in it: many chat templates refuse an assistant who
  speaks first, and small models repeat them.
- At most one reply exists; its audio is the only audio that is queued, but for the filler before it.
- Our own words that come back as the caller's are dropped, wherever they would have become a turn.
- Not thread-safe: one owner (the main thread). No clock: ``now`` and the playout position are arguments.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from aiphone import events as ev
from aiphone.conversation import commands as cmd
from aiphone.conversation.actor import Actor
from aiphone.conversation.latency import Stopwatch
from aiphone.conversation.overlap import DOUBT, DUCK_DB, Overlap
from aiphone.conversation.prompting import for_model, same_beginning, spoken_words
from aiphone.conversation.reply import Reply
from aiphone.conversation.speaker import FILLER
from aiphone.conversation.transitions import TABLE, State
from aiphone.conversation.turn import Turn, limits_of
from aiphone.persona import Message, Persona
from aiphone.speech.barge_in import Meaning, is_echo, meaning, wants_floor

log = logging.getLogger(__name__)

MESSAGE_LEFT = "answering machine: message left"
"""What the record says of a call to one."""

_ECHO_LATE = 0.8
"""Seconds after our last sound in which it may still come back."""

_AHEAD_WORDS = 3
"""So many new words make it worth letting the model read ahead."""

_WORKER_EVENTS = (
    ev.Transcribed,
    ev.PartialTranscript,
    ev.TurnEndEstimated,
    ev.TurnEndByWords,
    ev.ReplyText,
    ev.ReplyEnded,
    ev.SpeechChunk,
    ev.WorkFailed,
)


@dataclass(slots=True)
class _Foreseen:
    """A transcript that was asked for when the voice faded; it counts when that turns out to be a pause."""

    voice_ended: float
    outcome: ev.Transcribed | ev.WorkFailed | None = None


class Conversation(Actor):
    """One call's conversation. See the module's text for the rules."""

    def __init__(self, call_id: str, persona: Persona, history: Sequence[Message] = ()) -> None:
        """``history`` is what an earlier call left (without the system message)."""
        super().__init__(call_id, persona, history)
        self.ignored = 0
        """Events that came in a state that has no use for them."""
        self._idle_prompts = 0
        self._leaving = ""
        self._limits = limits_of(persona)
        self._turn_over_at = 0.0
        self._read_ahead = ""
        self._foreseen: _Foreseen | None = None

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
        again = self.persona.greeting_again if self.history else ""
        self._say_if_any(self.persona.fill(again or self.persona.greeting))

    def _leave_message(self, event: ev.MachineAnswered) -> None:
        self._leaving = MESSAGE_LEFT
        self._say(event.message, State.CLOSING)
        # Goodbyes are short, messages need not be: ten characters a second is slow speech.
        self._set_timer("stuck", self._now + self.persona.think_limit + len(event.message) / 10)

    # ----------------------------------------------------------------------------------- the caller speaks

    def _hear(self, event: ev.VoiceStarted) -> None:
        self._idle_prompts = 0
        self._read_ahead = ""
        self._turn = Turn(began=event.at)
        self._go(State.HEARING)

    def _foresee(self, event: ev.VoiceFaded) -> None:
        """Perhaps a pause begins: what was said up to it is worth knowing early."""
        self._new_generation()
        self._foreseen = _Foreseen(event.at)
        audio = Turn([*self._turn.stretches, event.pcm]).audio()
        self._out.append(cmd.Transcribe(self.generation, audio, ev.Urgency.EARLY))

    def _keep(self, event: ev.Transcribed | ev.WorkFailed) -> None:
        """What came of it, before the pause is certain."""
        if self._foreseen is not None and (isinstance(event, ev.Transcribed) or event.stage is ev.Stage.TRANSCRIBE):
            self._foreseen.outcome = event

    def _pause(self, event: ev.VoiceStopped) -> None:
        self._turn.add(event.begins, event.pcm)
        foreseen, self._foreseen = self._foreseen, None
        if foreseen is None or foreseen.voice_ended != event.at:
            self._attempt(event.at)
            return
        audio = self._turn.audio()
        if foreseen.outcome is None:
            self._out.append(cmd.Insist(self.generation, audio))
        self._begin_attempt(event.at, audio)
        match foreseen.outcome:
            case ev.Transcribed() as transcribed:
                self._prepare(transcribed)
            case ev.WorkFailed() as failed:
                self._remember_failure(failed)

    def _attempt(self, voice_ended: float) -> None:
        """The caller has stopped speaking: find out what was said, and prepare an answer in case that was all."""
        self._new_generation()
        audio = self._turn.audio()
        self._out.append(cmd.Transcribe(self.generation, audio))
        self._begin_attempt(voice_ended, audio)

    def _begin_attempt(self, voice_ended: float, audio: ev.Pcm) -> None:
        """Everything of an attempt but the request for the transcript."""
        self._watch = Stopwatch(voice_ended)
        self._turn.new_attempt()
        self._go(State.PAUSING)
        self._out.append(cmd.EstimateTurnEnd(self.generation, audio))
        self._wait()

    def _weigh(self, event: ev.TurnEndEstimated) -> None:
        """The voice says how probable it is that the turn is over."""
        self._turn.probability = event.probability
        if self._watch is not None:
            self._watch.own("turn_end", event.seconds)
        self._wait()

    def _weigh_words(self, event: ev.TurnEndByWords) -> None:
        """The language model says how probable it is that the words end here."""
        self._turn.by_words = event.probability
        self._wait()

    def _wait(self) -> None:
        """Set how long the pause may last, by what is known of it now."""
        self._turn_over_at = self._turn.over_at(self._limits, self._watch)
        self._set_timer("patience", self._turn_over_at)

    def _resume_hearing(self, event: ev.VoiceStarted) -> None:
        """The caller goes on: the turn was not over, whatever we thought."""
        self._take_back()
        if not self._turn.stretches:
            self._turn.began = event.at
        self._go(State.HEARING)

    def _take_back(self) -> None:
        """The turn goes on before any of the answer was heard."""
        if self._committed_text:
            self._uncommit()
        if self._queue_end > self._played:
            self._out.append(cmd.StopPlayout())  # the filler, or silence before the answer
            self._silent_since = self._now
            self._queue_end = 0
        self._new_generation()

    def _transcribe_so_far(self, event: ev.VoiceContinues) -> None:
        stretches = self._overlap.stretches if self._overlap is not None else self._turn.stretches
        audio = Turn([*stretches, event.pcm]).audio()
        self._out.append(cmd.Transcribe(self.generation, audio, ev.Urgency.PARTIAL))

    def _so_far(self, event: ev.PartialTranscript) -> None:
        """Some of what is being said is certain: the model may read it."""
        stable = event.stable.strip()
        if len(stable.split()) < len(self._read_ahead.split()) + _AHEAD_WORDS:
            return
        self._read_ahead = stable
        if self._addressed(stable):
            self._out.append(cmd.ReadAhead(self.generation, self._messages(stable)))

    def _prepare(self, event: ev.Transcribed) -> None:
        """Text of a turn that may not be over: begin the answer, unheard."""
        self._transcribed(event)
        self._begin_answer()

    def _begin_answer(self) -> None:
        if self._turn.words and self._addressed(self._turn.text):
            self._generate(speculative=True)
        self._wait()

    def _remember_failure(self, event: ev.WorkFailed) -> None:
        log.warning("%s: %s failed: %s", self.call_id, event.stage.value, event.reason)
        self._turn.failed = self._turn.known = True
        self._wait()

    # -------------------------------------------------------------------------------------------- keys

    def _press(self, event: ev.DigitReceived) -> None:
        """A key is part of the turn as a word is; it needs no time to be sure that it interrupts."""
        self._idle_prompts = 0
        match self.state:
            case State.HEARING:
                self._turn.press(event.digit, event.at)
                return  # the pause after the words will come
            case State.SPEAKING | State.INTERRUPTING:
                self._interrupt()
                self._turn = Turn()  # the tone itself may have been taken for a voice
            case State.THINKING:
                self._take_back()
            case State.LISTENING:
                self._turn = Turn()
        turn = self._turn
        turn.press(event.digit, event.at)
        if turn.stretches and self.state is not State.PAUSING:
            self._attempt(event.at)
            return
        if not turn.stretches:
            self._new_generation()
            self._watch = None
            turn.new_attempt()
            turn.known = True
        elif self._reply is not None:
            self._reply = None  # an answer to the words without the key; another one begins when the turn is over
            self._new_generation()
        self._go(State.PAUSING)
        self._wait()

    # --------------------------------------------------------------------------------------- turn is over

    def _timer(self, event: ev.TimerFired) -> None:
        del self._timers[event.name]
        match (self.state, event.name):
            case (State.PAUSING, "patience"):
                self._turn_over()
            case (State.INTERRUPTING, "hold"):
                self._hold()
            case (State.INTERRUPTING, "sure"):
                self._be_sure()
            case (State.INTERRUPTING, "doubt"):
                self._go_on()
            case (State.LISTENING, "idle"):
                self._idle()
            case (State.THINKING, "filler"):
                self._fill()
            case (State.THINKING, "stuck"):
                log.warning("%s: no answer within %.0f s", self.call_id, self.persona.think_limit)
                self._apologise()
            case (State.TRANSFERRING, "transfer"):
                self._not_transferred()
            case (State.HOLDING, "resume"):
                self._take_back_from_hold()
            case (State.CLOSING, "stuck"):
                self._out.append(cmd.HangUp(self._leaving))
                self._go(State.ENDED)

    def _turn_over(self) -> None:
        if self._watch is not None:
            # The timer may be late because the words that set it were: their time is not the patience's.
            self._watch.mark("committed", min(self._now, self._turn_over_at))
        if self._turn.failed:
            self._apologise()
        elif not self._turn.known:
            self._think()
        else:
            self._decide()

    def _think(self) -> None:
        """The assistant has the floor; if nothing is heard of it for long, it says so."""
        self._go(State.THINKING)
        if self.persona.filler.strip() and not self._turn.filled and self._watch is not None:
            self._set_timer("filler", self._watch.voice_ended + self.persona.filler_after)

    def _fill(self) -> None:
        self._turn.filled = True
        self._asked.append(FILLER)
        self._out.append(cmd.Speak(self.generation, FILLER, self.persona.fill(self.persona.filler)))

    def _answer(self, event: ev.Transcribed) -> None:
        """The words come when the turn was taken to be over already: unless they say it is not, answer at once."""
        self._transcribed(event)
        turn = self._turn
        if turn.unfinished and not turn.filled and turn.over_at(self._limits, self._watch) > self._now:
            if self._watch is not None:
                self._watch.go_on()
            self._go(State.PAUSING)
            self._begin_answer()
        else:
            self._decide()

    def _transcribed(self, event: ev.Transcribed) -> None:
        if self._watch is not None:
            self._watch.mark("transcribed", self._now)
            self._watch.own("transcript", event.seconds)
        turn = self._turn
        turn.words, turn.known, turn.spoken = event.text.strip(), True, event.words
        if turn.words and turn.began < self._silent_since + _ECHO_LATE and self._is_echo(turn.words, self._last_words):
            turn.words, turn.spoken = "", ()

    def _is_echo(self, heard: str, spoken: str) -> bool:
        if not is_echo(heard, spoken):
            return False
        log.info("%s: our own words came back and were not taken for the caller's", self.call_id)
        self._out.append(cmd.EchoHeard())
        return True

    def _decide(self) -> None:
        """The turn is over and its text known: answer it, or go back to listening."""
        text = self._turn.text
        if not text or not self._addressed(text):
            self._out.append(cmd.CancelWork(self.generation))
            self._listen()
        elif self._only_wake_command(text):
            self._say(self.persona.fill(self.persona.heard_ok))
        else:
            self._think()
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
        if self._watch is not None:
            self._watch.asked = self._now
        self._out.append(cmd.Generate(self.generation, self._messages(self._turn.text), speculative))

    def _messages(self, text: str) -> tuple[Message, ...]:
        return (self.persona.system_message(), *for_model([*self.history, Message("user", text)]))

    def _commit(self) -> None:
        self._committed_text = self._turn.text
        self.history.append(Message("user", self._committed_text))
        at = self._watch.voice_ended if self._watch is not None else self._turn.key_at
        self._unheard = [cmd.Said("user", self._committed_text, at, words=self._turn.spoken_from(at))]

    def _uncommit(self) -> None:
        self.history.pop()
        self._committed_text = ""
        self._unheard = [said for said in self._unheard if said.role != "user"]
        self._record()

    # ------------------------------------------------------------------------------------------ the answer

    def _add_text(self, event: ev.ReplyText) -> None:
        reply = self._current()
        if self._watch is not None:
            self._watch.first_token(self._now)
        reply.add_text(event.text)
        self._synthesise(reply)

    def _end_text(self, _: ev.ReplyEnded) -> None:
        reply = self._current()
        if self._watch is not None:
            self._watch.first_token(self._now)
        reply.finish_text()
        self._announce(reply)
        self._synthesise(reply)
        if not reply.phrases and not reply.held:
            self._apologise()
        else:
            self._after_audio(reply)

    def _add_audio(self, event: ev.SpeechChunk) -> None:
        if event.last and event.phrase in self._asked:
            self._asked.remove(event.phrase)
        if event.phrase == FILLER:
            self._play_filler(event)
            return
        reply = self._current()
        if self._watch is not None:
            self._watch.mark("first_audio", self._now)
            self._watch.own("first_audio", event.seconds)
        if event.last:
            reply.phrases[event.phrase].complete = True
        if reply.held:
            reply.waiting.append((event.phrase, event.pcm))
            return
        self._play(reply, event.phrase, event.pcm)
        self._after_audio(reply)

    def _after_audio(self, reply: Reply) -> None:
        """Whether the answer is over, now that more of it is known."""
        if self._overlap is not None and self._overlap.held:
            return
        if not reply.exhausted or self._played < self._queue_end:
            return
        if not reply.audible and self.state is State.THINKING:
            self._apologise()
        elif self.state is not State.PAUSING:
            self._finished(reply)

    def _drained(self, event: ev.PlayoutDrained) -> None:
        self._silent_since = event.at
        if self._reply is not None:
            self._after_audio(self._reply)

    def _finished(self, reply: Reply) -> None:
        action = self._allowed(reply)
        if self.state is State.INTERRUPTING:
            action = None
            self._drop(reply)
        self._remember(reply, reply.text(), interrupted=False, action=action)
        match self.state:
            case State.INTERRUPTING:
                self._out.append(cmd.SetGain(0.0))
                self._idle_prompts = 0
                self._turn = Turn(began=self._end_overlap())
                self._go(State.HEARING)
            case State.CLOSING:
                if self._leaving == MESSAGE_LEFT and not reply.audible:
                    self._leaving = "answering machine: the message could not be spoken"
                self._out.append(cmd.HangUp(self._leaving))
                self._go(State.ENDED)
            case _ if action is not None:
                self._act(action)
            case _:
                self._listen()

    # --------------------------------------------------------------------------------------- interruption

    def _duck(self, event: ev.VoiceStarted) -> None:
        if self._unheard:
            self._resume_hearing(event)  # nothing of the answer was heard: the caller goes on, and does not interrupt
            return
        self._overlap = Overlap(event.at)
        self._out.append(cmd.SetGain(DUCK_DB))
        self._go(State.INTERRUPTING)
        self._set_timer("hold", event.at + self.persona.interrupt_after)

    def _hold(self) -> None:
        """Fall silent, but so that the answer can go on."""
        overlap = self._talking_over()
        overlap.held = True
        self._out.append(cmd.StopPlayout())
        self._silent_since = self._now
        self._queue_end = 0
        self._set_timer("sure", overlap.sure_at())

    def _be_sure(self) -> None:
        """The voice has lasted long."""
        later = self._talking_over().sure_at()
        if later > self._now:
            self._set_timer("sure", later)
        else:
            self._interrupt()

    def _overhear(self, event: ev.PartialTranscript) -> None:
        """Some of what the caller says over the answer was understood."""
        overlap = self._talking_over()
        overlap.meaning = self._meaning(event.text)
        if overlap.meaning is Meaning.STOP and overlap.held and overlap.speaking:
            self._interrupt()  # when the voice has ended, its transcript is on the way and decides

    def _may_end(self, event: ev.VoiceFaded) -> None:
        """The voice over the answer has perhaps ended: the sooner it is understood, the shorter the silence."""
        overlap = self._talking_over()
        if overlap.held:
            overlap.fade(event.at)
            self._understand([*overlap.stretches, event.pcm])

    def _fall_silent(self, event: ev.VoiceStopped) -> None:
        """The voice over the answer has ended: what was it?"""
        overlap = self._talking_over()
        overlap.stop(event)
        if not overlap.held:
            self._go_on()
            return
        self._stop_timer("sure")
        if overlap.faded != event.at:
            self._understand(overlap.stretches)
        elif overlap.judged:
            self._rest()
            return
        self._set_timer("doubt", self._now + DOUBT)

    def _rest(self) -> None:
        """The voice over the answer meant nothing; perhaps more comes."""
        self._set_timer("doubt", max(self._now, self._talking_over().rest_until()))

    def _understand(self, stretches: list[ev.Pcm]) -> None:
        self._out.append(cmd.Transcribe(self.generation, Turn(stretches).audio(), ev.Urgency.ONCE))

    def _speak_again(self, event: ev.VoiceStarted) -> None:
        overlap = self._talking_over()
        overlap.resume()
        self._stop_timer("doubt")
        self._set_timer("sure", max(overlap.sure_at(), event.at + self.persona.interrupt_after))

    def _judge(self, event: ev.Transcribed) -> None:
        """The voice over the answer was understood."""
        overlap = self._talking_over()
        overlap.meaning, overlap.judged = self._meaning(event.text), True
        if wants_floor(event.doubted) and not self._is_echo(event.doubted, self._just_said(self._current())):
            overlap.meaning = Meaning.STOP
        if overlap.meaning is not Meaning.STOP:
            if not overlap.speaking:
                self._rest()
            return
        ended, speaking = overlap.ended, overlap.speaking
        self._interrupt()
        if not speaking:
            self._attempt(ended)

    def _meaning(self, text: str) -> Meaning:
        return Meaning.NOTHING if self._is_echo(text, self._just_said(self._current())) else meaning(text)

    def _just_said(self, reply: Reply) -> str:
        """The words that were heard of an answer, with those that had begun."""
        return spoken_words(reply.heard(self._played + ev.INTERNAL_RATE // 2))

    def _go_on(self) -> None:
        """It was nothing: the answer goes on where it was."""
        reply, overlap = self._current(), self._talking_over()
        self._overlap = None
        self._out.append(cmd.SetGain(0.0))
        if overlap.held:
            for pcm in reply.play_again(self._played):
                self._queue(pcm, "")
        self._go(State.SPEAKING)
        self._after_audio(reply)

    def _interrupt(self) -> None:
        """The caller has the floor."""
        reply, overlap = self._current(), self._overlap
        if overlap is None or not overlap.held:
            self._out.append(cmd.StopPlayout())
        self._out.append(cmd.SetGain(0.0))
        self._silent_since = self._now
        self._queue_end = 0
        self._drop(reply)
        self._remember(reply, reply.heard(self._played), interrupted=True)
        self._last_words = self._just_said(reply)  # what comes back may end in a word that was cut
        self._new_generation()
        self._idle_prompts = 0
        stretches, begins = (overlap.stretches, overlap.begins) if overlap is not None else ([], [])
        self._turn = Turn(stretches, begins, began=self._end_overlap())
        self._go(State.HEARING)

    def _end_overlap(self) -> float:
        """When the voice over the answer began."""
        overlap, self._overlap = self._overlap, None
        return overlap.began if overlap is not None else self._now

    def _talking_over(self) -> Overlap:
        assert self._overlap is not None, f"nobody talks over the answer while {self.state}"
        return self._overlap

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
        if event.stage is ev.Stage.SPEAK:
            self._unspoken(reply)
        elif event.stage is ev.Stage.TRANSCRIBE and self._overlap is not None:
            self._overlap.judged = True
            if not self._overlap.speaking:
                self._go_on()
        elif reply is not None and (reply.audible or reply.phrases):
            reply.finish_text()
            self._synthesise(reply)
            self._after_audio(reply)
        else:
            self._apologise()

    def _unspoken(self, reply: Reply | None) -> None:
        """A phrase that cannot be spoken is left out; the rest of the answer goes on."""
        number = self._asked.pop(0) if self._asked else FILLER
        if number != FILLER and reply is not None:
            reply.phrases[number].complete = True
            self._after_audio(reply)

    def _apologise(self) -> None:
        """Something went wrong before a word of the answer was heard."""
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
        self._record()
        self._out.append(cmd.CancelWork(self.generation))
        self._go(State.ENDED)

    def _new_generation(self) -> None:
        super()._new_generation()
        self._read_ahead = ""
        self._foreseen = None

    def _listen(self) -> None:
        self._record()
        self._reply = None
        self._turn = Turn()
        self._go(State.LISTENING)
        if self.persona.idle_after > 0:
            self._set_timer("idle", self._now + self.persona.idle_after)

    def _addressed(self, text: str) -> bool:
        """True when words are for the assistant: always, unless a wake command is set; keys always are."""
        return bool(self._turn.keys) or same_beginning(text, self.persona.wake_command)

    def _only_wake_command(self, text: str) -> bool:
        wake = self.persona.wake_command
        return bool(wake and self.persona.heard_ok) and same_beginning(text, wake) and same_beginning(wake, text)
