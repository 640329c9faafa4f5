"""The SIP side of the program, as the main thread sees it.

``SipAgent`` runs one thread that owns pjsua2 (see ``stack``). Commands go to it through a bounded queue, facts
come back as events through ``post``; nothing is shared but an immutable snapshot for ``status``. Every
``IncomingCall`` and every ``OutgoingCall`` is followed by exactly one ``CallEnded``, also when this thread dies.

Numbers of calls are ours (``"c1"``); a command for a call that has ended meanwhile does nothing.
"""

from __future__ import annotations

import gc
import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

from aiphone.clock import Clock
from aiphone.errors import AiphoneError, SipError
from aiphone.events import Event, LineChanged
from aiphone.priority import show_name
from aiphone.sip.addresses import callable_host, complete_uri
from aiphone.sip.settings import DIRECT_LINE, LineConfig, RtpPorts, SipSettings, SipStatus

if TYPE_CHECKING:
    from aiphone.sip.stack import Stack

log = logging.getLogger(__name__)

Command = Callable[["Stack"], None]
Post = Callable[[Event | LineChanged], object]

_MAX_COMMANDS = 4096
_FAREWELL = 0.6
"""Share of the stop's time that callers and servers get to answer."""


class SipAgent:
    """Listens for calls and keeps lines registered.

    One at a time in a process: pjsua2 is a process-wide thing. Main thread only, except where it says otherwise.
    """

    def __init__(
        self, settings: SipSettings, ports: RtpPorts, post: Post, clock: Clock, random: Random | None = None
    ) -> None:
        """Nothing happens before ``start``. ``post`` is called on the SIP thread."""
        self._settings = settings
        self._ports = ports
        self._post = post
        self._clock = clock
        self._random = random or Random()
        self._commands: queue.Queue[Command] = queue.Queue(_MAX_COMMANDS)
        self._stopping = threading.Event()
        self._stop_seconds = 5.0
        self._up = threading.Event()
        self._failure: AiphoneError | None = None
        self._thread: threading.Thread | None = None
        self._status = SipStatus(
            running=False,
            version="",
            call_limit=0,
            max_calls=settings.max_calls,
            active_calls=0,
            refused_calls=0,
            host=settings.host,
            port=settings.port,
            lines=(),
        )

    # ------------------------------------------------------------------ life

    def start(self, timeout: float = 20.0) -> None:
        """Listen. Raises ``NetworkError`` (port in use, address not ours) or ``SipError``."""
        if self._thread is not None:
            raise SipError("the SIP agent was started before; make a new one")
        self._thread = threading.Thread(target=self._run, name="aiphone-sip", daemon=True)
        self._thread.start()
        if not self._up.wait(timeout):
            raise SipError(f"pjsua2 did not start within {timeout:.0f} s")
        if self._failure is not None:
            raise self._failure

    def stop(self, timeout: float = 5.0) -> None:
        """BYE to all callers, unregister all lines, take pjsua2 down; returns within ``timeout`` seconds or so.

        Any thread. Does nothing when it is not running.
        """
        thread = self._thread
        if thread is None:
            return
        self._stop_seconds = timeout
        self._stopping.set()
        thread.join(timeout + 2.0)
        if thread.is_alive():
            log.error("the SIP thread did not stop within %.0f s", timeout)

    # ------------------------------------------------------------------ calls and lines

    def answer(self, call_id: str, code: int = 200) -> None:
        """Send a response from 180 to 299 to an incoming call; 200 picks up."""
        if not 180 <= code < 300:
            raise SipError(f"answer with 180 to 299, not {code}; reject is for the others")
        self._enqueue(lambda stack: stack.calls.answer(call_id, code))

    def reject(self, call_id: str, code: int = 486, reason: str = "Busy Here", retry_after: int | None = None) -> None:
        """Refuse an incoming call with 300 to 699; ``retry_after`` is in seconds (RFC 3261 section 20.33)."""
        if not 300 <= code <= 699:
            raise SipError(f"reject with 300 to 699, not {code}")
        self._enqueue(lambda stack: stack.calls.end(call_id, code, reason, retry_after))

    def hangup(self, call_id: str, code: int = 200, reason: str = "") -> None:
        """End a call: BYE once it is answered, else a refusal. A code from 300 goes into BYE's Reason header."""
        final = code if code >= 300 else 603
        self._enqueue(lambda stack: stack.calls.end(call_id, code if _confirmed(stack, call_id) else final, reason))

    def hold(self, call_id: str) -> None:
        """Put the other side on hold (RFC 3264 section 8.4); ``MediaNegotiated`` follows."""
        self._enqueue(lambda stack: stack.calls.hold(call_id, on=True))

    def resume(self, call_id: str) -> None:
        """Take the other side back from hold; ``MediaNegotiated`` follows."""
        self._enqueue(lambda stack: stack.calls.hold(call_id, on=False))

    def send_info_digits(self, call_id: str, digits: str) -> None:
        """Press keys by SIP INFO, for peers without RFC 4733. Raises ``SipError`` for what is no key."""
        if not digits or not set(digits.upper()) <= set("0123456789*#ABCD"):
            raise SipError(f"{digits[:40]!r} holds a character that is no telephone key; use 0-9, *, # and A-D")
        self._enqueue(lambda stack: stack.calls.press(call_id, digits.upper()))

    def transfer(self, call_id: str, uri: str) -> None:
        """Blind transfer (RFC 5589 section 6): the other side is asked to call ``uri`` instead of us.

        ``TransferProgress`` follows; after a final 2xx the call is ended, after a failure it goes on. Raises
        ``SipError`` for an address that is none.
        """
        callable_host(uri)
        self._enqueue(lambda stack: stack.calls.transfer(call_id, uri))

    def transfer_to_call(self, call_id: str, other_call_id: str) -> None:
        """Attended transfer (RFC 5589 section 7): the other sides of two calls of ours talk with each other.

        ``TransferProgress`` for ``call_id`` follows; when it worked, both calls are ended.
        """
        self._enqueue(lambda stack: stack.calls.join(call_id, other_call_id))

    def place_call(self, call_id: str, uri: str, line_id: str | None) -> None:
        """Call ``uri`` (``sip:...``, or a number at the line's server) from a line; None: from the direct address.

        ``OutgoingCall`` follows, then ``CallProgress`` while it rings, ``MediaNegotiated`` and ``CallConfirmed`` when
        it is answered, and ``CallEnded`` with the reason in the end. ``call_id`` must be new, and of another kind
        than ours for incoming calls (``"c1"``). Raises ``SipError`` for an address that is none.
        """
        complete_uri(uri, "" if line_id in (None, DIRECT_LINE) else "line.invalid")
        self._enqueue(lambda stack: stack.place_call(call_id, uri, line_id))

    def add_line(self, line: LineConfig) -> None:
        """Add a line and register it; one with the same id is replaced. Its state comes as ``LineChanged``."""
        self._enqueue(lambda stack: stack.add_line(line))

    def remove_line(self, line_id: str) -> None:
        """Hang up the line's calls, unregister it, forget it."""

        def remove(stack: Stack) -> None:
            stack.calls.end_line(line_id)
            stack.lines.remove(line_id)

        self._enqueue(remove)

    # ------------------------------------------------------------------ facts

    @property
    def call_limit(self) -> int:
        """Calls that this pjsua2 can hold, asked of the library; 0 before ``start``. Any thread."""
        return self._status.call_limit

    @property
    def version(self) -> str:
        """Version of pjproject; empty before ``start``. Any thread."""
        return self._status.version

    @property
    def port(self) -> int:
        """The SIP port, also when 0 was asked for. Any thread."""
        return self._status.port

    def status(self) -> SipStatus:
        """The state of a moment ago. Any thread."""
        return self._status

    # ------------------------------------------------------------------ the SIP thread

    def _enqueue(self, command: Command) -> None:
        if self._thread is None:
            raise SipError("the SIP agent is not started")
        try:
            self._commands.put_nowait(command)
        except queue.Full:
            raise SipError("the SIP thread does not take commands any more; restart the program") from None

    def _run(self) -> None:
        show_name()
        try:
            from aiphone.sip.stack import Stack
        except ImportError as error:
            self._failure = SipError(f"pjsua2 is not installed ({error}); run: pip install pjsua2-python")
            self._up.set()
            return
        stack = Stack(self._settings, self._ports, self._post, self._clock, self._random)
        try:
            stack.open()
            self._status = stack.status()
            self._up.set()
            while not self._stopping.is_set():
                stack.turn(0.0 if not self._commands.empty() else self._settings.poll_seconds)
                self._run_commands(stack)
                self._status = stack.status()
            stack.farewell(self._stop_seconds * _FAREWELL)
        except AiphoneError as error:
            # A fresh one, as a traceback would carry pjsua2's objects over to another thread.
            self._failure = type(error)(str(error))
        except Exception as error:
            log.exception("the SIP thread failed")
            self._failure = SipError(f"the SIP thread failed: {error}")
        finally:
            stack.close()
            del stack
            gc.collect()
            failure = str(self._failure) if self._failure is not None else ""
            self._status = replace(self._status, running=False, active_calls=0, failure=failure)
            self._up.set()

    def _run_commands(self, stack: Stack) -> None:
        for _ in range(256):
            try:
                command = self._commands.get_nowait()
            except queue.Empty:
                return
            command(stack)
            stack.calls.run_deferred()


def _confirmed(stack: Stack, call_id: str) -> bool:
    leg = stack.calls.legs.get(call_id)
    return leg is not None and leg.confirmed
