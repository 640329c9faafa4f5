"""Calls that are refused, many calls at once, and many in a row."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator

import pytest
from server_process import Server, in_loop, leftovers

from aiphone.caller import Call, Caller, CallFailedError, CallOptions
from aiphone.caller.messages import Response

pytestmark = pytest.mark.integration

HELD = 50
IN_A_ROW = 500
AT_A_TIME = 10


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    flags = ("--greeting", "Good morning.", "--max-calls", str(HELD), "--idle-after", "0", "--log-level", "info")
    with Server(*flags) as server:
        limit = server.status()["pjsua2"]["call_limit"]
        if limit < HELD:
            pytest.skip(f"this pjsua2 allows {limit} calls at once; make pjsua2")
        yield server
        assert server.stop() == 0
        assert "Traceback" not in server.log


def description(*media: str) -> bytes:
    """An offer with these media lines."""
    lines = ["v=0", "o=- 1 1 IN IP4 127.0.0.1", "s=-", "c=IN IP4 127.0.0.1", "t=0 0", *media]
    return ("\r\n".join(lines) + "\r\n").encode()


async def refusal(caller: Caller, server: Server, body: bytes | None = None) -> Response:
    with pytest.raises(CallFailedError) as failed:
        await caller.call(server.sip_uri, options=CallOptions(body=body))
    assert failed.value.response is not None
    return failed.value.response


# ------------------------------------------------------------------ refused


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(description("m=video 40000 RTP/AVP 96", "a=rtpmap:96 H264/90000"), id="no audio"),
        pytest.param(description(), id="no media"),
        pytest.param(description("m=audio 0 RTP/AVP 0"), id="audio refused by its own offer"),
        pytest.param(
            description("m=audio 40000 RTP/AVP 3 18", "a=rtpmap:3 GSM/8000", "a=rtpmap:18 G729/8000"), id="codecs"
        ),
        pytest.param(
            description("m=audio 40000 RTP/AVP 101", "a=rtpmap:101 telephone-event/8000"), id="only telephone events"
        ),
    ],
)
def test_offers_that_nothing_can_be_made_of_are_not_acceptable(server: Server, body: bytes) -> None:
    async def offer() -> int:
        async with Caller() as caller:
            return (await refusal(caller, server, body)).status

    assert in_loop(offer()) == 488
    assert server.status()["active_calls"] == 0


# ------------------------------------------------------------------ many at once


def test_fifty_silent_calls_are_held_and_the_next_is_told_when_to_try_again(server: Server) -> None:
    async def hold() -> tuple[Response, list[int], list[str]]:
        async with Caller() as caller:
            calls = await asyncio.gather(*(caller.call(server.sip_uri) for _ in range(HELD)))
            refused = await refusal(caller, server)
            replies = await asyncio.gather(
                *(call.wait_reply(after=call.ack_at, silence=0.8, timeout=30) for call in calls)
            )
            states = [call.state.value for call in calls]
            assert server.status()["active_calls"] == HELD
            await asyncio.gather(*(call.hangup() for call in calls))
            assert {call.end_reason for call in calls} == {"hangup"}
            return refused, [len(reply.pcm) for reply in replies], states

    refused, lengths, states = in_loop(hold())
    assert states == ["answered"] * HELD
    assert min(lengths) > 2000  # every one of them heard the greeting
    assert refused.status == 486
    assert int(refused.get("Retry-After")) > 0
    server.wait_idle()


# ------------------------------------------------------------------ many in a row


@pytest.mark.skipif(sys.platform != "linux", reason="counts what /proc shows")
def test_five_hundred_short_calls_leave_nothing_behind(server: Server) -> None:
    async def call_and_hang_up(caller: Caller, number: int) -> None:
        left = iter(range(number))

        async def one_after_the_other() -> None:
            for _ in left:
                call: Call = await caller.call(server.sip_uri)
                await call.hangup()

        await asyncio.gather(*(one_after_the_other() for _ in range(AT_A_TIME)))

    async def short_calls(number: int) -> None:
        async with Caller() as caller:
            await call_and_hang_up(caller, number)

    in_loop(short_calls(IN_A_ROW // 2))  # fills what is kept to be used again
    before, held_before = server.wait_idle(), server.holdings()
    in_loop(short_calls(IN_A_ROW), timeout=180)
    after, held_after = server.wait_idle(), server.holdings()

    assert after["total_calls"] == before["total_calls"] + IN_A_ROW
    assert leftovers(after) == leftovers(before)
    assert after["models"]["llm"]["sequences_free"] == before["models"]["llm"]["sequences_free"]
    assert after["models"]["whisper"]["states"] == before["models"]["whisper"]["states"]
    assert held_after.threads == held_before.threads
    assert held_after.descriptors <= held_before.descriptors + 1  # the connection that asks for the status
    # pjsip remembers a transaction for 32 s, which is 0.07 MB a call until the first of them are over; a call's
    # rings and jitter buffer alone are 0.24 MB.
    assert held_after.rss < held_before.rss + 0.12 * IN_A_ROW
