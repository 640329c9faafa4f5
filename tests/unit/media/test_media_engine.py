"""The engine on an injected clock: real loopback sockets, no thread, no waiting."""

from __future__ import annotations

import itertools
import math
import socket
from collections.abc import Iterator

import numpy as np
import pytest
from media_bench import SILENCE, TICK, Bench, Peer, benches, headers, tone

from aiphone.errors import MediaError
from aiphone.events import (
    DigitReceived,
    MediaTimedOut,
    PlayoutDrained,
    PlayoutStarted,
    RtpSockets,
)
from aiphone.media.engine import MediaCall
from aiphone.media.ports import RtpPortPool
from aiphone.media.types import FrameFlag, JitterConfig
from aiphone.native import g711, rtcp, rtp
from aiphone.native.engine import live_allocations


@pytest.fixture
def bench() -> Iterator[Bench]:
    yield from benches()


def test_silence_is_sent_every_tick_with_continuous_counters(bench: Bench) -> None:
    bench.peer.received()
    bench.tick(n=50)
    packets = headers(bench.peer.received())
    assert len(packets) == 50
    assert {p[5] for p in packets} == {SILENCE}
    for a, b in itertools.pairwise(packets):
        assert (b[2] - a[2]) % 65536 == 1
        assert (b[3] - a[3]) % 2**32 == 160
        assert a[4] == b[4]


def test_a_tone_is_heard_by_python(bench: Bench) -> None:
    payload = g711.encode_ulaw(tone(0.02, rate=8000, hz=400.0))
    bench.tick(payload, n=50)
    frames = bench.call.read(100)
    assert frames.pcm.shape == (len(frames.pcm), 320)
    assert len(frames.pcm) >= 48
    steady = frames.pcm[10:].reshape(-1).astype(float)
    assert np.sqrt(np.mean(steady**2)) == pytest.approx(10000 / math.sqrt(2), rel=0.02)
    spectrum = np.abs(np.fft.rfft(steady[:8000]))
    assert np.argmax(spectrum) * 2 == 400
    assert not frames.flags[10:].any()
    assert np.all(np.diff(frames.arrival[10:]) > 0)
    assert bench.call.stats().level_in_dbfs == pytest.approx(20 * math.log10(10000 / math.sqrt(2) / 32768), abs=0.3)


def test_alaw_and_a_change_of_codec_in_mid_call(bench: Bench) -> None:
    pcm = tone(0.02, rate=8000, hz=400.0)
    bench.tick(g711.encode_ulaw(pcm), n=20)
    bench.tick(g711.encode_alaw(pcm), n=20, pt=8)
    frames = bench.call.read(100)
    levels = np.sqrt(np.mean(frames.pcm[5:].astype(float) ** 2, axis=1))
    assert np.allclose(levels, 7071, rtol=0.05)


@pytest.mark.parametrize("milliseconds", [10, 20, 30, 40, 50, 60])
def test_packets_of_other_lengths(bench: Bench, milliseconds: int) -> None:
    samples = milliseconds * 8
    pcm = tone(3.0, rate=8000, hz=400.0)
    coded = g711.encode_ulaw(pcm)
    sent = 0
    for step in range(100):
        while (sent + samples) <= (step + 1) * 160 and sent + samples <= len(coded):
            bench.peer.send(bench.sockets.port, coded[sent : sent + samples])
            sent += samples
        bench.tick()
    frames = bench.call.read(100)
    steady = frames.pcm[15:].astype(float)
    levels = np.sqrt(np.mean(steady**2, axis=1))
    assert np.allclose(levels, 7071, rtol=0.05)
    assert bench.call.stats().lost == 0


@pytest.mark.parametrize("milliseconds", [10, 20, 30, 40, 60])
def test_the_negotiated_packet_time_is_kept(bench: Bench, milliseconds: int) -> None:
    bench.call.update(bench.stream(ptime_ms=milliseconds))
    bench.tick()
    bench.peer.received()
    bench.tick(n=12)
    packets = headers(bench.peer.received())
    assert abs(len(packets) - 240 // milliseconds) <= 1
    assert {len(p[5]) for p in packets} == {milliseconds * 8}
    for a, b in itertools.pairwise(packets):
        assert (b[3] - a[3]) % 2**32 == milliseconds * 8


def test_csrc_extension_and_padding_are_no_sound(bench: Bench) -> None:
    payload = g711.encode_ulaw(tone(0.02, rate=8000, hz=400.0))
    for i in range(50):
        head = bytearray(rtp.build(0, False, i, i * 160, 9, b""))
        head[0] |= 0x32  # padding, extension, two contributing sources
        body = bytes(8) + b"\xbe\xde\x00\x01abcd" + payload + b"\xff\xff\x03"
        bench.peer.rtp.sendto(bytes(head) + body, ("127.0.0.1", bench.sockets.port))
        bench.tick()
    levels = np.sqrt(np.mean(bench.call.read(100).pcm[5:].astype(float) ** 2, axis=1))
    assert np.allclose(levels, 7071, rtol=0.05)
    assert bench.call.stats().invalid == 0


def test_the_delay_goes_back_after_a_stall_without_a_cut() -> None:
    """A browser that stood still for 300 ms sends it all at once: nothing is lost, and within 3 s it is heard early."""
    b = Bench(jitter=JitterConfig())
    pcm = tone(8.0, rate=8000, hz=200.0)
    coded = g711.encode_ulaw(pcm)
    heard = []
    for step in range(300):
        if not 100 <= step < 115:
            for i in range(100, 116) if step == 115 else [step]:
                b.peer.seq, b.peer.timestamp = 65530 + i, 2**32 - 800 + 160 * i
                b.peer.send(b.sockets.port, coded[160 * i : 160 * i + 160])
        b.tick()
        heard.append(b.call.read(10).pcm.reshape(-1))
        if step == 120:
            assert b.call.stats().delay_ms > 150
    stats = b.call.stats()
    assert stats.delay_ms < 60
    assert stats.shortened_ms > 180
    assert (stats.late, stats.lost) == (0, 0)
    after = np.concatenate(heard[120:])
    steepest = np.abs(np.diff(tone(1.0, hz=200.0).astype(int))).max()
    assert np.abs(np.diff(after.astype(int))).max() < 1.3 * steepest
    b.close()


def test_the_delay_shrinks_in_noise_that_is_a_pause() -> None:
    b = Bench(jitter=JitterConfig(start_ms=200.0))
    noise = np.random.default_rng(3)
    for _ in range(450):
        b.tick(g711.encode_ulaw(noise.normal(0, 60, 160).astype(np.int16)))
    stats = b.call.stats()
    assert stats.delay_ms < 60
    assert stats.shortened_ms > 100
    b.close()


def test_playout_reports_positions(bench: Bench) -> None:
    bench.peer.received()
    quiet, loud = np.zeros(640, np.int16), tone(0.1)
    assert bench.call.write(quiet) == 640
    assert bench.call.write(loud) == 1600
    assert bench.call.queued == 2240
    bench.tick(n=10)
    started, drained = bench.engine.events()
    assert isinstance(started, PlayoutStarted)
    assert isinstance(drained, PlayoutDrained)
    assert started.position == 640
    assert started.at == pytest.approx(3 * TICK)
    assert drained.position == 2240
    assert drained.at == pytest.approx(7 * TICK)
    assert bench.call.played == 2240
    packets = headers(bench.peer.received())
    assert [p[1] for p in packets].index(True) == 0
    sent = g711.decode_ulaw(b"".join(p[5] for p in packets))
    assert np.sqrt(np.mean(sent[400:1000].astype(float) ** 2)) == pytest.approx(7071, rel=0.03)


def test_what_is_queued_afterwards_begins_a_talk_spurt(bench: Bench) -> None:
    bench.tick(n=10)
    bench.peer.received()
    bench.call.write(tone(0.04))
    bench.tick(n=3)
    assert [p[1] for p in headers(bench.peer.received())] == [True, False, False]


def test_flush_stops_within_one_packet_and_reports_what_was_heard(bench: Bench) -> None:
    bench.call.write(tone(2.0))
    bench.tick(n=10)
    bench.peer.received()
    bench.call.flush()
    bench.call.write(tone(0.02))
    bench.tick(n=1)
    assert bench.call.played == 10 * 320 + 128
    bench.tick(n=3)
    events = bench.engine.events()
    assert [type(e) for e in events] == [PlayoutStarted, PlayoutDrained, PlayoutStarted, PlayoutDrained]
    assert [e.position for e in events] == [0, 3328, 3328, 3648]  # type: ignore[union-attr]
    first = g711.decode_ulaw(headers(bench.peer.received())[0][5]).astype(float)
    assert np.abs(first[:20]).max() > 5000
    # 64 samples of fade, and the resampler's delay of less than 5 ms.
    assert np.abs(first[105:]).max() < 100


def test_flush_of_nothing_is_nothing(bench: Bench) -> None:
    bench.call.flush()
    bench.tick(n=2)
    assert bench.engine.events() == []


def test_a_full_ring_takes_what_fits(bench: Bench) -> None:
    assert bench.call.space == 65536
    assert bench.call.write(np.zeros(70000, np.int16)) == 65536
    assert bench.call.space == 0
    bench.tick()
    assert bench.call.space == 320


def test_gain_is_ramped(bench: Bench) -> None:
    bench.call.write(tone(1.0))
    bench.tick(n=5)
    bench.call.set_gain(-20.0)
    bench.peer.received()
    bench.tick(n=5)
    packets = headers(bench.peer.received())
    levels = [np.sqrt(np.mean(g711.decode_ulaw(p[5]).astype(float) ** 2)) for p in packets]
    assert levels[0] > 3000
    assert levels[-1] == pytest.approx(707, rel=0.05)


def test_inbound_ring_keeps_the_oldest(bench: Bench) -> None:
    bench.tick(SILENCE, n=150)
    assert bench.call.stats().frames_lost == pytest.approx(50, abs=3)
    assert len(bench.call.read(1000).pcm) == 100


def test_a_gap_leads_into_the_packet_that_is_already_there(bench: Bench) -> None:
    """A tone is a third higher after the gap: already the gap's second half is."""
    before, after = (g711.encode_ulaw(tone(0.4, hz, rate=8000)) for hz in (300.0, 400.0))
    for number in range(30):
        if number == 10:
            bench.peer.seq += 1
            bench.peer.timestamp += 160
            bench.tick()
        else:
            bench.tick((before if number < 10 else after)[160 * (number % 10) :][:160])
    frames = bench.call.read(100)
    gap = next(i for i, flag in enumerate(frames.flags) if flag & FrameFlag.CONCEALED)
    # What is heard lags by 6 ms: concealment 3.75, resampling 2.2.
    end = frames.pcm[gap : gap + 2].reshape(-1)[260:420].astype(float)
    turns = np.arange(len(end)) / 16000 * 2j * np.pi
    low, high = (abs(np.sum(end * np.exp(-turns * hz))) for hz in (300.0, 400.0))
    assert high > 2 * low


def test_lost_packets_are_concealed(bench: Bench) -> None:
    payload = g711.encode_ulaw(tone(0.02, rate=8000, hz=400.0))
    for i in range(50):
        if i in (20, 30, 31):
            bench.peer.seq += 1
            bench.peer.timestamp += 160
            bench.tick()
        else:
            bench.tick(payload)
    frames = bench.call.read(100)
    concealed = [i for i, flag in enumerate(frames.flags) if flag & FrameFlag.CONCEALED]
    assert len(concealed) == 3
    levels = np.sqrt(np.mean(frames.pcm.astype(float) ** 2, axis=1))
    assert levels[concealed[0]] > 3500
    stats = bench.call.stats()
    assert stats.lost == 3
    assert stats.concealed == 3


def test_the_end_of_a_stream_is_no_loss(bench: Bench) -> None:
    """It is faded out as a loss would be, but nothing was lost; what comes late after all was missing."""
    payload = g711.encode_ulaw(tone(0.02, rate=8000, hz=400.0))
    bench.tick(payload, n=20)
    bench.tick(n=20)
    assert bench.call.stats().concealed == 0
    bench.peer.timestamp += 20 * 160  # the sender paused, its clock went on
    bench.tick(payload, n=20)
    assert bench.call.stats().concealed == 0
    sent = bench.peer.timestamp
    bench.tick(n=2)
    bench.peer.timestamp = sent
    bench.tick(payload, n=10)
    assert 2 <= bench.call.stats().concealed <= 4
    assert bench.call.stats().lost == 0


def test_a_packet_is_waited_for_until_the_slot_in_which_it_is_due() -> None:
    """Not until the next tick: whenever packets come in it, they are heard 6 ms later, and the rest is no worse."""
    for phase in range(0, 10, 3):
        b = Bench(jitter=JitterConfig(fixed_ms=6.0))
        heard = 0
        for slot in range(1, 600):
            if slot % 10 == phase and slot > 20:
                b.peer.send(b.sockets.port, SILENCE)
            b.engine.step(slot * 0.002)
            heard += len(b.call.read(10).pcm)
        stats = b.call.stats()
        # An engine that is stepped stamps packets in the slot that reads them, here up to 18 ms late at the beginning.
        assert stats.delay_ms < 6.0 + 2.1
        assert (stats.late, stats.lost, stats.concealed) == (0, 0, 0)
        assert heard == pytest.approx(58, abs=2)
        b.close()


def test_duplicates_and_reordering(bench: Bench) -> None:
    bench.close()
    b = Bench(jitter=JitterConfig(fixed_ms=60.0))
    packets = [rtp.build(0, False, 65500 + i, (2**32 - 3200 + 160 * i) % 2**32, 7, SILENCE) for i in range(60)]
    order = list(range(60))
    order[10], order[11] = 11, 10
    order.insert(20, 19)
    for i in order:
        b.peer.rtp.sendto(packets[i], ("127.0.0.1", b.sockets.port))
        b.tick()
    stats = b.call.stats()
    assert (stats.duplicated, stats.reordered, stats.lost, stats.late) == (1, 1, 0, 0)
    assert stats.packets_received == 60
    b.close()


def test_a_stranger_is_never_heard(bench: Bench) -> None:
    bench.tick(SILENCE, n=5)
    stranger = Peer()
    loud = g711.encode_ulaw(tone(0.02, rate=8000))
    for _ in range(50):
        stranger.send(bench.sockets.port, loud)
        bench.tick(SILENCE)
    assert bench.call.stats().strays == 50
    assert np.abs(bench.call.read(100).pcm).max() < 50
    bench.peer.received()
    bench.tick()
    assert len(bench.peer.received()) == 1
    assert stranger.received() == []
    stranger.close()


def test_a_peer_behind_nat_is_learned_and_answered(bench: Bench) -> None:
    behind = Peer()
    bench.peer.received()
    for _ in range(30):
        behind.send(bench.sockets.port)
        bench.tick()
    assert len(bench.call.read(100).pcm) > 25
    assert len(behind.received()) > 25
    assert bench.call.stats().strays == 0
    behind.close()


def test_the_signalled_address_wins_over_a_learned_one_for_a_while_then_it_is_locked(bench: Bench) -> None:
    other = Peer()
    for _ in range(5):
        other.send(bench.sockets.port)
        bench.tick()
    bench.peer.received()
    bench.tick(SILENCE, n=5)
    assert len(bench.peer.received()) >= 4
    other.received()
    other.send(bench.sockets.port)
    bench.tick(n=2)
    assert other.received() == []
    assert bench.call.stats().strays == 1
    other.close()


def test_a_new_source_is_followed_after_two_packets(bench: Bench) -> None:
    bench.tick(SILENCE, n=10)
    bench.peer.ssrc, bench.peer.seq, bench.peer.timestamp = 99, 5, 77777
    loud = g711.encode_ulaw(tone(0.02, rate=8000))
    bench.tick(loud, n=20)
    stats = bench.call.stats()
    assert stats.source_changes == 1
    assert stats.lost == 0
    assert np.abs(bench.call.read(100).pcm[-5:]).max() > 5000


def test_keys_are_reported_once(bench: Bench) -> None:
    bench.tick(SILENCE, n=5)
    for key in (4, 2, 11):
        timestamp = bench.peer.timestamp
        for i in range(8):
            end = 0x80 if i >= 5 else 0
            duration = 160 * min(i + 1, 6)
            packet = rtp.build(
                101,
                False,
                bench.peer.seq,
                timestamp % 2**32,
                0x1234,
                bytes([key, end | 10, duration >> 8, duration & 255]),
            )
            bench.peer.rtp.sendto(packet, ("127.0.0.1", bench.sockets.port))
            bench.peer.seq += 1
            bench.tick()
        bench.peer.timestamp = timestamp + 160 * 8
        bench.tick(SILENCE, n=3)
    digits = [e.digit for e in bench.engine.events() if isinstance(e, DigitReceived)]
    assert digits == ["4", "2", "#"]
    assert bench.call.stats().lost == 0
    assert bench.call.stats().concealed <= 18  # each press pauses the sound, which fades out


def test_keys_are_sent(bench: Bench) -> None:
    bench.peer.received()
    bench.call.send_digits("5#")
    bench.tick(n=30)
    packets = headers(bench.peer.received())
    events = [p for p in packets if p[0] == 101]
    assert [p[5][0] for p in events] == [5] * 7 + [11] * 7
    assert [p[1] for p in events].count(True) == 2
    assert len({p[3] for p in events}) == 2
    assert [bool(p[5][1] & 0x80) for p in events[:7]] == [False] * 4 + [True] * 3
    assert len(packets) == 30
    assert all((b[2] - a[2]) % 65536 == 1 for a, b in itertools.pairwise(packets))
    with pytest.raises(MediaError, match="no telephone key"):
        bench.call.send_digits("x")


def test_no_rtp_is_reported_once_and_again_after_it_came_back() -> None:
    b = Bench(rtp_timeout=1.0)
    b.tick(n=100)
    assert [type(e) for e in b.engine.events()] == [MediaTimedOut]
    b.tick(SILENCE, n=5)
    b.tick(n=100)
    (event,) = b.engine.events()
    assert isinstance(event, MediaTimedOut)
    assert event.silent_for == pytest.approx(1.0, abs=0.05)
    b.close()


def test_hold_stops_sending_and_keeps_what_is_queued(bench: Bench) -> None:
    bench.call.write(tone(0.2))
    bench.call.update(bench.stream(send=False))
    bench.tick()
    bench.peer.received()
    bench.tick(n=10)
    assert bench.peer.received() == []
    bench.call.update(bench.stream())
    bench.tick(n=5)
    packets = headers(bench.peer.received())
    assert len(packets) in (4, 5)
    assert packets[0][1]
    assert bench.call.played > 0


def test_hold_keeps_reporting(bench: Bench) -> None:
    bench.call.update(bench.stream(send=False))
    bench.tick(SILENCE, n=600)
    reports = bench.peer.received(bench.peer.rtcp)
    assert len(reports) >= 2
    assert rtcp.parse(reports[-1], bench.peer.ssrc)["has_block"]
    assert not rtcp.parse(reports[-1], bench.peer.ssrc)["has_sr"]  # nothing is sent: a receiver report
    assert len(bench.call.read(100).pcm) == 100


def test_re_invite_moves_the_stream(bench: Bench) -> None:
    bench.tick(SILENCE, n=5)
    other = Peer()
    bench.call.update(bench.stream(remote_port=other.rtp.getsockname()[1], payload_type=8, codec="PCMA", ptime_ms=40))
    bench.tick(n=2)
    other.received()
    bench.peer.received()
    bench.tick(n=10)
    packets = headers(other.received())
    assert len(packets) == 5
    assert {(p[0], p[5]) for p in packets} == {(8, b"\xd5" * 320)}
    assert bench.peer.received() == []
    other.close()


def test_rtcp_reports_and_bye(bench: Bench) -> None:
    bench.tick(SILENCE, n=20)
    bench.peer.seq += 5
    bench.tick(SILENCE, n=300)
    ours = rtp.parse(bench.peer.received()[0])[4]
    reports = bench.peer.received(bench.peer.rtcp)
    assert reports
    report = rtcp.parse(reports[0], 0x1234)
    assert report["has_sr"]
    assert report["has_block"]
    assert report["lost"] == 5
    answer = rtcp.build(0x1234, 2e9, 0, 10, 1600, last_sr=int(report["sr_middle"]), source=(ours, [1, 2, 4]))
    bench.peer.rtcp.sendto(answer, ("127.0.0.1", bench.sockets.port + 1))
    bench.tick(n=20)
    stats = bench.call.stats()
    assert stats.rtcp_received == 1
    assert stats.remote_lost == 1
    assert stats.round_trip_ms is not None
    bench.call.close()
    bench.tick()
    assert rtcp.parse(bench.peer.received(bench.peer.rtcp)[-1], 0)["bye"]


def test_rtcp_on_the_rtp_port(bench: Bench) -> None:
    bench.call.update(bench.stream(rtcp_mux=True))
    bench.tick(SILENCE, n=200)
    kinds = [p[1] for p in bench.peer.received()]
    assert 200 in kinds
    bench.peer.rtp.sendto(rtcp.build(0x1234, 2e9, 0, 1, 1), ("127.0.0.1", bench.sockets.port))
    bench.tick()
    assert bench.call.stats().rtcp_received == 1


def test_comfort_noise_fills_the_pause(bench: Bench) -> None:
    bench.tick(SILENCE, n=10)
    bench.tick(bytes([40]), pt=13)
    bench.tick(n=20)
    frames = bench.call.read(100)
    assert frames.flags[-5] & FrameFlag.COMFORT_NOISE
    level = 20 * math.log10(np.sqrt(np.mean(frames.pcm[-10:].astype(float) ** 2)) / 32768)
    assert level == pytest.approx(-40, abs=2)


def test_rubbish_is_counted(bench: Bench) -> None:
    port = bench.sockets.port
    for rubbish in (b"", b"x", b"\x80" * 11, b"\x00" * 40, b"\xbf" + b"\xff" * 30, bytes(2000)):
        bench.peer.rtp.sendto(rubbish, ("127.0.0.1", port))
    bench.peer.send(port, pt=96)
    bench.tick()
    stats = bench.call.stats()
    assert stats.invalid == 6
    assert stats.unknown_payload == 1
    assert stats.packets_received == 0


def test_a_closed_call_is_quiet(bench: Bench) -> None:
    bench.tick(SILENCE, n=10)
    bench.call.close()
    bench.call.close()
    assert bench.call.closed
    assert len(bench.call.read(10).pcm) == 0
    assert bench.call.stats().packets_received == 10
    with pytest.raises(MediaError, match="closed"):
        bench.call.write(np.zeros(1, np.int16))
    bench.call.flush()
    bench.call.set_gain(1.0)
    bench.tick(n=2)
    assert bench.engine.stats().leaving == 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
        again.bind(("127.0.0.1", bench.sockets.port))


def test_capacity_and_what_it_cannot_speak(bench: Bench) -> None:
    pairs = [bench.pool.open() for _ in range(4)]
    calls = [bench.engine.add(f"x{i}", pair, bench.stream()) for i, pair in enumerate(pairs[:3])]
    with pytest.raises(MediaError, match="full"):
        bench.engine.add("x3", pairs[3], bench.stream())
    calls.pop().close()
    bench.tick()
    for bad, match in (
        ({"codec": "opus"}, "opus"),
        ({"ptime_ms": 25}, "25 ms"),
        ({"remote_host": "phone.example"}, "phone.example"),
        ({"remote_host": "::1"}, "IP address"),
    ):
        with pytest.raises(MediaError, match=match):
            bench.engine.add("x3", pairs[3], bench.stream(**bad))
    bench.pool.close(pairs[3])
    bench.tick()
    for call in calls:
        call.close()
    bench.tick()


def test_500_short_calls_leave_nothing_behind(bench: Bench) -> None:
    before = live_allocations()
    for i in range(500):
        call: MediaCall = bench.engine.add(f"n{i}", bench.pool.open(), bench.stream())
        call.write(np.ones(320, np.int16))
        bench.now += TICK
        bench.engine.step(bench.now)
        call.close()
    bench.tick()
    assert live_allocations() == before
    assert bench.engine.stats().leaving == 0


def test_call_memory_is_bounded(bench: Bench) -> None:
    assert bench.engine.stats().call_bytes < 256 * 1024


def test_events_of_a_stuck_main_thread_keep_the_latest_states(bench: Bench) -> None:
    # 256 + 16 * 4 events fit; each round makes two.
    for _ in range(400):
        bench.call.write(tone(0.02))
        bench.tick(n=2)
    events = bench.engine.events()
    assert len(events) == 320
    bench.tick()
    last = bench.engine.events()
    assert [type(e) for e in last] == [PlayoutStarted, PlayoutDrained]
    assert last[-1].position == 400 * 320  # type: ignore[union-attr]


def test_ports_close_what_nobody_wants() -> None:
    pool = RtpPortPool("127.0.0.1", 43001, 43004)
    pair = pool.open()
    assert pair.port == 43002
    assert isinstance(pair, RtpSockets)
    pool.close(pair)
