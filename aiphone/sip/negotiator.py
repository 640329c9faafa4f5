"""Lets pjsip's answers have more than one format (``13`` beside the codec), which pjsua2 has no setting for.

pjsip's negotiator leaves one codec in an answer and takes comfort noise (RFC 3389) for a codec. It has a switch for
that, which is exported; the negotiator of a call is not. It stands in the invite session behind the dialog, the role
and the options, in every version since 1.0; the dialog is looked for, and what does not look like that is left alone.
Then answers have one codec and no comfort noise.

SIP thread only.
"""

from __future__ import annotations

import ctypes
import logging

from aiphone.sip.pjlib import PjLib
from aiphone.sip.pjmodule import Signatures, bind

log = logging.getLogger(__name__)

_WORD = ctypes.sizeof(ctypes.c_void_p)
_SEARCHED = 256
"""Bytes of ``pjsip_inv_session`` in which the dialog must be; it is more than twice as long."""
_ROLES = (0, 1)
_STATES = range(1, 5)
"""``PJMEDIA_SDP_NEG_STATE_LOCAL_OFFER`` to ``DONE``."""


class Negotiator:
    """The switch."""

    def __init__(self, library: PjLib) -> None:
        self._function = library.function
        pointer = ctypes.c_void_p
        needed: Signatures = {
            "pjsip_tsx_get_dlg": ([pointer], pointer),
            "pjsip_dlg_get_inv_session": ([pointer], pointer),
            "pjmedia_sdp_neg_get_state": ([pointer], ctypes.c_int),
            "pjmedia_sdp_neg_set_answer_multiple_codecs": ([pointer, ctypes.c_int], ctypes.c_int),
        }
        hidden = bind(self._function, needed)
        self._usable = not hidden
        if hidden:
            log.info("this pjsua2 hides %s; comfort noise is never agreed on in an answer of ours", hidden)

    def answer_all(self, transaction: int) -> bool:
        """From now on answer with all formats of our description that were offered, in the dialog of a
        ``pjsip_transaction`` (its address). False when this build does not let us, or there is no offer yet."""
        if not self._usable or not transaction:
            return False
        dialog = self._function("pjsip_tsx_get_dlg")(transaction)
        session = dialog and self._function("pjsip_dlg_get_inv_session")(dialog)
        negotiator = self._negotiator(session, dialog) if session else 0
        if not negotiator or self._function("pjmedia_sdp_neg_get_state")(negotiator) not in _STATES:
            return False
        return int(self._function("pjmedia_sdp_neg_set_answer_multiple_codecs")(negotiator, 1)) == 0

    @staticmethod
    def _negotiator(session: int, dialog: int) -> int:
        for at in range(session, session + _SEARCHED, _WORD):
            if ctypes.c_void_p.from_address(at).value == dialog:
                role = ctypes.c_int.from_address(at + _WORD).value
                behind = at + _WORD + 2 * ctypes.sizeof(ctypes.c_int)
                return ctypes.c_void_p.from_address(behind).value or 0 if role in _ROLES else 0
        return 0
