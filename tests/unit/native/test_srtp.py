"""SRTP: the vectors of RFC 3711 Appendix B, and what must not get through."""

import pytest

from aiphone.errors import MediaError
from aiphone.native import rtp, srtp
from aiphone.native.srtp import NativeCrypto

pytestmark = pytest.mark.skipif(not srtp.AVAILABLE, reason="built without libsrtp2 (Debian: libsrtp2-dev)")

SUITE = "AES_CM_128_HMAC_SHA1_80"
KEY = bytes.fromhex("E1F97A0D3E018BE0D64FA32C06DE4139") + bytes.fromhex("0EC675AD498AFEEBB6960B3AABE6")
"""Master key and salt of Appendix B.3."""


def packet(seq: int, payload: bytes = b"\xab" * 16) -> bytes:
    return rtp.build(15, False, seq, 0xDECAFBAD, 0xCAFEBABE, payload)


def test_a_known_packet_is_protected_as_others_do() -> None:
    """The packet that libsrtp's own driver and other implementations agree on, for the key of Appendix B.3."""
    sender = NativeCrypto(KEY, SUITE, sending=True)
    expected = bytes.fromhex("800f1234decafbadcafebabe4e55dc4ce79978d88ca4d215949d2402b78d6acc99ea179b8dbb")
    assert sender.apply(packet(0x1234), sending=True) == expected


@pytest.mark.parametrize(("suite", "tag"), [(SUITE, 10), ("AES_CM_128_HMAC_SHA1_32", 4)])
def test_round_trip(suite: str, tag: int) -> None:
    sender, receiver = NativeCrypto(KEY, suite, sending=True), NativeCrypto(KEY, suite, sending=False)
    for seq in [65534, 65535, 0, 1]:  # the index goes on where the number wraps
        sealed = sender.apply(packet(seq), sending=True)
        assert sealed is not None
        assert len(sealed) == len(packet(seq)) + tag
        assert b"\xab" * 16 not in sealed
        assert receiver.apply(sealed, sending=False) == packet(seq)


def test_forged_and_replayed_packets() -> None:
    sender, receiver = NativeCrypto(KEY, SUITE, sending=True), NativeCrypto(KEY, SUITE, sending=False)
    sealed = sender.apply(packet(7), sending=True)
    assert sealed is not None
    for i in range(len(sealed)):
        damaged = bytearray(sealed)
        damaged[i] ^= 1
        assert not receiver.apply(bytes(damaged), sending=False)
    assert receiver.apply(packet(7), sending=False) is None  # not encrypted at all
    assert receiver.apply(sealed, sending=False) == packet(7)
    assert receiver.apply(sealed, sending=False) == b""


def test_rtcp_has_the_long_tag_in_both_suites() -> None:
    report = bytes.fromhex("81c8000bcafebabe") + bytes(40)
    for suite in srtp.SUITES:
        sender, receiver = NativeCrypto(KEY, suite, sending=True), NativeCrypto(KEY, suite, sending=False)
        sealed = sender.apply(report, rtcp=True, sending=True)
        assert sealed is not None
        assert len(sealed) == len(report) + 14
        assert receiver.apply(sealed, rtcp=True, sending=False) == report
        assert receiver.apply(sealed, rtcp=True, sending=False) == b""


@pytest.mark.parametrize(
    ("key", "suite", "match"),
    [(KEY[:29], SUITE, "30 bytes"), (KEY, "AEAD_AES_256_GCM", "AEAD_AES_256_GCM")],
)
def test_what_it_cannot_do(key: bytes, suite: str, match: str) -> None:
    with pytest.raises(MediaError, match=match) as caught:
        NativeCrypto(key, suite, sending=True)
    assert key.hex() not in str(caught.value)
