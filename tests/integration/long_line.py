"""A cable between two machines of a test that is long and bad: it delays, reorders and loses what goes over it.

    with Machine() as ours, Machine() as there, LongLine(ours, there, "10.77.0.1/24", "10.77.0.2/24", seed=1):
        ...  # whatever they say to each other, SIP and RTP alike, takes its time or never comes

Its ends are TUN devices, and what is between them is a thread here: kernels without netem will do, and what is lost is
the same in each run with the same packets.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import os
import select
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from random import Random
from types import TracebackType

import pytest
from namespaces import Machine, run

_TUNSETIFF = 0x400454CA
_TUN_WITHOUT_HEADER = 0x1001
"""``IFF_TUN | IFF_NO_PI``."""
_LONGEST_PACKET = 65_536


@dataclass
class Way:
    """One direction: packets in, packets out when they are due."""

    seed: int
    delay: float
    """Seconds."""
    jitter: float
    """At most so many seconds more: packets overtake each other."""
    loss: float
    """Of 1."""
    carried: int = 0
    lost: int = 0
    _waiting: list[tuple[float, int, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = Random(self.seed)
        self._numbers = count()

    def take(self, packet: bytes, now: float) -> None:
        """A packet was sent."""
        if self._random.random() < self.loss:
            self.lost += 1
            return
        self.carried += 1
        due = now + self.delay + self.jitter * self._random.random()
        heapq.heappush(self._waiting, (due, next(self._numbers), packet))

    def due(self, now: float) -> list[bytes]:
        """What has arrived by now."""
        out = []
        while self._waiting and self._waiting[0][0] <= now:
            out.append(heapq.heappop(self._waiting)[2])
        return out

    @property
    def next_at(self) -> float | None:
        """When the next one arrives."""
        return self._waiting[0][0] if self._waiting else None


class LongLine:
    """The cable, as long as the ``with`` block. Skips the test where there are no TUN devices."""

    def __init__(
        self, here: Machine, there: Machine, ours: str, theirs: str, *, seed: int, delay: float = 0.3,
        jitter: float = 0.03, loss: float = 0.1, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.out, self.back = (Way(seed + i, delay, jitter, loss) for i in range(2))
        """From ``here``, and to it."""
        self._ends = [_device(machine, address) for machine, address in ((here, ours), (there, theirs))]
        self._clock = clock
        self._stopping, self._stop = os.pipe()
        self._thread = threading.Thread(target=self._run, name="long line", daemon=True)

    def __enter__(self) -> LongLine:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.write(self._stop, b"x")
        self._thread.join(5)
        for descriptor in (*self._ends, self._stopping, self._stop):
            os.close(descriptor)

    def _run(self) -> None:
        here, there = self._ends
        ways = ((here, self.out, there), (there, self.back, here))
        while True:
            at = [way.next_at for _, way, _ in ways if way.next_at is not None]
            wait = max(0.0, min(at) - self._clock()) if at else None
            ready = select.select([here, there, self._stopping], [], [], wait)[0]
            if self._stopping in ready:
                return
            now = self._clock()
            for source, way, target in ways:
                if source in ready:
                    way.take(os.read(source, _LONGEST_PACKET), now)
                for packet in way.due(now):
                    # Its end may be gone already, with the machine it was in.
                    with contextlib.suppress(OSError):
                        os.write(target, packet)


def _device(machine: Machine, address: str) -> int:
    """A TUN device of a machine, with an address; its descriptor."""
    with machine.inside():
        try:
            descriptor = os.open("/dev/net/tun", os.O_RDWR)
            fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", b"line0", _TUN_WITHOUT_HEADER))
        except OSError as error:
            pytest.skip(f"there are no TUN devices here ({error})")
        run("ip", "address", "add", address, "dev", "line0")
        run("ip", "link", "set", "line0", "up")
    return descriptor
