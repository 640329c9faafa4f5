"""How many calls this pjsua2 can hold, and what to say about it.

pjproject fixes the size of its call table when it is compiled (``PJSUA_MAX_CALLS``, 4 unless it was told
otherwise). One place in the table is kept free: a call that finds the table full is refused by the library
itself with a bare 486, while one that still gets a place is refused by us, with Retry-After and a reason.
"""

from __future__ import annotations

RESERVED = 1
"""Places kept free for refusing politely; enough, as one thread handles one INVITE at a time."""


def usable_calls(limit: int, wanted: int) -> int:
    """Calls to let in, of the ``wanted`` ones, on a library that holds ``limit``."""
    return max(1, min(wanted, limit - RESERVED))


def limit_note(limit: int, wanted: int) -> str:
    """One paragraph for start-up and status; empty when the library holds all the calls that were asked for."""
    usable = usable_calls(limit, wanted)
    if usable >= wanted:
        return ""
    calls = "1 call" if limit == 1 else f"{limit} calls"
    answered = "1 is" if usable == 1 else f"{usable} are"
    return (
        f"this pjsua2 allows {calls} at once; {answered} answered and one is kept to tell further callers "
        f"that we are busy. To get more (--max-calls is {wanted}): make pjsua2 (builds pjproject from source)"
    )
