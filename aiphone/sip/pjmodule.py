"""``pjsip_module`` and its like for ctypes: unchanged since pjsip 1.0, and filled in by applications."""

from __future__ import annotations

import ctypes

RxCallback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
"""``pj_bool_t (*)(pjsip_rx_data *)``; true ends the message's way."""


class Str(ctypes.Structure):
    """``pj_str_t``."""

    _fields_ = (("ptr", ctypes.c_char_p), ("slen", ctypes.c_ssize_t))


class Module(ctypes.Structure):
    """``pjsip_module``."""

    _fields_ = (
        ("prev", ctypes.c_void_p),
        ("next", ctypes.c_void_p),
        ("name", Str),
        ("id", ctypes.c_int),
        ("priority", ctypes.c_int),
        ("load", ctypes.c_void_p),
        ("start", ctypes.c_void_p),
        ("stop", ctypes.c_void_p),
        ("unload", ctypes.c_void_p),
        ("on_rx_request", RxCallback),
        ("on_rx_response", RxCallback),
        ("on_tx_request", ctypes.c_void_p),
        ("on_tx_response", ctypes.c_void_p),
        ("on_tsx_state", ctypes.c_void_p),
    )


class Links(ctypes.Structure):
    """What every element of a pjsip list begins with; padded to be the head of a list of headers."""

    _fields_ = (("prev", ctypes.c_void_p), ("next", ctypes.c_void_p), ("rest", ctypes.c_char * 112))
