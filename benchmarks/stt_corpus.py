"""Real telephone speech with its words, and how transcripts are compared."""

from __future__ import annotations

import gzip
import re
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aiphone.events import Pcm

PACKAGE = "asterisk-core-sounds-en-wav"
SOUNDS = Path("/usr/share/asterisk/sounds/en_US_f_Allison")
MUSIC = Path("/usr/share/asterisk/moh")
"""Music on hold: Debian's ``asterisk-moh-opsound-wav``."""
TRANSCRIPTS = Path("/usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz")
RATE = 16_000


@dataclass(frozen=True)
class Prompt:
    """A recording and what is said in it."""

    name: str
    text: str
    pcm: Pcm

    @property
    def seconds(self) -> float:
        return len(self.pcm) / RATE


def prompts(count: int, seed: int = 0) -> list[Prompt]:
    """``count`` prompts of three words and a second or more, drawn with ``seed``; 0 is all of them."""
    if not TRANSCRIPTS.is_file() or not SOUNDS.is_dir():
        raise SystemExit(f"the recordings are missing; install them: apt-get install {PACKAGE}")
    found = []
    with gzip.open(TRANSCRIPTS, "rt", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            name, colon, text = line.rstrip("\n").partition(":")
            path = SOUNDS / f"{name}.wav"
            # Brackets mark recordings of tones, or remarks about the recording.
            if not colon or name.startswith(";") or re.search(r"[\[(<]", text) or not path.is_file():
                continue
            pcm = upsample(read_wav(path))
            if len(text.split()) >= 3 and 1.0 <= len(pcm) / RATE <= 28.0:
                found.append(Prompt(name, text.strip(), pcm))
    found.sort(key=lambda prompt: prompt.name)
    if not count or count >= len(found):
        return found
    chosen = np.random.default_rng(seed).permutation(len(found))[:count]
    return [found[index] for index in sorted(chosen)]


def read_wav(path: Path) -> Pcm:
    """The samples of a mono 8 kHz file."""
    with wave.open(str(path)) as file:
        if file.getframerate() != 8000 or file.getnchannels() != 1:
            raise SystemExit(f"{path} is not a mono 8 kHz recording")
        return np.frombuffer(file.readframes(file.getnframes()), np.int16)


def upsample(pcm: Pcm) -> Pcm:
    """8 to 16 kHz with a windowed sinc of 65 taps."""
    taps = np.sinc(np.arange(-32, 33) / 2) * np.kaiser(65, 8.0)
    spread = np.zeros(2 * len(pcm))
    spread[::2] = pcm
    return np.clip(np.rint(np.convolve(spread, taps, "same")), -32768, 32767).astype(np.int16)


# --------------------------------------------------------------------------- words

_ONES = [
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
]
_TENS = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def spell(number: int) -> str:
    """Digits as they are read out."""
    if number < 20:
        return _ONES[number]
    if number < 100:
        return _TENS[number // 10] + (f" {_ONES[number % 10]}" if number % 10 else "")
    if number < 1000:
        return f"{_ONES[number // 100]} hundred" + (f" {spell(number % 100)}" if number % 100 else "")
    return " ".join(_ONES[int(digit)] for digit in str(number))


def words(text: str) -> list[str]:
    """A text as it is compared: lower case, numbers spelt out, no punctuation; "M I S D N" and "MISDN" are the same."""
    text = text.lower().replace("#", " pound ").replace("*", " star ").replace("&", " and ").replace("%", " percent ")
    text = re.sub(r"\d+", lambda match: f" {spell(int(match[0]))} ", text)
    text = " ".join(re.sub(r"[^a-z ]", " ", text.replace("'", "")).split())
    # Letters spelt one by one sound like the word that they are: how they are written is no error.
    return re.sub(r"\b[a-z](?: [a-z]){2,}\b", lambda match: match[0].replace(" ", ""), text).split()


def edits(reference: list[str], heard: list[str]) -> int:
    """Levenshtein distance in words."""
    row = list(range(len(heard) + 1))
    for i, expected in enumerate(reference, 1):
        diagonal, row[0] = row[0], i
        for j, got in enumerate(heard, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (expected != got))
    return row[-1]
