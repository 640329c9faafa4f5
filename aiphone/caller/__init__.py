"""A caller of our own: the independent SIP and RTP peer of tests, the doctor and every benchmark (see ``caller``)."""

from aiphone.caller.audio import load, read_wav, tone, write_wav
from aiphone.caller.call import Call, CallFailedError, CallState
from aiphone.caller.caller import Caller
from aiphone.caller.digest import Credentials
from aiphone.caller.incoming import IncomingCall
from aiphone.caller.leg import NoReplyError, Reply
from aiphone.caller.media import Played, RtpOptions
from aiphone.caller.outgoing import CallOptions, OutgoingCall
from aiphone.caller.recording import Recording, Statistics
from aiphone.caller.scenario import Scenario
from aiphone.caller.transactions import Timers

__all__ = [
    "Call",
    "CallFailedError",
    "CallOptions",
    "CallState",
    "Caller",
    "Credentials",
    "IncomingCall",
    "NoReplyError",
    "OutgoingCall",
    "Played",
    "Recording",
    "Reply",
    "RtpOptions",
    "Scenario",
    "Statistics",
    "Timers",
    "load",
    "read_wav",
    "tone",
    "write_wav",
]
