"""Call somebody from the command line, ask, listen and say how long everything took.

    python -m aiphone.caller sip:ai@127.0.0.1:5060 --play question.wav --record heard.wav --json

It runs in a process of its own, so that its stamps are not disturbed by a server's work. With ``--json`` the result
is one JSON object on standard output; times in it are milliseconds, or null when something did not happen.
Exit codes are those of ``aiphone.errors``; a call that was refused ends with 6.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aiphone.caller.audio import load
from aiphone.caller.call import CallFailedError
from aiphone.caller.caller import Caller
from aiphone.caller.digest import Credentials
from aiphone.caller.leg import NoReplyError
from aiphone.caller.media import RtpOptions
from aiphone.caller.outgoing import OutgoingCall
from aiphone.caller.scenario import Scenario
from aiphone.errors import AiphoneError, ConfigError
from aiphone.events import Pcm


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m aiphone.caller", description=__doc__.splitlines()[0])
    parser.add_argument("uri", help="whom to call, as sip:name@host:5060")
    parser.add_argument("--play", action="append", default=[], metavar="WAV", help="a question; may be repeated")
    parser.add_argument("--digits", default="", help="keys to press after the greeting")
    parser.add_argument("--record", metavar="WAV", help="write what was heard (8 kHz, mono)")
    parser.add_argument("--record-both", metavar="WAV", help="write both sides: left what was sent, right what came")
    parser.add_argument("--hold", type=float, default=0.0, metavar="S", help="stay this long after the last reply")
    parser.add_argument("--no-greeting", action="store_true", help="do not wait for a greeting before asking")
    parser.add_argument("--silence", type=float, default=0.8, metavar="S", help="pause that ends a reply (0.8)")
    parser.add_argument("--timeout", type=float, default=20.0, metavar="S", help="wait this long for a reply (20)")
    parser.add_argument("--host", default="127.0.0.1", help="our own address (127.0.0.1)")
    parser.add_argument("--port", type=int, default=0, help="our own SIP port (any)")
    parser.add_argument("--user", default="caller", help="our name (caller)")
    parser.add_argument("--username", default="", help="for digest authentication")
    parser.add_argument("--password-file", metavar="FILE", help="whose first line is the password")
    parser.add_argument("--codec", choices=["PCMU", "PCMA"], action="append", help="offer only this; may be repeated")
    parser.add_argument("--proxy", default="", help="send requests here, as sip:host:port")
    parser.add_argument("--loss", type=float, default=0.0, help="share of our RTP packets that is lost, 0 to 1")
    parser.add_argument("--burst", type=float, default=1.0, help="mean length of a run of losses")
    parser.add_argument("--jitter", type=float, default=0.0, metavar="S", help="random delay of our RTP packets, up to")
    parser.add_argument("--seed", type=int, default=1, help="of loss and jitter")
    parser.add_argument("--die", action="store_true", help="vanish at the end instead of saying BYE")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args(arguments)


def milliseconds(start: float | None, end: float | None) -> float | None:
    """From one time to another; None when one of them is missing."""
    return None if start is None or end is None else round((end - start) * 1000, 2)


async def ask(call: OutgoingCall, name: str, pcm: Pcm, args: argparse.Namespace) -> dict[str, Any]:
    """Play a question and wait for its answer. ``latency_ms`` is wire to wire."""
    played = await call.play_through(pcm)
    said_at = played.last_voiced_at or played.ended_at
    result: dict[str, Any] = {
        "file": name,
        "question_ms": milliseconds(played.first_voiced_at, played.last_voiced_at),
        "last_voiced_at": said_at,
        "first_voiced_at": None,
        "latency_ms": None,
        "reply_ms": None,
    }
    try:
        reply = await call.wait_reply(after=said_at, silence=args.silence, timeout=args.timeout)
    except NoReplyError:
        return result
    result["first_voiced_at"] = reply.first_voiced_at
    result["latency_ms"] = milliseconds(said_at, reply.first_voiced_at)
    result["reply_ms"] = milliseconds(reply.first_voiced_at, reply.last_voiced_at)
    return result


async def greeting(call: OutgoingCall, args: argparse.Namespace) -> dict[str, Any]:
    """What comes first, counted from our ACK."""
    result: dict[str, Any] = {"ack_to_first_packet_ms": None, "ack_to_first_voiced_ms": None, "greeting_ms": None}
    try:
        result["ack_to_first_packet_ms"] = milliseconds(call.ack_at, await call.wait_packet(args.timeout))
        if not args.no_greeting:
            heard = await call.wait_reply(after=call.ack_at, silence=args.silence, timeout=args.timeout)
            result["ack_to_first_voiced_ms"] = milliseconds(call.ack_at, heard.first_voiced_at)
            result["greeting_ms"] = milliseconds(heard.first_voiced_at, heard.last_voiced_at)
    except NoReplyError:
        return result
    return result


async def run(args: argparse.Namespace) -> dict[str, Any]:
    """Make the call and return its report. Raises the package's errors."""
    questions = [(name, load(name)) for name in args.play]
    scenario = Scenario(seed=args.seed, loss=args.loss, burst=args.burst, jitter=args.jitter)
    caller = Caller(
        args.host,
        args.port,
        user=args.user,
        credentials=read_credentials(args),
        codecs=tuple(args.codec or ("PCMU", "PCMA")),
        rtp=RtpOptions(scenario=scenario),
        proxy=args.proxy,
    )
    async with caller:
        call = await caller.call(args.uri)
        report: dict[str, Any] = {
            "uri": args.uri,
            "call_id": call.dialog.call_id,
            "codec": call.session.codec,
            "invite_to_trying_ms": milliseconds(call.invited_at, call.trying_at),
            "invite_to_200_ms": milliseconds(call.invited_at, call.answered_at),
            **await greeting(call, args),
        }
        if args.digits:
            await call.send_digits(args.digits)
        report["questions"] = [await ask(call, name, pcm, args) for name, pcm in questions]
        if args.hold:
            await stay(call, args.hold)
        if args.die:
            call.die()
        else:
            await call.hangup()
        write_recordings(call, args)
        stats = call.recording().statistics()
        report["end_reason"] = call.end_reason
        report["call_ms"] = milliseconds(call.answered_at, call.ended_at)
        report["packets_sent"] = len(call.session.sent)
        report["received"] = {
            "packets": stats.packets,
            "lost": stats.lost,
            "duplicates": stats.duplicates,
            "reordered": stats.reordered,
            "jitter_ms": round(stats.jitter * 1000, 2),
            "longest_gap_ms": round(stats.longest_gap * 1000, 2),
        }
        return report


async def stay(call: OutgoingCall, seconds: float) -> None:
    """Remain in the call, unless the other side ends it."""
    try:
        await call.wait_ended(seconds)
    except TimeoutError:
        return


def read_credentials(args: argparse.Namespace) -> Credentials | None:
    """User name from the command line, password from a file: command lines are visible to everybody."""
    if not args.username:
        return None
    if not args.password_file:
        raise ConfigError("--username needs --password-file: a file whose first line is the password")
    try:
        lines = Path(args.password_file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the password file {args.password_file!r} ({error}): check its name") from error
    return Credentials(args.username, lines[0] if lines else "")


def write_recordings(call: OutgoingCall, args: argparse.Namespace) -> None:
    """Save what the command line asks for."""
    if args.record:
        call.write_recording(args.record)
    if args.record_both:
        call.write_recording(args.record_both, both_sides=True)


def describe(report: dict[str, Any]) -> str:
    """The report as lines for people."""

    def ms(value: float | None) -> str:
        return "never" if value is None else f"{value:.0f} ms"

    lines = [
        f"answered after {ms(report['invite_to_200_ms'])} with {report['codec']}",
        f"first packet {ms(report['ack_to_first_packet_ms'])} after the ACK, "
        f"first sound {ms(report['ack_to_first_voiced_ms'])}",
    ]
    lines += [
        f"{question['file']}: reply after {ms(question['latency_ms'])}, {ms(question['reply_ms'])} long"
        for question in report["questions"]
    ]
    received = report["received"]
    lines.append(f"{received['packets']} packets came, {received['lost']} lost, jitter {received['jitter_ms']:.1f} ms")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    args = parse_arguments(arguments)
    try:
        report = asyncio.run(run(args))
    except CallFailedError as error:
        if args.json:
            print(json.dumps({"uri": args.uri, "error": str(error), "status": error.status}))
        print(f"the call to {args.uri} failed: {error}", file=sys.stderr)
        return error.exit_code
    except AiphoneError as error:
        if args.json:
            print(json.dumps({"uri": args.uri, "error": str(error), "status": None}))
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    print(json.dumps(report) if args.json else describe(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
