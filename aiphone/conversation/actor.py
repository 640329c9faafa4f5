"""The assistant's hands: what it does besides talking, when its words have been heard.

An answer's action (see ``actions``) is done once the last of its words has left, and dropped when the caller
interrupts first. Whether the persona allows it is looked at again here.
"""

from __future__ import annotations

import logging

from aiphone import events as ev
from aiphone.actions import Action
from aiphone.conversation import commands as cmd
from aiphone.conversation.reply import Reply
from aiphone.conversation.speaker import Speaker
from aiphone.conversation.transitions import State
from aiphone.conversation.turn import Turn

log = logging.getLogger(__name__)

_TRANSFER_LIMIT = 90.0
"""Seconds after which a transfer that nothing is heard of has failed: longer than telephones ring."""

_HOLD_SECONDS = 20.0
"""How long the assistant leaves a caller on hold."""


class Actor(Speaker):
    """A speaker that may act. Main thread only; see ``machine.Conversation``."""

    def _allowed(self, reply: Reply) -> Action | None:
        """The action at the end of an answer, when the persona allows it."""
        return reply.action if reply.action is not None and self.persona.may(reply.action) else None

    def _announce(self, reply: Reply) -> None:
        """The answer is written: one that is nothing but an action gets words."""
        action = self._allowed(reply)
        if action is None and reply.action is not None:
            log.warning("%s: the model wrote %s, which its persona does not allow", self.call_id, reply.action)
        if action is not None and not reply.phrases:
            reply.confirm(self.persona.confirmation(action))

    def _drop(self, reply: Reply) -> None:
        """The caller spoke before the answer had been heard."""
        if (action := self._allowed(reply)) is not None:
            log.info("%s: the caller interrupted; %s is not done", self.call_id, action)

    def _act(self, action: Action) -> None:
        """Do what the answer announced, now that it has been heard."""
        log.info("%s: %s", self.call_id, action)
        self._turn = Turn()
        match action.kind:
            case "hang up":
                self._out.append(cmd.HangUp("the assistant hung up"))
                self._go(State.ENDED)
            case "transfer":
                uri = dict(self.persona.transfers)[action.argument]
                self._out.append(cmd.Transfer(action.argument, uri))
                self._go(State.TRANSFERRING)
                self._set_timer("transfer", self._now + _TRANSFER_LIMIT)
            case "hold":
                self._out.append(cmd.Hold())
                self._go(State.HOLDING)
                self._set_timer("resume", self._now + _HOLD_SECONDS)
            case "press":
                self._out.append(cmd.SendDigits(action.argument))
                self._listen()

    def _transferred(self, event: ev.TransferProgress) -> None:
        if not event.final:
            return
        if event.code < 300:
            self._go(State.ENDED)  # the SIP side says BYE
        else:
            log.info("%s: the transfer failed: %d %s", self.call_id, event.code, event.reason)
            self._not_transferred()

    def _not_transferred(self) -> None:
        self._say_if_any(self.persona.fill(self.persona.nobody_there), remembered=True)

    def _take_back_from_hold(self) -> None:
        self._out.append(cmd.Resume())
        self._say_if_any(self.persona.fill(self.persona.idle_prompt))

    def _say_if_any(self, text: str, *, remembered: bool = False) -> None:
        if text.strip():
            self._say(text, remembered=remembered)
        else:
            self._listen()

    def _listen(self) -> None:
        """The caller has the floor."""
        raise NotImplementedError
