"""``pjsip_module`` and its like for ctypes: unchanged since pjsip 1.0, and filled in by applications."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from typing import Any

Signatures = Mapping[str, tuple[list[Any], Any]]
"""Functions of the library by name: the types of arguments and result."""

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


def bind(find: Callable[[str], Any], needed: Signatures) -> str:
    """Declare functions of the library.

    ``find`` gives a function, or None where this build hides it. Returns the name of the first such one; empty when
    all are there.
    """
    for name, (arguments, result) in needed.items():
        function = find(name)
        if function is None:
            return name
        function.argtypes, function.restype = arguments, result
    return ""


def name_module(module: Module, label: ctypes.Array[ctypes.c_char], priority: int) -> None:
    """Fill in what every module has; ``label`` must live as long as it."""
    module.name = Str(ctypes.cast(label, ctypes.c_char_p), len(label.value))
    module.id = -1
    module.priority = priority
