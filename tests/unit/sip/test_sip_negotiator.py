"""The way to pjsip's negotiator, in memory that is laid out like pjsip's."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, cast

import pytest

from aiphone.sip.negotiator import Negotiator
from aiphone.sip.pjlib import PjLib

DIALOG = 0x7000_1000
NEGOTIATOR = 0x7000_2000
TRANSACTION = 0x7000_3000
DIALOG_AT = 128


class Function:
    """What ctypes makes of an exported function."""

    argtypes: Any = None
    restype: Any = None

    def __init__(self, body: Callable[..., int | None]) -> None:
        self.body = body

    def __call__(self, *arguments: int) -> int | None:
        return self.body(*arguments)


class Library:
    """pjsip, as far as the negotiator's switch needs it."""

    def __init__(self) -> None:
        self.session = ctypes.create_string_buffer(512)
        self.switched: list[tuple[int, int]] = []
        self.state = 2
        self.lay_out(DIALOG_AT)
        self.functions = {
            "pjsip_tsx_get_dlg": Function(lambda tsx: DIALOG if tsx == TRANSACTION else None),
            "pjsip_dlg_get_inv_session": Function(lambda _: ctypes.addressof(self.session)),
            "pjmedia_sdp_neg_get_state": Function(lambda _: self.state),
            "pjmedia_sdp_neg_set_answer_multiple_codecs": Function(self.switch),
        }

    def lay_out(self, at: int, *, role: int = 1, negotiator: int = NEGOTIATOR) -> None:
        ctypes.memset(self.session, 0, 512)
        base = ctypes.addressof(self.session) + at
        ctypes.c_void_p.from_address(base).value = DIALOG
        ctypes.c_int.from_address(base + 8).value = role
        ctypes.c_void_p.from_address(base + 16).value = negotiator

    def switch(self, negotiator: int, on: int) -> int:
        self.switched.append((negotiator, on))
        return 0

    def function(self, name: str) -> Function | None:
        return self.functions.get(name)


def switch_of(library: Library) -> Negotiator:
    return Negotiator(cast(PjLib, library))


@pytest.mark.parametrize("at", [96, DIALOG_AT, 200])
def test_the_negotiator_is_found_behind_the_dialog(at: int) -> None:
    library = Library()
    library.lay_out(at)
    assert switch_of(library).answer_all(TRANSACTION)
    assert library.switched == [(NEGOTIATOR, 1)]


def test_what_is_not_there_or_looks_otherwise_is_left_alone() -> None:
    library = Library()
    switch = switch_of(library)
    assert not switch.answer_all(0)
    assert not switch.answer_all(TRANSACTION + 8), "a transaction without a dialog"
    library.lay_out(DIALOG_AT, negotiator=0)
    assert not switch.answer_all(TRANSACTION), "nobody has made an offer yet"
    library.lay_out(DIALOG_AT, role=7)
    assert not switch.answer_all(TRANSACTION)
    library.lay_out(320)
    assert not switch.answer_all(TRANSACTION), "too far behind"
    library.lay_out(DIALOG_AT)
    library.state = 77
    assert not switch.answer_all(TRANSACTION)
    assert library.switched == []


@pytest.mark.parametrize("hidden", ["pjsip_tsx_get_dlg", "pjmedia_sdp_neg_set_answer_multiple_codecs"])
def test_a_library_that_hides_the_switch(hidden: str) -> None:
    library = Library()
    del library.functions[hidden]
    assert not switch_of(library).answer_all(TRANSACTION)
    assert library.switched == []
