"""Real calls to the real server: what a caller hears, and what is left when the caller is gone."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from callers import GREETING, answer, greeted, heard
from captures import Capture
from server_process import CAPITAL, Server, in_loop, run_command, spoken, transcribed

from aiphone.caller import Caller, OutgoingCall, RtpOptions, Scenario
from aiphone.caller.rtp import RATE
from aiphone.events import Pcm
from aiphone.inference.stt_states import KEPT

pytestmark = pytest.mark.integration

STORY = "Tell me a long story about a dragon."
"""Half a minute of answer."""
RTP_TIMEOUT = 2


@pytest.fixture(scope="module")
def transcript(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("calls") / "transcript.txt"


@pytest.fixture(scope="module")
def server(transcript: Path, capture: Capture) -> Iterator[Server]:
    flags = ("--greeting", GREETING, "-f", str(transcript), "--rtp-timeout", str(RTP_TIMEOUT), "--log-level", "debug")
    flags += ("--filler", "")  # on a busy machine it would be taken for the answer
    for text in (CAPITAL, STORY):
        spoken(text)  # before a call waits for it
    with Server(*flags) as server:
        yield server
        assert server.stop() == 0
        port = int(server.sip_uri.rpartition(":")[2])
        capture.check(sip_ports=[port], ours=[port], least={"sip": 3, "rtp": 50})
        assert "Traceback" not in server.log


def words_of(server: Server, transcript: Path, user: str) -> tuple[str, str]:
    """All that stands in the transcript, and all that the model was given, for the calls of ``user``."""
    status = server.status()
    ids = [c["call_id"] for c in status["calls"] + status["recent_calls"] if f":{user}@" in c["caller"]]
    said = [line for line in transcript.read_text("utf-8").splitlines() if any(f"[{one}]" in line for one in ids)]
    prompts = [line for line in server.log.splitlines() if any(f" {one}: prompt " in line for one in ids)]
    assert said
    assert prompts
    return "\n".join(said).lower(), "\n".join(prompts).lower()


# ------------------------------------------------------------------ the words


def test_the_capital_of_france_is_paris(server: Server, transcript: Path) -> None:
    async def converse() -> tuple[str, str, float]:
        async with Caller(user="anna") as caller:
            call, greeting = await greeted(caller, server)
            reply = await answer(call, CAPITAL)
            await call.hangup()
            assert call.last_voiced_at is not None
            assert call.ack_at is not None
            return heard(call, greeting), heard(call, reply), call.last_voiced_at - call.ack_at

    first, told, asked = in_loop(converse())
    assert "good morning" in first
    assert "paris" in told
    said, _ = words_of(server, transcript, "anna")
    assert "caller: what is the capital of france?" in said
    assert re.search("llama: .*paris", said)
    (record,) = [c for c in server.wait_idle()["recent_calls"] if ":anna@" in c["caller"]]
    (turn,) = record["turns"]
    assert sum(part for name, part in turn.items() if name != "total") == pytest.approx(turn["total"])
    (call,) = (c for c in server.get("/api/calls?caller=anna")[1]["calls"])
    _, question, _ = server.get(f"/api/calls/{call['id']}/transcript")[1]["words"]
    assert [word["text"] for word in question["words"]] == question["text"].split()
    assert question["words"][-1]["end"] == pytest.approx(asked, abs=0.4)
    length = len(spoken(CAPITAL)) / 8000
    assert length - 0.6 < question["words"][-1]["end"] - question["words"][0]["start"] < length + 0.3


def test_two_callers_at_once_hear_and_leave_nothing_of_each_other(server: Server, transcript: Path) -> None:
    async def converse(user: str, question: str) -> str:
        async with Caller(user=user) as caller:
            call, _ = await greeted(caller, server)
            reply = await answer(call, question)
            await call.hangup()
            return heard(call, reply)

    async def both() -> list[str]:
        spoken("What is the color of a banana?")
        return await asyncio.gather(converse("bert", CAPITAL), converse("carl", "What is the color of a banana?"))

    first, second = in_loop(both())
    server.wait_idle()
    assert "paris" in first
    assert "banana" in second
    for user, own, other in (("bert", "france", "banana"), ("carl", "banana", "france")):
        for words in words_of(server, transcript, user):
            assert own in words
            assert other not in words


# ------------------------------------------------------------------ calls out


MACHINE = "You have reached the Millers. Please speak after the tone."
MESSAGE = "Your order is ready."


@pytest.mark.behaviour(
    "Calls of ours that a machine or a person answers: a message after the beep, or a conversation",
    "RFC 3261 section 13.2",
)
def test_a_machine_gets_the_message_after_its_beep_and_a_person_the_conversation(server: Server) -> None:
    beep = np.asarray(8000 * np.sin(2 * np.pi * 1000 / RATE * np.arange(RATE // 3)), np.int16)

    def call_out(uri: str) -> subprocess.CompletedProcess[str]:
        return run_command("call", uri, "--message", MESSAGE, "--url", f"http://127.0.0.1:{server.http_port}")

    async def answered_by(user: str, says: Pcm) -> tuple[str, float, str]:
        """What the other side heard, how long after its last sound, and what the command said."""
        async with Caller(user=user) as phone:
            command = asyncio.create_task(asyncio.to_thread(call_out, phone.uri))
            theirs = await phone.incoming()
            theirs.ring()
            theirs.answer()
            await theirs.wait_acknowledged()
            ended = (await theirs.play_through(says)).ended_at
            assert ended is not None
            reply = await theirs.wait_reply(after=theirs.ack_at, timeout=20)
            if user == "human":
                await theirs.hangup()
            else:
                assert await theirs.wait_ended() == "remote"
            said = theirs.recording().between(reply.first_voiced_at - 0.3, reply.ended_at)
            done = await command
            assert done.returncode == 0, done.stderr
            return transcribed(said), reply.first_voiced_at - ended, done.stdout

    async def both() -> list[tuple[str, float, str]]:
        machine, human = np.concatenate((spoken(MACHINE), beep)), spoken("Miller?")
        return await asyncio.gather(answered_by("machine", machine), answered_by("human", human))

    (left, late, told), (greeting, patience, _) = in_loop(both())
    assert "order is ready" in left
    assert late > 0
    assert "answering machine: message left, after" in told
    assert "good morning" in greeting
    assert patience > 0
    (record,) = [c for c in server.wait_idle()["recent_calls"] if ":machine@" in c["caller"]]
    assert record["end_reason"] == "answering machine: message left"


# ------------------------------------------------------------------ talking over it, hanging up


def test_talking_over_an_answer_stops_it_and_the_conversation_goes_on(server: Server, transcript: Path) -> None:
    async def converse() -> tuple[float, float, str]:
        async with Caller(user="dora") as caller:
            call, _ = await greeted(caller, server)
            await call.play(spoken(STORY))
            await call.wait_packet()
            begun = call.last_voiced_at
            assert begun is not None
            await voiced_for(call, begun, 2.0)
            played = await call.play_through(spoken(CAPITAL))
            assert played.first_voiced_at is not None
            assert played.last_voiced_at is not None
            reply = await call.wait_reply(after=played.last_voiced_at)
            during = [
                p.arrived_at
                for p in call.packets
                if p.voiced and played.first_voiced_at < p.arrived_at < played.last_voiced_at
            ]
            await call.hangup()
            stopped = max(during, default=played.first_voiced_at) - played.first_voiced_at
            return stopped, played.last_voiced_at - played.first_voiced_at, heard(call, reply)

    stopped, spoke, told = in_loop(converse())
    # 0.6 s is the promise and the benchmark's to check; here it must only be well before the question's end.
    assert stopped < min(1.2, spoke - 0.2)
    assert "paris" in told
    said, prompts = words_of(server, transcript, "dora")
    lines = [line.partition("] ")[2] for line in said.splitlines()]
    assert lines[1] == "caller: tell me a long story about a dragon."
    story = lines[2].removeprefix("llama: ")
    # The model is reminded of what had been heard of the story, and of no more.
    assert 2 < len(story.split()) < 30
    assert story in prompts.splitlines()[-1]


async def voiced_for(call: OutgoingCall, after: float, seconds: float) -> None:
    """Until the other side's voice has been heard for so long."""
    async with asyncio.timeout(40):
        while not any(p.voiced and p.arrived_at > after for p in call.packets[-100:]):
            await asyncio.sleep(0.02)
        first = next(p.arrived_at for p in call.packets if p.voiced and p.arrived_at > after)
        while call.packets[-1].arrived_at < first + seconds:
            await asyncio.sleep(0.02)


def test_hanging_up_in_the_middle_of_an_answer_frees_everything(server: Server) -> None:
    before = server.wait_idle()

    async def converse() -> None:
        async with Caller(user="emil") as caller:
            call, _ = await greeted(caller, server)
            asked = await call.play(spoken(STORY))
            await voiced_for(call, asked, 0.5)
            assert server.status()["active_calls"] == 1
            assert server.status()["models"]["llm"]["calls"] == 1
            await call.hangup()

    in_loop(converse())
    after = server.wait_idle()
    assert after["models"]["llm"]["sequences_free"] == before["models"]["llm"]["sequences_free"]
    assert after["models"]["llm"]["working"] == 0
    assert after["models"]["whisper"]["states"] <= KEPT  # however many calls


# ------------------------------------------------------------------ the line


def test_a_law_and_lost_packets_are_understood_too(server: Server, transcript: Path) -> None:
    async def converse(user: str, **options: object) -> tuple[set[str], str]:
        async with Caller(user=user, **options) as caller:  # type: ignore[arg-type]
            call, _ = await greeted(caller, server)
            reply = await answer(call, CAPITAL)
            await call.hangup()
            return {packet.codec for packet in call.packets}, heard(call, reply)

    async def both() -> list[tuple[set[str], str]]:
        lossy = RtpOptions(scenario=Scenario(seed=3, loss=0.05))
        return await asyncio.gather(converse("fritz", codecs=("PCMA",)), converse("gerd", rtp=lossy))

    (a_law, first), (mu_law, second) = in_loop(both())
    assert a_law == {"PCMA"}
    assert mu_law == {"PCMU"}
    assert "paris" in first
    assert "paris" in second


def test_calls_that_fall_silent_on_the_wire_are_cleared(server: Server) -> None:
    async def fall_silent() -> str:
        async with Caller(user="hans") as caller:
            call, _ = await greeted(caller, server)
            call.stop_rtp()
            return await call.wait_ended(RTP_TIMEOUT + 15)

    async def vanish() -> None:
        async with Caller(user="ida") as caller:
            call, _ = await greeted(caller, server)
            call.die()

    async def both() -> str:
        reason, _ = await asyncio.gather(fall_silent(), vanish())
        return reason

    assert in_loop(both()) == "remote"
    # BYE to one who vanished is repeated for 32 s; the call itself is over at once.
    status = server.wait_idle(RTP_TIMEOUT + 15)
    ended = [c for c in status["recent_calls"] if re.search(":(hans|ida)@", c["caller"])]
    assert [c["end_reason"] for c in ended] == ["no RTP for 2 s"] * 2


def test_a_stream_that_pauses_is_heard_again(server: Server) -> None:
    async def converse() -> str:
        async with Caller(user="jutta") as caller:
            call, _ = await greeted(caller, server)
            call.stop_rtp()
            with pytest.raises(TimeoutError):
                await call.wait_ended(RTP_TIMEOUT / 2)
            call.resume_rtp()
            reply = await answer(call, CAPITAL)
            await call.hangup()
            return heard(call, reply)

    assert "paris" in in_loop(converse())
