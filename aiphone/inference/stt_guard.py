"""How much of Whisper's 30 s context to use, and how to know that it was too little.

Whisper was made for windows of 30 s; a phone turn lasts 3 s, and encoding 27 s of silence is nine tenths of the
work. Cutting the encoder's context to the audio plus a margin saves it, but a decoder that sees too little
silence does not know that the speech has ended, and says the sentence again. Three things against that:

1. *Timestamps are decoded*, though nobody reads them. A model that must place its words in time stops where the
   audio stops: with a margin of 128 positions the word error rate of tiny.en falls from 41 to 4 per cent.
2. *Repetitions are caught while they are decoded*: as soon as the same words stand twice in a row the text is
   ended there (``is_looping`` is whisper.cpp's logits filter).
3. *The result is judged* (``judge``). A repetition that is faster than anyone speaks is cut off and what is left
   is kept: the first copy is right. A slower one may be real ("hello? hello?"), and so may a text that hit the
   limit of tokens, compresses too well, or is improbable: these are decoded again with more context, in steps up
   to the whole, and the last step's answer is taken. An improbable text that comes twice is taken as it is.

No I/O and no state; the tests need no model.
"""

from __future__ import annotations

import enum
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SAMPLE_RATE = 16_000
POSITIONS_PER_SECOND = 50
"""Encoder positions for a second of audio."""


@dataclass(frozen=True, slots=True)
class GuardPolicy:
    """The numbers of the guard. Found with ``python -m benchmarks.stt``."""

    margins: tuple[int, ...] = (32, 320)
    """Encoder positions beyond the audio, one for each step; after the last comes the full context."""
    shortest: float = 1.1
    """Seconds that shorter audio is padded to; below one second whisper.cpp returns nothing."""
    longest: float = 28.0
    """Seconds that one window holds at most; longer audio is cut where it is quietest."""
    settled: float = 5.0
    """Seconds after which a window ends with the next pause: what lies before it is known when the turn ends."""
    pause: float = 0.5
    """Seconds of quiet that are such a pause; words are lost at shorter ones (base)."""
    quiet: float = 10 ** (-20 / 10)
    """Power of what is quiet, of the voice's."""
    tokens_per_second: float = 6.0
    tokens_more: int = 12
    """At most ``tokens_per_second`` times the length plus these."""
    least_logprob: float = -0.5
    """Mean log-probability below which more context is tried."""
    most_ratio: float = 2.4
    """zlib ratio above which the text is taken for a repetition (OpenAI's own figure)."""
    fastest: float = 5.5
    """Tokens a second that nobody speaks. Repetitions faster than this are artefacts."""
    edges: float = 0.3
    """Seconds of a turn that are silence before and after the words."""
    silence_rms: float = 10 ** (-60 / 20)
    """Below -60 dBFS there is nothing to transcribe."""
    no_speech: float = 0.3
    """Probability of the no-speech token above which a doubtful text is dropped."""
    surely_no_speech: float = 0.6
    """... and above which any text is. Speech gives 0.1 at most, noise and tones 0.7 to 1 (tiny.en)."""
    least_credible: float = -1.2
    """Mean log-probability below which even the full context's text is dropped. A multilingual model has no telling
    no-speech token at the place where whisper.cpp looks for it, but what it makes up for noise is at -1.5 to -4."""


class Doubt(enum.Enum):
    """Why a result was not taken."""

    NONE = "none"
    REPEATED = "repeated"
    CAPPED = "capped"
    COMPRESSES = "compresses"
    IMPROBABLE = "improbable"


@dataclass(frozen=True, slots=True)
class Spoken:
    """A token as the guard sees it."""

    raw: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the guard made of a decoding: the text, cleaned, and whether to try with more context."""

    text: str
    doubt: Doubt
    cut: bool = False
    """True when a repetition was cut off."""
    kept: int = 0
    """How many tokens, from the first, the text is made of."""

    @property
    def retry(self) -> bool:
        return self.doubt is not Doubt.NONE


FLASH_QUANTUM = 256
"""With flash attention whisper.cpp pads keys and values to a multiple of 256 positions and does not mask what is
in the padding: leftovers of whatever the state transcribed before, another caller's turn among them. A context
that is a multiple of 256 has no padding; a state that only ever sees one context has nothing in it."""

FLASH_CONTEXTS = (128, 192, 256, 384, 512, 640, 768, 1024, 1280)
"""The contexts used with flash attention. Those that are no multiple of 256 cost a state each (``stt_states``), and
are worth it: most turns are 1 to 3 s, and "yes, please" takes half the time that it takes in 256 positions."""


def context_steps(
    policy: GuardPolicy, samples: int, n_audio_ctx: int, fixed: int = 0, allowed: Sequence[int] = ()
) -> list[int]:
    """Encoder contexts to try, in order; the last is the full one, written 0 as whisper.cpp does.

    ``fixed`` (``-ac``) takes the place of the first step, unless the audio is longer than that. All are rounded up
    to those that are ``allowed`` (ascending); none means any.
    """
    needed = -(-samples * POSITIONS_PER_SECOND // SAMPLE_RATE)
    wanted = [needed + margin for margin in policy.margins]
    if fixed:
        first = max(fixed, needed)
        wanted = [first] + [step for step in wanted if step > first]
    if allowed:
        wanted = [next((context for context in allowed if context >= step), n_audio_ctx) for step in wanted]
    # Less than an eighth from the full context a further step costs about as much as the full one.
    return [step for step in sorted(set(wanted)) if step < n_audio_ctx * 7 // 8] + [0]


def token_cap(policy: GuardPolicy, samples: int, most: int = 0) -> int:
    """The most tokens a decoding may have; ``most`` (``-mt``) lowers it."""
    cap = int(policy.tokens_per_second * samples / SAMPLE_RATE) + policy.tokens_more
    return min(cap, most) if most else cap


# --------------------------------------------------------------------------- repetitions


def token_key(raw: bytes) -> bytes:
    """A token for comparison: without case, spaces and punctuation; empty when nothing is left."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return raw  # a part of a character
    return "".join(character for character in text.lower() if character.isalnum()).encode()


def find_repetition(keys: Sequence[bytes]) -> int | None:
    """Where a repetition begins: the index of the second copy of the first unit that stands twice in a row.

    Three tokens or more count when they come twice, two when they come four times, one when it comes six times:
    people do say "no, no, no" and "five five five". Empty keys (punctuation) are passed over.
    """
    real = [index for index, key in enumerate(keys) if key]
    words = [keys[index] for index in real]
    for start in range(len(words)):
        for unit in range(1, (len(words) - start) // 2 + 1):
            copies = 2 if unit >= 3 else 4 if unit == 2 else 6
            end = start + unit * copies
            if end <= len(words) and words[start : end - unit] == words[start + unit : end]:
                return real[start + unit]
    return None


def is_looping(keys: Sequence[bytes]) -> bool:
    """Whether the end of ``keys`` completes a repetition. Cheap: it looks at the end only."""
    words = [key for key in keys if key]
    for unit in range(1, len(words) // 2 + 1):
        copies = 2 if unit >= 3 else 4 if unit == 2 else 6
        span = unit * copies
        if span > len(words):
            continue
        tail = words[-span:]
        if tail[unit:] == tail[:-unit]:
            return True
    return False


# --------------------------------------------------------------------------- judgement


def judge(
    policy: GuardPolicy, tokens: Sequence[Spoken], seconds: float, cap: int, no_speech: float, last: bool
) -> Verdict:
    """Take a decoding, cut it, or ask for more context. ``last`` says that there is no more to try."""
    if not tokens:
        return Verdict("", Doubt.NONE)
    capped = len(tokens) >= cap
    second = find_repetition([token_key(token.raw) for token in tokens])
    cut = False
    kept = tokens
    doubt = Doubt.NONE
    if second is not None:
        pace = len(tokens) / max(0.5, seconds - policy.edges)
        if pace > policy.fastest or capped:
            kept, cut, capped = tokens[:second], True, False
        else:
            doubt = Doubt.REPEATED
    raw = b"".join(token.raw for token in kept)
    logprob = sum(token.logprob for token in kept) / len(kept)
    if doubt is Doubt.NONE:
        if capped:
            doubt = Doubt.CAPPED
        elif len(raw) / len(zlib.compress(raw)) > policy.most_ratio:
            doubt = Doubt.COMPRESSES
        elif logprob < policy.least_logprob:
            doubt = Doubt.IMPROBABLE
    text = clean(raw.decode(errors="ignore"))
    if _invented(policy, text, logprob, no_speech) or (last and logprob < policy.least_credible):
        return Verdict("", Doubt.NONE)
    return Verdict(text, Doubt.NONE if last else doubt, cut, len(kept))


# --------------------------------------------------------------------------- text

# What Whisper writes for sounds that are not speech: [BLANK_AUDIO], (music), *sighs*, and notes.
_ANNOTATION = re.compile(r"\[[^\]]*\]|\([^)]*\)|\*[^*]*\*|[♩♪♫♬]+|<\|[^|]*\|>")

# What it learnt from subtitles, and says to noise when it has nothing to say.
_SUBTITLES = re.compile(
    r"(thanks? (you )?(so much )?for (watching|listening)|please subscribe|subtitles? by|amara|copyright"
    r"|see you (in the )?next)",
    re.IGNORECASE,
)
_FILLERS = frozenset(
    ("you", "thank you", "thanks", "bye", "bye bye", "oh", "so", "the", "uh", "um", "mm", "hmm", "okay")
)


def clean(text: str) -> str:
    """The words alone: annotations dropped, white space made single, a text without letters or digits empty."""
    bare = " ".join(_ANNOTATION.sub(" ", text).split())
    return bare if any(character.isalnum() for character in bare) else ""


def same_words(text: str, other: str) -> bool:
    """Whether two texts are the same but for case and punctuation."""
    return re.findall(r"\w+", text.lower()) == re.findall(r"\w+", other.lower())


def _invented(policy: GuardPolicy, text: str, logprob: float, no_speech: float) -> bool:
    """Whether the text is of the kind that Whisper makes up for noise, and the model itself has its doubts."""
    if not text:
        return False
    stock = " ".join(re.findall(r"\w+", text.lower())) in _FILLERS or _SUBTITLES.search(text) is not None
    doubtful = no_speech > policy.no_speech or logprob < policy.least_logprob
    return (stock and doubtful) or no_speech > policy.surely_no_speech


# --------------------------------------------------------------------------- audio


def is_silent(policy: GuardPolicy, pcm: npt.NDArray[np.float32]) -> bool:
    """Whether the loudest tenth of a second is below the silence level. ``pcm``: float32, 16 kHz, -1 to 1."""
    if not len(pcm):
        return True
    block = SAMPLE_RATE // 10
    whole = pcm[: len(pcm) // block * block].reshape(-1, block)
    blocks = [float(np.mean(pcm * pcm))] if not len(whole) else (whole * whole).mean(axis=1)
    return float(np.sqrt(np.max(blocks))) < policy.silence_rms


def windows(policy: GuardPolicy, pcm: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
    """Cut long audio in its pauses, into pieces that one context holds; short audio is padded.

    Where a cut is depends on what lies before it and shortly after: all pieces but the last stay when the audio grows.
    """
    longest = int(policy.longest * SAMPLE_RATE)
    pieces = []
    rest = pcm
    while True:
        cut = _pause(policy, rest[:longest])
        if cut is None and len(rest) > longest:
            cut = _quietest(rest[longest // 2 : longest]) + longest // 2
        if cut is None:
            break
        pieces.append(rest[:cut])
        rest = rest[cut:]
    pieces.append(rest)
    shortest = int(policy.shortest * SAMPLE_RATE)
    return [np.pad(piece, (0, max(0, shortest - len(piece)))) for piece in pieces]


_FRAME = SAMPLE_RATE // 50


def _pause(policy: GuardPolicy, pcm: npt.NDArray[np.float32]) -> int | None:
    """Index of the middle of the first pause after ``settled`` seconds with as long a voice behind it."""
    settled, least = round(policy.settled * 50), round(policy.pause * 50)
    power = _power(pcm)
    if len(power) < settled + 2 * least:
        return None
    # The voice is judged by the part that is there before any pause counts, so that a cut stays where it is.
    quiet = power < policy.quiet * np.percentile(power[:settled], 90)
    run = 0
    for frame in range(settled, len(quiet)):
        run = run + 1 if quiet[frame] else 0
        if run == least:
            return (frame + 1 - least // 2) * _FRAME if np.count_nonzero(~quiet[frame:]) >= least else None
    return None


def _power(pcm: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Of each whole 20 ms."""
    frames = pcm[: len(pcm) // _FRAME * _FRAME].reshape(-1, _FRAME)
    return np.asarray((frames * frames).mean(axis=1))


def _quietest(pcm: npt.NDArray[np.float32]) -> int:
    """Index of the middle of the quietest 0.2 s."""
    width = 10
    energy = np.convolve(_power(pcm), np.ones(width) / width, "valid")
    return (int(np.argmin(energy)) + width // 2) * _FRAME
