"""One call: its conversation, and the hands that carry out what the conversation asks for.

A ``Call`` owns everything that belongs to one caller (media, timers, record) and gives all of it back in
``release``, the only way out. Main thread only.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from aiphone import events as ev
from aiphone.clock import Clock
from aiphone.conversation import commands as cmd
from aiphone.conversation.facts import (
    CallAnswered,
    CallerChanged,
    Hearing,
    Speaking,
    StateChanged,
    TurnTimed,
    Watcher,
    WordsSaid,
)
from aiphone.conversation.latency import TurnTimes
from aiphone.conversation.machine import Conversation
from aiphone.conversation.playout import PlayoutFeeder
from aiphone.conversation.ports import (
    LanguageModelPort,
    ListenerPort,
    MediaCallPort,
    MediaEnginePort,
    MemoryPort,
    RecogniserPort,
    SipPort,
    SynthesiserPort,
    TimerHandle,
    Timers,
    TurnEndPort,
)
from aiphone.conversation.record import CallRecord
from aiphone.conversation.screening import Answerer, Screening
from aiphone.conversation.transitions import State
from aiphone.errors import MediaError, SipError
from aiphone.speech.echo import EchoGate

log = logging.getLogger(__name__)

TOP_UP_SECONDS = 0.2
"""How often audio that waits for room in the playout ring is offered again."""

_SCREENING = "screening"
"""Name of a timer; the conversation has none of that name."""

_PORT = re.compile(r"(?<=[^:]):\d+$")


@dataclass(frozen=True, slots=True)
class Stages:
    """Everything a call works with; shared by all calls."""

    clock: Clock
    timers: Timers
    media: MediaEnginePort
    listener: ListenerPort
    recogniser: RecogniserPort
    model: LanguageModelPort
    synthesiser: SynthesiserPort
    sip: SipPort
    memory: MemoryPort | None = None
    turn_end: TurnEndPort | None = None
    """None when there is no model: the words and the usual patience decide then."""


class Call:
    """A call from INVITE to BYE."""

    def __init__(
        self,
        record: CallRecord,
        conversation: Conversation,
        stages: Stages,
        *,
        feed: Callable[[ev.Event], None],
        close_sockets: Callable[[ev.RtpSockets], None],
        watch: Watcher,
        message: str = "",
    ) -> None:
        """``feed`` brings a timer's event back in; ``close_sockets`` takes sockets that the engine did not;
        ``watch`` is told what happens; ``message`` is for an answering machine, if one answers."""
        self.record = record
        self.conversation = conversation
        self._stages = stages
        self._feed = feed
        self._close_sockets = close_sockets
        self._watch = watch
        self._media: MediaCallPort | None = None
        self._feeder: PlayoutFeeder | None = None
        self._echo = EchoGate()
        self._timers: dict[str, TimerHandle] = {}
        self._confirmed: ev.CallConfirmed | None = None
        self._top_up: TimerHandle | None = None
        self._time_up: TimerHandle | None = None
        self._keys_by_rtp = False
        """Whether telephone-event was negotiated."""
        self._transfer_to = ""
        self._message = message
        self._left_message = False
        self._screening: Screening | None = None
        """While it is not known whether a machine has answered."""
        self._memory_key = f"{record.line_id}:{_PORT.sub('', record.caller)}"

    # ------------------------------------------------------------------------------------------------ events

    def handle(self, event: ev.Event) -> None:
        """Take one event of this call."""
        match event:
            case ev.MediaNegotiated():
                self._negotiated(event)
            case ev.CallConfirmed():
                self._confirmed = event
                self._begin()
            case ev.TransferProgress():
                if event.final and event.code < 300:
                    self.record.end_reason = f"transferred to {self._transfer_to}"
                self._step(event)
            case ev.CallMoved():
                # The words so far stay with whom they were said to: the memory's key does not change.
                log.info("%s: goes on with %s", self.record.call_id, event.remote)
                self.record.caller = event.remote or self.record.caller
                self._watch(CallerChanged(self.record))
            case ev.VoiceStarted() | ev.VoiceStopped() | ev.ToneHeard() if self._screening is not None:
                self._screened(self._screening.heard(event))
            case ev.TimerFired(name=name) if name == _SCREENING:
                if self._screening is not None:
                    self._screened(self._screening.expired(self._stages.clock.now()))
            case ev.CallProgress():
                log.info("%s: %d %s", self.record.call_id, event.code, event.reason)
            case _:
                self._step(event)

    def _negotiated(self, event: ev.MediaNegotiated) -> None:
        self._keys_by_rtp = event.stream.dtmf_payload_type is not None
        if self._media is not None:
            self._media.update(event.stream)
            return
        if event.sockets is None:
            log.error("%s: media was negotiated without sockets", self.record.call_id)
            return
        try:
            self._media = self._stages.media.add(self.record.call_id, event.sockets, event.stream)
        except MediaError as error:
            log.error("%s: %s", self.record.call_id, error)
            self._close_sockets(event.sockets)
            self._stages.sip.hangup(self.record.call_id, 500, "media not available")
            return
        self._feeder = PlayoutFeeder(self._media, self._echo)
        self._stages.listener.attach(self.record.call_id, self._media, self._echo, tones=bool(self._message))
        self._begin()

    def _begin(self) -> None:
        """Start talking once both the media and the other side's ACK are there, in whichever order."""
        if self._confirmed is None or self._media is None or self.record.answered is not None:
            return
        self.record.answered = self._confirmed.at
        self._watch(CallAnswered(self.record))
        persona = self.conversation.persona
        prompt = persona.initial_prompt()
        self._stages.recogniser.begin(self.record.call_id, language=persona.language, prompt=prompt)
        if self._message:
            self._screening = Screening(self._confirmed.at)
            self._screened(None)
        else:
            self._step(self._confirmed)
        limit = self.conversation.persona.max_call_seconds
        if limit > 0:
            over = partial(self._feed, ev.TimeUp(self.record.call_id))
            self._time_up = self._stages.timers.call_at(self._confirmed.at + limit, over)

    def _screened(self, answerer: Answerer | None) -> None:
        """Go on listening to who has answered, or with whom it is."""
        screening, self._screening = self._screening, None
        self._cancel_timer(_SCREENING)
        match answerer:
            case Answerer.PERSON if self._confirmed is not None:
                log.info("%s: a person has answered", self.record.call_id)
                self._step(self._confirmed)
            case Answerer.MACHINE:
                log.info("%s: an answering machine has answered", self.record.call_id)
                self._left_message = True
                # What the record says when it hangs up before we have said all.
                self.record.end_reason = "answering machine: it hung up during the message"
                self._step(ev.MachineAnswered(self.record.call_id, self._message))
            case _ if screening is not None:
                self._screening = screening
                event = ev.TimerFired(self.record.call_id, _SCREENING, 0)
                self._timers[_SCREENING] = self._stages.timers.call_at(screening.due, partial(self._feed, event))

    def _step(self, event: ev.Event) -> None:
        now = self._stages.clock.now()
        played = self._media.played if self._media is not None else 0
        before, current = self.conversation.state, self.conversation.generation
        for command in self.conversation.handle(event, now, played):
            self._carry_out(command)
        if self.conversation.state is not before:
            self._watch(StateChanged(self.record, self.conversation.state.value))
            if before is State.TRANSFERRING and self.conversation.state is not State.ENDED:
                self.record.end_reason = ""
        if not isinstance(event, ev.Transcribed | ev.PartialTranscript) or event.generation != current:
            return
        # What is said over the assistant may be our own words, or nothing: it is told when it has become a turn.
        if event.text.strip() and before is not State.INTERRUPTING:
            self._watch(Hearing(self.record, event.text.strip()))

    # ---------------------------------------------------------------------------------------------- commands

    def _carry_out(self, command: cmd.Command) -> None:
        call_id, stages = self.record.call_id, self._stages
        match command:
            case cmd.Transcribe(generation, pcm, urgency):
                stages.recogniser.submit(call_id, generation, pcm, urgency)
            case cmd.Insist(generation, pcm):
                stages.recogniser.insist(call_id, generation, pcm)
            case cmd.EstimateTurnEnd(generation, pcm):
                if stages.turn_end is not None:
                    stages.turn_end.submit(call_id, generation, pcm)
            case cmd.ReadAhead(generation, messages):
                stages.model.read_ahead(call_id, generation, messages)
            case cmd.Generate(generation, messages, speculative):
                log.debug("%s: prompt %s", call_id, [(message.role, message.content) for message in messages])
                grammar = self.conversation.persona.grammar()
                stages.model.generate(call_id, generation, messages, speculative=speculative, grammar=grammar)
            case cmd.Promote(generation):
                stages.model.promote(call_id, generation)
            case cmd.Speak(generation, phrase, text):
                voice = self.conversation.persona.voice_name()
                stages.synthesiser.submit(call_id, generation, phrase, text, voice)
            case cmd.Play(pcm, text):
                self._play(pcm)
                if text:
                    self._watch(Speaking(self.record, text))
            case cmd.StopPlayout():
                if self._feeder is not None:
                    self._feeder.stop()
            case cmd.SetGain(db):
                if self._media is not None:
                    self._media.set_gain(db)
                    self._echo.gain(db)
            case cmd.EchoHeard():
                self._echo.heard()
            case cmd.CancelWork(generation):
                stages.recogniser.cancel(call_id, generation)
                if stages.turn_end is not None:
                    stages.turn_end.cancel(call_id, generation)
                stages.model.cancel(call_id, generation)
                stages.synthesiser.cancel(call_id, generation)
            case cmd.SetTimer(name, serial, at):
                self._cancel_timer(name)
                event = ev.TimerFired(call_id, name, serial)
                self._timers[name] = stages.timers.call_at(at, partial(self._feed, event))
            case cmd.CancelTimer(name):
                self._cancel_timer(name)
            case cmd.HangUp(reason):
                if self._left_message:
                    self.record.end_reason = reason
                self.record.end_reason = self.record.end_reason or reason
                stages.sip.hangup(call_id, reason=reason)
            case cmd.Transfer(name, uri):
                self._transfer(name, uri)
            case cmd.SendDigits(digits):
                self._press(digits)
            case cmd.Hold():
                stages.sip.hold(call_id)
            case cmd.Resume():
                stages.sip.resume(call_id)
            case cmd.Said():
                self.record.words.append(command)
                said = WordsSaid(
                    self.record, command.role, command.text, command.at, command.interrupted, command.words
                )
                self._watch(said)
            case cmd.TurnMeasured(times):
                self._measured(times)
            case cmd.InteractionDone(history):
                if stages.memory is not None and self.conversation.persona.remember:
                    stages.memory.keep(call_id, self.memory_key, history)

    def _transfer(self, name: str, uri: str) -> None:
        self._transfer_to = name
        # What the record says when the caller hangs up before we know.
        self.record.end_reason = f"being transferred to {name}"
        try:
            self._stages.sip.transfer(self.record.call_id, uri)
        except SipError as error:
            now = self._stages.clock.now()
            failed = ev.TransferProgress(self.record.call_id, 500, str(error), final=True, at=now)
            self._stages.timers.call_at(now, partial(self._feed, failed))

    def _press(self, digits: str) -> None:
        try:
            if self._media is not None and self._keys_by_rtp:
                self._media.send_digits(digits)
            else:
                self._stages.sip.send_info_digits(self.record.call_id, digits)
        except (MediaError, SipError) as error:
            log.warning("%s: the keys were not sent: %s", self.record.call_id, error)

    def _measured(self, times: TurnTimes) -> None:
        self.record.turns.append(times)
        self._watch(TurnTimed(self.record, times))
        parts = ", ".join(f"{name} {1000 * part:.0f}" for name, part in times.parts().items())
        log.info("%s: answered after %.0f ms (%s)", self.record.call_id, 1000 * times.total, parts)

    def _play(self, pcm: ev.Pcm) -> None:
        if self._feeder is None:
            return
        self._feeder.play(pcm)
        self._schedule_top_up()

    def _schedule_top_up(self) -> None:
        if self._feeder is not None and self._feeder.waiting and self._top_up is None:
            when = self._stages.clock.now() + TOP_UP_SECONDS
            self._top_up = self._stages.timers.call_at(when, self._topped_up)

    def _topped_up(self) -> None:
        self._top_up = None
        if self._feeder is not None:
            self._feeder.top_up()
            self._schedule_top_up()

    def _cancel_timer(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    # --------------------------------------------------------------------------------------------------- end

    @property
    def memory_key(self) -> str:
        """Under what this caller's conversation is kept: one for each line and caller.

        Without the port of the caller's URI: many phones take another one each time they start.
        """
        return self._memory_key

    def media_stats(self) -> Any:
        """The media engine's counters for this call, or None when it has no media."""
        return self._media.stats() if self._media is not None else None

    def start_recording(self, path: Path) -> None:
        """Record both sides into a new stereo WAV file until the call ends, or ``stop_recording``.

        Raises ``StorageError`` when the file cannot be made, ``MediaError`` when there is no media (yet).
        """
        if self._media is None:
            raise MediaError(f"{self.record.call_id} has no media that could be recorded.")
        self._media.record(path)

    def stop_recording(self) -> None:
        """End the recording; nothing when there is none."""
        if self._media is not None:
            self._media.stop_recording()

    def release(self) -> None:
        """Give everything back. The call is of no use afterwards."""
        call_id, stages = self.record.call_id, self._stages
        for name in list(self._timers):
            self._cancel_timer(name)
        for timer in (self._top_up, self._time_up):
            if timer is not None:
                timer.cancel()
        self._top_up = self._time_up = None
        if self._media is not None:
            # The listener first: it reads the ring that closing gives back.
            stages.listener.detach(call_id)
            self._media.close()
        self._media = self._feeder = None
        stages.recogniser.release(call_id)
        if stages.turn_end is not None:
            stages.turn_end.release(call_id)
        stages.model.close_call(call_id)
        stages.synthesiser.release(call_id)
