"""What offer and answer settled on, read from pjsua2 for the media engine. SIP thread only."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from typing import Any

import pjsua2 as pj

from aiphone.events import RtpStream
from aiphone.sip.addresses import split_host_port
from aiphone.sip.leg import PjCall
from aiphone.sip.sdes import agreed
from aiphone.sip.sdp import codecs, has_comfort_noise

log = logging.getLogger(__name__)

_SECURE = re.compile(r"^m=audio [1-9]\d* \S*SAVP", re.MULTILINE)
_MUX = re.compile(r"^a=rtcp-mux\s*$", re.MULTILINE)


def negotiated_stream(call: PjCall) -> RtpStream | None:
    """The audio of a dialog after a negotiation; None when there is none that we can do.

    An address of zeros (hold) does not replace the one we had.
    """
    previous, remote = call.stream, call.remote
    index = _audio_index(call.getInfo())
    try:
        info = call.getStreamInfo(index) if index is not None else None
    except pj.Error:
        info = None
    if info is None:
        # inactive both ways: pjsua stops its stream, the call goes on
        return replace(previous, send=False, receive=False) if previous is not None else None
    codec = str(info.codecName).upper()
    if codec not in codecs():
        return None
    host, port = split_host_port(info.remoteRtpAddress)
    rtcp_port = split_host_port(info.remoteRtcpAddress)[1]
    held = remote.held if remote is not None else host in ("0.0.0.0", "::")
    mux = remote is not None and remote.rtcp_mux and _MUX.search(call.ours) is not None
    if (held or port == 0) and previous is not None:
        host, port, rtcp_port = (
            previous.remote_host,
            previous.remote_port,
            previous.remote_rtcp_port or 0,
        )
    elif mux:
        rtcp_port = port
    direction = int(info.dir)
    event_type = int(info.audTxEventPt)
    keys = agreed(call.ours, call.theirs) if "a=crypto" in call.ours else None
    if keys is None and _SECURE.search(call.ours):
        log.info("%s: no SRTP key that could be used", call.leg.call_id)
        return None
    # What pjsip does not leave in an answer of ours is not agreed on.
    noise = remote is not None and remote.comfort_noise and (call.offered or call.plural)
    return RtpStream(
        remote_host=host,
        remote_port=port,
        payload_type=int(info.txPt),
        codec=codec,
        dtmf_payload_type=event_type if 0 < event_type <= 127 else None,
        ptime_ms=remote.ptime_ms if remote is not None else _packet_time(info),
        send=bool(direction & pj.PJMEDIA_DIR_ENCODING) and not held,
        receive=bool(direction & pj.PJMEDIA_DIR_DECODING),
        remote_rtcp_port=rtcp_port or None,
        rtcp_mux=mux,
        srtp_send=keys.send if keys is not None else None,
        srtp_receive=keys.receive if keys is not None else None,
        srtp_suite=keys.suite if keys is not None else "",
        comfort_noise=noise and codec != "G722" and has_comfort_noise(call.ours),
    )


def _audio_index(info: Any) -> int | None:
    """Index of the live audio stream. ``info`` is held while its parts are read: they die with it."""
    media = info.media
    dead = (pj.PJSUA_CALL_MEDIA_NONE, pj.PJSUA_CALL_MEDIA_ERROR)
    for one in media:
        if one.type == pj.PJMEDIA_TYPE_AUDIO and one.status not in dead:
            return int(one.index)
    return None


def _packet_time(info: Any) -> int:
    """Milliseconds in each packet we send, as the other side asked; 20 when that makes no sense."""
    frames = int(info.audCodecParam.setting.frmPerPkt)
    frame = int(info.audCodecParam.info.frameLen)
    total = frames * frame
    return total if 10 <= total <= 200 else 20
