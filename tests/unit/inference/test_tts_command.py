from __future__ import annotations

import io
import os
import shlex
import stat
import struct
import sys
import tempfile
import time
import wave
from pathlib import Path

import numpy as np
import pytest

from aiphone.errors import SpeechError
from aiphone.inference.audio_file import read_audio_file
from aiphone.inference.process import TooSlowError, UnwantedError, run_program
from aiphone.inference.speech_command import (
    SpeechCommand,
    command_line,
    espeak_command,
    say_command,
)


def tone(rate: int, seconds: float = 0.5) -> np.ndarray:
    return (8000 * np.sin(2 * np.pi * 440 * np.arange(int(rate * seconds)) / rate)).astype(np.int16)


def wav(pcm: np.ndarray, rate: int, channels: int = 1) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(pcm.tobytes())
    return out.getvalue()


def script(path: Path, body: str) -> str:
    """A Python program; returns its path."""
    path.write_text(f"#!{sys.executable}\nimport os, sys, time\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return shlex.quote(str(path))


@pytest.fixture
def spoken(tmp_path: Path) -> Path:
    path = tmp_path / "spoken.wav"
    path.write_bytes(wav(tone(22_050), 22_050))
    return path


def speak(command: str, text: str = "Hello you", **options: float) -> np.ndarray:
    return np.concatenate([piece.pcm for piece in SpeechCommand(command, **options).synthesise(text)])


# ------------------------------------------------------------------------------------------- ways to be asked


def test_text_on_standard_input_and_wav_on_standard_output(tmp_path: Path, spoken: Path) -> None:
    said = tmp_path / "said"
    command = script(
        tmp_path / "a",
        f"open({str(said)!r}, 'w').write(sys.stdin.read())\n"
        f"sys.stdout.buffer.write(open({str(spoken)!r}, 'rb').read())",
    )
    pcm = speak(command, "Héllo you")
    assert said.read_text() == "Héllo you\n"
    assert pcm.dtype == np.int16
    assert len(pcm) == pytest.approx(8000, abs=2)
    assert np.abs(pcm).max() == pytest.approx(8000, rel=0.05)


def test_text_as_argument_is_never_seen_by_a_shell(tmp_path: Path, spoken: Path) -> None:
    said = tmp_path / "said"
    command = script(
        tmp_path / "a",
        f"open({str(said)!r}, 'w').write(sys.argv[1])\nsys.stdout.buffer.write(open({str(spoken)!r}, 'rb').read())",
    )
    text = "$(touch x); `ls` {out} \"quotes\" 'and' {file}"
    assert len(speak(f"{command} {{text}}", text))
    assert said.read_text() == text


def test_text_in_a_file_and_audio_in_a_file(tmp_path: Path, spoken: Path) -> None:
    command = script(
        tmp_path / "a",
        "assert open(sys.argv[1]).read() == 'Hello you'\n"
        f"open(sys.argv[2][6:], 'wb').write(open({str(spoken)!r}, 'rb').read()); print('done')",
    )
    assert len(speak(f"{command} {{file}} --out={{out}}"))


def test_raw_pcm_at_its_rate(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.write_bytes(tone(24_000).tobytes() + b"\0")
    command = script(tmp_path / "a", f"sys.stdout.buffer.write(open({str(raw)!r}, 'rb').read())")
    assert len(speak(command, raw_rate=24_000)) == pytest.approx(8000, abs=2)


def test_a_program_that_does_not_read_its_input(tmp_path: Path, spoken: Path) -> None:
    command = script(tmp_path / "a", f"sys.stdout.buffer.write(open({str(spoken)!r}, 'rb').read())")
    assert len(speak(command, "long " * 100_000))


# ------------------------------------------------------------------------------------------------- what fails


def test_the_script_that_plays_by_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpeechError, match=r"'quiet'.*loudspeaker.*\{out\}"):
        speak(script(tmp_path / "quiet", "sys.stdin.read()"))
    with pytest.raises(SpeechError, match=r"printed 'Playing \.\.\.'"):
        speak(script(tmp_path / "chatty", "print('Playing ...')"))
    with pytest.raises(SpeechError, match="did not write the file"):
        speak(script(tmp_path / "nofile", "pass") + " {out}")


def test_a_failing_command_is_named_with_its_last_words(tmp_path: Path) -> None:
    command = script(tmp_path / "broken", "print('one\\nno such voice', file=sys.stderr); sys.exit(3)")
    with pytest.raises(SpeechError, match="'broken' failed with status 3: no such voice"):
        speak(command)
    with pytest.raises(SpeechError, match="'killed' was killed by signal 9"):
        speak(script(tmp_path / "killed", "os.kill(os.getpid(), 9)"))


def test_a_hanging_command_is_killed_with_its_children(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    program = tmp_path / "hang"
    program.write_text(f"#!/bin/sh\nsleep 600 &\necho $! > '{pid}.new'\nmv '{pid}.new' '{pid}'\nsleep 600\n")
    program.chmod(0o755)
    begin = time.monotonic()
    with pytest.raises(TooSlowError, match=r"'.*hang' did not finish within 1 s"):
        speak(shlex.quote(str(program)), timeout=1)
    assert time.monotonic() - begin < 10
    child = int(pid.read_text())
    # The child is nobody's but init's now; a zombie or gone, it runs no more.
    state = Path(f"/proc/{child}/stat")
    if sys.platform == "linux":
        deadline = time.monotonic() + 10
        while state.exists() and state.read_text().rsplit(")", 1)[1].split()[0] not in "ZX":
            assert time.monotonic() < deadline
    else:
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)


def test_a_command_nobody_waits_for_is_killed(tmp_path: Path) -> None:
    command = command_line(script(tmp_path / "slow", "time.sleep(600)"))
    asked = 0

    def wanted() -> bool:
        nonlocal asked
        asked += 1
        return asked < 3

    with pytest.raises(UnwantedError):
        run_program(command, b"", timeout=60, most_bytes=1000, wanted=wanted)


def test_too_much_output_is_refused(tmp_path: Path) -> None:
    command = command_line(script(tmp_path / "yes", "while True: sys.stdout.write('y' * 65536)"))
    with pytest.raises(SpeechError, match="more than 1 MB"):
        run_program(command, b"", timeout=60, most_bytes=1_000_000, wanted=lambda: True)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("", "empty"),
        ("say 'x", "open quote"),
        ("/nowhere/speak", "'/nowhere/speak' does not exist"),
        ("/", "cannot be started"),
    ],
)
def test_a_command_that_cannot_be_run(command: str, message: str) -> None:
    with pytest.raises(SpeechError, match=message):
        speak(command)


def test_audio_without_sound_or_of_a_wrong_kind(tmp_path: Path) -> None:
    for name, data, message in [
        ("short", wav(tone(22_050, 0.001), 22_050), "without sound"),
        ("slow", wav(tone(4_000), 4_000), "4000 Hz"),
        ("cut", wav(tone(22_050), 22_050)[:20], "cannot use"),
    ]:
        (tmp_path / f"{name}.wav").write_bytes(data)
        command = script(
            tmp_path / name, f"sys.stdout.buffer.write(open({str(tmp_path / name)!r} + '.wav', 'rb').read())"
        )
        with pytest.raises(SpeechError, match=message):
            speak(command)


def test_nothing_to_say_starts_nothing() -> None:
    assert list(SpeechCommand("/nowhere/speak").synthesise("  ")) == []


# ------------------------------------------------------------------------------------------- say and espeak-ng


def test_known_names_stand_for_their_lines() -> None:
    assert command_line("say") == say_command()
    assert command_line("espeak-ng") == espeak_command()
    assert command_line("espeak-ng -v de") == ["espeak-ng", "-v", "de"]


def test_say_writes_a_wav_file(tmp_path: Path) -> None:
    command = SpeechCommand(say_command("Samantha", 1.2))
    assert command.arguments("Hi", tmp_path) == [
        "say", "-o", str(tmp_path / "speech.wav"), "--data-format=LEI16@22050", "--file-format=WAVE",
        "-f", str(tmp_path / "text.txt"), "-v", "Samantha", "-r", "210",
    ]  # fmt: skip


def test_the_known_commands_take_a_speed_and_others_where_they_say_so() -> None:
    for line in ("say", "espeak-ng", "talk {speed}", "talk -r{rate}"):
        assert SpeechCommand(line).takes_speed, line
    for line in ("talk", "espeak-ng -v de", "say -o {out} {text}"):
        assert not SpeechCommand(line).takes_speed, line
    faster = SpeechCommand("espeak-ng", language="en").at_speed(1.2, "@1.2")
    assert faster.arguments("", Path()) == espeak_command(speed=1.2)
    assert (faster.name, faster.language) == ("@1.2", "en")
    assert SpeechCommand("say").at_speed(0.8, "slow").arguments("", Path("d"))[-2:] == ["-r", "140"]


def test_the_known_commands_take_a_voice_and_others_where_they_say_so() -> None:
    for line in ("say", "espeak-ng", "talk {voice}", "talk --as={voice}"):
        assert SpeechCommand(line).takes_voice, line
    for line in ("talk", "espeak-ng -v de", "say -o {out} {text}"):
        assert not SpeechCommand(line).takes_voice, line
    german = SpeechCommand("espeak-ng").in_voice("de")
    assert german.name == "de"
    assert german.arguments("", Path()) == espeak_command("de")
    assert german.at_speed(0.8, "de@0.8").arguments("", Path()) == espeak_command("de", 0.8)
    assert SpeechCommand("talk --as={voice}").in_voice("Ann").arguments("", Path()) == ["talk", "--as=Ann"]
    assert SpeechCommand("talk --as={voice}").arguments("", Path()) == ["talk", "--as="]


def test_espeak_speed_and_voice() -> None:
    assert espeak_command("de", 0.8) == ["espeak-ng", "--stdout", "--stdin", "-v", "de", "-s", "140"]


# ---------------------------------------------------------------------------------------------- WAV and AIFF


def fmt(kind: int, channels: int, rate: int, bits: int, more: bytes = b"") -> bytes:
    block = channels * bits // 8
    body = struct.pack("<HHIIHH", kind, channels, rate, rate * block, block, bits) + more
    return b"fmt " + struct.pack("<I", len(body)) + body


def riff(form: bytes, data: bytes, size: int | None = None) -> bytes:
    body = (
        b"WAVE"
        + b"LIST\x03\0\0\0abc\0"
        + form
        + b"data"
        + struct.pack("<I", len(data) if size is None else size)
        + data
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


SAMPLES = np.array([0, 1, -1, 32767, -32768, 1000], np.int16)


@pytest.mark.parametrize(
    "data",
    [
        riff(fmt(1, 1, 16000, 16), SAMPLES.tobytes()),
        riff(fmt(1, 1, 16000, 16), SAMPLES.tobytes(), size=0x7FFFF000),
        riff(fmt(1, 1, 16000, 16), SAMPLES.tobytes(), size=0),
        riff(fmt(1, 2, 16000, 16), np.repeat(SAMPLES, 2).tobytes() + b"\1"),
        riff(fmt(0xFFFE, 1, 16000, 16, struct.pack("<HHIH", 22, 16, 4, 1) + b"\0" * 14), SAMPLES.tobytes()),
        riff(fmt(1, 1, 16000, 32), (SAMPLES.astype("<i4") * 65536).tobytes()),
        riff(fmt(1, 1, 16000, 24), (SAMPLES.astype("<i4") * 256).view(np.uint8).reshape(-1, 4)[:, :3].tobytes()),
    ],
    ids=["plain", "pipe", "unknown length", "stereo and half a sample", "extensible", "32 bit", "24 bit"],
)
def test_wav(data: bytes) -> None:
    pcm, rate = read_audio_file(data)
    assert rate == 16000
    np.testing.assert_array_equal(pcm, SAMPLES)


def test_wav_float_and_eight_bits() -> None:
    pcm, _ = read_audio_file(riff(fmt(3, 1, 16000, 32), np.array([0, 0.5, -1.0, 2.0], "<f4").tobytes()))
    np.testing.assert_allclose(pcm, [0, 16384, -32767, 32767], atol=1)
    pcm, _ = read_audio_file(riff(fmt(1, 1, 8000, 8), bytes([128, 0, 255])))
    np.testing.assert_array_equal(pcm, [0, -32768, 32512])


@pytest.mark.parametrize(("coding", "order"), [(b"", ">"), (b"NONE", ">"), (b"twos", ">"), (b"sowt", "<")])
def test_aiff(coding: bytes, order: str) -> None:
    rate = struct.pack(">HQ", 16383 + 14, 22050 << 49)  # 22050 = 1.3458 * 2^14
    common = struct.pack(">hIh", 1, len(SAMPLES), 16) + rate + (coding + b"\0\0" if coding else b"")
    sound = struct.pack(">II", 0, 0) + SAMPLES.astype(order + "i2").tobytes()
    body = b"AIFC" if coding else b"AIFF"
    for name, chunk in ((b"COMM", common), (b"SSND", sound)):
        body += name + struct.pack(">I", len(chunk)) + chunk + b"\0" * (len(chunk) & 1)
    pcm, read_rate = read_audio_file(b"FORM" + struct.pack(">I", len(body)) + body)
    assert read_rate == 22050
    np.testing.assert_array_equal(pcm, SAMPLES)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"RIFF\0\0\0\0WAVE",
        b"OggS" + b"\0" * 60,
        riff(fmt(1, 0, 16000, 16), b"\0\0"),
        riff(fmt(85, 1, 16000, 16), b"\0\0"),
    ],
)
def test_what_is_no_audio(data: bytes) -> None:
    with pytest.raises(SpeechError):
        read_audio_file(data)


def test_every_cut_of_a_wav_is_read_or_refused() -> None:
    whole = riff(fmt(1, 1, 16000, 16), SAMPLES.tobytes())
    for length in range(len(whole)):
        try:
            pcm, _ = read_audio_file(whole[:length])
        except SpeechError:
            continue
        assert len(pcm) <= len(SAMPLES)


@pytest.mark.parametrize("line", ["cat", "cat {file}"])
def test_a_full_disk_is_said_as_a_failure_of_the_voice(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(SpeechError, match=r"has no place for its files .*; make room or set TMPDIR"):
        list(SpeechCommand(line).synthesise("Hi."))
