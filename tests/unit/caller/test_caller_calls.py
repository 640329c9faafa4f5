"""Two callers against each other on the loopback: signalling, media, losses, and what goes wrong on purpose."""

import asyncio
import json
import math
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aiphone.caller import (
    Call,
    Caller,
    CallFailedError,
    CallOptions,
    CallState,
    Credentials,
    IncomingCall,
    NoReplyError,
    OutgoingCall,
    RtpOptions,
    Scenario,
    Timers,
    read_wav,
    sdp,
    tone,
    write_wav,
)
from aiphone.caller.__main__ import main, milliseconds, parse_arguments, run
from aiphone.caller.digest import Challenge, verify
from aiphone.caller.messages import Request, Response, parse
from aiphone.errors import NetworkError, SipError

QUICK = Timers(t1=0.025, t2=0.2, t4=0.25)
"""A request that nobody answers fails after 1.6 s."""
SILENCE = np.zeros(1600, np.int16)
LULL = 0.6
"""Seconds of quiet that end a reply: far longer than a busy machine stands still."""


def scenario(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run a test in an event loop of its own, for at most 20 seconds."""

    def sync() -> None:
        async def limited() -> None:
            async with asyncio.timeout(20):
                await test()

        asyncio.run(limited())

    sync.__name__ = test.__name__
    sync.__doc__ = test.__doc__
    return sync


@asynccontextmanager
async def pair(
    left: dict[str, Any] | None = None, right: dict[str, Any] | None = None
) -> AsyncIterator[tuple[Caller, Caller]]:
    async with (
        Caller(user="ann", timers=QUICK, **(left or {})) as ann,
        Caller(user="bob", timers=QUICK, **(right or {})) as bob,
    ):
        yield ann, bob


async def connect(
    ann: Caller, bob: Caller, answer: Callable[[IncomingCall], None] = IncomingCall.answer, **options: Any
) -> tuple[OutgoingCall, IncomingCall]:
    """Ann calls Bob and Bob answers."""
    call = ann.invite(bob.uri, options=CallOptions(**options))
    ringing = await bob.incoming()
    answer(ringing)
    await asyncio.gather(call.wait_answered(5), ringing.wait_acknowledged(5))
    return call, ringing


def messages(caller: Caller, way: str) -> list[str]:
    """First lines of what a caller sent or received."""
    return [t.data.split(b"\r\n")[0].decode() for t in caller.endpoint.trace if t.way.value == way]


def count(caller: Caller, way: str, start: str) -> int:
    return sum(line.startswith(start) for line in messages(caller, way))


async def until(condition: Callable[[], object], timeout: float = 5.0) -> None:
    """Wait for something that has no event of its own."""
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.005)


# ------------------------------------------------------------------ signalling


@scenario
async def test_call_answer_and_hang_up() -> None:
    async with pair() as (ann, bob):
        call = ann.invite(bob.uri)
        ringing = await bob.incoming()
        assert ringing.dialog.remote == f"<{ann.uri}>"
        ringing.ring()
        await until(lambda: call.ringing_at)
        assert call.state is CallState.RINGING
        ringing.answer()
        await call.wait_answered()
        await ringing.wait_acknowledged()
        steps = [call.invited_at, call.trying_at, call.ringing_at, call.answered_at, call.ack_at]
        times = [at for at in steps if at is not None]
        assert len(times) == len(steps)
        assert times == sorted(times)
        assert ringing.ack_at is not None
        await call.hangup()
        assert await ringing.wait_ended() == "remote"
        assert call.end_reason == "hangup"
        assert ann.calls == bob.calls == []
        heard = [line.split()[0] for line in messages(bob, "received")]
        assert list(dict.fromkeys(heard)) == ["INVITE", "ACK", "BYE"]


@scenario
async def test_the_called_side_hangs_up() -> None:
    async with pair() as (ann, bob):
        call, ringing = await connect(ann, bob)
        await ringing.hangup()
        assert await call.wait_ended() == "remote"


@scenario
async def test_a_refusal_says_why() -> None:
    async with pair() as (ann, bob):
        call = ann.invite(bob.uri)
        (await bob.incoming()).reject(486, headers=[("Retry-After", "30")])
        with pytest.raises(CallFailedError, match="486 Busy Here") as caught:
            await call.wait_answered()
        assert caught.value.response is not None
        assert caught.value.response.get("Retry-After") == "30"
        assert (call.status, call.end_reason, call.state) == (486, "failed", CallState.ENDED)
        await until(lambda: count(bob, "received", "ACK") == 1)


@scenario
async def test_cancel_before_the_answer() -> None:
    async with pair() as (ann, bob):
        call = ann.invite(bob.uri)
        ringing = await bob.incoming()
        ringing.ring()
        await until(lambda: call.ringing_at)
        await call.hangup()
        assert (call.end_reason, call.status) == ("cancelled", 487)
        assert await ringing.wait_ended() == "cancelled"
        with pytest.raises(CallFailedError, match="487"):
            await call.wait_answered()


@scenario
async def test_a_call_that_is_not_answered_is_given_up() -> None:
    async with pair() as (ann, bob):
        call = ann.invite(bob.uri)
        ringing = await bob.incoming()
        with pytest.raises(CallFailedError, match="nothing final to the INVITE"):
            await call.wait_answered(0.1)
        assert await ringing.wait_ended() == "cancelled"


@scenario
async def test_a_call_that_ann_does_not_acknowledge_is_dropped_by_bob() -> None:
    async with pair() as (ann, bob):
        call = ann.invite(bob.uri, options=CallOptions(acknowledge=False))
        ringing = await bob.incoming()
        ringing.answer()
        await call.wait_answered()
        assert await ringing.wait_ended() == "no ack"
        assert count(ann, "received", "SIP/2.0 200") > 3
        call.die()


@scenario
async def test_nobody_there() -> None:
    async with Caller() as free, pair() as (ann, _):
        uri = free.uri
        free.endpoint.transport.close()
        with pytest.raises(CallFailedError, match="408") as caught:
            await ann.call(uri)
        assert caught.value.status == 408
        # Seven by RFC 3261 section 17.1.1.2; on a busy machine timer B may come before the last.
        assert count(ann, "sent", "INVITE") in (6, 7)


@scenario
async def test_options_and_other_requests_outside_a_call() -> None:
    async with pair() as (ann, bob):
        response = await ann.options(bob.uri)
        assert response.status == 200
        assert "INVITE" in response.get("Allow")
        assert (await ann.request("PUBLISH", bob.uri)).status == 405
        bob.on_request = lambda request: request.response(404 if request.method == "OPTIONS" else 200)
        assert (await ann.options(bob.uri)).status == 404


@scenario
async def test_a_request_for_a_call_that_does_not_exist() -> None:
    async with pair() as (ann, bob):
        response = await ann.request("BYE", bob.uri, edit=lambda r: r.set("To", f"<{bob.uri}>;tag=none"))
        assert response.status == 481


@pytest.mark.parametrize("algorithm", ["MD5", "SHA-256"])
def test_digest_authentication_of_calls_and_requests(algorithm: str) -> None:
    challenge = Challenge("home", "nonce", algorithm, "auth")
    account = Credentials("ann", "secret")

    def guard(request: Request) -> Response | None:
        if request.method in ("BYE", "ACK") or verify(request, challenge, [account]):
            return None
        response = request.response(401, to_tag="x")
        response.add("WWW-Authenticate", challenge.header())
        return response

    @scenario
    async def body() -> None:
        async with pair({"credentials": account}) as (ann, bob):
            bob.on_request = guard
            call, _ = await connect(ann, bob)
            assert count(ann, "sent", "INVITE") == 2
            await call.hangup()
            assert (await ann.request("REGISTER", bob.uri)).status == 405
            assert (await ann.options(bob.uri)).status == 200
        async with pair({"credentials": Credentials("ann", "wrong")}) as (ann, bob):
            bob.on_request = guard
            with pytest.raises(CallFailedError, match="401"):
                await ann.call(bob.uri)
        async with pair() as (ann, bob):
            bob.on_request = guard
            with pytest.raises(CallFailedError, match="401"):
                await ann.call(bob.uri)

    body()


@scenario
async def test_lost_and_doubled_messages_are_made_good() -> None:
    for seed in range(1, 7):
        bad = Scenario(seed=seed, loss=0.35, jitter=0.03, duplicate=0.3)
        async with pair({"scenario": bad}, {"scenario": bad}) as (ann, bob):
            call, ringing = await connect(ann, bob)
            await call.hangup()
            assert await ringing.wait_ended(5) in ("remote", "no ack")
            assert len({t.data for t in ann.endpoint.trace if t.data.startswith(b"INVITE")}) == 1


@scenario
async def test_a_lost_ack_is_sent_again_for_each_200() -> None:
    async with pair() as (ann, bob):
        call, ringing = await connect(ann, bob)
        before = count(ann, "sent", "ACK")
        ok = next(t.data for t in bob.endpoint.trace if t.data.startswith(b"SIP/2.0 200"))
        bob.endpoint.send(ok, ann.endpoint.local)
        await until(lambda: count(ann, "sent", "ACK") == before + 1)
        assert ringing.state is call.state is CallState.ANSWERED


@scenario
async def test_odd_messages() -> None:
    async with pair() as (ann, bob):
        body = sdp.describe("127.0.0.1", 9, [("PCMA", 8)])

        def edit(request: Request) -> None:
            if request.method == "INVITE":
                request.set("Subject", "odd")

        call = ann.invite(bob.uri, options=CallOptions(body=body, headers=[("X-Test", "1")], edit=edit))
        ringing = await bob.incoming()
        invite = ringing.requests[0]
        assert (invite.body, invite.get("X-Test"), invite.get("Subject")) == (body, "1", "odd")
        ringing.answer()
        await call.wait_answered()
        assert ringing.session.codec == "PCMA"
        ann.send_raw(b"garbage\r\n\r\n", bob.uri)
        ann.send_raw(b"\r\n\r\n", bob.uri)
        assert (await ann.options(bob.uri)).status == 200


@scenario
async def test_no_common_codec_is_488() -> None:
    async with pair({"codecs": ["PCMA"]}, {"codecs": ["PCMU"]}) as (ann, bob):
        call = ann.invite(bob.uri)
        (await bob.incoming()).answer()
        with pytest.raises(CallFailedError, match="488"):
            await call.wait_answered()


@scenario
async def test_two_calls_at_once_keep_apart() -> None:
    async with pair() as (ann, bob):
        first, first_at_bob = await connect(ann, bob)
        second, second_at_bob = await connect(ann, bob)
        assert first.dialog.call_id != second.dialog.call_id
        await first_at_bob.hangup()
        assert await first.wait_ended() == "remote"
        assert second.state is CallState.ANSWERED
        await second.hangup()
        assert await second_at_bob.wait_ended() == "remote"


@scenario
async def test_a_port_in_use_is_said_in_a_sentence() -> None:
    async with Caller() as ann:
        with pytest.raises(NetworkError, match=r"cannot use UDP address 127\.0\.0\.1:\d+ for SIP"):
            async with Caller(port=ann.endpoint.local[1]):
                pytest.fail("the port was free")


# ------------------------------------------------------------------ media


@scenario
async def test_a_question_and_its_answer() -> None:
    async with pair() as (ann, bob):
        call, ringing = await connect(ann, bob)

        async def assistant() -> float:
            heard = await ringing.wait_reply(after=0, silence=LULL)
            assert len(heard.pcm) == 800
            played = await ringing.play_through(np.concatenate([SILENCE, tone(700, 0.2)]))
            assert played.first_voiced_at is not None
            return played.first_voiced_at

        task = asyncio.create_task(assistant())
        said_at = await call.play(np.concatenate([tone(400, 0.1), SILENCE]))
        reply = await call.wait_reply(silence=LULL)
        assert reply.after == said_at
        assert reply.first_voiced_at - await task >= -0.02
        assert reply.latency == pytest.approx(reply.first_voiced_at - said_at)
        assert len(reply.pcm) == 1600
        spectrum = np.abs(np.fft.rfft(reply.pcm * np.hanning(len(reply.pcm))))
        assert np.argmax(spectrum) * 8000 / len(reply.pcm) == pytest.approx(700, abs=10)
        await call.hangup()


@scenario
async def test_packets_leave_every_20_ms_and_count_on() -> None:
    options = RtpOptions(first_sequence=65530, first_timestamp=0xFFFFFFFF - 500, ssrc=7)
    async with pair({"rtp": options}) as (ann, bob):
        call, ringing = await connect(ann, bob)
        await call.play(tone(400, 0.4))
        await until(lambda: len(ringing.packets) > 20)
        sent = call.session.sent
        assert [s.packet.sequence for s in sent[:8]] == [65530, 65531, 65532, 65533, 65534, 65535, 0, 1]
        steps = np.diff([s.packet.timestamp for s in sent]) % 2**32
        assert set(steps.tolist()) == {160}
        assert (sent[-1].sent_at - sent[0].sent_at) / (len(sent) - 1) == pytest.approx(0.02, rel=0.1)
        assert [s.packet.marker for s in sent[:3]] == [True, False, False]
        stats = ringing.recording().statistics()
        assert (stats.lost, stats.duplicates) == (0, 0)
        assert {p.packet.ssrc for p in ringing.packets} == {7}


@pytest.mark.parametrize("codec", ["PCMU", "PCMA"])
def test_what_is_said_is_what_is_recorded(codec: str, tmp_path: Path) -> None:
    pcm = tone(500, 0.2)
    write_wav(tmp_path / "q.wav", pcm)

    @scenario
    async def body() -> None:
        async with pair({"codecs": [codec]}) as (ann, bob):
            call, ringing = await connect(ann, bob)
            await call.play(tmp_path / "q.wav")
            await until(lambda: sum(p.voiced for p in ringing.packets) >= 10)
            voiced = [p.arrived_at for p in ringing.packets if p.voiced]
            heard = ringing.recording().between(voiced[0], voiced[-1])
            assert {p.codec for p in ringing.packets} == {codec}
            assert len(heard) == len(pcm)
            assert np.abs(heard.astype(int) - pcm).max() < 600
            ringing.write_recording(tmp_path / "heard.wav")
            call.write_recording(tmp_path / "both.wav", both_sides=True)
        assert np.abs(read_wav(tmp_path / "heard.wav")[0]).max() > 8000

    body()


@scenario
async def test_keys_arrive_once_each() -> None:
    scenario_of_ann = Scenario(seed=5, duplicate=0.5, loss=0.1)
    async with pair({"rtp": RtpOptions(scenario=scenario_of_ann)}) as (ann, bob):
        call, ringing = await connect(ann, bob)
        sending = asyncio.create_task(call.send_digits("15*", duration=0.06, gap=0.04))
        assert await ringing.wait_digits(3) == "15*"
        await sending
        assert len(ringing.session.digits) == 3


@scenario
async def test_a_bad_network_loses_delays_and_doubles_as_it_says() -> None:
    bad = Scenario(seed=2, loss=0.2, jitter=0.05, duplicate=0.2)
    async with pair({"rtp": RtpOptions(scenario=bad)}) as (ann, bob):
        call, ringing = await connect(ann, bob)
        await call.play(tone(400, 0.9))
        call.stop_rtp()
        await call.play(SILENCE)
        sent = call.session.sent
        await until(lambda: len(ringing.packets) >= sum(s.copies for s in sent))
        stats = ringing.recording().statistics()
        assert len(ringing.packets) == sum(s.copies for s in sent)
        assert stats.duplicates == sum(s.copies == 2 for s in sent)
        kept = [i for i, s in enumerate(sent) if s.copies]
        assert stats.lost == sum(not s.copies for s in sent[kept[0] : kept[-1]])
        assert stats.lost > 0
        assert stats.reordered > 0


@scenario
async def test_hold_and_resume_by_the_other_side() -> None:
    async with pair() as (ann, bob):
        call, ringing = await connect(ann, bob)
        await ringing.wait_packet()
        response = await ringing.reinvite(direction=sdp.Direction.SENDONLY)
        assert b"a=recvonly" in response.body
        sent = len(call.session.sent)
        arrived = len(call.packets)
        await until(lambda: len(call.packets) > arrived + 5)
        assert len(call.session.sent) <= sent + 1
        response = await ringing.reinvite()
        assert response.status == 200
        await until(lambda: len(call.session.sent) > sent + 3)
        assert ringing.session.sent[-1].sent_at > 0
        await call.hangup()


@scenario
async def test_hold_by_an_address_of_zeros_and_a_change_of_codec() -> None:
    async with pair() as (ann, bob):
        call, ringing = await connect(ann, bob)
        await ringing.wait_packet()
        await ringing.reinvite(sdp.describe("0.0.0.0", ringing.session.port))
        sent = len(call.session.sent)
        playing = asyncio.create_task(call.play(tone(400, 0.6)))
        await ringing.reinvite(sdp.describe("127.0.0.1", ringing.session.port, [("PCMA", 8)]))
        await playing
        late = call.session.sent[sent + 1 :]
        assert {s.packet.payload_type for s in late} == {8}
        assert ringing.recording().pcm.max() > 8000


@scenario
async def test_an_invite_without_an_offer() -> None:
    async with pair() as (ann, bob):
        call, ringing = await connect(ann, bob, offer=False)
        ack = ringing.requests[-1]
        assert ack.method == "ACK"
        assert sdp.audio(ack.body) is not None
        await asyncio.gather(call.wait_packet(), ringing.wait_packet())


@scenario
async def test_early_media() -> None:
    async with pair() as (ann, bob):
        call = ann.invite(bob.uri)
        ringing = await bob.incoming()
        body = ringing.answer_to(ringing.remote_sdp)
        assert body is not None
        ringing.ring(183, body=body)
        await until(lambda: call.ringing_at)
        await until(lambda: call.session.sent)
        ringing.reject()


@scenario
async def test_in_dialog_requests_can_be_answered_otherwise() -> None:
    async with pair() as (ann, bob):
        call, ringing = await connect(ann, bob)
        assert (await ringing.request("INFO", body=b"x", headers=[("Content-Type", "a/b")])).status == 200
        assert call.requests[-1].get("Content-Type") == "a/b"
        call.on_request = lambda request: request.response(603) if request.method == "REFER" else None
        assert (await ringing.request("REFER", headers=[("Refer-To", "<sip:c@d>")])).status == 603
        assert (await ringing.request("STRANGE")).status == 501
        call.on_request = None
        assert (await ringing.request("REFER", headers=[("Refer-To", "<sip:c@d>")])).status == 202
        await call.hangup()


@scenario
async def test_both_offer_at_once() -> None:
    async with pair() as (ann, bob):
        call, ringing = await connect(ann, bob)
        answers = await asyncio.gather(call.reinvite(), ringing.reinvite())
        assert [a.status for a in answers] == [491, 491]
        assert (await call.reinvite()).status == 200


@scenario
async def test_stopping_rtp_and_dying_without_bye() -> None:
    async with pair() as (ann, bob):
        call, ringing = await connect(ann, bob)
        await ringing.wait_packet()
        call.stop_rtp()
        before = len(call.session.sent)
        await call.play(SILENCE)
        sent = len(call.session.sent)
        assert sent <= before + 1  # the packet of a tick that was under way
        call.resume_rtp()
        await until(lambda: len(call.session.sent) > sent)
        assert call.session.sent[sent].packet.marker
        call.die()
        assert call.end_reason == "died"
        with pytest.raises(CallFailedError, match="408"):
            await ringing.request("OPTIONS")
        assert count(ann, "sent", "BYE") == 0
        with pytest.raises(SipError, match="the call is over"):
            await call.play(SILENCE)
        await ringing.hangup(timeout=0.2)


@scenario
async def test_no_packets_in_silence_when_asked_so() -> None:
    async with pair({"rtp": RtpOptions(silence=False)}) as (ann, bob):
        call, ringing = await connect(ann, bob)
        await ringing.play(SILENCE)
        assert call.session.sent == []
        await call.play(tone(400, 0.1))
        assert len(call.session.sent) == 5
        with pytest.raises(NoReplyError, match="nothing audible came within"):
            await ringing.wait_reply(after=math.inf, timeout=0.05)


@scenario
async def test_waiting_ends_with_the_call() -> None:
    async with pair() as (ann, bob):
        call, ringing = await connect(ann, bob)
        waiting = asyncio.create_task(call.wait_reply(timeout=10))
        playing = asyncio.create_task(call.play_through(tone(400, 10)))
        await until(lambda: any(p.voiced for p in ringing.packets))
        await ringing.hangup()
        with pytest.raises(NoReplyError, match="the call ended"):
            await waiting
        assert (await playing).interrupted


@scenario
async def test_speech_can_be_broken_off() -> None:
    async with pair() as (ann, bob):
        call, ringing = await connect(ann, bob)
        playing = asyncio.create_task(call.play_through(tone(400, 10)))
        await until(lambda: any(p.voiced for p in ringing.packets))
        call.interrupt()
        played = await playing
        assert played.interrupted
        assert played.last_voiced_at is not None
        assert (await call.play_through(np.zeros(0, np.int16))).started_at is None


@scenario
async def test_a_failure_of_the_media_thread_ends_the_calls() -> None:
    async with pair() as (ann, bob):
        call, _ = await connect(ann, bob)

        def broken(_: object) -> None:
            raise RuntimeError("broken")

        call.session.tick = broken  # type: ignore[method-assign,assignment]
        assert await call.wait_ended(2) == "failed"
        assert isinstance(ann.failure, RuntimeError)


@scenario
async def test_nothing_is_left_of_many_calls() -> None:
    open_files = Path("/dev/fd")
    async with pair() as (ann, bob):
        before = len(list(open_files.iterdir()))
        for _ in range(20):
            call, _ = await connect(ann, bob)
            await call.hangup()
        await until(lambda: len(list(open_files.iterdir())) <= before)
        await until(lambda: ann.endpoint.live_transactions == bob.endpoint.live_transactions == 0, timeout=8)


# ------------------------------------------------------------------ command line


QUESTION_PACKETS = 10
"""Voiced packets of the question, 0.2 s."""


async def serve(bob: Caller, greeting: float = 0.1) -> Call:
    """What a server does: greet, listen, answer."""
    call = await bob.incoming()
    call.answer()
    await call.wait_acknowledged()
    await call.play(tone(300, greeting))
    # All of the question by its packets, not by a pause: a machine that stands still for a moment makes a pause too.
    await until(lambda: sum(packet.voiced for packet in call.packets) >= QUESTION_PACKETS)
    await call.play(tone(700, 0.1))
    return call


def test_the_command_line_reports_a_call(tmp_path: Path) -> None:
    write_wav(tmp_path / "q.wav", tone(400, 0.2))
    report: dict[str, Any] = {}

    @scenario
    async def body() -> None:
        async with Caller(timers=QUICK) as bob:
            server = asyncio.create_task(serve(bob))
            args = [bob.uri, "--play", str(tmp_path / "q.wav"), "--silence", str(LULL), "--json"]
            args += ["--record", str(tmp_path / "out.wav"), "--record-both", str(tmp_path / "both.wav")]
            report.update(await run(parse_arguments(args)))
            await (await server).wait_ended()

    body()
    assert report["invite_to_200_ms"] > 0
    assert 0 <= report["ack_to_first_packet_ms"] <= report["ack_to_first_voiced_ms"]
    (question,) = report["questions"]
    assert question["question_ms"] > 0
    assert question["latency_ms"] == milliseconds(question["last_voiced_at"], question["first_voiced_at"])
    assert question["latency_ms"] > 0
    assert question["reply_ms"] > 0
    assert milliseconds(1.0, 1.25) == 250
    assert (report["codec"], report["end_reason"], report["received"]["lost"]) == ("PCMU", "hangup", 0)
    assert len(read_wav(tmp_path / "out.wav")[0]) > 3000
    json.dumps(report)


def test_the_command_line_in_a_process_of_its_own(tmp_path: Path) -> None:
    missing = tmp_path / "missing.wav"
    result = subprocess.run(
        [sys.executable, "-m", "aiphone.caller", "sip:ai@127.0.0.1:9", "--play", str(missing), "--json"],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert result.returncode == 5
    assert "cannot read" in result.stderr
    assert json.loads(result.stdout)["status"] is None


def test_a_refused_call_has_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    codes: list[int] = []

    async def refuse(bob: Caller) -> None:
        (await bob.incoming()).reject(486)

    @scenario
    async def body() -> None:
        async with Caller(timers=QUICK) as bob:
            refusing: Awaitable[None] = asyncio.create_task(refuse(bob))
            codes.append(await asyncio.to_thread(main, [bob.uri, "--json"]))
            await refusing

    body()
    assert codes == [6]
    assert json.loads(capsys.readouterr().out)["status"] == 486


def test_a_password_never_comes_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sip:a@127.0.0.1:9", "--username", "ann"]) == 2
    assert "--password-file" in capsys.readouterr().err


def test_requests_and_responses_are_traced_as_sent() -> None:
    @scenario
    async def body() -> None:
        async with pair() as (ann, bob):
            await ann.options(bob.uri)
            sent, received = list(ann.endpoint.trace)
            assert parse(sent.data).cseq == parse(received.data).cseq == (1, "OPTIONS")
            assert sent.at <= received.at

    body()
