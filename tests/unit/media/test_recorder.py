"""Recordings: the tap in the engine on an injected clock, the file, and the thread in between."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from test_media_engine import Bench, headers, tone

from aiphone.clock import ManualClock
from aiphone.errors import MediaError, StorageError
from aiphone.media import recorder as recorder_module
from aiphone.media.engine import MediaEngine
from aiphone.media.recorder import HEADER_BYTES, Recorder, Recording, StereoWavFile, wav_header
from aiphone.native import g711
from aiphone.native.engine import live_allocations

PATIENCE = 5.0
Stereo = npt.NDArray[np.int16]


@pytest.fixture
def bench() -> Iterator[Bench]:
    before = live_allocations()
    b = Bench()
    yield b
    b.close()
    del b.engine, b.call
    assert live_allocations() == before


def read(path: Path) -> Stereo:
    with wave.open(str(path), "rb") as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (2, 2, 8000)
        data = file.readframes(file.getnframes())
    return np.frombuffer(data, "<i2").reshape(-1, 2).astype(np.int16)


def recorded(bench: Bench, recording: Recording) -> Stereo:
    """Stop, let the media thread let go, wait for the writer."""
    bench.call.stop_recording()
    bench.engine.step(bench.now + 0.004)
    bench.now += 0.004
    assert recording.wait(PATIENCE)
    return read(recording.path)


# ------------------------------------------------------------------------------------------------ both directions


def test_the_caller_is_left_and_the_assistant_right_each_in_its_tick(bench: Bench, tmp_path: Path) -> None:
    bench.tick(g711.encode_ulaw(np.zeros(160, np.int16)), n=10)
    bench.peer.received()
    bench.call.read(100)
    recording = bench.call.record(tmp_path / "c1.wav")
    bench.tick(g711.encode_ulaw(np.zeros(160, np.int16)), n=5)
    bench.call.write(tone(0.2, hz=700.0))
    bench.tick(g711.encode_ulaw(tone(0.02, rate=8000, hz=400.0)), n=20)
    pcm = recorded(bench, recording)
    assert pcm.shape == (25 * 160, 2)
    assert recording.missed == 0
    assert recording.seconds == pytest.approx(0.5)
    # Right: what left the socket in these ticks, sample for sample, but for the rounding of G.711.
    sent = g711.decode_ulaw(b"".join(p[5] for p in headers(bench.peer.received())[:25]))
    assert np.abs(sent.astype(int) - pcm[:, 1]).max() <= np.abs(sent.astype(int)).max() / 32
    # Left: what the listener was given in them, at half its rate.
    heard = bench.call.read(100).pcm[:25].reshape(-1)
    assert np.sqrt(np.mean(pcm[2000:, 0].astype(float) ** 2)) == pytest.approx(7071, rel=0.03)
    begins_16k = int(np.flatnonzero(np.abs(heard.astype(int)) > 1000)[0])
    begins = int(np.flatnonzero(np.abs(pcm[:, 0].astype(int)) > 1000)[0])
    assert begins_16k / 2 - begins == pytest.approx(17.5, abs=4)  # the resampler's delay of 2.2 ms


def test_nothing_from_either_side_is_recorded_as_silence(bench: Bench, tmp_path: Path) -> None:
    recording = bench.call.record(tmp_path / "c1.wav")
    bench.tick(n=50)
    pcm = recorded(bench, recording)
    assert pcm.shape == (50 * 160, 2)
    assert not pcm.any()


def test_a_held_call_is_recorded_on(bench: Bench, tmp_path: Path) -> None:
    recording = bench.call.record(tmp_path / "c1.wav")
    bench.call.update(bench.stream(send=False))
    bench.call.write(tone(0.2))
    bench.tick(g711.encode_ulaw(tone(0.02, rate=8000)), n=20)
    pcm = recorded(bench, recording)
    assert len(pcm) == 20 * 160
    assert pcm[:, 0].any()
    assert not pcm[:, 1].any()


def test_a_late_recorder_costs_silence_but_not_the_time(bench: Bench) -> None:
    native = bench.call._native
    tap = native.tap()
    bench.call.write(tone(4.0))
    bench.tick(n=301)  # 6 s are over; the tap holds 5
    assert tap.missed == 50
    first = tap.take()
    assert len(first) == 250 * 160
    bench.call.write(tone(0.1))
    bench.tick(n=5)
    second = tap.take()
    assert len(second) == 55 * 160
    assert not second[: 50 * 160].any()
    assert second[50 * 160 :, 1].any()
    native.untap()
    bench.tick()
    assert tap.released
    assert len(tap.take()) == 160  # the tick that was not over
    assert len(tap.take()) == 0


def test_closing_the_call_ends_its_recording(bench: Bench, tmp_path: Path) -> None:
    recording = bench.call.record(tmp_path / "c1.wav")
    bench.tick(n=10)
    bench.call.close()
    bench.tick()
    assert recording.wait(PATIENCE)
    assert len(read(recording.path)) == 10 * 160


def test_stopping_the_engine_finishes_every_recording(tmp_path: Path) -> None:
    before = live_allocations()
    bench = Bench()
    recording = bench.call.record(tmp_path / "c1.wav")
    bench.tick(n=30)
    bench.close()
    assert recording.done
    assert len(read(recording.path)) == 30 * 160
    del bench, recording
    assert live_allocations() == before


def test_a_call_can_be_recorded_twice_but_not_at_once(bench: Bench, tmp_path: Path) -> None:
    first = bench.call.record(tmp_path / "a.wav")
    with pytest.raises(MediaError, match="c1 is being recorded already"):
        bench.call.record(tmp_path / "b.wav")
    assert not (tmp_path / "b.wav").exists()
    bench.tick(n=10)
    assert len(recorded(bench, first)) == 10 * 160
    second = bench.call.record(tmp_path / "b.wav")
    bench.tick(n=20)
    assert len(recorded(bench, second)) == 20 * 160


def test_what_cannot_be_recorded_is_said_at_once(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "there.wav").write_bytes(b"precious")
    with pytest.raises(StorageError, match=r"there\.wav cannot be made: File exists"):
        bench.call.record(tmp_path / "there.wav")
    with pytest.raises(StorageError, match="No such file or directory; check the directory"):
        bench.call.record(tmp_path / "nowhere" / "c1.wav")
    assert (tmp_path / "there.wav").read_bytes() == b"precious"
    bench.call.close()
    with pytest.raises(MediaError, match="c1 has been closed"):
        bench.call.record(tmp_path / "late.wav")
    assert not (tmp_path / "late.wav").exists()


# ------------------------------------------------------------------------------------------------ the file


class ScriptedTap:
    """Hands out what it was given."""

    def __init__(self) -> None:
        self.waiting: list[Stereo] = []
        self.missed = 0
        self.released = False

    def take(self) -> Stereo:
        blocks, self.waiting = self.waiting, []
        return np.concatenate(blocks) if blocks else np.empty((0, 2), np.int16)


def block(samples: int = 800) -> Stereo:
    return np.arange(2 * samples, dtype=np.int16).reshape(-1, 2)


def test_a_file_left_by_a_crash_holds_all_up_to_the_last_header(tmp_path: Path) -> None:
    tap, path = ScriptedTap(), tmp_path / "c1.wav"
    recording = Recording("c1", path, tap, StereoWavFile(path))
    for now in (1.0, 1.2, 2.1, 2.3):  # headers at 1.0 and 2.1
        tap.waiting.append(block())
        assert not recording.turn(now)
    pcm = read(path)
    assert len(pcm) == 3 * 800
    assert np.array_equal(pcm, np.concatenate([block()] * 3))
    recording.finish()
    assert len(read(path)) == 4 * 800


def test_a_killed_process_leaves_a_file_that_plays(tmp_path: Path) -> None:
    path = tmp_path / "c1.wav"
    script = (
        "import sys, numpy as np, pathlib\n"
        "from aiphone.media.recorder import Recording, StereoWavFile\n"
        "class Tap:\n"
        "    missed, released = 0, False\n"
        "    def take(self): return np.full((1600, 2), 7, np.int16)\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "recording = Recording('c1', path, Tap(), StereoWavFile(path))\n"
        "recording.turn(1.0); recording.turn(1.5)\n"
        "print('written', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        process.send_signal(signal.SIGKILL)
    assert path.stat().st_size == HEADER_BYTES + 2 * 1600 * 4
    assert read(path).tolist() == [[7, 7]] * 1600


def test_a_full_disk_ends_the_recording_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tap, path = ScriptedTap(), tmp_path / "c1.wav"
    recording = Recording("c1", path, tap, StereoWavFile(path))
    tap.waiting.append(block())
    recording.turn(1.0)
    really = os.pwrite

    def full(fd: int, data: memoryview, at: int) -> int:
        if at < HEADER_BYTES:
            return really(fd, data, at)
        if at > HEADER_BYTES + 800 * 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return really(fd, data[:101], at)  # the last few bytes that fit: not even a whole sample

    monkeypatch.setattr(recorder_module.os, "pwrite", full)
    tap.waiting.append(block())
    assert not recording.turn(2.0)
    assert recording.done
    assert "No space left on device" in recording.failure
    assert "the call goes on" in caplog.text
    assert len(read(path)) == 800
    assert path.stat().st_size == HEADER_BYTES + 800 * 4
    tap.waiting.append(block())
    assert not recording.turn(3.0)  # the tap is still emptied, for as long as the call lasts
    assert not tap.waiting
    tap.released = True
    assert recording.turn(4.0)


def test_nobody_else_may_read_a_recording(tmp_path: Path) -> None:
    file = StereoWavFile(tmp_path / "c1.wav")
    file.close()
    assert (tmp_path / "c1.wav").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "c1.wav").read_bytes() == wav_header(0)


# ------------------------------------------------------------------------------------------------ the thread


def test_one_broken_recording_does_not_end_the_others(tmp_path: Path) -> None:
    class Broken(ScriptedTap):
        def take(self) -> Stereo:
            raise RuntimeError("broken tap")

    recorder = Recorder(ManualClock(10.0))
    good = ScriptedTap()
    good.waiting.append(block())
    a, b = (recorder.create(tmp_path / name) for name in ("a.wav", "b.wav"))
    bad = recorder.add("c1", tmp_path / "a.wav", Broken(), a)
    fine = recorder.add("c2", tmp_path / "b.wav", good, b)
    assert bad.wait(PATIENCE)
    assert "broken tap" in bad.failure
    good.released = True
    assert fine.wait(PATIENCE)
    assert fine.failure == ""
    assert len(read(fine.path)) == 800
    recorder.close()
    with pytest.raises(MediaError, match="the recorder has been stopped"):
        recorder.create(tmp_path / "c.wav")


def test_closing_finishes_what_nobody_released(tmp_path: Path) -> None:
    recorder, tap = Recorder(), ScriptedTap()
    tap.waiting.append(block())
    recording = recorder.add("c1", tmp_path / "a.wav", tap, recorder.create(tmp_path / "a.wav"))
    recorder.close()
    assert recording.done
    assert recorder.active == 0
    assert len(read(recording.path)) == 800


def test_a_recording_from_the_real_media_thread(tmp_path: Path) -> None:
    before = live_allocations()
    engine = MediaEngine(4)
    engine.start()
    bench = Bench()  # for its sockets and peer
    call = engine.add("c2", bench.pool.open(), bench.stream())
    recording = call.record(tmp_path / "c2.wav")
    call.write(np.full(8000, 8000, np.int16))
    bench.peer.rtp.settimeout(PATIENCE)
    loud = 0
    while loud < 20:
        loud += any(abs(int(s)) > 4000 for s in g711.decode_ulaw(bench.peer.rtp.recv(2048)[12:]))
    call.close()
    assert recording.wait(PATIENCE)
    engine.stop()
    pcm = read(recording.path)
    assert np.count_nonzero(pcm[:, 1] > 7000) >= 20 * 160 - 320
    assert not pcm[:, 0].any()
    bench.close()
    del engine, call, bench
    assert live_allocations() == before
