"""Puts the address that reaches a peer behind NAT into its Contact (see ``nat``), before pjsip reads it.

A module in pjsip's chain, between its transports and its transactions. What pjsua2 does not wrap is taken from the
extension by ctypes, as the gate does. Besides the layouts that ``pjmodule`` has, two facts about the received message
are relied on: its pool comes first, and the pointer to the parsed message just before that to its description. Where
the latter is, is found out once, by looking for what ``pjsip_rx_data_get_info`` has put there; where that does not look
right, Contacts are left alone.

SIP thread only.
"""

from __future__ import annotations

import ctypes
import logging
from typing import Any

from aiphone.sip.nat import mended_contact
from aiphone.sip.pjlib import PjLib
from aiphone.sip.pjmodule import Links, Module, RxCallback, Signatures, Str, bind, name_module

log = logging.getLogger(__name__)

_BEHIND_TRANSPORTS = 9
"""``PJSIP_MOD_PRIORITY_TRANSPORT_LAYER + 1``; transactions come at 16."""
_LARGEST = 1 << 18
"""Bytes in which the description must be: more than any packet that pjsip is built to receive."""
_WORD = ctypes.sizeof(ctypes.c_void_p)
_MESSAGES = (b"Request msg INVITE/", b"Request msg UPDATE/")
_ANSWERS = (b"/INVITE/", b"/UPDATE/")
_READ_MESSAGE = "_ZN2pj9SipRxData6fromPjER13pjsip_rx_data"
_REQUEST, _RESPONSE = 0, 1
"""``PJSIP_REQUEST_MSG``, ``PJSIP_RESPONSE_MSG``."""


class Mender:
    """The module. It must outlive pjsua2's endpoint, which keeps a pointer to it."""

    def __init__(self, pj: Any, library: PjLib) -> None:
        self._received = pj.SipRxData()
        self._function = library.function
        self._module = Module()
        self._name = ctypes.create_string_buffer(b"mod-aiphone-mender")
        self._label = ctypes.create_string_buffer(b"Contact")
        self._contact = Str(ctypes.cast(self._label, ctypes.c_char_p), len(self._label.value))
        self._callback = RxCallback(self._on_message)
        self._info: Any = None
        self._offset = 0
        """From a received message to the pointer to its parsed form, once it is known."""
        self._endpoint: int | None = None

    def install(self) -> bool:
        """Begin; False when this build does not let us."""
        pointer = ctypes.c_void_p
        needed: Signatures = {
            "pjsua_get_pjsip_endpt": ([], pointer),
            "pjsip_endpt_register_module": ([pointer, pointer], ctypes.c_int),
            "pjsip_endpt_unregister_module": ([pointer, pointer], ctypes.c_int),
            "pjsip_msg_find_hdr_by_name": ([pointer, pointer, pointer], pointer),
            "pjsip_parse_hdr": ([pointer, pointer, pointer, ctypes.c_size_t, pointer], pointer),
            "pjsip_hdr_clone": ([pointer, pointer], pointer),
            "pjsip_rx_data_get_info": ([pointer], ctypes.c_char_p),
            _READ_MESSAGE: ([pointer, pointer], None),
        }
        if hidden := bind(self._function, needed):
            log.info("this pjsua2 hides %s; callers behind NAT may not get our BYE", hidden)
            return False
        # Once more, with the address of what it returns.
        address = ctypes.cast(self._function("pjsip_rx_data_get_info"), pointer).value
        assert address is not None
        self._info = ctypes.CFUNCTYPE(pointer, pointer)(address)
        module = self._module
        name_module(module, self._name, _BEHIND_TRANSPORTS)
        module.on_rx_request = module.on_rx_response = self._callback
        endpoint = self._function("pjsua_get_pjsip_endpt")()
        if self._function("pjsip_endpt_register_module")(endpoint, ctypes.addressof(module)) != 0:
            return False
        self._endpoint = endpoint
        return True

    def remove(self) -> None:
        """Step aside; before the endpoint is destroyed."""
        endpoint, self._endpoint = self._endpoint, None
        if endpoint is not None and self._module.id >= 0:
            self._function("pjsip_endpt_unregister_module")(endpoint, ctypes.addressof(self._module))

    def _on_message(self, rdata: int) -> int:
        try:
            self._look_at(rdata)
        except Exception:  # the top of pjsip's stack; the message goes on as it is
            log.exception("a Contact could not be looked at")
        return 0

    def _look_at(self, rdata: int) -> None:
        info = self._function("pjsip_rx_data_get_info")(rdata)
        if not info.startswith(_MESSAGES) and not (
            info.startswith(b"Response ") and any(one in info for one in _ANSWERS)
        ):
            return
        received = self._received
        self._function(_READ_MESSAGE)(int(received.this), rdata)
        mended = mended_contact(received.wholeMsg, received.srcAddress)
        if mended:
            log.debug("Contact of %s: taken as %s", received.srcAddress, mended)
            self._replace(rdata, mended)

    def _replace(self, rdata: int, value: str) -> None:
        message = self._message(rdata)
        pool = ctypes.c_void_p.from_address(rdata).value
        old = message and self._function("pjsip_msg_find_hdr_by_name")(message, ctypes.addressof(self._contact), None)
        if not old or not pool:
            return
        text = ctypes.create_string_buffer(value.encode("utf-8", "replace"))
        length = ctypes.c_int()
        parsed = self._function("pjsip_parse_hdr")(
            pool, ctypes.addressof(self._contact), ctypes.addressof(text), len(text.value), ctypes.addressof(length)
        )
        # What was parsed points into our text; a clone has its own.
        new = parsed and self._function("pjsip_hdr_clone")(pool, parsed)
        if not new:
            return
        before, link = Links.from_address(old), Links.from_address(new)
        link.prev, link.next = before.prev, before.next
        Links.from_address(before.prev).next = new
        Links.from_address(before.next).prev = new

    def _message(self, rdata: int) -> int:
        """Address of the parsed message, 0 when it is not where it should be."""
        info = self._info(rdata)
        if not self._offset:
            for offset in range(_WORD, _LARGEST, _WORD):
                if ctypes.c_void_p.from_address(rdata + offset).value == info:
                    self._offset = offset - _WORD
                    break
        at = rdata + self._offset
        if ctypes.c_void_p.from_address(at + _WORD).value != info:
            return 0
        message = ctypes.c_void_p.from_address(at).value or 0
        kind = _RESPONSE if ctypes.string_at(info, 8) == b"Response" else _REQUEST
        return message if message and ctypes.c_int.from_address(message).value == kind else 0
