"""Running somebody else's program: bytes in, bytes out, within a time and a size.

``subprocess.run`` would hold whatever the program prints and leave its children alive. Here the program is the
leader of its own process group, the whole group is killed when the time is over or the caller loses interest,
and what it prints is bounded.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aiphone.errors import SpeechError

_BLOCK = 65_536
_LOOK = 0.05  # seconds between looks at ``wanted``
_MOST_STDERR = 65_536


@dataclass(frozen=True, slots=True)
class Finished:
    """A program that ended by itself."""

    status: int
    """Exit status; negative is the signal that killed it."""
    stdout: bytes
    stderr: bytes


class TooSlowError(SpeechError):
    """The program was killed at its time limit."""


class UnwantedError(SpeechError):
    """The program was killed because nobody wants its result any more."""


def run_program(
    arguments: Sequence[str],
    text: bytes,
    *,
    timeout: float,
    most_bytes: int,
    wanted: Callable[[], bool],
) -> Finished:
    """Run a program with ``text`` on its standard input. Blocks; any thread but the main one.

    Raises SpeechError when it cannot be started or prints more than ``most_bytes``, TooSlowError after
    ``timeout`` seconds, UnwantedError when ``wanted()`` turns False.
    """
    try:
        process = subprocess.Popen(
            list(arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise SpeechError(
            f"the speech command {arguments[0]!r} does not exist; give its full path or install it"
        ) from error
    except OSError as error:
        raise SpeechError(
            f"the speech command {arguments[0]!r} cannot be started ({error.strerror}); "
            "make it executable, with an interpreter in its first line"
        ) from error
    try:
        return _converse(process, arguments[0], text, time.monotonic() + timeout, timeout, most_bytes, wanted)
    finally:
        if process.poll() is None:
            _kill_group(process)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _converse(
    process: subprocess.Popen[bytes],
    name: str,
    text: bytes,
    deadline: float,
    timeout: float,
    most_bytes: int,
    wanted: Callable[[], bool],
) -> Finished:
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    read: dict[int, bytearray] = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    out, complaints = read.values()
    stdin = process.stdin.fileno()
    rest = memoryview(text)
    with selectors.DefaultSelector() as selector:
        os.set_blocking(stdin, False)
        selector.register(stdin, selectors.EVENT_WRITE)
        for descriptor in read:
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map():
            if not wanted():
                raise UnwantedError(f"the speech command {name!r} is not needed any more")
            if time.monotonic() >= deadline:
                raise TooSlowError(
                    f"the speech command {name!r} did not finish within {timeout:g} s and was stopped; "
                    "try it in a terminal, or choose a faster one"
                )
            for key, _ in selector.select(_LOOK):
                if key.fd == stdin:
                    rest = rest[_write_some(stdin, rest) :]
                    if not rest:
                        selector.unregister(stdin)
                        process.stdin.close()
                    continue
                block = os.read(key.fd, _BLOCK)
                if not block:
                    selector.unregister(key.fd)
                elif key.fd == process.stdout.fileno() or len(complaints) < _MOST_STDERR:
                    read[key.fd] += block
            if len(out) > most_bytes:
                raise SpeechError(
                    f"the speech command {name!r} printed more than {most_bytes // 1_000_000} MB; "
                    "it must write one WAV and end"
                )
    try:
        status = process.wait(max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired as error:
        raise TooSlowError(
            f"the speech command {name!r} closed its output but did not end within {timeout:g} s and was stopped"
        ) from error
    return Finished(status, bytes(out), bytes(complaints))


def _write_some(descriptor: int, rest: memoryview) -> int:
    """Bytes taken; all of them when the program does not read."""
    try:
        return os.write(descriptor, rest[:_BLOCK])
    except BlockingIOError:
        return 0
    except BrokenPipeError:
        return len(rest)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
