"""Speech by another program: macOS ``say``, espeak-ng, or the user's own command (``-s``).

The user's command is a line of words, split as a shell would and run without one. Placeholders say how it
wants its text and where its audio comes out:

    {text}   the text, as an argument
    {file}   a file that holds the text
    {out}    the file it writes its audio to
    {voice}  the persona's voice; empty when it names none
    {speed}  how fast to speak, as a factor: 1, 1.2
    {rate}   the same in words a minute: 175, 210

Without {text} and {file} the text is on standard input; without {out} the audio is on standard output. Audio
is WAV or AIFF, or raw int16 little-endian mono at ``raw_rate``. ``say`` and ``espeak-ng`` alone stand for the
right line of each. A command without {speed} and {rate} speaks every persona at a speed of its own, and one without
{voice} in a voice of its own.

The script that comes with talk-llama plays its audio on the machine's loudspeaker, which no caller can hear:
a command that succeeds without giving audio is refused with an explanation.
"""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from aiphone.errors import MediaError, SpeechError
from aiphone.events import INTERNAL_RATE, Pcm
from aiphone.inference.audio_file import is_audio_file, read_audio_file
from aiphone.inference.process import run_program
from aiphone.inference.voice import Piece, always
from aiphone.native.resample import StreamResampler

PIPER_RAW_RATE = 22_050
"""Rate (Hz) assumed for raw PCM: what ``piper --output-raw`` and most others write."""

_MOST_BYTES = 32_000_000  # several minutes of WAV
_SHORTEST = 0.02  # seconds of raw PCM that are taken for speech


WORDS_A_MINUTE = 175
"""What {rate} is at a speed of 1: the usual pace of ``say`` and espeak-ng."""


def say_command(voice: str = "", speed: float = 1.0) -> list[str]:
    """The line for macOS ``say``. Its rate is in words a minute, about 175 for the default voice."""
    line = ["say", "-o", "{out}", "--data-format=LEI16@22050", "--file-format=WAVE", "-f", "{file}"]
    if voice:
        line += ["-v", voice]
    if speed != 1.0:
        line += ["-r", str(round(WORDS_A_MINUTE * speed))]
    return line


def espeak_command(voice: str = "", speed: float = 1.0) -> list[str]:
    """The line for espeak-ng. Its speed is in words a minute, 175 by default."""
    return ["espeak-ng", "--stdout", "--stdin", "-v", voice or "en-us", "-s", str(round(WORDS_A_MINUTE * speed))]


def command_line(command: str, speed: float = 1.0, voice: str = "") -> list[str]:
    """The words of ``-s``; ``say`` and ``espeak-ng`` stand for their full lines, at this speed and in this voice.

    Raises SpeechError when there is an open quote or nothing at all.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise SpeechError(f"the speech command {command!r} has an open quote; close it") from error
    if not words:
        raise SpeechError("the speech command is empty; give -s a command, or leave it out to speak with Piper")
    if words == ["say"]:
        return say_command(voice, speed)
    if words in (["espeak-ng"], ["espeak"]):
        return [words[0], *espeak_command(voice, speed)[1:]]
    return words


def find_program(command: str) -> str:
    """The full path of the program that a command line begins with. Raises SpeechError when there is none."""
    program = command_line(command)[0]
    path = shutil.which(program)
    if path is None:
        raise SpeechError(f"the speech command {program!r} does not exist; give its full path or install it")
    return path


class SpeechCommand:
    """A voice that is another program. ``synthesise`` may run in several threads at a time.

    ``command`` is the line as given to ``-s`` or its words, ``timeout`` seconds allowed for one phrase,
    ``raw_rate`` the rate (Hz) of output that is neither WAV nor AIFF, ``speed`` a factor on the usual pace.
    """

    def __init__(
        self,
        command: str | Sequence[str],
        *,
        name: str = "",
        voice: str = "",
        language: str = "",
        timeout: float = 10.0,
        raw_rate: int = PIPER_RAW_RATE,
        speed: float = 1.0,
    ) -> None:
        self._command = command
        self._words = command_line(command, speed, voice) if isinstance(command, str) else list(command)
        self._speed = speed
        self.name = name or Path(self._words[0]).name
        self.language = language
        self._voice = voice
        self._timeout = timeout
        self._raw_rate = raw_rate

    @property
    def takes_speed(self) -> bool:
        """Whether the command can be told how fast to speak."""
        return self._known_by_name or self._uses("{speed}") or self._uses("{rate}")

    @property
    def takes_voice(self) -> bool:
        """Whether the command can be told in which voice to speak."""
        return self._known_by_name or self._uses("{voice}")

    @property
    def _known_by_name(self) -> bool:
        return isinstance(self._command, str) and command_line(self._command, 2.0) != command_line(self._command)

    def at_speed(self, speed: float, name: str) -> SpeechCommand:
        """The same command told to speak at another speed, under another name. Of use when it ``takes_speed``."""
        return self._told(speed, self._voice, name)

    def in_voice(self, voice: str) -> SpeechCommand:
        """The same command told to speak in another voice, under its name. Of use when it ``takes_voice``."""
        return self._told(self._speed, voice, voice)

    def _told(self, speed: float, voice: str, name: str) -> SpeechCommand:
        return SpeechCommand(
            self._command,
            name=name,
            voice=voice,
            language=self.language,
            timeout=self._timeout,
            raw_rate=self._raw_rate,
            speed=speed,
        )

    def synthesise(self, text: str, wanted: Callable[[], bool] = always) -> Iterator[Piece]:
        """int16 at 16 kHz, in one piece. Blocks for as long as the program runs; it is killed when ``wanted()``
        turns False.

        Raises SpeechError naming the command and what it did: it cannot be started, failed, hung, gave no
        audio, or gave something that is no audio.
        """
        if not text.strip():
            return
        try:
            with tempfile.TemporaryDirectory(prefix="aiphone-speech-") as directory:
                data = self._run(text, Path(directory), wanted)
        except OSError as error:
            raise SpeechError(
                f"the speech command {self.name!r} has no place for its files in {tempfile.gettempdir()} "
                f"({error.strerror}); make room or set TMPDIR"
            ) from error
        pcm, rate = self._decode(data)
        yield Piece(_to_internal_rate(pcm, rate), last=True)

    def arguments(self, text: str, directory: Path) -> list[str]:
        """The program's arguments for one phrase, with files in ``directory``."""
        values = {
            "{text}": text,
            "{file}": str(directory / "text.txt"),
            "{out}": str(directory / "speech.wav"),
            "{voice}": self._voice,
            "{speed}": f"{self._speed:g}",
            "{rate}": str(round(WORDS_A_MINUTE * self._speed)),
        }
        return [_fill(word, values) for word in self._words]

    def _uses(self, placeholder: str) -> bool:
        return any(placeholder in word for word in self._words)

    def _run(self, text: str, directory: Path, wanted: Callable[[], bool]) -> bytes:
        standard_input = b""
        if self._uses("{file}"):
            (directory / "text.txt").write_text(text, encoding="utf-8")
        elif not self._uses("{text}"):
            standard_input = text.encode() + b"\n"
        finished = run_program(
            self.arguments(text, directory),
            standard_input,
            timeout=self._timeout,
            most_bytes=_MOST_BYTES,
            wanted=wanted,
        )
        if finished.status != 0:
            how = (
                f"was killed by signal {-finished.status}"
                if finished.status < 0
                else f"failed with status {finished.status}"
            )
            raise SpeechError(f"the speech command {self.name!r} {how}{_complaint(finished.stderr)}")
        if not self._uses("{out}"):
            return finished.stdout
        out = directory / "speech.wav"
        if not out.is_file():
            raise SpeechError(
                f"the speech command {self.name!r} succeeded but did not write the file given for {{out}}"
                f"{_complaint(finished.stderr)}"
            )
        return out.read_bytes()

    def _decode(self, data: bytes) -> tuple[Pcm, int]:
        if is_audio_file(data):
            try:
                pcm, rate = read_audio_file(data)
            except SpeechError as error:
                raise SpeechError(f"the speech command {self.name!r} gave audio we cannot use: {error}") from error
        elif _is_text(data):
            raise SpeechError(
                f"the speech command {self.name!r} gave no audio{_printed(data)}: a script that plays on this "
                "machine's loudspeaker, like the one of talk-llama, cannot be heard by a caller; let it write "
                "WAV to standard output, or to the file {out}"
            )
        else:
            pcm, rate = np.frombuffer(data[: len(data) // 2 * 2], "<i2").astype(np.int16), self._raw_rate
        if len(pcm) < _SHORTEST * rate:
            raise SpeechError(f"the speech command {self.name!r} gave audio without sound in it; try it by hand")
        return pcm, rate


def _fill(word: str, values: dict[str, str]) -> str:
    """Replace placeholders, each once and from left to right: the text may contain braces itself."""
    out, at = [], 0
    while at < len(word):
        for placeholder, value in values.items():
            if word.startswith(placeholder, at):
                out.append(value)
                at += len(placeholder)
                break
        else:
            out.append(word[at])
            at += 1
    return "".join(out)


def _is_text(data: bytes) -> bool:
    """Nothing, or something printed for people: raw PCM has bytes that no text has."""
    head = data[:4096]
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        # A character cut in two by our limit is text all the same.
        if error.start < len(head) - 3:
            return False
        text = head[: error.start].decode("utf-8")
    return all(character.isprintable() or character in "\r\n\t\x1b" for character in text)


def _complaint(stderr: bytes) -> str:
    lines = stderr.decode("utf-8", "replace").strip().splitlines()
    return f": {lines[-1].strip()[:200]}" if lines else ""


def _printed(data: bytes) -> str:
    first = data.decode("utf-8", "replace").strip().splitlines()
    return f" but printed {first[0][:80]!r}" if first else ""


def _to_internal_rate(pcm: Pcm, rate: int) -> Pcm:
    try:
        resampler = StreamResampler(rate, INTERNAL_RATE)
    except MediaError as error:
        raise SpeechError(str(error)) from error
    skip = round(resampler.delay * INTERNAL_RATE)
    whole = np.concatenate((resampler.process(np.ascontiguousarray(pcm)), resampler.flush()))
    return whole[skip:]
