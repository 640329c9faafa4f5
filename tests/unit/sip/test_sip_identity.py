from __future__ import annotations

import pytest

from aiphone.sip.admission import screen
from aiphone.sip.identity import Identity, caller_identity, is_scanner, listed, number_of
from aiphone.sip.settings import CallPolicy


def invite(*lines):
    return "\r\n".join(["INVITE sip:ai@h SIP/2.0", *lines, "", ""])


FROM = 'From: "Bob" <sip:bob@h;x=1>;tag=1'
PAI = 'P-Asserted-Identity: "Alice" <sip:+4930@carrier>, <tel:+4930>'


@pytest.mark.parametrize(
    ("lines", "trusted", "expected"),
    [
        ([FROM], True, Identity("sip:bob@h", "Bob", False)),
        ([FROM, PAI], True, Identity("sip:+4930@carrier", "Alice", False)),
        ([FROM, PAI], False, Identity("sip:bob@h", "Bob", False)),
        ([FROM, "P-Asserted-Identity: tel:+4930"], True, Identity("tel:+4930", "Bob", False)),
        (
            [FROM, "Remote-Party-ID: <sip:7@h>;party=calling;privacy=off"],
            True,
            Identity("sip:7@h", "Bob", False),
        ),
        ([FROM, "Remote-Party-ID: <sip:7@h>;privacy=full"], True, Identity("sip:7@h", "Bob", True)),
        ([FROM, PAI, "Privacy: id"], True, Identity("sip:+4930@carrier", "Alice", True)),
        (
            ["From: <sip:anonymous@anonymous.invalid>"],
            False,
            Identity("sip:anonymous@anonymous.invalid", "", True),
        ),
        # Asserted by the network, hidden in From: the line's owner may see it, unless Privacy says otherwise.
        (["From: <sip:anonymous@anonymous.invalid>", PAI], True, Identity("sip:+4930@carrier", "Alice", False)),
        ([], True, Identity("", "", False)),
    ],
)
def test_who_calls(lines, trusted, expected):
    assert caller_identity(invite(*lines), trusted=trusted) == expected


def test_patterns():
    assert listed("sip:+4930123@carrier.example:5060;user=phone", ["+49*"])
    assert listed("sip:Bob@Spam.example", ["*@spam.example"])
    assert listed("tel:+4930123", ["+4930123"])
    assert not listed("sip:1000@pbx", ["100", "10000", "*@other"])
    assert not listed("sip:1000@pbx", [])
    assert number_of("tel:+49-30") == "+49-30"


@pytest.mark.parametrize(
    ("policy", "identity", "code"),
    [
        (CallPolicy(), Identity("sip:a@b", "", False), 0),
        (CallPolicy(), Identity("sip:a@b", "", True), 0),
        (CallPolicy(anonymous=False), Identity("sip:a@b", "", True), 433),
        (CallPolicy(deny=("a",)), Identity("sip:a@b", "", False), 603),
        (CallPolicy(allow=("c",)), Identity("sip:a@b", "", False), 603),
        (CallPolicy(allow=("a",)), Identity("sip:a@b", "", False), 0),
        (CallPolicy(allow=("a",)), Identity("sip:a@b", "", True), 603),
        (CallPolicy(allow=("a",), deny=("*@b",)), Identity("sip:a@b", "", False), 603),
    ],
)
def test_whom_a_line_wants(policy, identity, code):
    assert screen(identity, policy)[0] == code


def test_scanners_name_themselves():
    assert is_scanner(invite("User-Agent: friendly-scanner"))
    assert is_scanner(invite("user-agent:SIPVicious v0.3"))
    assert not is_scanner(invite("User-Agent: Linphone/5"))
    assert not is_scanner(invite())
