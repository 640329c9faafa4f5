"""What a caller does in the tests: wait for the greeting, ask, and understand the answer."""

from __future__ import annotations

from server_process import Server, spoken, transcribed

from aiphone.caller import Caller, OutgoingCall, Reply

GREETING = "Good morning."


async def greeted(caller: Caller, server: Server) -> tuple[OutgoingCall, Reply]:
    """A call whose greeting is over."""
    call = await caller.call(server.sip_uri)
    return call, await call.wait_reply(after=call.ack_at, silence=0.5)


async def answer(call: OutgoingCall, question: str) -> Reply:
    await call.play(spoken(question))
    return await call.wait_reply(timeout=40)


def heard(call: OutgoingCall, reply: Reply) -> str:
    """The words of a reply: with the quiet around it, since the last sound of "Paris" is below any threshold."""
    return transcribed(call.recording().between(reply.first_voiced_at - 0.3, reply.ended_at))
