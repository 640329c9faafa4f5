"""What pjproject exports but pjsua2 does not wrap, reached by ctypes in the extension that is loaded already.

Here: the size of the call table, a silent start, and what the conference bridge needs that has no clock, each a
function without structs (or with one that is looked at before it is believed). ``gate`` has the rest.
All calls belong to the SIP thread.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

_FRAME_TYPE_NONE = 0
_MAX_FRAME_BYTES = 8192
_MAX_DESCRIPTION = 32_768
"""Bytes; no message that pjsip is built to receive is as long."""


class _Frame(ctypes.Structure):
    """``pjmedia_frame``: type, buffer, its size, time stamp, codec flags."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buf", ctypes.c_void_p),
        ("size", ctypes.c_size_t),
        ("timestamp", ctypes.c_uint64),
        ("bit_info", ctypes.c_uint32),
    )


class _Port(ctypes.Structure):
    """The beginning of ``pjmedia_port``: its name, what it is, and its format."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_ssize_t),
        ("signature", ctypes.c_uint32),
        ("direction", ctypes.c_int),
        ("format", ctypes.c_uint32),
        ("kind", ctypes.c_int),
        ("detail", ctypes.c_int),
        ("clock_rate", ctypes.c_uint),
        ("channels", ctypes.c_uint),
        ("frame_us", ctypes.c_uint),
        ("bits", ctypes.c_uint),
    )


class PjLib:
    """The extension's own symbols. ``None`` in the answers means that this build hides the symbol."""

    def __init__(self, pj: Any) -> None:
        extension = getattr(sys.modules[pj.Endpoint.__module__], "_pjsua2", None)
        path = getattr(extension, "__file__", None)
        self._library: Any = None
        if path is not None:
            self._library = ctypes.CDLL(path)
        self._buffer = (ctypes.c_char * _MAX_FRAME_BYTES)()
        self._master_port: int | None = None

    def function(self, name: str) -> Any:
        """An exported function, or None; always the same object, so that its types are set once."""
        return getattr(self._library, name, None) if self._library is not None else None

    def quiet(self) -> None:
        """No word on stdout before our log writer is in place."""
        set_level = self.function("pj_log_set_level")
        if set_level is not None:
            set_level(0)

    def max_calls(self) -> int | None:
        """Size of the call table, after ``libInit`` was asked for more than it can have."""
        count = self.function("pjsua_call_get_max_count")
        return int(count()) if count is not None else None

    def calls(self) -> int | None:
        """Places of the call table in use, calls that wait for the answer to their BYE included."""
        count = self.function("pjsua_call_get_count")
        return int(count()) if count is not None else None

    def description(self, sdp: Any) -> str:
        """The text of pjsua2's ``SdpSession``, of one that was filled in: an empty one may point anywhere.

        pjsua2 has it itself only up to 1024 bytes, and gives none for a longer one.
        """
        text = str(sdp.wholeSdp)
        pointer = sdp.pjSdpSession
        print_sdp = self.function("pjmedia_sdp_print")
        if text or pointer is None or print_sdp is None:
            return text
        print_sdp.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
        print_sdp.restype = ctypes.c_int
        room = ctypes.create_string_buffer(_MAX_DESCRIPTION)
        length = print_sdp(int(pointer), room, len(room))
        return room.raw[: max(length, 0)].decode("utf-8", "replace")

    def stop_bridge_clock(self) -> bool:
        """Leave the conference bridge without a sound device and remember its master port."""
        no_device = self.function("pjsua_set_no_snd_dev")
        if no_device is None:
            return False
        no_device.restype = ctypes.c_void_p
        self._master_port = no_device()
        return self._master_port is not None

    def turn_bridge(self, frame_bytes: int) -> None:
        """One turn of the bridge by hand, with a frame of ``frame_bytes``.

        Up to 2.15 the bridge frees the port of an ended call only in its clock's turn; without a clock it fills
        up after some 250 calls and every later one fails.
        """
        get_frame = self.function("pjmedia_port_get_frame")
        if get_frame is None or self._master_port is None or frame_bytes > _MAX_FRAME_BYTES:
            return
        get_frame.argtypes = [ctypes.c_void_p, ctypes.POINTER(_Frame)]
        address = ctypes.cast(self._buffer, ctypes.c_void_p)
        frame = _Frame(_FRAME_TYPE_NONE, address, frame_bytes, 0, 0)
        get_frame(self._master_port, ctypes.byref(frame))

    def fit_bridge(self, port: int, rate: int) -> None:
        """Let a stream's port (its address) into the bridge, which has ``rate`` Hz and, in our build, no resampler.

        Only where the bridge has no turns: no sample ever goes through that port. A port of another rate that does
        not look as expected is left alone, and its call refused by pjsua.
        """
        found = _Port.from_address(port)
        if (found.clock_rate, found.channels, found.frame_us, found.bits) == (2 * rate, 1, 20_000, 16):
            found.clock_rate = rate
