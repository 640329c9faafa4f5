"""Machines of a test's own: network namespaces with cables between them (Linux, root).

    with Machine() as here, Machine() as there:
        here.plug(there, "10.77.0.1", "10.77.0.2")
        with there.inside():
            ...  # sockets and processes made by this thread are there

A namespace belongs to no thread for good: what is made in ``inside`` stays there, the thread comes back.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator
from itertools import count
from types import TracebackType

import pytest

_NEW_NET = 0x40000000
"""``CLONE_NEWNET``."""
_cables = count(1)


def run(*command: str) -> None:
    """A command that must work."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"


class Machine:
    """A namespace that lives as long as its ``with`` block. Skips the test where none can be made."""

    def __enter__(self) -> Machine:
        # It ends by itself when this process is gone: its standard input is closed then.
        try:
            self._keeper = subprocess.Popen(
                ["unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec cat >/dev/null"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
        except FileNotFoundError:
            pytest.skip("there is no unshare (Debian: util-linux) to make network namespaces with")
        assert self._keeper.stdout is not None
        if self._keeper.stdout.readline() != "up\n":
            assert self._keeper.stderr is not None
            why = self._keeper.stderr.read().strip()
            self._close()
            pytest.skip(f"network namespaces cannot be made here, it takes root and iproute2 ({why})")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        for stream in (self._keeper.stdin, self._keeper.stdout, self._keeper.stderr):
            if stream is not None:
                stream.close()
        self._keeper.wait(5)

    def plug(self, other: Machine, ours: str, theirs: str) -> None:
        """A cable: an address with its prefix at each end."""
        number = next(_cables)
        ends = (f"apa{number}", f"apb{number}")
        with self.inside():
            run("ip", "link", "add", ends[0], "type", "veth", "peer", "name", ends[1], "netns", str(other._keeper.pid))
        for machine, end, address in ((self, ends[0], ours), (other, ends[1], theirs)):
            with machine.inside():
                run("ip", "address", "add", address, "dev", end)
                run("ip", "link", "set", end, "up")

    def run(self, *command: str) -> None:
        """Run a command there; it must work."""
        with self.inside():
            run(*command)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """This thread is there meanwhile."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/proc/{self._keeper.pid}/ns/net", os.O_RDONLY)
        try:
            _enter(there)
            try:
                yield
            finally:
                _enter(home)
        finally:
            os.close(there)
            os.close(home)


def _enter(namespace: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.setns(namespace, _NEW_NET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
