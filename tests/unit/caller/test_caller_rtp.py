"""RTP as the caller sends and reads it, the network scenario, and WAV files."""

import wave
from pathlib import Path

import numpy as np
import pytest

from aiphone.caller import Recording, Scenario, load, read_wav, tone, write_wav
from aiphone.caller.recording import build, side_by_side
from aiphone.caller.rtp import (
    Frame,
    Packet,
    Received,
    Sent,
    TelephoneEvent,
    audio_frames,
    decode,
    digit_frames,
    encode,
    level_dbfs,
    unwrap,
)
from aiphone.errors import MediaError


def test_a_packet_survives_packing() -> None:
    packet = Packet(8, 65535, 0xFFFFFFFF, 0xDEADBEEF, b"abc", marker=True)
    data = packet.pack()
    assert data.hex() == "8088ffffffffffffdeadbeef616263"
    assert Packet.parse(data) == packet


def test_sources_extension_and_padding_are_stepped_over() -> None:
    header = bytes.fromhex("b10000010000000200000003")
    data = header + b"SRC1" + bytes.fromhex("beef0001") + b"EXT1" + b"payload" + b"\0\0\3"
    packet = Packet.parse(data)
    assert packet is not None
    assert packet.payload == b"payload"


@pytest.mark.parametrize("data", [b"", b"\x80" * 11, b"\x40" + b"\0" * 20, b"\x8f" + b"\0" * 20, b"\x90" + b"\0" * 12])
def test_what_is_no_rtp_is_none(data: bytes) -> None:
    assert Packet.parse(data) is None


def test_a_padding_longer_than_the_packet_is_none() -> None:
    assert Packet.parse(b"\xa0" + b"\0" * 11 + b"\0\xff") is None


def test_levels() -> None:
    assert level_dbfs(np.full(160, -32768, np.int16)) == pytest.approx(0, abs=1e-6)
    assert level_dbfs(tone(400, 0.1, dbfs=-20)) == pytest.approx(-20, abs=0.1)
    assert level_dbfs(np.zeros(160, np.int16)) == level_dbfs(np.zeros(0, np.int16)) == -120


def test_speech_becomes_frames_with_levels() -> None:
    pcm = np.concatenate([tone(400, 0.04), np.zeros(100, np.int16)])
    frames = audio_frames("PCMA", pcm)
    assert [frame.voiced for frame in frames] == [True, True, False]
    assert all(len(frame.payload) == 160 for frame in frames)
    assert np.array_equal(decode("PCMA", frames[0].payload), decode("PCMA", encode("PCMA", pcm[:160])))
    assert audio_frames("PCMU", np.zeros(0, np.int16)) == []


def test_a_key_begins_with_the_marker_and_ends_three_times() -> None:
    frames = [f for f in digit_frames("5", duration=0.06, gap=0.04) if isinstance(f, Frame)]
    events = [TelephoneEvent.parse(f.payload) for f in frames]
    assert [(e.event, e.end, e.duration) for e in events if e] == [
        (5, False, 160), (5, False, 320), (5, False, 480), (5, True, 480), (5, True, 480), (5, True, 480),
    ]  # fmt: skip
    assert [f.marker for f in frames] == [True] + [False] * 5
    assert [f.event_offset for f in frames] == [0, 160, 320, 480, 640, 800]
    assert digit_frames("5", duration=0.06, gap=0.04)[-2:] == [None, None]


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(ValueError, match="'X' is not a telephone key"):
        digit_frames("1x")
    assert TelephoneEvent.parse(b"abc") is None


def test_counters_are_unwrapped() -> None:
    assert unwrap([65534, 65535, 0, 2, 1], 16) == [65534, 65535, 65536, 65538, 65537]
    assert unwrap([5, 65535], 16) == [5, -1]
    assert unwrap([], 16) == []


# ------------------------------------------------------------------ recordings


def received(at: float, sequence: int, timestamp: int, value: int = 1000, ssrc: int = 1) -> Received:
    payload = encode("PCMU", np.full(160, value, np.int16))
    return Received(at, Packet(0, sequence, timestamp, ssrc, payload), "PCMU", -30.0, ("h", 1))


def coarse(recording: Recording) -> list[int]:
    """The first sample of each 20 ms, in hundreds."""
    return [round(int(x) / 100) for x in recording.pcm[::160]]


def test_packets_are_placed_by_timestamp_and_gaps_are_silent() -> None:
    packets = [
        received(10.00, 65534, 0xFFFFFFFF - 159, 1000),
        received(10.02, 65535, 0, 2000),
        received(10.09, 2, 480, 5000),
        received(10.10, 1, 320, 4000),
        received(10.11, 1, 320, 4000),
    ]
    recording = build(packets)
    assert coarse(recording) == pytest.approx([10, 20, 0, 40, 50], abs=1)
    assert recording.started_at == pytest.approx(10.0)
    stats = recording.statistics()
    assert (stats.packets, stats.lost, stats.duplicates, stats.reordered) == (5, 1, 1, 1)
    assert stats.longest_gap == pytest.approx(0.07)


def test_a_new_source_is_placed_by_its_arrival() -> None:
    recording = build([received(1.0, 1, 0), received(1.1, 900, 777_777, 3000, ssrc=2)])
    assert recording.positions == [0, 800]


def test_a_jump_of_the_timestamps_is_placed_by_arrival() -> None:
    recording = build([received(1.0, 1, 0), received(1.02, 2, 40_000_000)])
    assert recording.positions == [0, 160]


def test_a_packet_from_before_the_first_one_moves_the_start() -> None:
    recording = build([received(1.02, 2, 160), received(1.03, 1, 0)])
    assert recording.positions == [160, 0]
    assert recording.started_at == pytest.approx(1.0)


def test_a_stretch_is_cut_by_arrival() -> None:
    recording = build([received(1 + i * 0.02, i, i * 160, 1000 * i) for i in range(5)])
    assert len(recording.between(1.02, 1.06)) == 480
    assert len(recording.between(5, 6)) == 0


def test_an_empty_recording() -> None:
    recording = build([])
    assert len(recording.pcm) == 0
    assert recording.statistics().packets == 0
    assert side_by_side([], recording).shape == (0, 2)


def test_both_sides_on_one_time_axis() -> None:
    payload = encode("PCMU", np.full(160, 1000, np.int16))
    sent = [Sent(2.0, Packet(0, 1, 100, 9, payload), -30.0), Sent(2.02, Packet(0, 2, 260, 9, payload), -30.0)]
    both = side_by_side(sent, build([received(2.1, 1, 0)]))
    assert both.shape == (960, 2)
    assert both[:320, 0].all()
    assert not both[320:, 0].any()
    assert not both[:800, 1].any()
    assert both[800:, 1].all()


# ------------------------------------------------------------------ scenarios


def fates(scenario: Scenario, n: int = 20_000) -> list[list[float]]:
    path = scenario.start()
    return [path.next_packet() for _ in range(n)]


def test_a_scenario_is_the_same_every_time_and_other_with_another_seed() -> None:
    scenario = Scenario(seed=3, loss=0.1, jitter=0.05, duplicate=0.1)
    assert fates(scenario, 500) == fates(scenario, 500)
    assert fates(scenario, 500) != fates(Scenario(seed=4, loss=0.1, jitter=0.05, duplicate=0.1), 500)


@pytest.mark.parametrize("burst", [1.0, 3.0, 6.0])
def test_loss_and_burst_are_as_asked(burst: float) -> None:
    lost = [not copies for copies in fates(Scenario(seed=7, loss=0.1, burst=burst), 60_000)]
    assert sum(lost) / len(lost) == pytest.approx(0.1, rel=0.1)
    runs = sum(now and not before for before, now in zip([False, *lost], lost, strict=False))
    expected = burst if burst > 1 else 1 / 0.9
    assert sum(lost) / runs == pytest.approx(expected, rel=0.1)


def test_delay_jitter_and_copies() -> None:
    packets = fates(Scenario(seed=1, delay=0.03, jitter=0.02, duplicate=0.05))
    delays = [delay for copies in packets for delay in copies]
    assert 0.03 <= min(delays) < 0.031
    assert 0.049 < max(delays) <= 0.05
    assert sum(len(copies) == 2 for copies in packets) / len(packets) == pytest.approx(0.05, rel=0.1)


def test_no_scenario_is_a_clean_path() -> None:
    assert fates(Scenario(), 100) == [[0.0]] * 100


@pytest.mark.parametrize("wrong", [{"loss": 1.0}, {"burst": 0.5}, {"jitter": -1.0}, {"duplicate": 2.0}])
def test_wrong_scenarios_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="a scenario"):
        Scenario(**wrong)  # type: ignore[arg-type]


# ------------------------------------------------------------------ WAV files


@pytest.mark.parametrize(("width", "channels"), [(1, 1), (2, 1), (2, 2), (3, 1), (4, 2)])
def test_wav_files_of_any_width_are_read(tmp_path: Path, width: int, channels: int) -> None:
    values = [0, 8000, -8000, 32512, -32768]
    path = tmp_path / "x.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, width, 16000, 0, "NONE", ""))
        for value in values:
            wide = (value >> 8) + 128 if width == 1 else value << 8 * (width - 2)
            file.writeframes(wide.to_bytes(width, "little", signed=width > 1) * channels)
    pcm, rate = read_wav(path)
    assert rate == 16000
    assert np.abs(pcm.astype(int) - values).max() <= (255 if width == 1 else 0)


def test_a_wav_file_comes_at_8_khz_and_in_time(tmp_path: Path) -> None:
    pcm = np.zeros(22050, np.int16)
    pcm[11025:] = 8000
    write_wav(tmp_path / "x.wav", pcm, 22050)
    line = load(tmp_path / "x.wav")
    assert len(line) == 8000
    assert abs(int(np.argmax(line > 4000)) - 4000) <= 1


def test_two_columns_are_two_channels(tmp_path: Path) -> None:
    write_wav(tmp_path / "x.wav", np.zeros((10, 2), np.int16))
    with wave.open(str(tmp_path / "x.wav")) as file:
        assert (file.getnchannels(), file.getnframes(), file.getframerate()) == (2, 10, 8000)


def test_what_is_no_wav_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(b"RIFFnonsense")
    for name in ("x.wav", "missing.wav"):
        with pytest.raises(MediaError, match=r"cannot read .* as a WAV file \(.+\): give a PCM WAV file"):
            load(tmp_path / name)
