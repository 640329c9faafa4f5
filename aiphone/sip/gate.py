"""Refusing a call before it costs anything.

pjsua makes a transaction, a dialog and a call for each INVITE before it asks us, some 25 kB that stay for 32 s
when nobody acknowledges the refusal: strangers could fill the call table and the memory. And when the table is
full it says 486 by itself, without Retry-After.

So a module of ours stands in pjsip's chain just before pjsua's. What it refuses is answered without any state
(RFC 3261 section 16.11 and 21): one message in, one message out. pjsua2 does not wrap this; the functions are
taken from the extension by ctypes. Only two layouts are relied on: ``pjsip_module``, unchanged since pjsip 1.0
and filled in by applications, and the two links that every pjsip list element begins with. The received message
is read by pjsua2's own ``SipRxData``. Where a build hides one of the symbols, ``install`` says False and calls
are refused the expensive way (see ``calls``).

A second module stands behind pjsua's, for what nobody wanted: a method we do not have outside a call gets 405, a
request of a dialog that is not there 481. pjsip would drop them, and the other side would ask again for 32 s.

SIP thread only.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable
from typing import Any

from aiphone.clock import Clock
from aiphone.sip.admission import Admission
from aiphone.sip.message import header
from aiphone.sip.pjlib import PjLib
from aiphone.sip.pjlog import Allowance
from aiphone.sip.pjmodule import Links, Module, RxCallback, Signatures, bind, name_module

log = logging.getLogger(__name__)

Decide = Callable[[str, str], Admission]
"""``decide(message, source)`` with the text of an INVITE and ``host:port``; code 0 lets it pass."""

_BEFORE_PJSUA = 63
"""``PJSIP_MOD_PRIORITY_APPLICATION - 1``: requests within dialogs and repeated ones do not come this far."""

_BEHIND_PJSUA = 65
_UNWANTED_PER_SECOND = 50
"""Answers to unwanted requests; what comes beyond that in a second is dropped."""

_READ_MESSAGE = "_ZN2pj9SipRxData6fromPjER13pjsip_rx_data"
"""``pj::SipRxData::fromPj(pjsip_rx_data &)``."""

_ALLOW = -1
"""Key of the list of headers with Allow; the others are known by their Retry-After."""
_H_ALLOW = 4
"""``PJSIP_H_ALLOW``."""

_INVITE = b"Request msg INVITE/"


class Gate:
    """The module. It must outlive pjsua2's endpoint, which keeps a pointer to it."""

    def __init__(self, pj: Any, library: PjLib, decide: Decide, clock: Clock) -> None:
        self._decide = decide
        self._allowance = Allowance(clock, _UNWANTED_PER_SECOND)
        self._received = pj.SipRxData()
        self._function = library.function
        self._modules = (Module(), Module())
        self._names = [ctypes.create_string_buffer(name) for name in (b"mod-aiphone-gate", b"mod-aiphone-last")]
        self._callbacks = (RxCallback(self._on_request), RxCallback(self._on_unwanted))
        self._endpoint: int | None = None
        self._pool: int | None = None
        self._heads: dict[int, Links] = {}

    def install(self) -> bool:
        """Stand in the way of new calls; False when this build does not let us."""
        needed: Signatures = {
            "pjsua_get_pjsip_endpt": ([], ctypes.c_void_p),
            "pjsip_endpt_create_pool": (
                [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t],
                ctypes.c_void_p,
            ),
            "pjsip_endpt_register_module": ([ctypes.c_void_p, ctypes.c_void_p], ctypes.c_int),
            "pjsip_endpt_unregister_module": ([ctypes.c_void_p, ctypes.c_void_p], ctypes.c_int),
            "pjsip_rx_data_get_info": ([ctypes.c_void_p], ctypes.c_char_p),
            "pjsip_endpt_respond_stateless": (
                [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, *[ctypes.c_void_p] * 3],
                ctypes.c_int,
            ),
            "pjsip_retry_after_hdr_create": ([ctypes.c_void_p, ctypes.c_int], ctypes.c_void_p),
            "pjsip_endpt_get_capability": ([ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p),
            "pjsip_hdr_clone": ([ctypes.c_void_p, ctypes.c_void_p], ctypes.c_void_p),
            _READ_MESSAGE: ([ctypes.c_void_p, ctypes.c_void_p], None),
        }
        if hidden := bind(self._function, needed):
            log.info("this pjsua2 hides %s; calls are refused the expensive way", hidden)
            return False
        endpoint = self._function("pjsua_get_pjsip_endpt")()
        self._pool = self._function("pjsip_endpt_create_pool")(endpoint, b"aiphone-gate", 1024, 1024)
        places = (_BEFORE_PJSUA, _BEHIND_PJSUA)
        for module, label, callback, place in zip(self._modules, self._names, self._callbacks, places, strict=True):
            name_module(module, label, place)
            module.on_rx_request = callback
            if self._function("pjsip_endpt_register_module")(endpoint, ctypes.addressof(module)) != 0:
                return False
            self._endpoint = endpoint
        return True

    def remove(self) -> None:
        """Step aside; before the endpoint is destroyed."""
        endpoint, self._endpoint = self._endpoint, None
        if endpoint is None:
            return
        for module in self._modules:
            if module.id >= 0:
                self._function("pjsip_endpt_unregister_module")(endpoint, ctypes.addressof(module))

    def _on_request(self, rdata: int) -> int:
        try:
            return self._judge(rdata)
        except Exception:  # the top of pjsip's stack; the call goes the long way
            log.exception("the gate failed")
            return 0

    def _on_unwanted(self, rdata: int) -> int:
        try:
            info = self._function("pjsip_rx_data_get_info")(rdata)
            if info.startswith(b"Request msg ACK/") or not self._allowance.take()[0]:
                return 0
            received = self._received
            self._function(_READ_MESSAGE)(int(received.this), rdata)
            in_dialog = ";tag=" in header(received.wholeMsg, "To")
            respond = self._function("pjsip_endpt_respond_stateless")
            respond(self._endpoint, rdata, 481 if in_dialog else 405, None, self._allow(), None)
        except Exception:  # the top of pjsip's stack; the request is dropped
            log.exception("an unwanted request could not be answered")
        return 1

    def _judge(self, rdata: int) -> int:
        if not self._function("pjsip_rx_data_get_info")(rdata).startswith(_INVITE):
            return 0
        received = self._received
        self._function(_READ_MESSAGE)(int(received.this), rdata)
        admission = self._decide(received.wholeMsg, received.srcAddress)
        if admission.code == 0:
            return 0
        if admission.silent:
            return 1
        headers = self._headers(admission.retry_after)
        respond = self._function("pjsip_endpt_respond_stateless")
        # A response that cannot be sent (a wrong Via) is dropped like the request: nothing is owed to it.
        respond(self._endpoint, rdata, admission.code, None, headers, None)
        return 1

    def _allow(self) -> int | None:
        """Address of a list of headers with Allow, as our calls have it."""
        head = self._heads.get(_ALLOW)
        if head is None:
            mine = self._function("pjsip_endpt_get_capability")(self._endpoint, _H_ALLOW, None)
            copy = self._function("pjsip_hdr_clone")(self._pool, mine) if mine is not None else None
            if copy is None:
                return None
            head = self._heads[_ALLOW] = _list_of(copy)
        return ctypes.addressof(head)

    def _headers(self, retry_after: int | None) -> int | None:
        """Address of a list of headers with Retry-After, made once for each value; pjsip copies what is in it."""
        if retry_after is None:
            return None
        head = self._heads.get(retry_after)
        if head is None:
            head = _list_of(self._function("pjsip_retry_after_hdr_create")(self._pool, retry_after))
            self._heads[retry_after] = head
        return ctypes.addressof(head)


def _list_of(address: int) -> Links:
    """The head of a list with one header."""
    head, links = Links(), Links.from_address(address)
    links.prev = links.next = ctypes.addressof(head)
    head.prev = head.next = address
    return head
