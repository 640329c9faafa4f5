"""Simulated callers, in a process of their own: they speak, listen, talk over, echo, and stamp every packet.

A plan is a folder with ``plan.json`` (``Plan``) and ``sounds.npz`` (the PCM, int16 at 8 kHz, by name). All calls of a
plan live in one process with one media thread, so the stamps of 12 calls cost no more than one process. What a caller
sends in each 20 ms is the sum of the line's noise, of what it says, and of the echo of what it hears; its stamps come
from what it says alone, so noise and echo never move the end of a turn.

The result is one JSON document on standard output: for each call what was said when, and when something was heard.
All times are seconds on the monotonic clock of this machine.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aiphone.caller import Call, Caller, CallFailedError, RtpOptions, Scenario
from aiphone.caller.media import RtpSession
from aiphone.caller.rtp import FRAME, RATE, VOICED_DBFS, Frame, decode, encode, level_dbfs
from aiphone.clock import SystemClock
from aiphone.events import Pcm
from benchmarks.server import environment
from benchmarks.turn_sounds import levels, line_noise, mixed

ANSWER_WITHIN = 8.0
"""Seconds after which a turn has no answer."""
_BETWEEN_KEYS = 0.3
"""Seconds of silence behind each key."""
HYBRID = (0.0, 0.62, 0.55, -0.31, 0.24, 0.18, -0.15, 0.11, -0.08, 0.05)
"""Impulse response of the echo's path, one tap for each 0.5 ms: a hybrid's is short and uneven (ITU-T G.168)."""
FAINT_DBFS = -60.0
"""Below this nothing at all is heard: the second level at which the answer's presence is noted."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that a caller does."""

    what: str
    """``"say"`` and wait for an answer, ``"over"`` (into the answer that is heard), ``"keys"``, or ``"stay"``."""
    sound: str = ""
    """Name in ``sounds.npz``, or the keys."""
    label: str = ""
    behind: str = ""
    """Name of what else the microphone picks up."""
    at: float = 0.0
    """Not before so many seconds from the start of the plan; ``over``: so many seconds into the answer."""
    seconds: float = 0.0
    """``stay``: how long. ``say``: how long the answer is listened to; 0 is to its end."""


@dataclass(frozen=True, slots=True)
class CallPlan:
    """One call."""

    name: str
    steps: tuple[Step, ...]
    start: float = 0.0
    """Seconds from the start of the plan until the INVITE."""
    codec: str = "PCMU"
    noise_dbfs: float = -66.0
    echo_db: float | None = None
    echo_delay: float = 0.08
    loss: float = 0.0
    seed: int = 1
    record: str = ""
    """WAV file for both sides of the call."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What all callers do."""

    uri: str
    calls: tuple[CallPlan, ...]
    settle: float = 1.0
    """Seconds of silence after which the other side's answer is taken to be over."""

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The other way round of ``asdict``."""
        table = json.loads(text)
        calls = [
            CallPlan(**{**call, "steps": tuple(Step(**step) for step in call["steps"])}) for call in table["calls"]
        ]
        return cls(**{**table, "calls": tuple(calls)})


@dataclass(slots=True)
class Said:
    """One thing while it is said: its frames, and which packets carry the caller's own voice."""

    pcm: Pcm
    own: Sequence[bool]
    frame: int = 0
    begun_at: float | None = None
    first_voiced: float | None = None
    last_voiced: float | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)


def slug(name: str) -> str:
    """A call's name as the user part of its SIP URI and as a file name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


class Microphone:
    """What a caller's line sends: noise, voice, echo. The media thread's, but for ``say`` (event loop's thread)."""

    def __init__(self, session: RtpSession, noise: Pcm, echo_db: float | None, echo_delay: float) -> None:
        self._session = session
        self._noise = noise
        self._place = 0
        self._loop = asyncio.get_running_loop()
        self._clock = SystemClock()
        self._queue: deque[Said] = deque()
        taps = np.zeros(4 * len(HYBRID))
        taps[::4] = HYBRID
        gain = 0.0 if echo_db is None else 10 ** (echo_db / 20)
        self._taps = taps / np.sqrt(np.sum(taps**2)) * gain
        self._heard: npt.NDArray[np.float64] = np.zeros(round(echo_delay * RATE))
        self._before = np.zeros(len(taps) - 1)
        self._read = 0
        self._echoes = echo_db is not None
        session.source = self._next

    def say(self, pcm: Pcm, own: Sequence[bool]) -> Said:
        """Send this from the next 20 ms on, behind what is being said."""
        said = Said(pcm, own)
        self._queue.append(said)
        return said

    def _next(self) -> Frame:
        if self._place + FRAME > len(self._noise):
            self._place = 0
        total = self._noise[self._place : self._place + FRAME].astype(np.float64)
        self._place += FRAME
        if self._queue:
            total += self._speech(self._queue[0])
        if self._echoes:
            total += self._echo()
        pcm = np.clip(np.round(total), -32768, 32767).astype(np.int16)
        codec = self._session.codec
        payload = encode(codec, pcm)
        return Frame(payload, level_dbfs(decode(codec, payload)))

    def _speech(self, said: Said) -> npt.NDArray[np.float64]:
        now = self._clock.now()
        if said.begun_at is None:
            said.begun_at = now
        if said.frame < len(said.own) and said.own[said.frame]:
            said.first_voiced = said.first_voiced or now
            said.last_voiced = now
        part = said.pcm[said.frame * FRAME : (said.frame + 1) * FRAME]
        said.frame += 1
        if said.frame * FRAME >= len(said.pcm):
            self._queue.popleft()
            self._loop.call_soon_threadsafe(said.ended.set)
        out = np.zeros(FRAME)
        out[: len(part)] = part
        return out

    def _echo(self) -> npt.NDArray[np.float64]:
        packets = self._session.received
        while self._read < len(packets):
            packet = packets[self._read]
            self._read += 1
            if packet.codec in ("PCMU", "PCMA"):
                self._heard = np.concatenate([self._heard, decode(packet.codec, packet.packet.payload)])
        part = self._heard[:FRAME]
        self._heard = self._heard[FRAME:]
        if len(part) < FRAME:
            part = np.concatenate([part, np.zeros(FRAME - len(part))])
        joined = np.concatenate([self._before, part])
        self._before = joined[-len(self._before) :]
        return np.convolve(joined, self._taps, "valid")


class SimulatedCaller:
    """One call of a plan. Event loop's thread only."""

    def __init__(self, plan: Plan, call: CallPlan, sounds: dict[str, Pcm], zero: float) -> None:
        self._plan = plan
        self._call = call
        self._sounds = sounds
        self._zero = zero
        self._clock = SystemClock()
        self._index = 0
        self._last_heard = 0.0
        self.steps: list[dict[str, Any]] = []

    async def run(self) -> dict[str, Any]:
        """Make the call; returns what happened."""
        plan, call = self._plan, self._call
        await self._until(self._zero + call.start)
        scenario = Scenario(seed=call.seed, loss=call.loss) if call.loss else None
        result: dict[str, Any] = {"name": call.name, "error": "", "steps": self.steps}
        async with Caller(user=slug(call.name), codecs=(call.codec,), rtp=RtpOptions(scenario=scenario)) as phone:
            try:
                leg = await phone.call(plan.uri)
            except CallFailedError as error:
                return {**result, "error": str(error), "heard": [], "faint": []}
            draw = np.random.default_rng(call.seed)
            microphone = Microphone(leg.session, line_noise(10, call.noise_dbfs, draw), call.echo_db, call.echo_delay)
            await self._greeting(leg)
            for step in call.steps:
                if leg.ended_at is not None:
                    break
                await self._do(leg, microphone, step)
            await leg.hangup()
            if call.record:
                leg.write_recording(call.record, both_sides=True)
            return {
                **result,
                "sip_call_id": leg.dialog.call_id,
                "codec": leg.session.codec,
                "ended_by": leg.end_reason,
                "answered_at": leg.answered_at,
                "ended_at": leg.ended_at,
                "heard": intervals(leg, VOICED_DBFS),
                "faint": intervals(leg, FAINT_DBFS),
            }

    async def _greeting(self, leg: Call) -> None:
        await self._heard_after(leg, self._clock.now() - 1, 5.0)
        await self._silent(leg, self._plan.settle)

    async def _do(self, leg: Call, microphone: Microphone, step: Step) -> None:
        report: dict[str, Any] = {"what": step.what, "label": step.label, "asked_at": self._clock.now()}
        self.steps.append(report)
        if step.what == "stay":
            said = self._speak(microphone, step)
            await self._until(report["asked_at"] + step.seconds, leg)
        elif step.what == "keys":
            await self._until(self._zero + step.at)
            await self._silent(leg, self._plan.settle)
            played = await leg.send_digits(step.sound, gap=_BETWEEN_KEYS)
            # What is played ends with a pause behind the last key, and the answer may fall into it.
            last = played.ended_at and played.ended_at - _BETWEEN_KEYS
            report |= {"first_voiced": played.started_at, "last_voiced": last}
            await self._answer(leg, last or self._clock.now(), step)
            return
        elif step.what == "over":
            first = await self._heard_after(leg, self._last_heard, ANSWER_WITHIN)
            if first is None:
                report["missed"] = "there was no answer to talk over"
                return
            await self._until(first + step.at)
            said = self._speak(microphone, step)
            await said.ended.wait()
            await self._until(self._clock.now() + step.seconds, leg)
        else:
            await self._until(self._zero + step.at)
            await self._silent(leg, self._plan.settle)
            said = self._speak(microphone, step)
            await said.ended.wait()
            self._last_heard = said.last_voiced or self._clock.now()
            report |= {"first_voiced": said.first_voiced, "last_voiced": said.last_voiced}
            await self._answer(leg, self._last_heard, step)
            return
        # A sound without a loud moment, a breath perhaps, counts from where it began.
        last = said.last_voiced or (said.begun_at and said.begun_at + len(said.pcm) / RATE)
        report |= {"first_voiced": said.first_voiced or said.begun_at, "last_voiced": last}

    def _speak(self, microphone: Microphone, step: Step) -> Said:
        pcm = self._sounds.get(step.sound, np.zeros(0, np.int16))
        own = [level > VOICED_DBFS for level in _levels(pcm)]
        if step.behind:
            pcm = mixed(pcm, self._sounds[step.behind])
        return microphone.say(pcm, own)

    async def _answer(self, leg: Call, after: float, step: Step) -> None:
        if step.seconds < 0:
            return  # somebody talks over this answer: the next step waits for it
        first = await self._heard_after(leg, after, ANSWER_WITHIN)
        if first is not None and step.seconds:
            await self._until(first + step.seconds, leg)
        elif first is not None:
            await self._silent(leg, self._plan.settle)

    async def _heard_after(self, leg: Call, after: float, within: float) -> float | None:
        """Arrival of the first audible packet behind a time; None when none comes ``within`` seconds from then."""
        end = max(after, self._clock.now()) + within
        while self._clock.now() < end and leg.ended_at is None:
            for packet in leg.session.received[self._first_after(leg, after) :]:
                if packet.voiced and packet.arrived_at > after:
                    return packet.arrived_at
            await asyncio.sleep(0.01)
        return None

    def _first_after(self, leg: Call, after: float) -> int:
        packets = leg.session.received
        index = len(packets)
        while index and packets[index - 1].arrived_at > after:
            index -= 1
        return index

    async def _silent(self, leg: Call, seconds: float, longest: float = 60.0) -> None:
        """Until nothing audible has come for so long."""
        begun = self._clock.now()
        while self._clock.now() < begun + longest and leg.ended_at is None:
            since = self._clock.now() - seconds
            recent = leg.session.received[self._first_after(leg, since) :]
            if not any(packet.voiced for packet in recent):
                return
            await asyncio.sleep(0.05)

    async def _until(self, at: float, leg: Call | None = None) -> None:
        while (left := at - self._clock.now()) > 0 and (leg is None or leg.ended_at is None):
            await asyncio.sleep(min(left, 0.2))


def _levels(pcm: Pcm) -> list[float]:
    return levels(np.concatenate([pcm, np.zeros(-len(pcm) % FRAME, np.int16)]))


def intervals(leg: Call, above: float, join: float = 0.05) -> list[tuple[float, float]]:
    """When packets louder than this came: first and last arrival of each stretch without a gap of over ``join`` s."""
    found: list[tuple[float, float]] = []
    for packet in leg.session.received:
        if packet.level <= above:
            continue
        if found and packet.arrived_at - found[-1][1] <= join:
            found[-1] = (found[-1][0], packet.arrived_at)
        else:
            found.append((packet.arrived_at, packet.arrived_at))
    return found


async def run(plan: Plan, sounds: dict[str, Pcm]) -> list[dict[str, Any]]:
    """All calls of a plan."""
    zero = SystemClock().now()
    return list(await asyncio.gather(*(SimulatedCaller(plan, call, sounds, zero).run() for call in plan.calls)))


def write(folder: Path, plan: Plan, sounds: dict[str, Pcm]) -> None:
    """Put a plan into its folder."""
    (folder / "plan.json").write_text(json.dumps(asdict(plan)), encoding="utf-8")
    np.savez(folder / "sounds.npz", **sounds)  # type: ignore[arg-type]


def start(folder: Path) -> subprocess.Popen[str]:
    """The process that carries the plan in this folder out; its standard output is the result."""
    code = f"from benchmarks.turn_callers import main; main({str(folder)!r})"
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment())


def main(name: str) -> None:
    """What the process does."""
    folder = Path(name)
    plan = Plan.from_json((folder / "plan.json").read_text(encoding="utf-8"))
    with np.load(folder / "sounds.npz") as file:
        sounds = {name: file[name] for name in file.files}
    print(json.dumps(asyncio.run(run(plan, sounds))))
