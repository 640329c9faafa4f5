"""How many calls this pjsua2 can hold, and what to say about it.

pjproject fixes the size of its call table when it is compiled (``PJSUA_MAX_CALLS``, 4 unless it was told
otherwise). A call that finds the table full is refused by the library itself with a bare 486. ``gate`` is asked
before and can say more; where it cannot be installed, a place is kept free, as refusing takes one.
"""

from __future__ import annotations

RESERVED = 1
"""Places kept free for refusing politely where the gate cannot stand."""


def usable_calls(limit: int, wanted: int, reserved: int = 0) -> int:
    """Calls to let in, of the ``wanted`` ones, on a library that holds ``limit``."""
    return max(1, min(wanted, limit - reserved))


def limit_note(limit: int, wanted: int, reserved: int = 0) -> str:
    """One paragraph for start-up and status; empty when the library holds all the calls that were asked for."""
    if usable_calls(limit, wanted, reserved) >= wanted:
        return ""
    calls = "1 call" if limit == 1 else f"{limit} calls"
    kept = f", {reserved} of them kept to tell further callers that we are busy" if reserved else ""
    return (
        f"this pjsua2 allows {calls} at once{kept}, and --max-calls is {wanted}; "
        "how to get more: make pjsua2 (builds pjproject from source)"
    )
