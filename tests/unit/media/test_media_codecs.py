"""Wideband, encrypted calls and comfort noise, through the whole engine."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator

import numpy as np
import pytest
from media_bench import SILENCE, Bench, Peer, benches, headers, tone

from aiphone.errors import MediaError
from aiphone.native import g711, g722, rtcp, rtp, srtp
from aiphone.native.srtp import NativeCrypto


@pytest.fixture
def bench() -> Iterator[Bench]:
    yield from benches()


needs_g722 = pytest.mark.skipif(not g722.available(), reason="libspandsp is not installed (Debian: libspandsp2)")
needs_srtp = pytest.mark.skipif(not srtp.AVAILABLE, reason="built without libsrtp2 (Debian: libsrtp2-dev)")


@needs_g722
def test_wideband_both_ways(bench: Bench) -> None:
    bench.call.update(bench.stream(payload_type=9, codec="G722"))
    bench.tick()
    bench.peer.received()
    codec = g722.G722()
    high = tone(1.0, hz=5000.0)
    bench.call.write(high)
    for i in range(50):
        bench.tick(codec.encode(high[320 * i : 320 * i + 320]), pt=9)
    packets = headers(bench.peer.received())
    assert {(p[0], len(p[5])) for p in packets} == {(9, 160)}
    for a, b in itertools.pairwise(packets):
        assert (b[3] - a[3]) % 2**32 == 160  # RFC 3551 section 4.5.2: the clock says 8000
    sent = codec.decode(b"".join(p[5] for p in packets))
    for pcm in (sent, bench.call.read(100).pcm.reshape(-1)):
        part = pcm[4800:12800].astype(float)
        assert np.argmax(np.abs(np.fft.rfft(part))) * 2 == 5000
        assert np.sqrt(np.mean(part**2)) == pytest.approx(7071, rel=0.1)


@needs_g722
def test_a_switch_between_narrow_and_wide_in_mid_call(bench: Bench) -> None:
    codec, low = g722.G722(), tone(0.02, rate=8000, hz=400.0)
    for _ in range(2):
        bench.tick(g711.encode_ulaw(low), n=20)
        for _ in range(20):
            bench.tick(codec.encode(tone(0.02, hz=400.0)), pt=9)
    levels = np.sqrt(np.mean(bench.call.read(200).pcm[5:].astype(float) ** 2, axis=1))
    assert np.sum(np.abs(levels - 7071) > 700) <= 10  # a frame or two at each switch
    assert bench.call.stats().lost == 0


SUITE = "AES_CM_128_HMAC_SHA1_80"
OURS, THEIRS = bytes(range(30)), bytes(range(100, 130))


@needs_srtp
def test_an_encrypted_call(bench: Bench) -> None:
    encrypted = bench.stream(srtp_send=OURS, srtp_receive=THEIRS, srtp_suite=SUITE)
    assert OURS.hex() not in repr(encrypted)
    assert repr(OURS) not in repr(encrypted)
    bench.call.update(encrypted)
    bench.tick()
    bench.peer.received()
    seal, unseal = NativeCrypto(THEIRS, SUITE, sending=True), NativeCrypto(OURS, SUITE, sending=False)
    loud = g711.encode_ulaw(tone(0.02, rate=8000, hz=400.0))
    port = bench.sockets.port
    for i in range(30):
        packet = seal.apply(rtp.build(0, False, i, i * 160, 9, loud), sending=True)
        assert packet
        bench.peer.rtp.sendto(packet, ("127.0.0.1", port))
        bench.peer.rtp.sendto(packet, ("127.0.0.1", port))  # replayed
        bench.peer.rtp.sendto(packet[:-1] + bytes([packet[-1] ^ 1]), ("127.0.0.1", port))  # forged
        bench.tick()
        if i == 15:
            bench.call.update(encrypted)  # a re-INVITE with the same keys goes on where it was
    stats = bench.call.stats()
    assert (stats.packets_received, stats.replayed + stats.forged) == (30, 60)
    assert stats.replayed >= 29
    levels = np.sqrt(np.mean(bench.call.read(100).pcm[5:].astype(float) ** 2, axis=1))
    assert np.allclose(levels, 7071, rtol=0.05)
    plain = [unseal.apply(p, sending=False) for p in bench.peer.received()]
    assert len(plain) == 30
    assert all(p and rtp.parse(p)[5] == SILENCE for p in plain)
    bench.call.close()
    bench.tick()
    bye = bench.peer.received(bench.peer.rtcp)[-1]
    report = unseal.apply(bye, rtcp=True, sending=False)
    assert report
    assert rtcp.parse(report, 0)["bye"]


@needs_srtp
def test_a_forged_stranger_opens_no_door(bench: Bench) -> None:
    bench.call.update(bench.stream(srtp_send=OURS, srtp_receive=THEIRS, srtp_suite=SUITE))
    bench.tick()
    stranger = Peer()
    for _ in range(10):
        stranger.send(bench.sockets.port)
        bench.tick()
    assert bench.call.stats().forged == 10
    assert stranger.received() == []
    stranger.close()


def test_half_a_pair_of_keys_is_refused(bench: Bench) -> None:
    with pytest.raises(MediaError, match="both directions"):
        bench.call.update(bench.stream(srtp_send=OURS, srtp_suite=SUITE))


def test_silence_is_described_and_not_sent_where_comfort_noise_was_negotiated() -> None:
    b = Bench(comfort_noise_dbfs=-50.0)
    b.call.update(b.stream(comfort_noise=True))
    b.tick(n=31)
    b.call.write(tone(0.04))
    b.tick(n=25)
    packets = headers(b.peer.received())
    kinds = "".join("n" if p[0] == 13 else "s" for p in packets)
    assert re.fullmatch("s{0,3}n{3,4}s{5,6}n{2,3}", kinds), kinds
    assert {p[5] for p in packets if p[0] == 13} == {bytes([50])}
    assert [(y[2] - x[2]) % 65536 for x, y in itertools.pairwise(packets)] == [1] * (len(packets) - 1)
    noise = [p for p in packets if p[0] == 13]
    assert (noise[1][3] - noise[0][3]) % 2**32 == 10 * 160
    talk = packets[kinds.index("ns") + 1]
    assert talk[1], "a talk spurt begins with the marker"
    b.close()


def test_silence_is_sent_where_no_noise_was_asked_for(bench: Bench) -> None:
    bench.call.update(bench.stream(comfort_noise=True))
    bench.tick(n=20)
    assert {p[0] for p in headers(bench.peer.received())} == {0}


@needs_g722
def test_comfort_noise_of_8_khz_is_not_for_wideband(bench: Bench) -> None:
    bench.call.update(bench.stream(comfort_noise=True, codec="G722", payload_type=9))
    bench.tick(n=20)
    assert 13 not in {p[0] for p in headers(bench.peer.received())}


@pytest.mark.parametrize("codec", ["PCMU", "PCMA"])
def test_comfort_noise_is_sent_when_asked_for(codec: str) -> None:
    b = Bench(comfort_noise_dbfs=-50.0)
    b.call.update(b.stream(codec=codec, payload_type={"PCMU": 0, "PCMA": 8}[codec]))
    b.tick(n=30)
    decode = g711.decode_ulaw if codec == "PCMU" else g711.decode_alaw
    sent = decode(b"".join(p[5] for p in headers(b.peer.received())[10:])).astype(float)
    # Noise that was made for 8 kHz of band loses half of it on the line.
    assert 20 * math.log10(np.sqrt(np.mean(sent**2)) / 32768) == pytest.approx(-53, abs=1.5)
    assert b.engine.events() == []
    b.close()
